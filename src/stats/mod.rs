//! Pure mathematics: p-values in log space, ranks, assignment, permutation, combination.
//!
//! Imports nothing of ours; every function is deterministic in its arguments.

pub mod pvalue;
pub mod thin; pub use thin::*; pub mod sampling;
pub mod spectral;

pub use pvalue::{PKind, PValue, PValueError};
pub use spectral::{top_right_subspace, top_singular_value};

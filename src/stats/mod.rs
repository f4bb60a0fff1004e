//! Pure mathematics: p-values in log space, ranks, assignment, permutation, combination.
//!
//! Imports nothing of ours; every function is deterministic in its arguments.

pub mod combine;
pub mod ks;
pub mod matching;
pub mod pvalue;
pub mod rank;
pub mod sampling;
pub mod special;

pub use combine::{bonferroni, fisher, holm};
pub use ks::{KsTest, ks_uniform};
pub use matching::{MatchingError, MatchingTest, matching_test, order_test};
pub use pvalue::{PKind, PValue, PValueError};
pub use rank::{average_ranks, pearson, spearman};

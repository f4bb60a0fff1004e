//! Pure mathematics: p-values in log space, ranks, assignment, permutation, combination.
//!
//! Imports nothing of ours; every function is deterministic in its arguments.

pub mod assignment;
pub mod combine;
pub mod ks;
pub mod matching;
pub mod moments;
pub mod pvalue;
pub mod rank;
pub mod sampling;
pub mod special;
pub mod spectral;

pub use assignment::{Assignment, AssignmentError, assign_max};
pub use combine::{bonferroni, fisher, holm};
pub use ks::{KsTest, ks_uniform};
pub use matching::{MatchingError, MatchingTest, matching_test, order_test};
pub use moments::{CoMoments, Moments};
pub use pvalue::{PKind, PValue, PValueError};
pub use rank::{average_ranks, pearson, spearman};
pub use sampling::choose;
pub use spectral::{top_right_subspace, top_singular_value};

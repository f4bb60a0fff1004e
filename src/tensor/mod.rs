//! thin
mod t;
pub use t::*;

//! Tensors as they are stored: dtypes, shapes, and values that are read when they are looked at.
//!
//! Nothing here holds a model in memory: a [`Tensor`] knows where its bytes lie, a [`Matrix`] is a
//! view of it in the orientation of `y = W x` that gives out rows. Both check what they are given;
//! neither knows what a tensor is for.

pub mod coded;
mod dtype;
mod error;
mod matrix;
pub mod quant;
mod runs;
mod store;

pub use coded::Coding;
pub use dtype::DType;
pub use error::TensorError;
pub use matrix::Matrix;
pub use quant::BlockType;
pub use runs::RowRuns;
pub use store::{InMemory, Tensor, TensorBytes};

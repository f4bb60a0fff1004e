//! The kernels, one file each: what it computes, its versions from plain to fast, the launch, and for the
//! tests the plain Rust that says what is right.

pub(super) mod attention;
mod attention_tiles;
pub(super) mod blocks;
pub(super) mod elementwise;
pub(super) mod gram;
pub(super) mod grouped;
pub(super) mod linear;
pub(super) mod norm;
pub(super) mod number;
pub(super) mod reduce;
pub(super) mod rope;
pub(super) mod round;
pub(super) mod rows;
pub(super) mod tensor_core;
mod tiled;

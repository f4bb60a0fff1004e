//! The reference inference engine: what a published model computes, on any device, strictly.
//!
//! [`forward`] is the model, in the order of the papers; [`backend`] is what a device must be able to
//! do for it. `cpu` is the definition of right; `gpu` holds kernels for CUDA, Vulkan, Metal and HIP.

mod attend;
pub mod backend;
pub mod check;
pub mod cpu;
pub mod device;
mod error;
pub mod forward;
pub mod generate;
#[cfg(feature = "gpu")]
pub mod gpu;
mod load;
mod mixture;
pub mod row_products;
mod runnable;
pub mod text;
pub mod vision;

pub use error::EngineError;
pub use forward::{Chunk, Computed, Decoder, Logits, Piece, TextCache, Values, Wanted};

//! Graphics cards: kernels in Rust, compiled for CUDA, Vulkan or Metal when they first run.
//!
//! [`open()`] chooses a device by name; [`Gpu`] is the [`Backend`](crate::engine::backend::Backend) over it. `device` holds memory, limits and
//! all `unsafe`; `kernels` holds one file per kernel. Nothing is linked against a driver: where there is
//! none, opening says what is missing. See `docs/src/engine-gpu.md`.

mod backend;
mod device;
mod evidence;
mod kernels;
mod open;
mod product;
#[cfg(test)]
mod tests;
mod weight;

pub use backend::{Buffer, Cache, Gpu, Precision};
pub use device::Limits;
pub use open::{GpuBackend, devices, open};
pub use product::Rounded;
pub use weight::GpuWeight;

//! Images in a reference engine: files → pixels → rows of the decoder's residual stream.
//!
//! [`picture`] decodes, [`resize`] and [`slices`] prepare as published, [`tower`] computes patches,
//! [`resampler`] or [`projector`] turns them into rows of the decoder, [`composite`] holds the three
//! together and [`prompt`] puts the rows where the text leaves room for them.

pub mod composite;
mod parts;
pub mod picture;
pub mod positions;
mod projector;
pub mod prompt;
mod resampler;
pub mod resize;
pub mod slices;
pub mod tower;

pub use composite::VisionLanguage;
pub use picture::{Normalisation, Picture, Pixels};
pub use prompt::{Marks, with_rooms};
pub use slices::{SlicePlan, Slices};
pub use tower::{Tower, adopt_tower};

use super::EngineError;
use super::backend::Backend;
use super::load::{Linear, Norm};

/// x Wᵀ + bias.
fn linear<B: Backend>(
    backend: &B,
    x: &B::Buffer,
    linear: &Linear<B>,
) -> Result<B::Buffer, EngineError> {
    backend.linear(x, &linear.weight, linear.bias.as_ref())
}

/// A norm of whole rows.
fn norm<B: Backend>(backend: &B, x: &B::Buffer, norm: &Norm<B>) -> Result<B::Buffer, EngineError> {
    let width = backend.shape(x).1;
    backend.norm(x, &norm.spec, norm.gain.as_ref(), norm.bias.as_ref(), width)
}

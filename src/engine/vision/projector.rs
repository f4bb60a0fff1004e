//! LLaVA's projector: two layers, row by row.

use super::linear;
use super::parts::Parts;
use crate::arch::Model;
use crate::arch::spec::ProjectorSpec;
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::load::Linear;

/// A projector on a device.
pub(super) struct Projector<B: Backend> {
    spec: ProjectorSpec,
    first: Linear<B>,
    second: Linear<B>,
}

impl<B: Backend> Projector<B> {
    /// Brings a projector to a device.
    ///
    /// # Errors
    /// When config and checkpoint do not fit each other, or a weight cannot be read or kept.
    pub fn load(model: &Model, spec: ProjectorSpec, backend: &B) -> Result<Self, EngineError> {
        let mut parts = Parts::of(backend, model)?;
        // As transformers names the layers, or by their places in the authors' own sequence.
        let [first, second] = match parts.has("0.weight") {
            true => ["0", "2"],
            false => ["linear_1", "linear_2"],
        };
        let (n_in, n_out) = (spec.input_size, spec.hidden_size);
        let projector = Self {
            spec,
            first: parts.linear(first, n_out, n_in, spec.bias)?,
            second: parts.linear(second, n_out, n_out, spec.bias)?,
        };
        parts.finish()?;
        Ok(projector)
    }

    /// Rows of the decoder `[n_rows, hidden_size]` of the tower's rows x `[n_rows, input_size]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, backend: &B, x: &B::Buffer) -> Result<B::Buffer, EngineError> {
        let mut inner = linear(backend, x, &self.first)?;
        backend.activate(&mut inner, self.spec.activation)?;
        linear(backend, &inner, &self.second)
    }
}

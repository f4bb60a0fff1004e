//! Why the engine cannot compute something.

use crate::arch::spec::SpecError;
use crate::tensor::TensorError;

/// Why the engine cannot compute something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The config does not describe a model that the engine runs.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A weight cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The checkpoint holds no decoder, or not the parts that its config promises.
    #[error("{0}")]
    NotAModel(String),
    /// A weight that the config promises is not there, or one is there that it excludes.
    #[error("{model}: {role}: expected {expected}, found {found}")]
    Weight {
        /// The model.
        model: String,
        /// The role of the weight.
        role: String,
        /// What the config promises.
        expected: String,
        /// What the checkpoint has.
        found: String,
    },
    /// What the caller asked for cannot be had.
    #[error("{0}")]
    Request(String),
    /// No such device, or it cannot do this.
    #[error("{device}: {message}")]
    Device {
        /// The device.
        device: String,
        /// What it lacks, and what to do.
        message: String,
    },
    /// The tokenizer, chat template or image cannot be used.
    #[error("{file}: {message}")]
    Input {
        /// The file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
}

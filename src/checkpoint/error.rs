//! What can be wrong with a checkpoint. Every message names the file, and the tensor where there is one.

use crate::tensor::{Tensor, TensorError};

/// A checkpoint cannot be read as what it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes cannot be had.
    #[error("{file}: {error}")]
    Io {
        /// Path relative to the model's root.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is no file of its format.
    #[error("{file}: expected {expected}, found {found}")]
    File {
        /// Path relative to the model's root.
        file: String,
        /// What the format demands.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A tensor's entry contradicts itself, another entry, or the size of the file.
    #[error("{file}: {tensor}: expected {expected}, found {found}")]
    Tensor {
        /// Path relative to the model's root.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// What the format demands.
        expected: String,
        /// What the header says.
        found: String,
    },
    /// A pickle asks for something that would have to be executed.
    #[error(
        "{file}: the pickle asks for {asked} at byte {at}; only tensor rebuilding is understood, nothing was executed"
    )]
    Pickle {
        /// Path relative to the model's root.
        file: String,
        /// The opcode or the global, in words.
        asked: String,
        /// Offset of the opcode, and in what it is counted if not in the file.
        at: String,
    },
    /// Two tensors share a name.
    #[error("{tensor}: expected one tensor of this name, found one in {first} and one in {second}")]
    DuplicateTensor {
        /// The name.
        tensor: String,
        /// File of the first.
        first: String,
        /// File of the second.
        second: String,
    },
    /// Some shards are there and some are not: what is there is no whole model.
    #[error(
        "expected {n_expected} shards, found {n_found}; missing: {}; fetch them, or name a single file",
        missing.join(", ")
    )]
    MissingShards {
        /// Shards that the index names.
        n_expected: usize,
        /// Those that are there.
        n_found: usize,
        /// Names of some that are not.
        missing: Vec<String>,
    },
    /// A tensor that cannot exist.
    #[error(transparent)]
    Impossible(#[from] TensorError),
}

/// An error about a tensor that was found.
pub(super) fn wrong(
    tensor: &Tensor,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> CheckpointError {
    CheckpointError::Tensor {
        file: tensor.file().to_owned(),
        tensor: short(tensor.name()),
        expected: expected.into(),
        found: found.into(),
    }
}

/// Names from a stranger's file, shortened for messages.
pub(super) fn short(name: &str) -> String {
    const LONGEST: usize = 120;
    match name.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    }
}

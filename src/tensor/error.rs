//! What can be wrong with a tensor. Every message names the file and the tensor.

use super::store::Tensor;

/// A tensor cannot be read as what it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The bytes cannot be had.
    #[error("{file}: {error}")]
    Io {
        /// Path relative to the model's root.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// More elements than a machine can address.
    #[error("{file}: {tensor}: the shape {shape:?} has more elements than can be addressed")]
    TooLarge {
        /// Path relative to the model's root.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A shape that does not fit the use.
    #[error("{file}: {tensor}: expected {expected}, found {found}")]
    Shape {
        /// Path relative to the model's root.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// What the use demands.
        expected: String,
        /// The tensor's shape.
        found: String,
    },
    /// Weights that are no numbers.
    #[error("{file}: {tensor}: expected finite values, found NaN or infinity")]
    NotFinite {
        /// Path relative to the model's root.
        file: String,
        /// Name of the tensor.
        tensor: String,
    },
    /// An index outside the tensor.
    #[error("{file}: {tensor}: expected an index below {limit}, found {index}")]
    Index {
        /// Path relative to the model's root.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// What was asked for.
        index: usize,
        /// Number of rows, columns or elements.
        limit: usize,
    },
}

impl TensorError {
    /// The tensor holds NaN or infinity.
    pub fn not_finite(tensor: &Tensor) -> Self {
        Self::NotFinite {
            file: tensor.file().to_owned(),
            tensor: tensor.name().to_owned(),
        }
    }

    /// The tensor's shape does not fit.
    pub fn shape(tensor: &Tensor, expected: impl Into<String>) -> Self {
        Self::Shape {
            file: tensor.file().to_owned(),
            tensor: tensor.name().to_owned(),
            expected: expected.into(),
            found: format!("{:?}", tensor.shape()),
        }
    }

    /// An index is out of bounds.
    pub fn index(tensor: &Tensor, index: usize, limit: usize) -> Self {
        Self::Index {
            file: tensor.file().to_owned(),
            tensor: tensor.name().to_owned(),
            index,
            limit,
        }
    }
}

//! What every test is given beside the pair: the seed, the limits, and where progress goes.

use crate::engine::EngineError;
use crate::fingerprint::product::Products;
use crate::stats::PValueError;
use crate::tensor::TensorError;

/// Settings that change numbers; all of them are printed in the report.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of every random choice.
    pub seed: u64,
    /// Take every layer instead of a spread of [`Settings::n_layers`].
    pub all_layers: bool,
    /// Layers taken of a deep model.
    pub n_layers: usize,
    /// Hidden units of the smaller MLP that are matched.
    pub n_units: usize,
    /// Shared tokens through the token lens.
    pub n_tokens: usize,
    /// Where large products are computed: a device rounds its sums in an order of its own.
    pub products: Products,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            all_layers: false,
            n_layers: 4,
            n_units: 2048,
            n_tokens: 1024,
            products: Products::default(),
        }
    }
}

/// Receives the progress of long work.
pub trait Observer: Sync {
    /// A test starts on a component.
    fn test_started(&self, test: &'static str, component: &str);
    /// It ended.
    fn test_ended(&self, test: &'static str, component: &str);
}

/// Why a test could not be carried out: it becomes the reason of a `failed` record.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A weight cannot be read, or is not finite.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A computation gave what is no p-value.
    #[error(transparent)]
    PValue(#[from] PValueError),
    /// The device that multiplies failed.
    #[error(transparent)]
    Device(EngineError),
    /// A computation gave what is no number.
    #[error("{0}")]
    Numerical(String),
}

impl From<EngineError> for EvidenceError {
    /// A weight that cannot be read is that, whoever read it.
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Tensor(error) => Self::Tensor(error),
            error => Self::Device(error),
        }
    }
}

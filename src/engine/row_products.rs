//! Products of all pairs of rows on a graphics card, for evidence from weights: its one use of a device.
//!
//! On the CPU these products are the business of `fingerprint::product`; here is what a card does instead.

use super::EngineError;
use std::sync::Arc;

/// A device that multiplies rows.
pub trait RowProducts: Send + Sync {
    /// What a person calls it.
    fn describe(&self) -> String;

    /// `a · bᵀ`: `[n, width] × [m, width] → [n, m]`, row-major, every product and sum in f32. An entry does
    /// not depend on the other rows.
    ///
    /// # Errors
    /// When the device fails or a row is larger than it binds.
    fn rows_by_rows(&self, a: &[f32], b: &[f32], width: usize) -> Result<Vec<f32>, EngineError>;
}

/// Opens a device by the names of [`super::device::with_device`]; `None` for the CPU, and for `auto` where
/// there is no card.
///
/// # Errors
/// When there is no such device, or it is one that does not compute in f32.
pub fn open(name: &str) -> Result<Option<Arc<dyn RowProducts>>, EngineError> {
    let kind = name.split(':').next().unwrap_or_default();
    match kind {
        "cpu" => Ok(None),
        "cpu-f64" | "cuda-bf16" => Err(EngineError::Device {
            device: name.to_owned(),
            message: "evidence from weights is computed in f32; use cpu, cuda, vulkan or metal"
                .to_owned(),
        }),
        _ => card(name),
    }
}

#[cfg(feature = "gpu")]
fn card(name: &str) -> Result<Option<Arc<dyn RowProducts>>, EngineError> {
    match super::gpu::open(name) {
        Ok(card) => Ok(Some(card.into_row_products())),
        Err(why) if name == "auto" => {
            tracing::info!("the CPU computes: {why}");
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

#[cfg(not(feature = "gpu"))]
fn card(name: &str) -> Result<Option<Arc<dyn RowProducts>>, EngineError> {
    match name {
        "auto" => Ok(None),
        _ => Err(EngineError::Device {
            device: name.to_owned(),
            message: "this build has no graphics kernels; build with the feature `gpu`, or use cpu"
                .to_owned(),
        }),
    }
}

//! Choosing a device by name, and handing its backend to code that is generic over it.

use super::EngineError;
use super::backend::Backend;
use super::cpu::Cpu;

/// What to do with a backend whose type is known only when the program runs.
pub trait Visitor {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output;
}

/// Opens a device and hands it to a visitor: `cpu`, `cpu-f64` (slow; it measures the noise of the others),
/// `auto`, `cuda[:n]`, `vulkan[:n]` or `metal[:n]`. `auto` is the first graphics card, else the CPU.
///
/// # Errors
/// When there is no such device; the message says what is missing.
pub fn with_device<V: Visitor>(name: &str, visitor: V) -> Result<V::Output, EngineError> {
    match name {
        "cpu" => Ok(visitor.visit(Cpu::<f32>::new())),
        "cpu-f64" => Ok(visitor.visit(Cpu::<f64>::new())),
        _ => with_card(name, visitor),
    }
}

#[cfg(feature = "gpu")]
fn with_card<V: Visitor>(name: &str, visitor: V) -> Result<V::Output, EngineError> {
    match super::gpu::open(name) {
        Ok(card) => Ok(card.visit(visitor)),
        Err(why) if name == "auto" => {
            tracing::info!("the CPU computes: {why}");
            Ok(visitor.visit(Cpu::<f32>::new()))
        }
        Err(why) => Err(why),
    }
}

#[cfg(not(feature = "gpu"))]
fn with_card<V: Visitor>(name: &str, visitor: V) -> Result<V::Output, EngineError> {
    match name {
        "auto" => Ok(visitor.visit(Cpu::<f32>::new())),
        _ => Err(EngineError::Device {
            device: name.to_owned(),
            message: "this build has no graphics kernels; build with the feature `gpu`, or use cpu"
                .to_owned(),
        }),
    }
}

/// The devices that can be named, each with its description.
pub fn devices() -> Vec<(String, String)> {
    let threads = rayon::current_num_threads();
    let found = [("cpu".to_owned(), format!("f32, {threads} threads"))].into_iter();
    #[cfg(feature = "gpu")]
    let found = found.chain(super::gpu::devices());
    found.collect()
}

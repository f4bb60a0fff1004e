//! Which layers see a window only: `layer_types`, or what an implementation derives without it.

use super::config::{Config, SpecError};
use super::layer::LayerSpec;

/// Whether each layer slides, as `layer_types` states it; `None` where the key is absent.
///
/// # Errors
/// When a type is none that the engine knows, or there are not `n_layers` of them.
pub(super) fn stated(config: &mut Config, n_layers: usize) -> Result<Option<Vec<bool>>, SpecError> {
    let Some(types) = config.optional_texts("layer_types")? else {
        return Ok(None);
    };
    let slides: Option<Vec<bool>> = types
        .iter()
        .map(|&kind| match kind {
            "sliding_attention" => Some(true),
            "full_attention" => Some(false),
            _ => None,
        })
        .collect();
    slides
        .filter(|slides| slides.len() == n_layers)
        .map(Some)
        .ok_or_else(|| {
            config.wrong(
                "layer_types",
                format!("{n_layers} of full_attention and sliding_attention"),
            )
        })
}

/// As many copies of a layer as there are entries, with a window where the entry says so.
pub(super) fn layers(layer: &LayerSpec, slides: &[bool], window: Option<usize>) -> Vec<LayerSpec> {
    slides
        .iter()
        .map(|&slides| {
            let mut layer = layer.clone();
            layer.attention.window = window.filter(|_| slides);
            layer
        })
        .collect()
}

//! Whether a checkpoint holds a language model that the engine can run, before anything of it is loaded.

use super::EngineError;
use crate::arch::{Component, ComponentKind, Model};

/// Model types whose weights GGUF stores as they are, but for the order of rows that roles undo.
const GGUF_TYPES: &[&str] = &[
    "llama",
    "mistral",
    "mixtral",
    "qwen",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt2",
    "gpt_neox",
    "bloom",
    "falcon",
    "stablelm",
    "internlm2",
    "minicpm",
    "minicpm3",
    "deepseek_v2",
    "deepseek_v3",
    "olmo",
    "olmo2",
];

/// The language model of a checkpoint.
///
/// # Errors
/// When there is none whose roles are known by name.
pub(super) fn language_model(model: &Model) -> Result<&Component, EngineError> {
    if !model.missing_shards.is_empty() || !model.has_weights() {
        return Err(EngineError::NotAModel(format!(
            "{}: the weights are not there",
            model.label
        )));
    }
    // The converter to GGUF adds 1 to Gemma's gains, and joins or re-orders the weights of others.
    let model_type = model.config.as_ref().and_then(|c| c.get("model_type"));
    let model_type = model_type.and_then(|t| t.as_str()).unwrap_or_default();
    if model.format == "gguf" && !GGUF_TYPES.contains(&model_type) {
        return Err(EngineError::NotAModel(format!(
            "{}: the engine runs GGUF files of {}, not of {model_type:?}; run the original weights",
            model.label,
            GGUF_TYPES.join(", ")
        )));
    }
    let says_one = model
        .config
        .as_ref()
        .is_some_and(|c| c.get("norm_gains_include_one").is_some());
    if model.format == "gguf" && model_type.starts_with("gemma") && !says_one {
        return Err(EngineError::NotAModel(format!(
            "{}: config.json is that of the original weights, and the gains of the norms in the GGUF file hold \
             the 1 that the model adds; move config.json away, the GGUF file has a config of its own",
            model.label
        )));
    }
    model
        .components
        .iter()
        .find(|component| component.kind == ComponentKind::LanguageModel)
        .ok_or_else(|| {
            EngineError::NotAModel(format!(
                "{}: no language model among its components",
                model.label
            ))
        })
}

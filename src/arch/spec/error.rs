//! Why a config does not become a spec.

/// Why a config does not describe a model that the engine runs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// config.json is no JSON object.
    #[error("config.json: expected an object")]
    NotAnObject,
    /// No reader for this model type.
    #[error(
        "config.json: the engine does not run model_type {found:?} (evidence from weights and files needs no engine); it runs: {known}"
    )]
    UnknownModelType {
        /// What the config says.
        found: String,
        /// What the engine runs.
        known: String,
    },
    /// A key that the forward pass needs is missing.
    #[error("config.json: {key} is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// A key holds what it must not.
    #[error("config.json: {key}: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: String,
        /// What it may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A GGUF file states what nobody reads into a config.
    #[error(
        "the GGUF file's metadata {keys} may change what the model computes, and the engine does not read it; \
         it runs GGUF files of llama, qwen2 and qwen3 with plain rotary positions"
    )]
    Gguf {
        /// The metadata.
        keys: String,
    },
    /// Keys that no reader knows and that may change what the model computes.
    #[error(
        "config.json: {keys} may change what a {model_type} model computes, and the engine does not know {them}"
    )]
    UnknownKeys {
        /// The keys.
        keys: String,
        /// The model type.
        model_type: String,
        /// "it" or "them".
        them: &'static str,
    },
}

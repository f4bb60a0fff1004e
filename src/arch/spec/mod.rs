//! config.json → [`ModelSpec`]: everything that a forward pass needs to know, as data.
//!
//! One file per line of models, one entry per `model_type` in [`SPECS`]. Reading is strict: a key
//! that no reader knows is an error that names it, since it may change what the model computes.
//! Names of tensors are another matter (`super::ARCHITECTURES`): many model types share them.

pub mod composite;
pub mod config;
pub mod layer;
pub mod rope;
pub mod vision;

mod bloom;
mod deepseek;
mod error;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_neox;
mod harmless;
mod internlm2;
mod llama;
mod llava;
mod llava_authors;
mod minicpm;
mod minicpm_v;
mod mixtral;
mod mla;
mod olmo;
mod opt;
mod phi;
mod qwen;
mod qwen2;
mod rope_config;
mod stablelm;
mod windows;

pub use composite::{
    ConnectorSpec, ImageSpec, ProjectorSpec, ResamplerSpec, SliceSpec, SquareFit,
    VisionLanguageSpec,
};
pub use config::{Config, SpecError};
pub use layer::{
    Activation, Alibi, AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, NormKind,
    NormSpec, Projections, QkNorm, QkNormScope, RouterSpec, Scoring, SharedExpert, Wiring,
};
pub use rope::{RopeScaling, RopeSpec, RopeStyle};
pub use vision::{PatchPositions, TowerOutput, VisionSpec};

use serde_json::Value;

/// A decoder, described completely.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of config.json.
    pub model_type: String,
    /// Number of token ids that the embedding has rows for.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Positions that the publisher states, `max_position_embeddings`.
    pub max_positions: usize,
    /// From ids to the residual stream.
    pub embedding: EmbeddingSpec,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head; `None` where the layers end with one.
    pub final_norm: Option<NormSpec>,
    /// From the residual stream to logits.
    pub head: HeadSpec,
    /// Layers stored after these that take no part in predicting the next token (DeepSeek-V3's
    /// prediction of later ones).
    pub n_unused_layers: usize,
    /// What the config leaves unsaid and the published implementation supplies, in sentences.
    pub assumptions: Vec<String>,
}

/// From ids to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// Width of the table; projected to `hidden_size` without bias where they differ (OPT-350m).
    pub width: usize,
    /// Factor of the embeddings (Gemma's √hidden_size, MiniCPM's `scale_emb`).
    pub scale: f32,
    /// Learned positions: number of rows, and what is added to a position to find its row (OPT: 2).
    pub positions: Option<LearnedPositions>,
    /// Norm of the embeddings (BLOOM).
    pub norm: Option<NormSpec>,
}

/// A table of learned positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the table.
    pub n_rows: usize,
    /// Row of position 0.
    pub offset: usize,
}

/// From the residual stream to logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// The embedding serves as head.
    pub tied: bool,
    /// The head has a bias (GPT-J, Phi-2).
    pub bias: bool,
    /// Factor of the logits (MiniCPM: dim_model_base / hidden_size).
    pub scale: f32,
    /// c of c · tanh(logits / c) (Gemma 2).
    pub softcap: Option<f32>,
}

/// Reads the config of one model type.
pub struct SpecReader {
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// Reads what the forward pass needs and leaves keys that it does not know.
    pub read: fn(&mut Config) -> Result<ModelSpec, SpecError>,
}

/// Every model type that the engine runs.
pub const SPECS: &[&[SpecReader]] = &[
    llama::READERS,
    mixtral::READERS,
    qwen::READERS,
    qwen2::READERS,
    minicpm::READERS,
    gemma::READERS,
    phi::READERS,
    gpt2::READERS,
    gpt_neox::READERS,
    opt::READERS,
    bloom::READERS,
    falcon::READERS,
    stablelm::READERS,
    internlm2::READERS,
    deepseek::READERS,
    olmo::READERS,
];

impl ModelSpec {
    /// Reads the config of a decoder; that of a composite's language model is its own section.
    ///
    /// # Errors
    /// When the model type is unknown, a key is missing, impossible or unknown.
    pub fn read(config: &Value) -> Result<Self, SpecError> {
        if let Some(unread) = config.get("gguf_unread") {
            return Err(SpecError::Gguf {
                keys: unread.to_string(),
            });
        }
        let mut config = Config::new(config)?;
        let model_type = config.text("model_type")?;
        let reader = SPECS
            .iter()
            .flat_map(|readers| readers.iter())
            .find(|reader| reader.model_type == model_type)
            .ok_or_else(|| SpecError::UnknownModelType {
                found: model_type.clone(),
                known: SPECS
                    .iter()
                    .flat_map(|readers| readers.iter().map(|r| r.model_type))
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        let mut spec = (reader.read)(&mut config)?;
        spec.assumptions = config.finish()?;
        Ok(spec)
    }
}

#[cfg(test)]
mod testing {
    use super::ModelSpec;
    use serde_json::Value;

    /// Reads a config that must be read.
    pub fn read(config: &Value) -> ModelSpec {
        ModelSpec::read(config).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The error of a config that must not be read.
    pub fn error(config: &Value) -> String {
        match ModelSpec::read(config) {
            Ok(spec) => panic!("{} reads", spec.model_type),
            Err(error) => error.to_string(),
        }
    }

    /// The config with another value.
    pub fn with(mut config: Value, key: &str, value: impl Into<Value>) -> Value {
        config[key] = value.into();
        config
    }

    /// A key that nobody knows is refused, by name.
    pub fn refuses_strangers(config: &Value) {
        let error = error(&with(config.clone(), "attention_sinks", 4));
        assert!(error.contains("attention_sinks"), "{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::testing::read;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_model_type_has_one_reader() {
        let types: Vec<&str> = SPECS
            .iter()
            .flat_map(|r| r.iter().map(|r| r.model_type))
            .collect();
        let distinct: BTreeSet<&str> = types.iter().copied().collect();
        assert_eq!(types.len(), distinct.len(), "{types:?}");
    }

    #[test]
    fn configs_that_transformers_5_writes_are_read() {
        let written = include_str!("../../../tests/data/transformers-5-configs.json");
        let written: Value = serde_json::from_str(written).expect("JSON");
        let configs = written.as_object().expect("an object");
        assert!(configs.len() >= 25, "{}", configs.len());
        for (name, config) in configs {
            let spec = read(config);
            assert!(
                spec.assumptions.is_empty(),
                "{name}: {:?}",
                spec.assumptions
            );
        }
    }
}

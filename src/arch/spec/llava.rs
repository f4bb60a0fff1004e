//! LLaVA 1.5 as transformers publishes it: sections for a tower and for a decoder.

use super::composite::{ConnectorSpec, ImageSpec, ProjectorSpec, SquareFit, VisionLanguageSpec};
use super::config::{Config, SpecError};
use super::llama::activation;
use super::vision::{PatchPositions, VisionSpec};
use super::{Activation, ModelSpec};
use serde_json::{Map, Value, json};

/// What the class of a Llama's config supplies. Published composites state of their decoder only what
/// differs from it.
const LLAMA_DEFAULTS: [(&str, usize); 5] = [
    ("hidden_size", 4096),
    ("intermediate_size", 11008),
    ("num_attention_heads", 32),
    ("num_hidden_layers", 32),
    ("vocab_size", 32000),
];

/// What both ways to publish LLaVA state of its parts.
pub(super) struct Llava {
    /// Layers of the tower that are computed.
    pub n_layers: usize,
    /// The class token is among the rows.
    pub with_class_token: bool,
    /// Between the projector's layers.
    pub activation: Activation,
    /// The projector's layers have biases.
    pub bias: bool,
    /// How a picture becomes a square.
    pub fit: SquareFit,
    /// Token that stands for one row of an image.
    pub token: Option<u32>,
}

impl Llava {
    /// The whole, with what its own reader assumed.
    pub(super) fn with(
        self,
        model_type: String,
        language: ModelSpec,
        mut vision: VisionSpec,
        assumed: Vec<String>,
    ) -> VisionLanguageSpec {
        vision.output.n_layers = self.n_layers;
        vision.output.normed = false;
        vision.output.with_class_token = self.with_class_token;
        let projector = ProjectorSpec {
            input_size: vision.hidden_size,
            hidden_size: language.hidden_size,
            activation: self.activation,
            bias: self.bias,
        };
        let images = ImageSpec::Square {
            size: vision.image_size,
            fit: self.fit,
            token: self.token,
        };
        VisionLanguageSpec {
            model_type,
            assumptions: [&language.assumptions[..], &vision.assumptions, &assumed].concat(),
            language,
            vision,
            connector: ConnectorSpec::Projector(projector),
            images,
        }
    }
}

/// Layers that are computed for a state that a config names by number: of n + 1 states the first is what enters the
/// layers, and negative numbers count from the end.
pub(super) fn state(
    config: &Config<'_>,
    key: &str,
    number: f64,
    tower: &VisionSpec,
) -> Result<usize, SpecError> {
    let n_layers = tower.layers.len();
    let from_the_first = match number < 0.0 {
        true => n_layers as f64 + 1.0 + number,
        false => number,
    };
    let is_whole = from_the_first.fract() == 0.0;
    if is_whole && (0.0..=n_layers as f64).contains(&from_the_first) {
        Ok(from_the_first as usize)
    } else {
        Err(config.wrong(key, format!("a state of {n_layers} layers")))
    }
}

/// LLaVA 1.5: a CLIP or SigLIP tower, two layers, a decoder.
pub(super) fn read(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
    let whole = Value::Object(object.clone());
    let mut config = Config::new(&whole)?;
    let mut text = config
        .value("text_config")
        .and_then(Value::as_object)
        .ok_or_else(|| config.wrong("text_config", "an object"))?
        .clone();
    // As the published implementation does, the outer key reaches the decoder.
    if let Some(tied) = config.value("tie_word_embeddings") {
        text.entry("tie_word_embeddings").or_insert(tied.clone());
    }
    let mut assumed = Vec::new();
    if text.get("model_type").and_then(Value::as_str) == Some("llama") {
        for (key, default) in LLAMA_DEFAULTS {
            if text.get(key).is_none_or(Value::is_null) {
                text.insert(key.to_owned(), json!(default));
                assumed.push((key, default));
            }
        }
    }
    for (key, default) in assumed {
        config.assume(&format!("text_config.{key}"), default);
    }
    let language = ModelSpec::read(&Value::Object(text))?;
    let vision = config.section("vision_config", VisionSpec::read_section)?;
    if vision.positions != PatchPositions::Fixed {
        return Err(config.wrong("vision_config", "a CLIP or SigLIP tower"));
    }
    let layer = config.number_or("vision_feature_layer", -2.0)?;
    let n_layers = state(&config, "vision_feature_layer", layer, &vision)?;
    let with_class_token = match config
        .text_or("vision_feature_select_strategy", "default")?
        .as_str()
    {
        "default" if vision.class_token => false,
        "full" => vision.class_token,
        _ => {
            return Err(config.wrong(
                "vision_feature_select_strategy",
                "default, for a tower with a class token, or full",
            ));
        }
    };
    let token = match config.optional_size("image_token_id")? {
        Some(token) => token,
        None => config.size_or("image_token_index", 32000)?,
    };
    config.harmless(&[
        "image_token_index",
        "ignore_index",
        "image_seq_length",
        // Older configs repeat the decoder's.
        "vocab_size",
    ]);
    let parts = Llava {
        n_layers,
        with_class_token,
        activation: activation(&mut config, "projector_hidden_act", "gelu")?,
        bias: config.flag_or("multimodal_projector_bias", true)?,
        fit: match vision.class_token {
            true => SquareFit::Middle,
            false => SquareFit::Stretched,
        },
        token: Some(token as u32),
    };
    let model_type = config.text("model_type")?;
    Ok(parts.with(model_type, language, vision, config.finish()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// config.json of llava-hf/llava-1.5-7b-hf, without the keys that change nothing.
    fn published() -> Value {
        json!({
            "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100,
            "image_token_index": 32000, "model_type": "llava", "pad_token_id": 32001,
            "projector_hidden_act": "gelu", "tie_word_embeddings": false,
            "text_config": {
                "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
                "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
                "torch_dtype": "float16", "vocab_size": 32064,
            },
            "vision_config": {
                "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                "model_type": "clip_vision_model", "num_attention_heads": 16,
                "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
                "vocab_size": 32000,
            },
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        })
    }

    #[test]
    fn what_the_published_config_leaves_unsaid_is_assumed_and_said() {
        let spec = VisionLanguageSpec::read(&published()).unwrap();
        assert_eq!(spec.language.hidden_size, 4096);
        assert_eq!(spec.language.layers.len(), 32);
        assert_eq!(spec.vision.output.n_layers, 23);
        assert!(!spec.vision.output.normed && !spec.vision.output.with_class_token);
        let size = |n| ImageSpec::Square {
            size: n,
            fit: SquareFit::Middle,
            token: Some(32000),
        };
        assert_eq!(spec.images, size(336));
        let said = spec.assumptions.join("\n");
        for key in ["text_config.hidden_size", "vision_config.hidden_act"] {
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn other_features_than_one_layer_are_refused() {
        for (key, value) in [
            ("vision_feature_layer", json!([-2, -5])),
            ("vision_feature_layer", json!(25)),
            ("vision_feature_select_strategy", json!("mean")),
            ("image_grid_pinpoints", json!([[336, 672]])),
        ] {
            let mut config = published();
            config[key] = value;
            assert!(VisionLanguageSpec::read(&config).is_err(), "{key}");
        }
        let mut last = published();
        last["vision_feature_layer"] = json!(-1);
        let spec = VisionLanguageSpec::read(&last).unwrap();
        assert_eq!(spec.vision.output.n_layers, 24);
    }
}

//! OLMo 1 (norms without weights) and 2 (norms of what the blocks write).

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms, rope};
use super::{LayerSpec, MlpSpec, ModelSpec, NormSpec, QkNorm, QkNormScope, SpecReader};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "olmo",
        read: olmo,
    },
    SpecReader {
        model_type: "olmo2",
        read: olmo2,
    },
];

/// One layer, with `norm` before both blocks.
fn layer(config: &mut Config, shape: &Shape, norm: NormSpec) -> Result<LayerSpec, SpecError> {
    let mut attention = shape.attention(rope(config, shape, 10000.0)?);
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    Ok(pre_norm_layer(norm, attention, MlpSpec::Dense(mlp)))
}

fn olmo(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    // No key states ε: it is written in the implementation.
    let norm = NormSpec {
        gain: false,
        bias: false,
        ..NormSpec::layer(1e-5)
    };
    let mut layer = layer(config, &shape, norm)?;
    layer.attention.clip = config.optional_number("clip_qkv")?.map(|c| c as f32);
    if layer.attention.clip.is_some_and(|c| !(c > 0.0)) {
        return Err(config.wrong("clip_qkv", "a positive number"));
    }
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

fn olmo2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    let norm = rms(config, "rms_norm_eps", 1e-5)?;
    let mut layer = layer(config, &shape, norm)?;
    layer.attention.qk_norm = Some(QkNorm {
        norm,
        scope: QkNormScope::Width,
    });
    layer.attention_norm = None;
    layer.attention_post_norm = Some(norm);
    layer.mlp_norm = None;
    layer.mlp_post_norm = Some(norm);
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::super::{NormKind, Wiring};
    use super::*;
    use serde_json::{Value, json};

    fn olmo_7b() -> Value {
        json!({
            "architectures": ["OlmoForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "clip_qkv": null, "eos_token_id": 50279,
            "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
            "intermediate_size": 11008, "max_position_embeddings": 2048, "model_type": "olmo",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "pad_token_id": 1, "pretraining_tp": 1, "rope_scaling": null,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "use_cache": true,
            "vocab_size": 50304
        })
    }

    fn olmo2_7b() -> Value {
        json!({
            "architectures": ["Olmo2ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "eos_token_id": 100257, "hidden_act": "silu",
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
            "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 100277,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 500000,
            "tie_word_embeddings": false, "torch_dtype": "float32", "use_cache": true,
            "vocab_size": 100352
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [olmo_7b(), olmo2_7b()] {
            assert_eq!(read(&config).assumptions, [""; 0]);
            refuses_strangers(&config);
        }
    }

    #[test]
    fn norms_of_olmo_have_no_weights() {
        let spec = read(&with(olmo_7b(), "clip_qkv", 8.0));
        let norm = spec.final_norm.expect("a norm");
        assert_eq!(norm.kind, NormKind::Layer);
        assert!(!norm.gain && !norm.bias);
        assert_eq!(spec.layers[0].attention.clip, Some(8.0));
    }

    #[test]
    fn norms_of_olmo2_are_of_what_the_blocks_write() {
        let spec = read(&olmo2_7b());
        let layer = &spec.layers[0];
        assert!(layer.attention_norm.is_none() && layer.mlp_norm.is_none());
        assert!(layer.attention_post_norm.is_some() && layer.mlp_post_norm.is_some());
        assert_eq!(layer.wiring, Wiring::Sequential);
        let scope = layer.attention.qk_norm.map(|n| n.scope);
        assert_eq!(scope, Some(QkNormScope::Width));
    }
}

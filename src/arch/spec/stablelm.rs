//! StableLM (3B, 2 1.6B, 2 12B).

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer};
use super::rope::RopeSpec;
use super::rope_config::RopeKeys;
use super::{LayerSpec, MlpSpec, ModelSpec, NormSpec, QkNorm, QkNormScope, SpecReader, Wiring};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "stablelm",
    read: stablelm,
}];

fn stablelm(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 4096)?;
    let norm = NormSpec::layer(config.number_or("layer_norm_eps", 1e-5)? as f32);
    let keys = RopeKeys {
        partial: 0.25,
        ..RopeKeys::LLAMA
    };
    let rope = RopeSpec::read_with(config, shape.head_dim, keys, shape.max_positions)?;
    let mut attention = shape.attention(rope);
    attention.qkv_bias = config.flag_or("use_qkv_bias", false)?;
    if config.flag_or("qk_layernorm", false)? {
        attention.qk_norm = Some(QkNorm {
            norm: NormSpec {
                bias: false,
                ..norm
            },
            scope: QkNormScope::EachHead,
        });
    }
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    let layer = if config.flag_or("use_parallel_residual", false)? {
        LayerSpec {
            wiring: Wiring::Parallel,
            mlp_norm: None,
            ..layer
        }
    } else {
        layer
    };
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::*;
    use serde_json::{Value, json};

    fn stablelm_2_1_6b() -> Value {
        json!({
            "architectures": ["StableLmForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 100257, "eos_token_id": 100257, "hidden_act": "silu",
            "hidden_dropout": 0.0, "hidden_size": 2048, "initializer_range": 0.02,
            "intermediate_size": 5632, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 4096, "model_type": "stablelm",
            "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25, "qk_layernorm": false, "rope_scaling": null,
            "rope_theta": 10000, "tie_word_embeddings": false, "torch_dtype": "float16",
            "use_cache": true, "use_parallel_residual": false, "use_qkv_bias": true,
            "vocab_size": 100352
        })
    }

    #[test]
    fn the_published_config_of_stablelm_2_reads() {
        let spec = read(&stablelm_2_1_6b());
        assert_eq!(spec.assumptions, [""; 0]);
        let attention = &spec.layers[0].attention;
        assert!(attention.qkv_bias && !attention.output_bias);
        assert_eq!(attention.rope.as_ref().map(|r| r.rotated_dim), Some(16));
        refuses_strangers(&stablelm_2_1_6b());
    }

    #[test]
    fn the_12b_model_norms_each_head_by_gains_of_its_own_and_is_parallel() {
        let config = with(stablelm_2_1_6b(), "qk_layernorm", true);
        let spec = read(&with(config, "use_parallel_residual", true));
        let layer = &spec.layers[0];
        let norm = layer.attention.qk_norm.expect("norms of q and k");
        assert_eq!(norm.scope, QkNormScope::EachHead);
        assert!(norm.norm.gain && !norm.norm.bias);
        assert_eq!((layer.wiring, layer.mlp_norm), (Wiring::Parallel, None));
    }
}

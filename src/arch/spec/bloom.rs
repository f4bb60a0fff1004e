//! BLOOM.

use super::config::{Config, SpecError};
use super::layer::Alibi;
use super::llama::{Shape, pre_norm_layer};
use super::rope::RopeSpec;
use super::{Activation, DenseSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, SpecReader, Wiring};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "bloom",
    read: bloom,
}];

fn bloom(config: &mut Config) -> Result<ModelSpec, SpecError> {
    // How Megatron trained; at inference they change the order of roundings at most.
    config.harmless(&[
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "slow_but_exact",
        "unk_token_id",
    ]);
    let n_heads = config.size_of(&["n_head", "num_attention_heads"])?;
    let hidden_size = config.size_of(&["hidden_size", "n_embed"])?;
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(config.wrong("hidden_size", format!("a multiple of {n_heads} heads")));
    }
    // The implementation computes four times the width, whatever this key says.
    config.demand("n_inner", &(4 * hidden_size).into())?;
    let shape = Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        n_layers: config.n_layers(&["n_layer", "num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: hidden_size / n_heads,
        // Distances have no bound; 2048 is what the models were trained on.
        max_positions: config.optional_size("seq_length")?.unwrap_or(2048),
    };
    let norm = NormSpec::layer(config.number_or("layer_norm_epsilon", 1e-5)? as f32);
    let mut attention = shape.attention(RopeSpec::plain(2, 10000.0));
    attention.rope = None;
    attention.alibi = Some(Alibi {
        scale: 1.0,
        bfloat16: false,
    });
    attention.qkv_bias = true;
    attention.output_bias = true;
    let mlp = DenseSpec {
        intermediate_size: 4 * hidden_size,
        gated: false,
        activation: Activation::GeluTanh,
        up_bias: true,
        down_bias: true,
    };
    let normed = config.flag_or("apply_residual_connection_post_layernorm", false)?;
    let layer = LayerSpec {
        wiring: if normed {
            Wiring::NormedResidual
        } else {
            Wiring::Sequential
        },
        ..pre_norm_layer(norm, attention, MlpSpec::Dense(mlp))
    };
    let mut spec = shape.model(config, norm, true, vec![layer; shape.n_layers])?;
    spec.embedding.norm = Some(norm);
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::*;
    use serde_json::{Value, json};

    fn bloom_560m() -> Value {
        json!({
            "apply_residual_connection_post_layernorm": false,
            "architectures": ["BloomForCausalLM"], "attention_dropout": 0.0,
            "attention_softmax_in_fp32": true, "bias_dropout_fusion": true,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
            "masked_softmax_fusion": true, "model_type": "bloom", "n_embed": 1024,
            "n_inner": null, "n_layer": 24, "num_attention_heads": 16, "offset_alibi": 100,
            "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048,
            "skip_bias_add": true, "skip_bias_add_qkv": false, "slow_but_exact": false,
            "transformers_version": "4.20.0", "unk_token_id": 0, "use_cache": true,
            "vocab_size": 250880
        })
    }

    #[test]
    fn the_published_config_of_bloom_560m_reads() {
        let spec = read(&bloom_560m());
        let layer = &spec.layers[23];
        assert_eq!(layer.attention.alibi.map(|a| a.scale), Some(1.0));
        assert!(layer.attention.rope.is_none() && spec.embedding.norm.is_some());
        assert!(spec.head.tied);
        refuses_strangers(&bloom_560m());
    }

    #[test]
    fn the_residual_may_be_the_normed_stream() {
        let key = "apply_residual_connection_post_layernorm";
        let spec = read(&with(bloom_560m(), key, true));
        assert_eq!(spec.layers[0].wiring, Wiring::NormedResidual);
        assert_eq!(read(&bloom_560m()).layers[0].wiring, Wiring::Sequential);
    }
}

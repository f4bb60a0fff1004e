//! Falcon, under its name and under those it was first published with.

use super::config::{Config, SpecError};
use super::layer::Alibi;
use super::llama::{Shape, activation, pre_norm_layer};
use super::rope::RopeSpec;
use super::rope_config::RopeKeys;
use super::{DenseSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, SpecReader, Wiring};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "falcon",
        read: falcon,
    },
    SpecReader {
        model_type: "RefinedWeb",
        read: refined_web,
    },
    SpecReader {
        model_type: "RefinedWebModel",
        read: falcon,
    },
];

fn falcon(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let new = config.flag_or("new_decoder_architecture", false)?;
    model(config, new)
}

/// What the 40B model was first called: its code knew no other decoder than the new one.
fn refined_web(config: &mut Config) -> Result<ModelSpec, SpecError> {
    config.demand("new_decoder_architecture", &true.into())?;
    model(config, true)
}

fn model(config: &mut Config, new: bool) -> Result<ModelSpec, SpecError> {
    config.harmless(&["ff_factor"]);
    config.demand("apply_residual_connection_post_layernorm", &false.into())?;
    let n_heads = config.size_of(&["num_attention_heads", "n_head"])?;
    let hidden_size = config.size_of(&["hidden_size", "n_embed"])?;
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(config.wrong("hidden_size", format!("a multiple of {n_heads} heads")));
    }
    let multi_query = if new {
        // The new decoder has groups, and reads this key no more.
        config.harmless(&["multi_query"]);
        false
    } else {
        config.flag_or("multi_query", true)?
    };
    let stated = config.optional_size_of(&["num_kv_heads", "n_head_kv"])?;
    let n_kv_heads = match stated {
        Some(n) if new => n,
        None if new => {
            config.assume("num_kv_heads", n_heads);
            n_heads
        }
        // The old decoders do not read it: one head, or all.
        _ if multi_query => 1,
        _ => n_heads,
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(config.wrong("num_kv_heads", format!("a divisor of {n_heads} heads")));
    }
    let shape = Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        n_layers: config.n_layers(&["num_hidden_layers", "n_layer"])?,
        n_heads,
        n_kv_heads,
        head_dim: hidden_size / n_heads,
        max_positions: config.size_or("max_position_embeddings", 2048)?,
    };
    let norm = NormSpec::layer(config.number_or("layer_norm_epsilon", 1e-5)? as f32);
    let mut attention = shape.attention(RopeSpec::plain(2, 10000.0));
    if config.flag_or("alibi", false)? {
        config.harmless(&["rope_parameters", "rope_scaling", "rope_theta"]);
        attention.rope = None;
        attention.alibi = Some(Alibi {
            // Slopes are added before the scores are scaled.
            scale: attention.scale,
            bfloat16: true,
        });
    } else {
        let (dim, max) = (shape.head_dim, shape.max_positions);
        let rope = RopeSpec::read_with(config, dim, RopeKeys::LLAMA, max)?;
        attention.rope = Some(rope);
    }
    let bias = config.flag_or("bias", false)?;
    attention.qkv_bias = bias;
    attention.output_bias = bias;
    let mlp = DenseSpec {
        intermediate_size: config
            .optional_size("ffn_hidden_size")?
            .unwrap_or(4 * hidden_size),
        gated: false,
        // The key came with the 11B model; before, there was no other function.
        activation: if config.has("activation") {
            activation(config, "activation", "gelu")?
        } else {
            super::Activation::Gelu
        },
        up_bias: bias,
        down_bias: bias,
    };
    let parallel = config.flag_or("parallel_attn", true)?;
    if new && !parallel {
        return Err(config.wrong("parallel_attn", "true with new_decoder_architecture"));
    }
    // The 11B model has one norm in the new decoder, which has two where the config does not say.
    let n_norms = match config.optional_size("num_ln_in_parallel_attn")? {
        Some(n @ 1..=2) if new => n,
        None if new => 2,
        None | Some(1) => 1,
        Some(_) => return Err(config.wrong("num_ln_in_parallel_attn", "1 or 2")),
    };
    let layer = LayerSpec {
        wiring: if parallel {
            Wiring::Parallel
        } else {
            Wiring::Sequential
        },
        mlp_norm: Some(norm).filter(|_| !parallel || n_norms == 2),
        ..pre_norm_layer(norm, attention, MlpSpec::Dense(mlp))
    };
    shape.model(config, norm, true, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, read, refuses_strangers, with};
    use super::*;
    use serde_json::{Value, json};

    fn falcon_7b() -> Value {
        json!({
            "alibi": false, "apply_residual_connection_post_layernorm": false,
            "architectures": ["FalconForCausalLM"], "attention_dropout": 0.0,
            "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "bias": false,
            "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
            "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 71,
            "num_hidden_layers": 32, "parallel_attn": true, "torch_dtype": "bfloat16",
            "transformers_version": "4.27.4", "use_cache": true, "vocab_size": 65024
        })
    }

    fn falcon_11b() -> Value {
        json!({
            "activation": "gelu", "alibi": false, "architectures": ["FalconForCausalLM"],
            "attention_dropout": 0.0, "bias": false, "bos_token_id": 11, "eos_token_id": 11,
            "ff_factor": 4, "ffn_hidden_size": 16384, "hidden_dropout": 0.0,
            "hidden_size": 4096, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 8192, "model_type": "falcon", "multi_query": true,
            "new_decoder_architecture": true, "num_attention_heads": 32,
            "num_hidden_layers": 60, "num_kv_heads": 8, "num_ln_in_parallel_attn": 1,
            "parallel_attn": true, "rope_scaling": null, "rope_theta": 500042.0,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
            "vocab_size": 65024
        })
    }

    /// 40B as first published.
    fn refined_web() -> Value {
        json!({
            "alibi": false, "apply_residual_connection_post_layernorm": false,
            "architectures": ["RWForCausalLM"], "attention_dropout": 0.0, "bias": false,
            "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 8192,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "RefinedWeb",
            "n_head": 128, "n_head_kv": 8, "n_layer": 60, "parallel_attn": true,
            "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 65024
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [falcon_7b(), falcon_11b(), refined_web()] {
            read(&config);
            refuses_strangers(&config);
        }
    }

    fn summary(config: &Value) -> (usize, Wiring, bool) {
        let spec = read(config);
        let layer = &spec.layers[0];
        let own_norm = layer.mlp_norm.is_some();
        (layer.attention.n_kv_heads, layer.wiring, own_norm)
    }

    #[test]
    fn decoders_differ_in_key_heads_and_norms() {
        assert_eq!(summary(&falcon_7b()), (1, Wiring::Parallel, false));
        assert_eq!(summary(&refined_web()), (8, Wiring::Parallel, true));
        assert_eq!(summary(&falcon_11b()), (8, Wiring::Parallel, false));
        let rw = with(
            with(falcon_7b(), "multi_query", false),
            "parallel_attn",
            false,
        );
        assert_eq!(summary(&rw), (71, Wiring::Sequential, true));
        let odd = with(falcon_11b(), "parallel_attn", false);
        assert!(error(&odd).contains("parallel_attn"));
    }

    #[test]
    fn slopes_of_falcon_are_scaled_with_the_scores() {
        let spec = read(&with(falcon_7b(), "alibi", true));
        let attention = &spec.layers[0].attention;
        assert_eq!(attention.alibi.map(|a| a.scale), Some(0.125));
        assert!(attention.rope.is_none());
    }
}

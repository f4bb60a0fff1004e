//! MiniCPM and MiniCPM3: Llama and DeepSeek's attention, with factors of the embeddings, the residual
//! branches and the logits.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms, rope};
use super::rope::RopeStyle;
use super::{AttentionSpec, MlpSpec, ModelSpec, NormSpec, SpecReader, mla};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "minicpm",
        read: minicpm,
    },
    SpecReader {
        model_type: "minicpm3",
        read: minicpm3,
    },
];

/// Factors that are 1 in Llama.
struct Scales {
    embedding: f64,
    depth: Option<f64>,
    base: Option<f64>,
}

/// A model with the three factors. Where a factor is null the implementation leaves it out.
fn model(
    config: &mut Config,
    shape: &Shape,
    norm: NormSpec,
    attention: AttentionSpec,
    defaults: &Scales,
) -> Result<ModelSpec, SpecError> {
    let factor = |config: &mut Config, key: &str, default: Option<f64>| match default {
        _ if config.is_null(key) => Ok(None),
        Some(default) => config.number_or(key, default).map(Some),
        None => config.optional_number(key),
    };
    let embedding = config.number_or("scale_emb", defaults.embedding)?;
    let depth = factor(config, "scale_depth", defaults.depth)?;
    let base = factor(config, "dim_model_base", defaults.base)?;
    if base.is_some_and(|base| !(base > 0.0)) {
        return Err(config.wrong("dim_model_base", "a positive number"));
    }
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    config.demand("mlp_bias", &false.into())?;
    // MiniCPM-MoE is another model under the same type.
    config.demand("num_experts", &0.into())?;
    let mut layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    if let Some(depth) = depth {
        layer.residual_scale = (depth / (shape.n_layers as f64).sqrt()) as f32;
    }
    let mut spec = shape.model(config, norm, true, vec![layer; shape.n_layers])?;
    spec.embedding.scale = embedding as f32;
    if let Some(base) = base {
        spec.head.scale = (base / shape.hidden_size as f64) as f32;
    }
    Ok(spec)
}

/// Defaults are those of `configuration_minicpm.py` beside the weights: all factors are 1.
fn minicpm(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    let defaults = Scales {
        embedding: 1.0,
        // The class says 1, which is not "none": each branch is divided by √n_layers.
        depth: Some(1.0),
        base: Some(1.0),
    };
    model(config, &shape, norm, attention, &defaults)
}

fn minicpm3(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let n_heads = config.size("num_attention_heads")?;
    let shape = Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        n_layers: config.n_layers(&["num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: 0,
        max_positions: config.size_or("max_position_embeddings", 32768)?,
    };
    let norm = rms(config, "rms_norm_eps", 1e-5)?;
    let defaults = mla::Defaults {
        q_rank: 768,
        kv_rank: 256,
        nope_dim: 64,
        rope_dim: 32,
        value_dim: None,
    };
    let attention = mla::attention(
        config,
        shape.hidden_size,
        RopeStyle::Halves,
        shape.max_positions,
        &defaults,
    )?;
    let defaults = Scales {
        embedding: 12.0,
        depth: Some(1.4),
        base: Some(256.0),
    };
    model(config, &shape, norm, attention, &defaults)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, read, refuses_strangers, with};
    use super::*;
    use crate::arch::spec::RopeScaling;
    use serde_json::{Value, json};

    fn minicpm_2b() -> Value {
        json!({
            "_name_or_path": "openbmb/CPM-2B", "architectures": ["MiniCPMForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2304,
            "initializer_range": 0.1, "intermediate_size": 5760,
            "max_position_embeddings": 4096, "model_type": "minicpm",
            "num_attention_heads": 36, "num_hidden_layers": 40, "num_key_value_heads": 36,
            "rms_norm_eps": 1e-05, "rope_scaling": null, "torch_dtype": "bfloat16",
            "transformers_version": "4.36.0", "use_cache": true, "vocab_size": 122753,
            "scale_emb": 12, "dim_model_base": 256, "scale_depth": 1.4
        })
    }

    fn minicpm3_4b() -> Value {
        json!({
            "architectures": ["MiniCPM3ForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPM3Config"},
            "bos_token_id": 1, "eos_token_id": [2, 73440], "hidden_act": "silu",
            "hidden_size": 2560, "initializer_range": 0.1, "intermediate_size": 6400,
            "max_position_embeddings": 32768, "model_type": "minicpm3",
            "num_attention_heads": 40, "num_hidden_layers": 62, "num_key_value_heads": 40,
            "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "q_lora_rank": 768,
            "kv_lora_rank": 256, "rms_norm_eps": 1e-05,
            "rope_scaling": {"type": "longrope", "long_factor": (vec![1.01; 16]),
                "short_factor": (vec![1.02; 16]), "original_max_position_embeddings": 32768},
            "torch_dtype": "bfloat16", "transformers_version": "4.41.0", "use_cache": true,
            "vocab_size": 73448, "scale_emb": 12, "dim_model_base": 256, "scale_depth": 1.4
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [minicpm_2b(), minicpm3_4b()] {
            read(&config);
            refuses_strangers(&config);
        }
        assert!(error(&with(minicpm_2b(), "num_experts", 8)).contains("num_experts"));
    }

    #[test]
    fn embeddings_branches_and_logits_are_scaled() {
        let spec = read(&minicpm_2b());
        assert!(spec.head.tied);
        assert_eq!(spec.embedding.scale, 12.0);
        assert!((spec.layers[0].residual_scale - 1.4 / 40f32.sqrt()).abs() < 1e-7);
        assert!((spec.head.scale - 1.0 / 9.0).abs() < 1e-7);
    }

    #[test]
    fn minicpm3_turns_halves_of_the_shared_part_by_published_factors() {
        let spec = read(&minicpm3_4b());
        let attention = &spec.layers[61].attention;
        assert_eq!((attention.head_dim, attention.value_dim), (96, 64));
        let rope = attention.rope.as_ref().expect("rotary positions");
        assert_eq!((rope.style, rope.offset), (RopeStyle::Halves, 64));
        assert!(matches!(rope.scaling, RopeScaling::Long { .. }));
        assert_eq!(rope.attention_factor(), 1.0);
    }
}

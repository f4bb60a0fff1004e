//! OPT.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, pre_norm_layer};
use super::rope::RopeSpec;
use super::{
    DenseSpec, LayerSpec, LearnedPositions, MlpSpec, ModelSpec, NormSpec, SpecReader, Wiring,
};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "opt",
    read: opt,
}];

/// Row of position 0: the table begins with rows for padding that fairseq needed.
const FIRST_POSITION: usize = 2;

fn opt(config: &mut Config) -> Result<ModelSpec, SpecError> {
    config.harmless(&["activation_dropout", "init_std"]);
    let n_heads = config.size("num_attention_heads")?;
    let hidden_size = config.size("hidden_size")?;
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(config.wrong("hidden_size", format!("a multiple of {n_heads} heads")));
    }
    let shape = Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        n_layers: config.n_layers(&["num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: hidden_size / n_heads,
        max_positions: config.size_or("max_position_embeddings", 2048)?,
    };
    // Keys that came with Galactica, and are absent where the model is as OPT was published.
    let flag = |config: &mut Config, key: &str| match config.has(key) {
        true => config.flag_or(key, true),
        false => Ok(true),
    };
    let affine = flag(config, "layer_norm_elementwise_affine")?;
    let bias = flag(config, "enable_bias")?;
    // No key states ε: it is the default of the norm's own class.
    let norm = NormSpec {
        gain: affine,
        bias: affine,
        ..NormSpec::layer(1e-5)
    };
    let before = config.flag_or("do_layer_norm_before", true)?;
    let no_final = config
        .value("_remove_final_layer_norm")
        .is_some_and(|v| v != false);
    let mut attention = shape.attention(RopeSpec::plain(2, 10000.0));
    attention.rope = None;
    attention.qkv_bias = bias;
    attention.output_bias = bias;
    let mlp = DenseSpec {
        intermediate_size: config.size("ffn_dim")?,
        gated: false,
        activation: activation(config, "activation_function", "relu")?,
        up_bias: bias,
        down_bias: bias,
    };
    let layer = LayerSpec {
        wiring: if before {
            Wiring::Sequential
        } else {
            Wiring::NormAfterSum
        },
        ..pre_norm_layer(norm, attention, MlpSpec::Dense(mlp))
    };
    let mut spec = shape.model(config, norm, true, vec![layer; shape.n_layers])?;
    spec.final_norm = Some(norm).filter(|_| before && !no_final);
    // Null is as published: the implementation computes the default of this key.
    spec.embedding.width = config
        .optional_size("word_embed_proj_dim")?
        .unwrap_or(hidden_size);
    spec.embedding.positions = Some(LearnedPositions {
        n_rows: shape.max_positions + FIRST_POSITION,
        offset: FIRST_POSITION,
    });
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::*;
    use serde_json::{Value, json};

    fn opt_125m() -> Value {
        json!({
            "_name_or_path": "opt-125m", "_remove_final_layer_norm": false,
            "activation_dropout": 0.0, "activation_function": "relu",
            "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 2,
            "do_layer_norm_before": true, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072,
            "hidden_size": 768, "init_std": 0.02, "layerdrop": 0.0,
            "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 12,
            "num_hidden_layers": 12, "pad_token_id": 1, "prefix": "</s>",
            "torch_dtype": "float16", "transformers_version": "4.21.0.dev0",
            "use_cache": true, "vocab_size": 50272, "word_embed_proj_dim": 768
        })
    }

    #[test]
    fn the_published_config_of_opt_125m_reads() {
        let spec = read(&opt_125m());
        let positions = spec.embedding.positions.expect("learned positions");
        assert_eq!((positions.n_rows, positions.offset), (2050, 2));
        assert!(spec.head.tied && spec.final_norm.is_some());
        assert_eq!(spec.layers[0].wiring, Wiring::Sequential);
        refuses_strangers(&opt_125m());
    }

    #[test]
    fn opt_350m_norms_after_the_sum_and_projects_its_embeddings() {
        let config = with(opt_125m(), "do_layer_norm_before", false);
        let spec = read(&with(config, "word_embed_proj_dim", 512));
        assert_eq!(spec.layers[0].wiring, Wiring::NormAfterSum);
        assert_eq!((spec.embedding.width, spec.final_norm), (512, None));
    }

    #[test]
    fn norms_may_have_no_weights_and_matrices_no_biases() {
        let config = with(opt_125m(), "layer_norm_elementwise_affine", false);
        let spec = read(&with(config, "enable_bias", false));
        assert!(spec.final_norm.is_some_and(|n| !n.gain && !n.bias));
        assert!(!spec.layers[0].attention.qkv_bias);
    }
}

//! GPT-2, and GPT-J, which kept the names of its keys.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, pre_norm_layer};
use super::rope::{RopeSpec, RopeStyle};
use super::{
    DenseSpec, LayerSpec, LearnedPositions, MlpSpec, ModelSpec, NormSpec, SpecReader, Wiring,
};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "gpt2",
        read: gpt2,
    },
    SpecReader {
        model_type: "gptj",
        read: gptj,
    },
];

/// Keys of a classification head, and of how training was done.
const HARMLESS: &[&str] = &[
    "gradient_checkpointing",
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
];

fn shape(config: &mut Config, max_positions: usize) -> Result<Shape, SpecError> {
    config.harmless(HARMLESS);
    let hidden_size = config.size_of(&["n_embd", "hidden_size"])?;
    let n_heads = config.size_of(&["n_head", "num_attention_heads"])?;
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(config.wrong("n_embd", format!("a multiple of {n_heads} heads")));
    }
    let positions = config.optional_size_of(&["n_positions", "max_position_embeddings"])?;
    Ok(Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        n_layers: config.n_layers(&["n_layer", "num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: hidden_size / n_heads,
        max_positions: positions.unwrap_or_else(|| {
            config.assume("n_positions", max_positions);
            max_positions
        }),
    })
}

fn norm(config: &mut Config) -> Result<NormSpec, SpecError> {
    let epsilon = config.number_or("layer_norm_epsilon", 1e-5)?;
    Ok(NormSpec::layer(epsilon as f32))
}

/// An MLP with biases, four times as wide as the stream where the config does not say.
fn mlp(config: &mut Config, hidden_size: usize) -> Result<MlpSpec, SpecError> {
    Ok(MlpSpec::Dense(DenseSpec {
        // Null is as published: the implementations compute the default of this key.
        intermediate_size: config.optional_size("n_inner")?.unwrap_or(4 * hidden_size),
        gated: false,
        activation: activation(config, "activation_function", "gelu_new")?,
        up_bias: true,
        down_bias: true,
    }))
}

fn gpt2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = shape(config, 1024)?;
    let norm = norm(config)?;
    let mlp = mlp(config, shape.hidden_size)?;
    let mut attention = shape.attention(RopeSpec::plain(2, 10000.0));
    attention.rope = None;
    attention.qkv_bias = true;
    attention.output_bias = true;
    if !config.flag_or("scale_attn_weights", true)? {
        attention.scale = 1.0;
    }
    let by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    // Changes the order of roundings in half precision, and nothing else.
    config.harmless(&["reorder_and_upcast_attn"]);
    let layer = pre_norm_layer(norm, attention, mlp);
    let mut layers = vec![layer; shape.n_layers];
    if by_layer {
        for (i, layer) in layers.iter_mut().enumerate() {
            layer.attention.scale /= (i + 1) as f32;
        }
    }
    let mut spec = shape.model(config, norm, true, layers)?;
    spec.embedding.positions = Some(LearnedPositions {
        n_rows: shape.max_positions,
        offset: 0,
    });
    Ok(spec)
}

fn gptj(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = shape(config, 2048)?;
    let norm = norm(config)?;
    let mlp = mlp(config, shape.hidden_size)?;
    config.demand("rotary", &true.into())?;
    config.demand("scale_attn_weights", &true.into())?;
    // Null would turn embeddings as wide as the model, which no published model does.
    let rotated_dim = config.size_or("rotary_dim", 64)?;
    if rotated_dim > shape.head_dim || !rotated_dim.is_multiple_of(2) {
        let expected = format!("an even number of {} dimensions", shape.head_dim);
        return Err(config.wrong("rotary_dim", expected));
    }
    let attention = shape.attention(RopeSpec {
        style: RopeStyle::Interleaved,
        ..RopeSpec::plain(rotated_dim, 10000.0)
    });
    let layer = LayerSpec {
        wiring: Wiring::Parallel,
        mlp_norm: None,
        ..pre_norm_layer(norm, attention, mlp)
    };
    let mut spec = shape.model(config, norm, false, vec![layer; shape.n_layers])?;
    spec.head.bias = true;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::*;
    use crate::arch::spec::Activation;
    use serde_json::{Value, json};

    fn gpt2_small() -> Value {
        json!({
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
            "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
            "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
            "summary_proj_to_labels": true, "summary_type": "cls_index",
            "summary_use_proj": true, "task_specific_params": {"text-generation":
                {"do_sample": true, "max_length": 50}}, "vocab_size": 50257
        })
    }

    fn gpt_j_6b() -> Value {
        json!({
            "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"],
            "attn_pdrop": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256,
            "gradient_checkpointing": false, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16,
            "n_inner": null, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0,
            "rotary": true, "rotary_dim": 64, "scale_attn_weights": true,
            "summary_activation": null, "summary_first_dropout": 0.1,
            "summary_proj_to_labels": true, "summary_type": "cls_index",
            "summary_use_proj": true, "task_specific_params": {}, "tie_word_embeddings": false,
            "tokenizer_class": "GPT2Tokenizer", "transformers_version": "4.18.0.dev0",
            "use_cache": true, "vocab_size": 50400
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [gpt2_small(), gpt_j_6b()] {
            read(&config);
            refuses_strangers(&config);
        }
    }

    #[test]
    fn gpt2_has_learned_positions_and_a_tied_head() {
        let spec = read(&gpt2_small());
        assert!(spec.head.tied && !spec.head.bias);
        assert_eq!(spec.embedding.positions.map(|p| p.n_rows), Some(1024));
        let MlpSpec::Dense(mlp) = &spec.layers[0].mlp else {
            panic!("a dense MLP");
        };
        assert_eq!(
            (mlp.intermediate_size, mlp.activation),
            (3072, Activation::GeluTanh)
        );
    }

    #[test]
    fn scores_of_later_layers_shrink_where_the_config_says_so() {
        let config = with(gpt2_small(), "scale_attn_by_inverse_layer_idx", true);
        let scale = |layer: usize| read(&config).layers[layer].attention.scale;
        assert_eq!((scale(0), scale(3)), (0.125, 0.03125));
    }

    #[test]
    fn gpt_j_turns_neighbours_and_adds_both_blocks_to_one_stream() {
        let spec = read(&gpt_j_6b());
        let layer = &spec.layers[27];
        let rope = layer.attention.rope.as_ref().expect("rotary positions");
        assert_eq!((rope.style, rope.rotated_dim), (RopeStyle::Interleaved, 64));
        assert_eq!((layer.wiring, layer.mlp_norm), (Wiring::Parallel, None));
        assert!(spec.head.bias && !layer.attention.qkv_bias && !spec.head.tied);
        assert_eq!(layer.attention.head_dim, 256);
    }
}

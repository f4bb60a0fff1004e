//! GPT-NeoX and Pythia.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, pre_norm_layer};
use super::rope::RopeSpec;
use super::rope_config::RopeKeys;
use super::{DenseSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, SpecReader, Wiring};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "gpt_neox",
    read: gpt_neox,
}];

fn gpt_neox(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let n_heads = config.size("num_attention_heads")?;
    config.demand("num_key_value_heads", &n_heads.into())?;
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
    let norm = NormSpec::layer(config.number_or("layer_norm_eps", 1e-5)? as f32);
    let keys = RopeKeys {
        theta_key: "rotary_emb_base",
        partial_key: "rotary_pct",
        partial: 0.25,
        ..RopeKeys::LLAMA
    };
    let rope = RopeSpec::read_with(config, shape.head_dim, keys, shape.max_positions)?;
    let mut attention = shape.attention(rope);
    // Added to the config class late; before, there always were biases.
    attention.qkv_bias = config.value("attention_bias").is_none_or(|v| v != false);
    attention.output_bias = attention.qkv_bias;
    let mlp = DenseSpec {
        intermediate_size: config.size("intermediate_size")?,
        gated: false,
        activation: activation(config, "hidden_act", "gelu")?,
        up_bias: true,
        down_bias: true,
    };
    let parallel = config.flag_or("use_parallel_residual", true)?;
    let layer = LayerSpec {
        wiring: if parallel {
            Wiring::Parallel
        } else {
            Wiring::Sequential
        },
        ..pre_norm_layer(norm, attention, MlpSpec::Dense(mlp))
    };
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::*;
    use crate::arch::spec::Activation;
    use serde_json::{Value, json};

    fn pythia_70m() -> Value {
        json!({
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0,
            "hidden_act": "gelu", "hidden_size": 512, "initializer_range": 0.02,
            "intermediate_size": 2048, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "gpt_neox",
            "num_attention_heads": 8, "num_hidden_layers": 6, "rotary_emb_base": 10000,
            "rotary_pct": 0.25, "tie_word_embeddings": false, "torch_dtype": "float16",
            "transformers_version": "4.24.0", "use_cache": true,
            "use_parallel_residual": true, "vocab_size": 50304
        })
    }

    #[test]
    fn the_published_config_of_pythia_reads() {
        let spec = read(&pythia_70m());
        assert_eq!(spec.assumptions, [""; 0]);
        let layer = &spec.layers[5];
        assert_eq!(layer.wiring, Wiring::Parallel);
        assert!(layer.mlp_norm.is_some() && layer.attention.qkv_bias);
        assert_eq!(
            layer.attention.rope.as_ref().map(|r| r.rotated_dim),
            Some(16)
        );
        let MlpSpec::Dense(mlp) = &layer.mlp else {
            panic!("a dense MLP");
        };
        assert_eq!(mlp.activation, Activation::Gelu);
        refuses_strangers(&pythia_70m());
    }

    #[test]
    fn new_keys_of_the_positions_say_the_same() {
        let mut new = pythia_70m();
        let object = new.as_object_mut().unwrap();
        object.remove("rotary_emb_base");
        object.remove("rotary_pct");
        let rope = json!({"rope_theta": 10000.0, "partial_rotary_factor": 0.25,
            "rope_type": "default"});
        let new = with(new, "rope_parameters", rope);
        assert_eq!(read(&new), read(&pythia_70m()));
        let sequential = with(new, "use_parallel_residual", false);
        assert_eq!(read(&sequential).layers[0].wiring, Wiring::Sequential);
    }
}

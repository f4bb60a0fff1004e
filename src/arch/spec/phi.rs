//! Phi: 1, 1.5 and 2 (parallel, LayerNorm, partial rotary), 3 and 4 (Llama with LongRoPE).

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms};
use super::rope::RopeSpec;
use super::rope_config::RopeKeys;
use super::{
    DenseSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, QkNorm, QkNormScope, SpecReader, Wiring,
};
use serde_json::Value;

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "phi",
        read: phi,
    },
    SpecReader {
        model_type: "phi3",
        read: phi3,
    },
];

fn phi(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    let norm = NormSpec::layer(config.number_or("layer_norm_eps", 1e-5)? as f32);
    let keys = RopeKeys {
        partial: 0.5,
        ..RopeKeys::LLAMA
    };
    let rope = RopeSpec::read_with(config, shape.head_dim, keys, shape.max_positions)?;
    let mut attention = shape.attention(rope);
    attention.qkv_bias = true;
    attention.output_bias = true;
    if config.flag_or("qk_layernorm", false)? {
        attention.qk_norm = Some(QkNorm {
            norm,
            scope: QkNormScope::Head,
        });
    }
    let mlp = DenseSpec {
        intermediate_size: config.size("intermediate_size")?,
        gated: false,
        activation: activation(config, "hidden_act", "gelu_new")?,
        up_bias: true,
        down_bias: true,
    };
    let layer = LayerSpec {
        wiring: Wiring::Parallel,
        mlp_norm: None,
        ..pre_norm_layer(norm, attention, MlpSpec::Dense(mlp))
    };
    let mut spec = shape.model(config, norm, false, vec![layer; shape.n_layers])?;
    spec.head.bias = true;
    Ok(spec)
}

fn phi3(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 4096)?;
    let norm = rms(config, "rms_norm_eps", 1e-5)?;
    for section in ["rope_scaling", "rope_parameters"] {
        let kinds = config.value(section).and_then(Value::as_object);
        let yarn = kinds.is_some_and(|section| {
            ["type", "rope_type"]
                .iter()
                .any(|key| section.get(*key).is_some_and(|kind| kind == "yarn"))
        });
        if yarn {
            // Phi-3's configs of early 2024 name LongRoPE so; YaRN has other keys and frequencies.
            return Err(config.wrong(section, "longrope (the engine reads no YaRN of Phi-3)"));
        }
    }
    let rope = RopeSpec::read_with(config, shape.head_dim, RopeKeys::LLAMA, shape.max_positions)?;
    let mut attention = shape.attention(rope);
    attention.window = config.optional_size("sliding_window")?;
    // Keys of Phi-3-small's and Phi-4-mini's configs that say what the model does anyway.
    for key in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        config.demand(key, &false.into())?;
    }
    config.demand("full_attn_mod", &1.into())?;
    config.demand("interpolate_factor", &1.into())?;
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, read, refuses_strangers, with};
    use super::*;
    use crate::arch::spec::{Activation, RopeScaling};
    use serde_json::json;

    fn phi_2() -> Value {
        json!({
            "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256,
            "hidden_act": "gelu_new", "hidden_size": 2560, "initializer_range": 0.02,
            "intermediate_size": 10240, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
            "qk_layernorm": false, "resid_pdrop": 0.1, "rope_scaling": null,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float16",
            "use_cache": true, "vocab_size": 51200
        })
    }

    fn phi_3_mini_4k() -> Value {
        json!({
            "architectures": ["Phi3ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
            "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu",
            "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
            "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096, "pad_token_id": 32000,
            "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": null,
            "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32064
        })
    }

    fn phi_4_mini() -> Value {
        json!({
            "architectures": ["Phi3ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "bos_token_id": 199999, "embd_pdrop": 0.0,
            "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
            "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
            "interpolate_factor": 1, "lm_head_bias": false, "max_position_embeddings": 131072,
            "mlp_bias": false, "model_type": "phi3", "num_attention_heads": 24,
            "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "pad_token_id": 199999,
            "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": (vec![2.0; 48]), "short_factor": (vec![1.0; 48]),
                "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 200064
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [phi_2(), phi_3_mini_4k(), phi_4_mini()] {
            assert_eq!(read(&config).assumptions, [""; 0]);
            refuses_strangers(&config);
        }
    }

    #[test]
    fn phi_2_is_parallel_with_one_norm_and_biases_everywhere() {
        let spec = read(&phi_2());
        let layer = &spec.layers[0];
        assert_eq!((layer.wiring, layer.mlp_norm), (Wiring::Parallel, None));
        assert_eq!(
            layer.attention.rope.as_ref().map(|r| r.rotated_dim),
            Some(32)
        );
        assert!(spec.head.bias && layer.attention.output_bias);
        let MlpSpec::Dense(mlp) = &layer.mlp else {
            panic!("a dense MLP");
        };
        assert_eq!((mlp.gated, mlp.activation), (false, Activation::GeluTanh));
    }

    #[test]
    fn half_of_a_head_turns_where_phi_does_not_say() {
        let mut config = phi_2();
        config
            .as_object_mut()
            .unwrap()
            .remove("partial_rotary_factor");
        let spec = read(&config);
        let rope = spec.layers[0].attention.rope.clone();
        assert_eq!(rope.map(|r| r.rotated_dim), Some(40));
        assert!(spec.assumptions[0].contains("partial_rotary_factor"));
    }

    #[test]
    fn long_factors_of_phi_4_cover_what_turns() {
        assert_eq!(
            read(&phi_3_mini_4k()).layers[0].attention.window,
            Some(2047)
        );
        let spec = read(&phi_4_mini());
        let rope = spec.layers[0].attention.rope.as_ref().expect("positions");
        assert_eq!(rope.rotated_dim, 96);
        assert!(matches!(
            rope.scaling,
            RopeScaling::Long { trained: 4096, .. }
        ));
        let expected = (1.0 + 32f64.ln() / 4096f64.ln()).sqrt() as f32;
        assert_eq!(rope.attention_factor(), expected);
        let yarn = json!({"type": "yarn", "long_factor": [1.0], "short_factor": [1.0]});
        let yarn = with(phi_3_mini_4k(), "rope_scaling", yarn);
        assert!(error(&yarn).contains("longrope"));
    }
}

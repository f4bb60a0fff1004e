//! InternLM2 and 2.5, as their authors' own code computes them.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms, rope};
use super::{MlpSpec, ModelSpec, SpecReader};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "internlm2",
    read: internlm2,
}];

/// Defaults are those of `configuration_internlm2.py`.
fn internlm2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    attention.qkv_bias = config.flag_or("bias", true)?;
    attention.output_bias = attention.qkv_bias;
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::RopeScaling;
    use super::super::testing::{read, refuses_strangers};
    use serde_json::json;

    #[test]
    fn the_published_config_of_internlm2_5_7b_reads() {
        let config = json!({
            "architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager",
            "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
            "bias": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "internlm2",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 1000000,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
            "vocab_size": 92544
        });
        let spec = read(&config);
        assert_eq!(spec.assumptions, [""; 0]);
        let attention = &spec.layers[0].attention;
        assert!(!attention.qkv_bias && !attention.output_bias);
        let scaling = attention.rope.as_ref().map(|r| r.scaling.clone());
        let dynamic = RopeScaling::DynamicNtk {
            factor: 2.0,
            trained: 32768,
        };
        assert_eq!(scaling, Some(dynamic));
        refuses_strangers(&config);
    }
}

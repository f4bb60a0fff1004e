//! Qwen 1, as its authors' own code computes it (`modeling_qwen.py` beside the weights).

use super::config::{Config, SpecError};
use super::llama::{Shape, gated, pre_norm_layer, rms};
use super::rope::{RopeScaling, RopeSpec};
use super::rope_config::RopeKeys;
use super::{Activation, MlpSpec, ModelSpec, SpecReader};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "qwen",
    read: qwen,
}];

/// Defaults are those of `configuration_qwen.py`.
fn qwen(config: &mut Config) -> Result<ModelSpec, SpecError> {
    config.harmless(&[
        "attn_dropout_prob",
        "bf16",
        "emb_dropout_prob",
        "fp16",
        "fp32",
        "onnx_safe",
        "use_flash_attn",
        // Both store the cache differently, for kernels of their own, and are off where published.
        "use_cache_kernel",
        "softmax_in_fp32",
    ]);
    config.demand("use_cache_quantization", &false.into())?;
    config.demand("scale_attn_weights", &true.into())?;
    let hidden_size = config.size("hidden_size")?;
    let n_heads = config.size("num_attention_heads")?;
    let head_dim = config.size_or("kv_channels", 128)?;
    let max_positions = config.size_or("max_position_embeddings", 8192)?;
    // Both are the identity up to `seq_length`.
    let dynamic = config.flag_or("use_dynamic_ntk", true)?;
    let logn = config.flag_or("use_logn_attn", true)?;
    let trained = config.size_or("seq_length", 2048)?;
    let shape = Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        n_layers: config.n_layers(&["num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        max_positions,
    };
    let norm = rms(config, "layer_norm_epsilon", 1e-6)?;
    let keys = RopeKeys {
        theta_key: "rotary_emb_base",
        partial_key: "rotary_pct",
        ..RopeKeys::LLAMA
    };
    let mut rope = RopeSpec::read_with(config, head_dim, keys, max_positions)?;
    if dynamic {
        rope.scaling = RopeScaling::PowerNtk { trained };
    }
    if logn {
        if rope.rotated_dim != head_dim || trained < 2 {
            return Err(config.wrong("rotary_pct", "1, as log-n attention is published"));
        }
        rope.query_log_base = Some(trained);
    }
    let bias = !config.flag_or("no_bias", true)?;
    let mut attention = shape.attention(rope);
    attention.qkv_bias = true;
    attention.output_bias = bias;
    // The key counts gate and up together.
    let both = config.size("intermediate_size")?;
    if !both.is_multiple_of(2) {
        return Err(config.wrong("intermediate_size", "an even number"));
    }
    let mut mlp = gated(both / 2, Activation::Silu);
    mlp.up_bias = bias;
    mlp.down_bias = bias;
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers};
    use serde_json::{Value, json};

    fn qwen_7b() -> Value {
        json!({
            "architectures": ["QWenLMHeadModel"],
            "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
            "attn_dropout_prob": 0.0, "bf16": false, "emb_dropout_prob": 0.0, "fp16": false,
            "fp32": false, "hidden_size": 4096, "intermediate_size": 22016,
            "initializer_range": 0.02, "kv_channels": 128, "layer_norm_epsilon": 1e-06,
            "max_position_embeddings": 32768, "model_type": "qwen", "no_bias": true,
            "num_attention_heads": 32, "num_hidden_layers": 32, "onnx_safe": null,
            "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": true,
            "seq_length": 8192, "tie_word_embeddings": false, "tokenizer_class": "QWenTokenizer",
            "transformers_version": "4.32.0", "use_cache": true, "use_dynamic_ntk": true,
            "use_flash_attn": "auto", "use_logn_attn": true, "vocab_size": 151936
        })
    }

    #[test]
    fn the_published_config_of_qwen_7b_reads() {
        let spec = read(&qwen_7b());
        let layer = &spec.layers[31];
        assert_eq!(spec.assumptions, [""; 0]);
        assert!(layer.attention.qkv_bias && !layer.attention.output_bias);
        assert_eq!(layer.attention.head_dim, 128);
        refuses_strangers(&qwen_7b());
    }

    #[test]
    fn the_mlp_is_half_of_what_the_config_states() {
        let super::MlpSpec::Dense(mlp) = read(&qwen_7b()).layers[0].mlp.clone() else {
            panic!("a dense MLP");
        };
        assert_eq!((mlp.intermediate_size, mlp.gated), (11008, true));
    }

    #[test]
    fn queries_and_frequencies_change_beyond_the_trained_length_only() {
        let rope = read(&qwen_7b()).layers[0]
            .attention
            .rope
            .clone()
            .expect("rotary");
        assert_eq!(rope.query_factor(8191), 1.0);
        assert!(rope.query_factor(8192) > 1.0);
        assert_eq!(rope.frequencies(8192), rope.frequencies(1));
        assert_ne!(rope.frequencies(8193), rope.frequencies(1));
    }
}

//! Mixtral.

use super::config::{Config, SpecError};
use super::layer::{MixtureSpec, RouterSpec, Scoring};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms, rope};
use super::{MlpSpec, ModelSpec, SpecReader};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[SpecReader {
    model_type: "mixtral",
    read: mixtral,
}];

fn mixtral(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 4096 * 32)?;
    let norm = rms(config, "rms_norm_eps", 1e-5)?;
    let mut attention = shape.attention(rope(config, &shape, 1_000_000.0)?);
    attention.window = config.optional_size("sliding_window")?;
    let n_experts = config.size_or("num_local_experts", 8)?;
    let top_k = config.size_or("num_experts_per_tok", 2)?;
    if top_k > n_experts {
        return Err(config.wrong(
            "num_experts_per_tok",
            format!("at most {n_experts} experts"),
        ));
    }
    let mixture = MixtureSpec {
        n_experts,
        top_k,
        router: RouterSpec {
            scoring: Scoring::Softmax,
            normalise: true,
            scale: 1.0,
            correction_bias: false,
            groups: None,
        },
        expert: gated(
            config.size("intermediate_size")?,
            activation(config, "hidden_act", "silu")?,
        ),
        shared: None,
    };
    let layer = pre_norm_layer(norm, attention, MlpSpec::Mixture(mixture));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_config_of_mixtral_8x7b_reads() {
        let config = json!({
            "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "mixtral",
            "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
            "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
            "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000
        });
        let spec = read(&config);
        assert_eq!(spec.assumptions, [""; 0]);
        let MlpSpec::Mixture(mixture) = &spec.layers[31].mlp else {
            panic!("a mixture");
        };
        assert_eq!((mixture.n_experts, mixture.top_k), (8, 2));
        assert!(mixture.router.normalise && spec.layers[0].attention.window.is_none());
        refuses_strangers(&config);
    }
}

//! Qwen 2, 2.5 and 3, dense and mixtures of experts.

use super::config::{Config, SpecError};
use super::layer::{MixtureSpec, RouterSpec, Scoring, SharedExpert};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms, rope};
use super::{
    AttentionSpec, MlpSpec, ModelSpec, NormSpec, QkNorm, QkNormScope, SpecReader, windows,
};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "qwen2",
        read: qwen2,
    },
    SpecReader {
        model_type: "qwen2_moe",
        read: qwen2_moe,
    },
    SpecReader {
        model_type: "qwen3",
        read: qwen3,
    },
    SpecReader {
        model_type: "qwen3_moe",
        read: qwen3_moe,
    },
];

/// Norms of q and k over each head, gains shared by the heads.
fn per_head(norm: NormSpec) -> Option<QkNorm> {
    Some(QkNorm {
        norm,
        scope: QkNormScope::Head,
    })
}

/// The window and the layers that slide: `layer_types`, or from `max_window_layers` on.
fn windows_of(
    config: &mut Config,
    n_layers: usize,
) -> Result<(Option<usize>, Vec<bool>), SpecError> {
    let stated = windows::stated(config, n_layers)?;
    let from = config.optional_size("max_window_layers")?;
    if !config.flag_or("use_sliding_window", false)? {
        config.harmless(&["sliding_window"]);
        return match stated {
            Some(slides) if slides.contains(&true) => Err(config.wrong(
                "layer_types",
                "no sliding_attention without use_sliding_window",
            )),
            _ => Ok((None, vec![false; n_layers])),
        };
    }
    let window = if config.is_null("sliding_window") {
        None
    } else {
        Some(config.size_or("sliding_window", 4096)?)
    };
    let slides = stated.unwrap_or_else(|| {
        let from = from.unwrap_or_else(|| {
            config.assume("max_window_layers", 28);
            28
        });
        (0..n_layers).map(|i| i >= from).collect()
    });
    Ok((window, slides))
}

fn dense(
    config: &mut Config,
    shape: &Shape,
    norm: NormSpec,
    attention: AttentionSpec,
) -> Result<ModelSpec, SpecError> {
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    let (window, slides) = windows_of(config, shape.n_layers)?;
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    let layers = windows::layers(&layer, &slides, window);
    shape.model(config, norm, false, layers)
}

fn qwen2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    // Positions in several dimensions are for images.
    config.demand("use_mrope", &false.into())?;
    let shape = Shape::read(config, 32768)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    attention.qkv_bias = true;
    dense(config, &shape, norm, attention)
}

/// A head of Qwen 3 has 128 dimensions, whatever the width of the model.
fn qwen3_shape(config: &mut Config, head_dim: usize) -> Result<Shape, SpecError> {
    let stated = config.has("head_dim");
    let mut shape = Shape::read(config, 32768)?;
    if !stated {
        config.assume("head_dim", head_dim);
        shape.head_dim = head_dim;
    }
    Ok(shape)
}

fn qwen3(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = qwen3_shape(config, 128)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    attention.qk_norm = per_head(norm);
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    dense(config, &shape, norm, attention)
}

/// Which layers are mixtures: every `decoder_sparse_step`-th but those of `mlp_only_layers`.
fn sparse_layers(config: &mut Config, n_layers: usize) -> Result<Vec<bool>, SpecError> {
    let step = config.size_or("decoder_sparse_step", 1)?;
    let dense = config.indices("mlp_only_layers")?;
    Ok((0..n_layers)
        .map(|i| (i + 1).is_multiple_of(step) && !dense.contains(&i))
        .collect())
}

/// Mixtures where they are, MLPs elsewhere.
fn mixed(
    config: &mut Config,
    shape: &Shape,
    norm: NormSpec,
    attention: &AttentionSpec,
    mixture: MixtureSpec,
) -> Result<ModelSpec, SpecError> {
    let sparse = sparse_layers(config, shape.n_layers)?;
    let dense = if sparse.contains(&false) {
        let intermediate_size = config.size("intermediate_size")?;
        MlpSpec::Dense(gated(intermediate_size, mixture.expert.activation))
    } else {
        config.harmless(&["intermediate_size"]);
        MlpSpec::Mixture(mixture.clone())
    };
    let mixture = MlpSpec::Mixture(mixture);
    let layers = sparse
        .into_iter()
        .map(|sparse| {
            let mlp = if sparse { &mixture } else { &dense };
            pre_norm_layer(norm, attention.clone(), mlp.clone())
        })
        .collect();
    shape.model(config, norm, false, layers)
}

/// Softmax over all experts, the best chosen, their weights divided by their sum if the config says so.
fn mixture(
    config: &mut Config,
    n_experts: usize,
    top_k: usize,
    expert_size: usize,
) -> Result<MixtureSpec, SpecError> {
    let top_k = config.size_or("num_experts_per_tok", top_k)?;
    if top_k > n_experts {
        return Err(config.wrong(
            "num_experts_per_tok",
            format!("at most {n_experts} experts"),
        ));
    }
    let act = activation(config, "hidden_act", "silu")?;
    Ok(MixtureSpec {
        n_experts,
        top_k,
        router: RouterSpec {
            scoring: Scoring::Softmax,
            normalise: config.flag_or("norm_topk_prob", false)?,
            scale: 1.0,
            correction_bias: false,
            groups: None,
        },
        expert: gated(config.size_or("moe_intermediate_size", expert_size)?, act),
        shared: None,
    })
}

fn qwen2_moe(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 32768)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    // The key came late; before, there always were biases.
    attention.qkv_bias = !config.has("qkv_bias") || config.flag_or("qkv_bias", true)?;
    // Implementations disagree on which layers slide, and no published model uses it.
    config.demand("use_sliding_window", &false.into())?;
    config.harmless(&["sliding_window", "max_window_layers"]);
    if windows::stated(config, shape.n_layers)?.is_some_and(|slides| slides.contains(&true)) {
        return Err(config.wrong("layer_types", "full_attention"));
    }
    let n_experts = config.size_or("num_experts", 60)?;
    let mut mixture = mixture(config, n_experts, 4, 1408)?;
    mixture.shared = Some(SharedExpert {
        mlp: gated(
            config.size_or("shared_expert_intermediate_size", 5632)?,
            mixture.expert.activation,
        ),
        gated_output: true,
    });
    mixed(config, &shape, norm, &attention, mixture)
}

fn qwen3_moe(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 32768)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    attention.qk_norm = per_head(norm);
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    config.harmless(&["max_window_layers"]);
    if config.flag_or("use_sliding_window", false)? {
        attention.window = config.optional_size("sliding_window")?;
    }
    config.harmless(&["sliding_window"]);
    let n_experts = config.optional_size_of(&["num_experts", "num_local_experts"])?;
    let n_experts = n_experts.unwrap_or_else(|| {
        config.assume("num_experts", 128);
        128
    });
    let mixture = mixture(config, n_experts, 8, 768)?;
    mixed(config, &shape, norm, &attention, mixture)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, refuses_strangers, with};
    use super::super::{MlpSpec, ModelSpec, QkNormScope};
    use serde_json::{Value, json};

    fn qwen2_5_7b() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
            "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
            "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2",
            "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false,
            "use_sliding_window": false, "vocab_size": 152064
        })
    }

    fn qwen1_5_moe() -> Value {
        json!({
            "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151643,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
            "intermediate_size": 5632, "max_position_embeddings": 8192,
            "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
            "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 60,
            "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
            "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
            "sliding_window": 32768, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
        })
    }

    fn qwen3_0_6b() -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
            "initializer_range": 0.02, "intermediate_size": 3072,
            "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
            "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
        })
    }

    fn qwen3_30b() -> Value {
        json!({
            "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
            "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 6144,
            "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
            "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
            "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
            "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
            "vocab_size": 151936
        })
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [qwen2_5_7b(), qwen1_5_moe(), qwen3_0_6b(), qwen3_30b()] {
            assert_eq!(read(&config).assumptions, [""; 0]);
            refuses_strangers(&config);
        }
    }

    #[test]
    fn qwen2_has_biases_and_qwen3_has_norms() {
        let (two, three) = (read(&qwen2_5_7b()), read(&qwen3_0_6b()));
        let (two, three) = (&two.layers[0].attention, &three.layers[0].attention);
        assert!(two.qkv_bias && !two.output_bias && two.qk_norm.is_none());
        assert!(!three.qkv_bias && three.head_dim == 128);
        assert_eq!(three.qk_norm.map(|n| n.scope), Some(QkNormScope::Head));
    }

    fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
        spec.layers.iter().map(|l| l.attention.window).collect()
    }

    #[test]
    fn late_layers_slide_where_the_config_turns_it_on() {
        let config = with(qwen2_5_7b(), "use_sliding_window", true);
        assert_eq!(windows(&read(&config)), [None; 28]);
        let config = with(with(config, "max_window_layers", 27), "sliding_window", 64);
        assert_eq!(windows(&read(&config))[26..], [None, Some(64)]);
    }

    #[test]
    fn experts_of_qwen2_have_a_weighted_neighbour() {
        let MlpSpec::Mixture(mixture) = read(&qwen1_5_moe()).layers[3].mlp.clone() else {
            panic!("a mixture");
        };
        let shared = mixture.shared.expect("a shared expert");
        assert!(shared.gated_output && !mixture.router.normalise);
        assert_eq!(shared.mlp.intermediate_size, 5632);
    }

    #[test]
    fn dense_layers_among_mixtures_are_where_the_config_puts_them() {
        let config = with(qwen3_30b(), "mlp_only_layers", json!([1]));
        let spec = read(&with(config, "decoder_sparse_step", 2));
        let mixtures = spec.layers[..4].iter();
        let mixtures: Vec<bool> = mixtures
            .map(|l| matches!(l.mlp, MlpSpec::Mixture(_)))
            .collect();
        assert_eq!(mixtures, [false, false, false, true]);
    }
}

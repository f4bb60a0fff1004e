//! DeepSeek-V2 and V3: latent attention, and mixtures with shared experts after a few dense layers.

use super::config::{Config, SpecError};
use super::layer::{Groups, MixtureSpec, RouterSpec, Scoring, SharedExpert};
use super::llama::{Shape, activation, gated, pre_norm_layer, rms};
use super::rope::RopeStyle;
use super::{AttentionSpec, MlpSpec, ModelSpec, NormSpec, SpecReader, mla};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "deepseek_v2",
        read: deepseek_v2,
    },
    SpecReader {
        model_type: "deepseek_v3",
        read: deepseek_v3,
    },
];

const DEFAULTS: mla::Defaults = mla::Defaults {
    q_rank: 1536,
    kv_rank: 512,
    nope_dim: 128,
    rope_dim: 64,
    value_dim: Some(128),
};

/// Keys of training, of sharding, and of the layers that predict further tokens, which are stored
/// after the last one and take no part in the forward pass.
fn harmless(config: &mut Config) {
    config.harmless(&["aux_loss_alpha", "seq_aux", "ep_size", "num_mtp_layers"]);
}

fn shape(config: &mut Config, max_positions: usize) -> Result<Shape, SpecError> {
    let n_heads = config.size("num_attention_heads")?;
    Ok(Shape {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        n_layers: config.n_layers(&["num_hidden_layers"])?,
        n_heads,
        n_kv_heads: n_heads,
        // Latent attention has sizes of its own.
        head_dim: 0,
        max_positions: config.size_or("max_position_embeddings", max_positions)?,
    })
}

/// `n_group` and `topk_group`; one group is as good as none.
fn groups(
    config: &mut Config,
    n_experts: usize,
    by_best_two: bool,
    default: (usize, usize),
) -> Result<Option<Groups>, SpecError> {
    let n_groups = config.size_or("n_group", default.0)?;
    let top_k = config.size_or("topk_group", default.1)?;
    if !n_experts.is_multiple_of(n_groups) {
        return Err(config.wrong("n_group", format!("a divisor of {n_experts} experts")));
    }
    if top_k > n_groups {
        return Err(config.wrong("topk_group", format!("at most {n_groups} groups")));
    }
    if by_best_two && n_experts / n_groups < 2 {
        return Err(config.wrong("n_group", "two experts or more in a group"));
    }
    Ok((n_groups > 1).then_some(Groups {
        n_groups,
        top_k,
        by_best_two,
    }))
}

/// What both versions state alike, with defaults of each.
struct Experts {
    n_experts: usize,
    top_k: Option<usize>,
    n_shared: usize,
    size: usize,
    first_mixture: usize,
}

/// A model around a router: dense layers first, then mixtures.
fn model(
    config: &mut Config,
    shape: &Shape,
    norm: NormSpec,
    attention: &AttentionSpec,
    router: RouterSpec,
    experts: &Experts,
) -> Result<ModelSpec, SpecError> {
    config.demand("mlp_bias", &false.into())?;
    let top_k = match experts.top_k {
        Some(default) => config.size_or("num_experts_per_tok", default)?,
        None => config.size("num_experts_per_tok")?,
    };
    if top_k > experts.n_experts {
        let at_most = format!("at most {} experts", experts.n_experts);
        return Err(config.wrong("num_experts_per_tok", at_most));
    }
    let act = activation(config, "hidden_act", "silu")?;
    let size = config.size_or("moe_intermediate_size", experts.size)?;
    let n_shared = config.size_or("n_shared_experts", experts.n_shared)?;
    // 0 is a value of this key, and no size.
    let first = match config.value("first_k_dense_replace") {
        None => {
            config.assume("first_k_dense_replace", experts.first_mixture);
            experts.first_mixture
        }
        Some(value) => value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| config.wrong("first_k_dense_replace", "a number of layers"))?,
    };
    let every = config.optional_size("moe_layer_freq")?.unwrap_or(1);
    let mixture = MlpSpec::Mixture(MixtureSpec {
        n_experts: experts.n_experts,
        top_k,
        router,
        expert: gated(size, act),
        shared: Some(SharedExpert {
            mlp: gated(size * n_shared, act),
            gated_output: false,
        }),
    });
    let dense = MlpSpec::Dense(gated(config.size("intermediate_size")?, act));
    let layers = (0..shape.n_layers)
        .map(|i| {
            let is_mixture = i >= first && i.is_multiple_of(every);
            let mlp = if is_mixture { &mixture } else { &dense };
            pre_norm_layer(norm, attention.clone(), mlp.clone())
        })
        .collect();
    shape.model(config, norm, false, layers)
}

fn deepseek_v2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    harmless(config);
    let shape = shape(config, 2048)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let style = RopeStyle::Interleaved;
    let attention = mla::attention(
        config,
        shape.hidden_size,
        style,
        shape.max_positions,
        &DEFAULTS,
    )?;
    config.demand("scoring_func", &"softmax".into())?;
    // The authors' code divides by the sum and then leaves the factor out; transformers does neither.
    config.demand("norm_topk_prob", &false.into())?;
    let n_experts = config.size_or("n_routed_experts", 64)?;
    let groups = match config.text_or("topk_method", "greedy")?.as_str() {
        "greedy" => {
            config.harmless(&["n_group", "topk_group"]);
            None
        }
        "group_limited_greedy" => groups(config, n_experts, false, (1, 1))?,
        _ => return Err(config.wrong("topk_method", "greedy or group_limited_greedy")),
    };
    let router = RouterSpec {
        scoring: Scoring::Softmax,
        normalise: false,
        scale: config.number_or("routed_scaling_factor", 1.0)? as f32,
        correction_bias: false,
        groups,
    };
    let experts = Experts {
        n_experts,
        top_k: None,
        n_shared: 2,
        size: 1407,
        first_mixture: 0,
    };
    model(config, &shape, norm, &attention, router, &experts)
}

fn deepseek_v3(config: &mut Config) -> Result<ModelSpec, SpecError> {
    harmless(config);
    let shape = shape(config, 4096)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    // transformers' key; the authors' code has no other way than this one.
    let style = match config.value("rope_interleave").map(|v| v.as_bool()) {
        None | Some(Some(true)) => RopeStyle::Interleaved,
        Some(Some(false)) => RopeStyle::Halves,
        Some(None) => return Err(config.wrong("rope_interleave", "true or false")),
    };
    let attention = mla::attention(
        config,
        shape.hidden_size,
        style,
        shape.max_positions,
        &DEFAULTS,
    )?;
    config.demand("scoring_func", &"sigmoid".into())?;
    config.demand("topk_method", &"noaux_tc".into())?;
    let n_experts = config.optional_size_of(&["n_routed_experts", "num_local_experts"])?;
    let n_experts = n_experts.unwrap_or_else(|| {
        config.assume("n_routed_experts", 256);
        256
    });
    let router = RouterSpec {
        scoring: Scoring::Sigmoid,
        normalise: config.flag_or("norm_topk_prob", true)?,
        scale: config.number_or("routed_scaling_factor", 2.5)? as f32,
        correction_bias: true,
        groups: groups(config, n_experts, true, (8, 4))?,
    };
    let experts = Experts {
        n_experts,
        top_k: Some(8),
        n_shared: 1,
        size: 2048,
        first_mixture: 3,
    };
    let mut spec = model(config, &shape, norm, &attention, router, &experts)?;
    let stored = config.value("num_nextn_predict_layers").map(|n| n.as_u64());
    spec.n_unused_layers = match stored {
        None => 0,
        Some(Some(n)) if n < 16 => n as usize,
        Some(_) => return Err(config.wrong("num_nextn_predict_layers", "a small number")),
    };
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, read, refuses_strangers, with};
    use super::*;
    use crate::arch::spec::Projections;
    use serde_json::{Value, json};

    fn v2_lite() -> Value {
        json!({
            "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "bos_token_id": 100000,
            "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu",
            "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 10944,
            "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v2",
            "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
            "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
            "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
            "num_key_value_heads": 16, "pretraining_tp": 1, "q_lora_rank": null,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
            "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
                "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096,
                "type": "yarn"},
            "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
            "seq_aux": true, "tie_word_embeddings": false, "topk_group": 1,
            "topk_method": "greedy", "torch_dtype": "bfloat16", "use_cache": true,
            "v_head_dim": 128, "vocab_size": 102400
        })
    }

    fn v3() -> Value {
        json!({
            "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
            "hidden_size": 7168, "intermediate_size": 18432,
            "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
            "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
            "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
            "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
            "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "pretraining_tp": 1,
            "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
            "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
            "seq_aux": true, "tie_word_embeddings": false, "topk_group": 4,
            "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": true,
            "v_head_dim": 128, "vocab_size": 129280
        })
    }

    fn mixture(spec: &ModelSpec, layer: usize) -> &MixtureSpec {
        match &spec.layers[layer].mlp {
            MlpSpec::Mixture(mixture) => mixture,
            MlpSpec::Dense(_) => panic!("layer {layer} is dense"),
        }
    }

    #[test]
    fn published_configs_read_and_strange_keys_do_not() {
        for config in [v2_lite(), v3()] {
            assert_eq!(read(&config).assumptions, [""; 0]);
            refuses_strangers(&config);
            refuses_strangers(&with(config, "quantization_config", json!({"fmt": "e4m3"})));
        }
    }

    #[test]
    fn heads_are_a_part_without_positions_and_a_part_with() {
        let spec = read(&v3());
        let attention = &spec.layers[60].attention;
        let rope = attention.rope.as_ref().expect("rotary positions");
        assert_eq!((attention.head_dim, attention.value_dim), (192, 128));
        assert_eq!((rope.offset, rope.rotated_dim), (128, 64));
        assert_eq!(rope.style, RopeStyle::Interleaved);
        // mscale and mscale_all_dim are equal: cos and sin stay, the scores grow.
        assert_eq!(rope.attention_factor(), 1.0);
        let mscale = 0.1 * 40f32.ln() + 1.0;
        let expected = 192f32.powf(-0.5) * mscale * mscale;
        assert!((attention.scale - expected).abs() < 1e-6);
    }

    #[test]
    fn a_null_rank_of_q_is_a_full_matrix_and_an_absent_one_the_default() {
        let rank = |spec: ModelSpec| match spec.layers[0].attention.projections {
            Projections::Latent { q_rank, .. } => q_rank,
            Projections::Full => panic!("latent"),
        };
        assert_eq!(rank(read(&v2_lite())), None);
        let mut absent = v2_lite();
        absent.as_object_mut().unwrap().remove("q_lora_rank");
        assert_eq!(rank(read(&absent)), Some(1536));
    }

    #[test]
    fn routers_choose_as_each_version_does() {
        let (two, three) = (read(&v2_lite()), read(&v3()));
        assert!(matches!(two.layers[0].mlp, MlpSpec::Dense(_)));
        assert_eq!(mixture(&two, 1).router.groups, None);
        let shared = mixture(&two, 1).shared.expect("shared experts");
        assert_eq!(shared.mlp.intermediate_size, 2816);
        let router = mixture(&three, 3).router;
        assert!(router.correction_bias && router.normalise && router.scale == 2.5);
        let groups = router.groups.expect("groups");
        assert_eq!((groups.n_groups, groups.top_k), (8, 4));
        assert!(groups.by_best_two);
        let limited = with(
            with(v2_lite(), "topk_method", "group_limited_greedy"),
            "n_group",
            8,
        );
        let groups = mixture(&read(&limited), 1).router.groups.expect("groups");
        assert!(!groups.by_best_two);
        assert!(error(&with(v2_lite(), "topk_method", "noaux_tc")).contains("topk_method"));
        assert!(error(&with(v2_lite(), "norm_topk_prob", true)).contains("norm_topk_prob"));
    }
}

//! What each architecture of llama.cpp states in its metadata, in the keys and words of a `config.json`.
//!
//! Only what is listed here is known: metadata beyond it makes the config incomplete, and the engine refuses.
//! Keys as `gguf-py` writes them, meanings as `src/models` of llama.cpp reads them
//! (<https://github.com/ggml-org/llama.cpp>).

use super::unsaid::{
    GATING, KEY_WIDTH, KEY_WIDTH_OF_HEAD, Unsaid, VALUE_WIDTH, VALUE_WIDTH_OF_HEAD, deepseek,
    falcon, gelu, gemma_scale, latent, minicpm, nothing, put, qwen_mixture, taken,
};
use serde_json::{Value, json};

/// A key of a config, and that of the metadata after the architecture's name.
pub(super) type Key = (&'static str, &'static str);

/// How a config names what queries and keys are turned by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary {
    /// The base of frequencies.
    pub theta: &'static str,
    /// The part of a head that is turned; without it all is.
    pub part: Option<&'static str>,
    /// Whether the file states a tenth of YaRN's `mscale_all_dim`, and `mscale` is the same.
    pub tenth_of_mscale: bool,
}

/// An architecture that is read completely.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type` of `transformers`.
    pub model_type: &'static str,
    /// Its keys.
    pub keys: &'static [&'static [Key]],
    /// How queries and keys are turned by position.
    pub rotary: Option<Rotary>,
    /// Whether the gains of its norms are stored with the 1 that the model adds.
    pub gains_with_one: bool,
    /// Numbers that no config states, and that must be what the implementation has.
    pub fixed: &'static [(&'static str, f64)],
    /// `tensor_data_layout`, where there is one.
    pub layout: Option<&'static str>,
    /// Metadata that says again what tensors say.
    pub harmless: &'static [&'static str],
    /// What llama.cpp knows.
    pub unsaid: Unsaid,
}

/// What most architectures have.
const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    keys: &[],
    rotary: Some(Rotary {
        theta: "rope_theta",
        part: None,
        tenth_of_mscale: false,
    }),
    gains_with_one: false,
    fixed: &[],
    layout: None,
    harmless: &[],
    unsaid: nothing,
};
/// Rotary positions of a part of each head.
const PARTIAL: Option<Rotary> = Some(Rotary {
    theta: "rope_theta",
    part: Some("partial_rotary_factor"),
    tenth_of_mscale: false,
});

/// Sizes that all have.
pub(super) const SIZES: &[Key] = &[
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("num_attention_heads", "attention.head_count"),
    ("max_position_embeddings", "context_length"),
    ("vocab_size", "vocab_size"),
];
/// The width of the MLP.
pub(super) const MLP: &[Key] = &[("intermediate_size", "feed_forward_length")];
/// Heads that share keys, and heads of a width of their own.
pub(super) const HEADS: &[Key] = &[
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
];
/// Heads that share keys.
const KV_HEADS: &[Key] = &[("num_key_value_heads", "attention.head_count_kv")];
/// LayerNorm.
const LAYER_NORM: &[Key] = &[("layer_norm_eps", "attention.layer_norm_epsilon")];
/// RMSNorm.
pub(super) const RMS: &[Key] = &[("rms_norm_eps", "attention.layer_norm_rms_epsilon")];
/// The base of rotary frequencies.
pub(super) const THETA: &[Key] = &[("rope_theta", "rope.freq_base")];
/// Mixtures as Mixtral names them.
pub(super) const LOCAL_EXPERTS: &[Key] = &[
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
];
/// Mixtures as Qwen names them.
const EXPERTS: &[Key] = &[
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];
const SHARED_EXPERT: &[Key] = &[(
    "shared_expert_intermediate_size",
    "expert_shared_feed_forward_length",
)];
/// Latent attention: its ranks, and how wide heads are.
const LATENT: &[Key] = &[
    ("q_lora_rank", "attention.q_lora_rank"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("qk_rope_head_dim", "rope.dimension_count"),
    (KEY_WIDTH, "attention.key_length"),
];
/// Mixtures as DeepSeek names them.
const DEEPSEEK: &[Key] = &[
    ("num_key_value_heads", "attention.head_count_kv"),
    (VALUE_WIDTH, "attention.value_length"),
    (KEY_WIDTH_OF_HEAD, "attention.key_length_mla"),
    (VALUE_WIDTH_OF_HEAD, "attention.value_length_mla"),
    ("first_k_dense_replace", "leading_dense_block_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("n_shared_experts", "expert_shared_count"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("n_group", "expert_group_count"),
    ("topk_group", "expert_group_used_count"),
    (GATING, "expert_gating_func"),
];
const WINDOW: &[Key] = &[("sliding_window", "attention.sliding_window")];
const SOFTCAPS: &[Key] = &[
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

/// Every architecture whose metadata, as it is read here, says all that a forward pass needs.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, LOCAL_EXPERTS],
        // Mixtral has no name of its own.
        unsaid: |_, config| {
            let n_experts = config.get("num_local_experts").and_then(Value::as_u64);
            if n_experts.is_some_and(|n| n > 0) {
                put(config, &[("model_type", json!("mixtral"))]);
            }
        },
        ..PLAIN
    },
    Architecture {
        name: "qwen",
        model_type: "qwen",
        keys: &[
            SIZES,
            MLP,
            &[
                ("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
                ("rotary_emb_base", "rope.freq_base"),
            ],
        ],
        rotary: Some(Rotary {
            theta: "rotary_emb_base",
            part: None,
            tenth_of_mscale: false,
        }),
        // Both change texts beyond the trained length alone, which no file states; llama.cpp does neither.
        unsaid: |facts, config| {
            let values = [
                ("kv_channels", json!(facts.head_dim)),
                ("use_dynamic_ntk", json!(false)),
                ("use_logn_attn", json!(false)),
            ];
            put(config, &values);
        },
        ..PLAIN
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        ..PLAIN
    },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, EXPERTS, SHARED_EXPERT],
        unsaid: |_, config| qwen_mixture(config, false),
        ..PLAIN
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        ..PLAIN
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, EXPERTS],
        unsaid: |_, config| qwen_mixture(config, true),
        ..PLAIN
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        gains_with_one: true,
        unsaid: |_, config| put(config, &[gelu()]),
        ..PLAIN
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, WINDOW, SOFTCAPS],
        gains_with_one: true,
        unsaid: |facts, config| put(config, &[gelu(), gemma_scale(facts, 46)]),
        ..PLAIN
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        keys: &[
            SIZES,
            MLP,
            HEADS,
            RMS,
            THETA,
            WINDOW,
            SOFTCAPS,
            &[
                ("rope_local_base_freq", "rope.freq_base_swa"),
                ("sliding_window_pattern", "attention.sliding_window_pattern"),
            ],
        ],
        gains_with_one: true,
        unsaid: |facts, config| put(config, &[gelu(), gemma_scale(facts, 62)]),
        ..PLAIN
    },
    Architecture {
        name: "phi2",
        model_type: "phi",
        keys: &[SIZES, MLP, KV_HEADS, LAYER_NORM, THETA],
        rotary: PARTIAL,
        ..PLAIN
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        keys: &[
            SIZES,
            MLP,
            // Heads are as wide as the stream divided by their number, whatever is stated.
            KV_HEADS,
            RMS,
            THETA,
            WINDOW,
            &[(
                "original_max_position_embeddings",
                "rope.scaling.original_context_length",
            )],
        ],
        rotary: PARTIAL,
        ..PLAIN
    },
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        keys: &[
            SIZES,
            &[
                ("n_inner", "feed_forward_length"),
                ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
            ],
        ],
        rotary: None,
        ..PLAIN
    },
    Architecture {
        name: "gptneox",
        model_type: "gpt_neox",
        keys: &[
            SIZES,
            MLP,
            LAYER_NORM,
            &[
                ("rotary_emb_base", "rope.freq_base"),
                ("use_parallel_residual", "use_parallel_residual"),
            ],
        ],
        rotary: Some(Rotary {
            theta: "rotary_emb_base",
            part: Some("rotary_pct"),
            tenth_of_mscale: false,
        }),
        ..PLAIN
    },
    Architecture {
        name: "bloom",
        model_type: "bloom",
        keys: &[&[
            ("num_hidden_layers", "block_count"),
            ("hidden_size", "embedding_length"),
            ("num_attention_heads", "attention.head_count"),
            ("seq_length", "context_length"),
            ("vocab_size", "vocab_size"),
            ("n_inner", "feed_forward_length"),
            ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        ]],
        rotary: None,
        ..PLAIN
    },
    Architecture {
        name: "falcon",
        model_type: "falcon",
        keys: &[
            SIZES,
            THETA,
            &[
                ("num_kv_heads", "attention.head_count_kv"),
                ("ffn_hidden_size", "feed_forward_length"),
                ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
            ],
        ],
        layout: Some("jploski"),
        unsaid: falcon,
        ..PLAIN
    },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        keys: &[SIZES, MLP, HEADS, LAYER_NORM, THETA],
        rotary: PARTIAL,
        // Layers without a norm of their own before the MLP are parallel, whatever is stated.
        harmless: &["use_parallel_residual"],
        unsaid: |facts, config| {
            let values = [
                ("use_qkv_bias", json!((facts.has)("blk.0.attn_q.bias"))),
                (
                    "qk_layernorm",
                    json!((facts.has)("blk.0.attn_q_norm.weight")),
                ),
                (
                    "use_parallel_residual",
                    json!(!(facts.has)("blk.0.ffn_norm.weight")),
                ),
            ];
            put(config, &values);
        },
        ..PLAIN
    },
    Architecture {
        name: "internlm2",
        model_type: "internlm2",
        keys: &[SIZES, MLP, KV_HEADS, RMS, THETA],
        unsaid: |facts, config| {
            put(config, &[("bias", json!((facts.has)("blk.0.attn_q.bias")))]);
        },
        ..PLAIN
    },
    Architecture {
        name: "minicpm",
        model_type: "minicpm",
        keys: &[
            SIZES,
            MLP,
            KV_HEADS,
            RMS,
            THETA,
            &[
                ("scale_emb", "embedding_scale"),
                ("residual_scale", "residual_scale"),
                ("logit_scale", "logit_scale"),
            ],
        ],
        unsaid: minicpm,
        ..PLAIN
    },
    Architecture {
        name: "minicpm3",
        model_type: "minicpm3",
        keys: &[SIZES, MLP, RMS, THETA, LATENT, KV_HEADS],
        // Its factors are those of the one model that there is, and written nowhere.
        unsaid: |facts, config| {
            let key = taken(config, KEY_WIDTH);
            latent(facts, config, key);
            let values = [
                ("scale_emb", json!(12.0)),
                ("scale_depth", json!(1.4)),
                ("dim_model_base", json!(256)),
            ];
            put(config, &values);
        },
        ..PLAIN
    },
    Architecture {
        name: "deepseek2",
        model_type: "deepseek_v2",
        keys: &[SIZES, MLP, RMS, THETA, LATENT, DEEPSEEK],
        rotary: Some(Rotary {
            theta: "rope_theta",
            part: None,
            tenth_of_mscale: true,
        }),
        unsaid: deepseek,
        ..PLAIN
    },
    Architecture {
        name: "olmo",
        model_type: "olmo",
        keys: &[
            SIZES,
            MLP,
            KV_HEADS,
            THETA,
            &[("clip_qkv", "attention.clamp_kqv")],
        ],
        fixed: &[("attention.layer_norm_epsilon", 1e-5)],
        ..PLAIN
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        ..PLAIN
    },
];

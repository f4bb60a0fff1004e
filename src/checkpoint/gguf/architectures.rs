//! What each architecture of llama.cpp states in its metadata, in the keys and words of a `config.json`.
//!
//! Only what is listed here is known: metadata beyond it makes the config incomplete, and the engine refuses.
//! Keys as `gguf-py` writes them, meanings as `src/models` of llama.cpp reads them
//! (<https://github.com/ggml-org/llama.cpp>).

use serde_json::{Value, json};

/// A key of a config, and that of the metadata after the architecture's name.
pub(super) type Key = (&'static str, &'static str);

/// Values that a config needs and the metadata leaves unsaid, because llama.cpp knows them.
type Unsaid = fn(&Sizes) -> Vec<(&'static str, Value)>;

/// Sizes that unsaid values depend on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub n_layers: u64,
    pub hidden_size: u64,
    pub n_heads: u64,
    pub head_dim: u64,
    pub has_experts: bool,
}

/// An architecture that is read completely.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [&'static [Key]],
    /// Whether it turns queries and keys by position.
    pub rotary: bool,
    /// Whether the gains of its norms are stored with the 1 that the model adds.
    pub gains_with_one: bool,
    /// What llama.cpp knows.
    pub unsaid: Unsaid,
}

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
const WINDOW: &[Key] = &[("sliding_window", "attention.sliding_window")];
const SOFTCAPS: &[Key] = &[
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

fn nothing(_: &Sizes) -> Vec<(&'static str, Value)> {
    Vec::new()
}

/// Gemma 2 and 3 divide scores by the root of a head's width; the largest of each by that of a head's part of
/// the stream. The metadata has no key for it, and llama.cpp knows the largest by its layers.
fn gemma_scale(sizes: &Sizes, n_layers_of_largest: u64) -> (&'static str, Value) {
    let scalar = if sizes.n_layers == n_layers_of_largest {
        sizes.hidden_size / sizes.n_heads.max(1)
    } else {
        sizes.head_dim
    };
    ("query_pre_attn_scalar", json!(scalar))
}

/// Every architecture whose metadata, as it is read here, says all that a forward pass needs.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, LOCAL_EXPERTS],
        rotary: true,
        gains_with_one: false,
        // Mixtral has no name of its own.
        unsaid: |sizes| match sizes.has_experts {
            true => vec![("model_type", json!("mixtral"))],
            false => Vec::new(),
        },
    },
    Architecture {
        name: "qwen2",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        rotary: true,
        gains_with_one: false,
        unsaid: nothing,
    },
    Architecture {
        name: "qwen2moe",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, EXPERTS, SHARED_EXPERT],
        rotary: true,
        gains_with_one: false,
        unsaid: |_| {
            vec![
                ("model_type", json!("qwen2_moe")),
                ("norm_topk_prob", json!(false)),
                ("decoder_sparse_step", json!(1)),
                ("mlp_only_layers", json!([])),
            ]
        },
    },
    Architecture {
        name: "qwen3",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        rotary: true,
        gains_with_one: false,
        unsaid: nothing,
    },
    Architecture {
        name: "qwen3moe",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, EXPERTS],
        rotary: true,
        gains_with_one: false,
        unsaid: |_| {
            vec![
                ("model_type", json!("qwen3_moe")),
                ("norm_topk_prob", json!(true)),
                ("decoder_sparse_step", json!(1)),
                ("mlp_only_layers", json!([])),
            ]
        },
    },
    Architecture {
        name: "gemma",
        keys: &[SIZES, MLP, HEADS, RMS, THETA],
        rotary: true,
        gains_with_one: true,
        unsaid: |_| vec![("hidden_activation", json!("gelu_pytorch_tanh"))],
    },
    Architecture {
        name: "gemma2",
        keys: &[SIZES, MLP, HEADS, RMS, THETA, WINDOW, SOFTCAPS],
        rotary: true,
        gains_with_one: true,
        unsaid: |sizes| {
            vec![
                ("hidden_activation", json!("gelu_pytorch_tanh")),
                gemma_scale(sizes, 46),
            ]
        },
    },
    Architecture {
        name: "gemma3",
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
        rotary: true,
        gains_with_one: true,
        unsaid: |sizes| {
            vec![
                ("model_type", json!("gemma3_text")),
                ("hidden_activation", json!("gelu_pytorch_tanh")),
                gemma_scale(sizes, 62),
            ]
        },
    },
    Architecture {
        name: "phi3",
        keys: &[
            SIZES,
            MLP,
            // Heads are as wide as the stream divided by their number, whatever is stated.
            &[("num_key_value_heads", "attention.head_count_kv")],
            RMS,
            THETA,
            WINDOW,
            &[(
                "original_max_position_embeddings",
                "rope.scaling.original_context_length",
            )],
        ],
        rotary: true,
        gains_with_one: false,
        unsaid: nothing,
    },
    Architecture {
        name: "gpt2",
        keys: &[
            SIZES,
            &[
                ("n_inner", "feed_forward_length"),
                ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
            ],
        ],
        rotary: false,
        gains_with_one: false,
        unsaid: nothing,
    },
];

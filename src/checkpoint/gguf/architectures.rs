//! What each architecture of llama.cpp states in its metadata, in the keys and words of a `config.json`.
//!
//! Only what is listed here is known: metadata beyond it makes the config incomplete, and the engine refuses.
//! Keys as `gguf-py` writes them, meanings as `src/models` of llama.cpp reads them
//! (<https://github.com/ggml-org/llama.cpp>).

use serde_json::{Map, Value, json};

/// A key of a config, and that of the metadata after the architecture's name.
pub(super) type Key = (&'static str, &'static str);

/// Writes what llama.cpp knows and the metadata leaves unsaid, and turns what a config says in other words.
type Unsaid = fn(&Facts<'_>, &mut Map<String, Value>);

/// What unsaid values depend on.
pub(super) struct Facts<'a> {
    pub n_layers: u64,
    pub hidden_size: u64,
    pub n_heads: u64,
    pub head_dim: u64,
    /// Whether the file has a tensor.
    pub has: &'a dyn Fn(&str) -> bool,
}

/// How a config names what queries and keys are turned by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary {
    /// The base of frequencies.
    pub theta: &'static str,
    /// The part of a head that is turned; without it all is.
    pub part: Option<&'static str>,
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
const WINDOW: &[Key] = &[("sliding_window", "attention.sliding_window")];
const SOFTCAPS: &[Key] = &[
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

fn nothing(_: &Facts<'_>, _: &mut Map<String, Value>) {}

fn put(config: &mut Map<String, Value>, values: &[(&str, Value)]) {
    for (key, value) in values {
        config.insert((*key).to_owned(), value.clone());
    }
}

/// Gemma 2 and 3 divide scores by the root of a head's width; the largest of each by that of a head's part of
/// the stream. The metadata has no key for it, and llama.cpp knows the largest by its layers.
fn gemma_scale(facts: &Facts<'_>, n_layers_of_largest: u64) -> (&'static str, Value) {
    let scalar = if facts.n_layers == n_layers_of_largest {
        facts.hidden_size / facts.n_heads.max(1)
    } else {
        facts.head_dim
    };
    ("query_pre_attn_scalar", json!(scalar))
}

/// Gemma's activation.
fn gelu() -> (&'static str, Value) {
    ("hidden_activation", json!("gelu_pytorch_tanh"))
}

/// Whether Qwen's mixture makes the weights of its experts add up to 1.
fn qwen_mixture(config: &mut Map<String, Value>, normalised: bool) {
    let values = [
        ("norm_topk_prob", json!(normalised)),
        ("decoder_sparse_step", json!(1)),
        ("mlp_only_layers", json!([])),
    ];
    put(config, &values);
}

/// Falcon's decoders, told by what they have: the first has one head of keys.
fn falcon(facts: &Facts<'_>, config: &mut Map<String, Value>) {
    let is_new = config.get("num_kv_heads") != Some(&json!(1));
    let n_norms = if (facts.has)("blk.0.attn_norm_2.weight") {
        2
    } else {
        1
    };
    let values = [
        ("new_decoder_architecture", json!(is_new)),
        ("parallel_attn", json!(true)),
        ("multi_query", json!(!is_new)),
        ("alibi", json!(false)),
        ("bias", json!(false)),
        ("num_ln_in_parallel_attn", json!(n_norms)),
    ];
    put(config, &values);
    // The converter leaves the base out, which is another in the later model of one norm.
    if is_new && n_norms == 1 && !config.contains_key("rope_theta") {
        put(config, &[("rope_theta", Value::Null)]);
    }
}

/// MiniCPM's factors, of which the metadata states what the model computes with. Files of before they were
/// written are of the one model that there was.
fn minicpm(facts: &Facts<'_>, config: &mut Map<String, Value>) {
    let depth = (facts.n_layers as f64).sqrt();
    let mut stated = |key: &str| config.remove(key).and_then(|v| v.as_f64());
    let (residual, logits) = (stated("residual_scale"), stated("logit_scale"));
    let values = [
        ("scale_depth", json!(residual.map_or(1.4, |r| r * depth))),
        (
            "dim_model_base",
            json!(logits.map_or(256.0, |l| facts.hidden_size as f64 / l)),
        ),
    ];
    put(config, &values);
    config.entry("scale_emb").or_insert_with(|| json!(12.0));
}

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

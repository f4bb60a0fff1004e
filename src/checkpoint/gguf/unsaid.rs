//! What llama.cpp knows of an architecture, and its metadata leaves unsaid or says in other words.

use serde_json::{Map, Value, json};

/// Writes what llama.cpp knows and the metadata leaves unsaid, and turns what a config says in other words.
pub(super) type Unsaid = fn(&Facts<'_>, &mut Map<String, Value>);

/// What unsaid values depend on.
pub(super) struct Facts<'a> {
    pub n_layers: u64,
    pub hidden_size: u64,
    pub n_heads: u64,
    pub head_dim: u64,
    /// Whether the file has a tensor.
    pub has: &'a dyn Fn(&str) -> bool,
}

/// A key's width with its positions, which configs state as two.
pub(super) const KEY_WIDTH: &str = "key_length";
/// What else DeepSeek's metadata says in other words.
pub(super) const VALUE_WIDTH: &str = "value_length";
pub(super) const KEY_WIDTH_OF_HEAD: &str = "key_length_mla";
pub(super) const VALUE_WIDTH_OF_HEAD: &str = "value_length_mla";
pub(super) const GATING: &str = "expert_gating_func";

pub(super) fn nothing(_: &Facts<'_>, _: &mut Map<String, Value>) {}

pub(super) fn put(config: &mut Map<String, Value>, values: &[(&str, Value)]) {
    for (key, value) in values {
        config.insert((*key).to_owned(), value.clone());
    }
}

/// Gemma 2 and 3 divide scores by the root of a head's width; the largest of each by that of a head's part of
/// the stream. The metadata has no key for it, and llama.cpp knows the largest by its layers.
pub(super) fn gemma_scale(facts: &Facts<'_>, n_layers_of_largest: u64) -> (&'static str, Value) {
    let scalar = if facts.n_layers == n_layers_of_largest {
        facts.hidden_size / facts.n_heads.max(1)
    } else {
        facts.head_dim
    };
    ("query_pre_attn_scalar", json!(scalar))
}

/// Gemma's activation.
pub(super) fn gelu() -> (&'static str, Value) {
    ("hidden_activation", json!("gelu_pytorch_tanh"))
}

/// Whether Qwen's mixture makes the weights of its experts add up to 1.
pub(super) fn qwen_mixture(config: &mut Map<String, Value>, normalised: bool) {
    let values = [
        ("norm_topk_prob", json!(normalised)),
        ("decoder_sparse_step", json!(1)),
        ("mlp_only_layers", json!([])),
    ];
    put(config, &values);
}

/// Falcon's decoders, told by what they have: the first has one head of keys.
pub(super) fn falcon(facts: &Facts<'_>, config: &mut Map<String, Value>) {
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
pub(super) fn minicpm(facts: &Facts<'_>, config: &mut Map<String, Value>) {
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

/// Takes a number out of a config.
pub(super) fn taken(config: &mut Map<String, Value>, key: &str) -> Option<u64> {
    config.remove(key).and_then(|value| value.as_u64())
}

/// Latent attention: widths of heads without their positions. The rank of queries is not stated where they are one
/// matrix.
pub(super) fn latent(facts: &Facts<'_>, config: &mut Map<String, Value>, key: Option<u64>) {
    let rotated = config.get("qk_rope_head_dim").and_then(Value::as_u64);
    let without = key.zip(rotated).and_then(|(key, r)| key.checked_sub(r));
    put(
        config,
        &[
            ("qk_nope_head_dim", json!(without)),
            // Of the original: what runs may share one key among all heads.
            ("num_key_value_heads", json!(facts.n_heads)),
        ],
    );
    config.entry("q_lora_rank").or_insert(Value::Null);
}

/// DeepSeek-V2, or V3, which chooses experts by sigmoids with a bias. What absent keys mean is what
/// `src/models/deepseek2.cpp` makes of them.
pub(super) fn deepseek(facts: &Facts<'_>, config: &mut Map<String, Value>) {
    let (key, value) = (taken(config, KEY_WIDTH), taken(config, VALUE_WIDTH));
    let key_of_head = taken(config, KEY_WIDTH_OF_HEAD).or(key);
    let value_of_head = taken(config, VALUE_WIDTH_OF_HEAD).or(value);
    latent(facts, config, key_of_head);
    let number = |config: &Map<String, Value>, key: &str| config.get(key).and_then(Value::as_u64);
    let first_mixture = number(config, "first_k_dense_replace").unwrap_or(0);
    let scoring = match taken(config, GATING) {
        Some(1) => "softmax",
        Some(2) => "sigmoid",
        Some(_) => "unknown",
        // Early files of GLM's small model.
        None if (facts.has)(&format!("blk.{first_mixture}.exp_probs_b.bias")) => "sigmoid",
        None => "softmax",
    };
    // Groups were not always written; the number of experts tells those of DeepSeek's models, and others have one.
    let stated = number(config, "n_group").zip(number(config, "topk_group"));
    let (n_groups, top_k) = stated.unwrap_or(match number(config, "n_routed_experts") {
        Some(256) => (8, 4),
        Some(160) => (8, 3),
        _ => (1, 1),
    });
    let (model_type, method) = match (scoring, n_groups) {
        ("sigmoid", _) => ("deepseek_v3", "noaux_tc"),
        (_, 1) => ("deepseek_v2", "greedy"),
        _ => ("deepseek_v2", "group_limited_greedy"),
    };
    let values = [
        ("model_type", json!(model_type)),
        ("v_head_dim", json!(value_of_head)),
        ("scoring_func", json!(scoring)),
        ("topk_method", json!(method)),
        ("n_group", json!(n_groups)),
        ("topk_group", json!(top_k)),
        ("moe_layer_freq", json!(1)),
    ];
    put(config, &values);
    for (key, value) in [
        ("norm_topk_prob", json!(false)),
        ("routed_scaling_factor", json!(1.0)),
    ] {
        config.entry(key).or_insert(value);
    }
}

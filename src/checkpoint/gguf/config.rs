//! What a GGUF file states of its architecture, in the keys of a `config.json`.

use super::metadata::{Array, Metadata, Value};
use serde_json::{Map, json};

/// `model_type` of `transformers` where llama.cpp's word differs.
const MODEL_TYPES: &[(&str, &str)] = &[("gptneox", "gpt_neox"), ("qwen2moe", "qwen2_moe")];

/// Keys of a config, and of the metadata after the architecture's name.
const KEYS: &[(&str, &str)] = &[
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("vocab_size", "vocab_size"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
];

/// Architectures whose metadata, as far as it is read here, says all that a forward pass needs.
const COMPLETE: &[&str] = &["llama", "qwen2", "qwen3"];
/// Metadata that changes no forward pass.
const HARMLESS: &[&str] = &["vocab_size", "use_parallel_residual"];
/// A tensor that changes rotary frequencies, as Llama 3.1 is stored.
const ROTARY_FACTORS: &str = "rope_freqs.weight";

/// The config, if the file names an architecture. `gguf_unread` lists what the file states beyond it, so
/// that a reader that must know everything can refuse. `n_rows` knows the tensors.
pub(super) fn config(
    metadata: &Metadata,
    n_rows: impl Fn(&str) -> Option<usize>,
) -> Option<serde_json::Value> {
    let architecture = metadata.text("general.architecture")?;
    let model_type = MODEL_TYPES
        .iter()
        .find(|(theirs, _)| *theirs == architecture)
        .map_or(architecture, |(_, ours)| ours);
    let mut config = Map::new();
    config.insert("model_type".to_owned(), json!(model_type));
    for (ours, theirs) in KEYS {
        let key = format!("{architecture}.{theirs}");
        let number = match metadata.entries.get(&key) {
            // One number per layer says the same as one number only where all are equal.
            Some(Value::Array(Array::Whole(list))) => list
                .first()
                .filter(|first| list.iter().all(|n| n == *first))
                .and_then(|n| u64::try_from(*n).ok()),
            _ => metadata.whole(&key).and_then(|n| u64::try_from(n).ok()),
        };
        if let Some(number) = number {
            config.insert((*ours).to_owned(), json!(number));
        } else if let Some(Value::Float(number)) = metadata.entries.get(&key) {
            config.insert((*ours).to_owned(), json!(number));
        }
    }
    if let Some(n) = n_rows("token_embd.weight") {
        config.insert("vocab_size".to_owned(), json!(n));
    }
    config.insert(
        "tie_word_embeddings".to_owned(),
        json!(n_rows("output.weight").is_none()),
    );
    let mut unread = unread(metadata, architecture, &config);
    if n_rows(ROTARY_FACTORS).is_some() {
        unread.push(ROTARY_FACTORS.to_owned());
    }
    if !unread.is_empty() {
        config.insert("gguf_unread".to_owned(), json!(unread));
    }
    Some(serde_json::Value::Object(config))
}

/// Keys after the architecture's name that the config does not tell.
fn unread(
    metadata: &Metadata,
    architecture: &str,
    config: &Map<String, serde_json::Value>,
) -> Vec<String> {
    if !COMPLETE.contains(&architecture) {
        return vec!["general.architecture".to_owned()];
    }
    let number = |key: &str| config.get(key).and_then(serde_json::Value::as_u64);
    let head_dim = number("head_dim")
        .or_else(|| number("hidden_size")?.checked_div(number("num_attention_heads")?));
    let prefix = format!("{architecture}.");
    let known = |key: &str| {
        let told = |(ours, theirs): &(&str, &str)| *theirs == key && config.contains_key(*ours);
        let is_head_dim = ["rope.dimension_count", "attention.value_length"].contains(&key)
            && metadata
                .whole(&format!("{prefix}{key}"))
                .and_then(|n| u64::try_from(n).ok())
                == head_dim;
        KEYS.iter().any(told) || HARMLESS.contains(&key) || is_head_dim
    };
    let keys = metadata
        .entries
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix));
    let mut unread: Vec<String> = keys.filter(|key| !known(key)).map(str::to_owned).collect();
    unread.sort();
    unread
}

/// Metadata as text: what a reader can look at.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Whole(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Text(text) => text.clone(),
        Value::Array(Array::Whole(list)) => format!("{} whole numbers", list.len()),
        Value::Array(Array::Floats(list)) => format!("{} numbers", list.len()),
        Value::Array(Array::Texts(list)) => format!("{} strings", list.len()),
        Value::Array(Array::Nested(n)) => format!("{n} arrays"),
    }
}

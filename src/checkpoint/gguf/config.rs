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
];

/// The config, if the file names an architecture.
pub(super) fn config(metadata: &Metadata) -> Option<serde_json::Value> {
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
        }
    }
    Some(serde_json::Value::Object(config))
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

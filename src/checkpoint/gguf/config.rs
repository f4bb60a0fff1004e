//! What a GGUF file states of its architecture, in the keys of a `config.json`.

use super::architectures::{
    ARCHITECTURES, Architecture, HEADS, Key, LOCAL_EXPERTS, MLP, RMS, Rotary, SIZES, THETA,
};
use super::metadata::{Array, Metadata, Value};
use super::unsaid::Facts;
use crate::tensor::{DType, Tensor};
use serde_json::{Map, json};
use std::collections::BTreeSet;

/// What is read of architectures that are not read completely.
const OTHERS: &[&[Key]] = &[SIZES, MLP, HEADS, RMS, THETA, LOCAL_EXPERTS];
/// Metadata that changes no forward pass.
const HARMLESS: &[&str] = &["vocab_size"];
/// How rows of fused tensors are laid out.
const LAYOUT: &str = "tensor_data_layout";
/// Divisors of rotary frequencies, as Llama 3.1 is stored.
const ROTARY_FACTORS: &str = "rope_freqs.weight";
/// The same for short and for long texts, as Phi-3 is stored.
const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// See [`SHORT_FACTORS`].
const LONG_FACTORS: &str = "rope_factors_long.weight";
/// Frequencies of a head at most.
const MAX_FACTORS: usize = 4096;
/// The base of rotary frequencies where the file has none.
const DEFAULT_THETA: f64 = 10000.0;

/// Reads metadata after the architecture's name, and remembers what was read.
struct Reader<'a> {
    metadata: &'a Metadata,
    prefix: String,
    read: BTreeSet<&'a str>,
}

impl<'a> Reader<'a> {
    /// A number, whole or not, or a flag; one number per layer says the same as one number only where all are equal.
    fn number(&mut self, key: &str) -> Option<serde_json::Value> {
        let (name, value) = self
            .metadata
            .entries
            .get_key_value(&format!("{}{key}", self.prefix))?;
        let number = match value {
            Value::Array(Array::Whole(list)) => list
                .first()
                .filter(|first| list.iter().all(|n| n == *first))
                .and_then(|n| u64::try_from(*n).ok())
                .map(|n| json!(n)),
            Value::Whole(n) => u64::try_from(*n).ok().map(|n| json!(n)),
            Value::Float(number) => Some(json!(number)),
            Value::Bool(flag) => Some(json!(flag)),
            _ => None,
        }?;
        self.read.insert(name);
        Some(number)
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let name = format!("{}{key}", self.prefix);
        let (name, value) = self.metadata.entries.get_key_value(&name)?;
        let Value::Text(text) = value else {
            return None;
        };
        self.read.insert(name);
        Some(text)
    }

    /// Keys that nothing read, without those that are said to change nothing.
    fn unread(&self, harmless: &[&str]) -> Vec<String> {
        let keys = self.metadata.entries.keys();
        let keys = keys.filter(|key| !self.read.contains(key.as_str()));
        let keys = keys.filter_map(|key| key.strip_prefix(&self.prefix));
        let mut unread: Vec<String> = keys
            .filter(|key| !HARMLESS.contains(key) && !harmless.contains(key))
            .map(str::to_owned)
            .collect();
        unread.sort();
        unread
    }
}

/// The config, if the file names an architecture. `gguf_unread` lists what the file states beyond it, so
/// that a reader that must know everything can refuse. `tensor` finds tensors by name.
pub(super) fn config<'a>(
    metadata: &Metadata,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Option<serde_json::Value> {
    let name = metadata.text("general.architecture")?;
    let known = ARCHITECTURES.iter().find(|known| known.name == name);
    let mut reader = Reader {
        metadata,
        prefix: format!("{name}."),
        read: BTreeSet::new(),
    };
    let mut config = Map::new();
    let model_type = known.map_or(name, |known| known.model_type);
    config.insert("model_type".to_owned(), json!(model_type));
    for (ours, theirs) in known.map_or(OTHERS, |known| known.keys).concat() {
        if let Some(number) = reader.number(theirs) {
            config.insert(ours.to_owned(), number);
        }
    }
    let rows = |name: &str| tensor(name).and_then(|t| t.shape().first().copied());
    if let Some(n) = rows("token_embd.weight") {
        config.insert("vocab_size".to_owned(), json!(n));
    }
    config.insert(
        "tie_word_embeddings".to_owned(),
        json!(rows("output.weight").is_none()),
    );
    let unread = match known {
        None => vec!["general.architecture".to_owned()],
        Some(known) => complete(known, &mut reader, &mut config, tensor),
    };
    if !unread.is_empty() {
        config.insert("gguf_unread".to_owned(), json!(unread));
    }
    Some(serde_json::Value::Object(config))
}

/// Adds what the metadata says in other ways or leaves unsaid; what is left over.
fn complete<'a>(
    known: &Architecture,
    reader: &mut Reader<'_>,
    config: &mut Map<String, serde_json::Value>,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Vec<String> {
    let number = |config: &Map<String, serde_json::Value>, key: &str| {
        config.get(key).and_then(serde_json::Value::as_u64)
    };
    let hidden_size = number(config, "hidden_size").unwrap_or(0);
    let n_heads = number(config, "num_attention_heads").unwrap_or(0);
    let whole = hidden_size.checked_div(n_heads).unwrap_or(0);
    let head_dim = number(config, "head_dim").unwrap_or(whole);
    let facts = Facts {
        n_layers: number(config, "num_hidden_layers").unwrap_or(0),
        hidden_size,
        n_heads,
        head_dim,
        has: &|name| tensor(name).is_some(),
    };
    (known.unsaid)(&facts, config);
    if known.gains_with_one {
        config.insert("norm_gains_include_one".to_owned(), json!(true));
    }
    let mut left = Vec::new();
    let mut demand = |key: &str, is_so: &dyn Fn(&serde_json::Value) -> bool| {
        if reader.number(key).is_some_and(|stated| !is_so(&stated)) {
            left.push(key.to_owned());
        }
    };
    // What an architecture reads needs not be what it is elsewhere.
    let keys = known.keys.concat();
    let is_read = |key: &str| keys.iter().any(|(_, theirs)| *theirs == key);
    for (key, number) in [
        ("attention.value_length", head_dim),
        ("attention.key_length", head_dim),
        ("attention.head_count_kv", n_heads),
    ] {
        if !is_read(key) {
            demand(key, &|stated| stated.as_u64() == Some(number));
        }
    }
    for (key, value) in known.fixed {
        // Metadata holds f32.
        demand(key, &|stated| {
            stated.as_f64().map(|stated| stated as f32) == Some(*value as f32)
        });
    }
    if let Some(layout) = known.layout
        && reader.text(LAYOUT).is_some_and(|stated| stated != layout)
    {
        left.push(LAYOUT.to_owned());
    }
    if let Some(rotary) = known.rotary {
        let theta = config
            .entry(rotary.theta)
            .or_insert_with(|| json!(DEFAULT_THETA));
        if theta.is_null() {
            left.push("rope.freq_base".to_owned());
        }
        const ROTATED: &str = "rope.dimension_count";
        if let Some(rotated) = (!is_read(ROTATED))
            .then(|| reader.number(ROTATED))
            .flatten()
            .and_then(|n| n.as_u64())
            .filter(|rotated| rotary.part.is_some() || *rotated != head_dim)
        {
            match rotary.part {
                Some(key) if head_dim > 0 => {
                    let part = rotated as f64 / head_dim as f64;
                    config.insert(key.to_owned(), json!(part));
                }
                _ => left.push(ROTATED.to_owned()),
            }
        }
        match scaling(reader, rotary, tensor) {
            Ok(None) => {}
            Ok(Some(scaling)) => {
                config.insert("rope_scaling".to_owned(), scaling);
            }
            Err(key) => left.push(key.to_owned()),
        }
    }
    left.extend(reader.unread(known.harmless));
    left
}

/// `rope_scaling`, or the key or tensor that cannot be told.
fn scaling<'a>(
    reader: &mut Reader<'_>,
    rotary: Rotary,
    tensor: &dyn Fn(&str) -> Option<&'a Tensor>,
) -> Result<Option<serde_json::Value>, &'static str> {
    let kind = reader.text("rope.scaling.type").unwrap_or("none");
    if let Some(stored) = tensor(ROTARY_FACTORS) {
        let factors = factors(stored).ok_or(ROTARY_FACTORS)?;
        // Both at once would be scaled twice.
        return match kind {
            "none" => Ok(Some(json!({
                "rope_type": "longrope", "attention_factor": 1.0,
                "short_factor": factors, "long_factor": factors,
            }))),
            _ => Err("rope.scaling.type"),
        };
    }
    if let (Some(short), Some(long)) = (tensor(SHORT_FACTORS), tensor(LONG_FACTORS)) {
        let short = factors(short).ok_or(SHORT_FACTORS)?;
        let long = factors(long).ok_or(LONG_FACTORS)?;
        let mut scaling =
            json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
        if let Some(factor) = reader.number("rope.scaling.attn_factor") {
            scaling["attention_factor"] = factor;
        }
        return match kind {
            "none" | "longrope" => Ok(Some(scaling)),
            _ => Err("rope.scaling.type"),
        };
    }
    let mut scaling = json!({"rope_type": kind});
    match kind {
        "none" => return Ok(None),
        "linear" => {}
        "yarn" => {
            for (ours, theirs) in [
                (
                    "original_max_position_embeddings",
                    "rope.scaling.original_context_length",
                ),
                ("beta_fast", "rope.scaling.yarn_beta_fast"),
                ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ] {
                if let Some(number) = reader.number(theirs) {
                    scaling[ours] = number;
                }
            }
            if rotary.tenth_of_mscale
                && let Some(tenth) = reader.number("rope.scaling.yarn_log_multiplier")
            {
                let mscale = tenth.as_f64().map(|tenth| tenth * 10.0);
                scaling["mscale"] = json!(mscale);
                scaling["mscale_all_dim"] = json!(mscale);
            }
        }
        _ => return Err("rope.scaling.type"),
    }
    scaling["factor"] = reader
        .number("rope.scaling.factor")
        .ok_or("rope.scaling.factor")?;
    Ok(Some(scaling))
}

/// Divisors of frequencies, if they are numbers above 0.
fn factors(stored: &Tensor) -> Option<Vec<f32>> {
    let n = stored.shape().iter().product::<usize>();
    if stored.dtype() != DType::F32 || n == 0 || n > MAX_FACTORS {
        return None;
    }
    let factors = stored.read_elements(0..n).ok()?;
    factors
        .iter()
        .all(|x| x.is_finite() && *x > 0.0)
        .then_some(factors)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The config of whole numbers, numbers and texts, of a file without tensors.
    fn config_of(entries: &[(&str, Value)]) -> serde_json::Value {
        let entries = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()));
        let metadata = Metadata {
            entries: entries.collect::<BTreeMap<_, _>>(),
            notes: Vec::new(),
        };
        config(&metadata, &|_| None).expect("an architecture")
    }

    fn of(architecture: &str, entries: &[(&str, Value)]) -> serde_json::Value {
        let name = Value::Text(architecture.to_owned());
        let mut all = vec![("general.architecture", name)];
        all.extend_from_slice(entries);
        config_of(&all)
    }

    #[test]
    fn metadata_that_no_forward_pass_is_known_for_is_named() {
        for (architecture, key, value, is_known) in [
            (
                "olmo",
                "attention.layer_norm_epsilon",
                Value::Float(1e-5f32 as f64),
                true,
            ),
            (
                "olmo",
                "attention.layer_norm_epsilon",
                Value::Float(1e-6),
                false,
            ),
            (
                "falcon",
                "tensor_data_layout",
                Value::Text("jploski".to_owned()),
                true,
            ),
            (
                "falcon",
                "tensor_data_layout",
                Value::Text("other".to_owned()),
                false,
            ),
            ("bloom", "attention.head_count_kv", Value::Whole(4), true),
            ("bloom", "attention.head_count_kv", Value::Whole(2), false),
            (
                "internlm2",
                "attention.max_alibi_bias",
                Value::Float(8.0),
                false,
            ),
        ] {
            let entry = |key: &str| format!("{architecture}.{key}");
            let (heads, kv, key_) = (
                entry("attention.head_count"),
                entry("attention.head_count_kv"),
                entry(key),
            );
            let mut entries = vec![(heads.as_str(), Value::Whole(4))];
            if architecture == "falcon" {
                entries.push((kv.as_str(), Value::Whole(1)));
            }
            entries.push((key_.as_str(), value));
            let config = of(architecture, &entries);
            let unread = config.get("gguf_unread").map(ToString::to_string);
            match is_known {
                true => assert_eq!(unread, None, "{architecture}: {key}"),
                false => assert!(
                    unread.is_some_and(|u| u.contains(key)),
                    "{architecture}: {key}"
                ),
            }
        }
    }

    #[test]
    fn a_later_falcon_without_its_rotary_base_is_not_read_completely() {
        let entries = |base: bool| {
            let mut entries = vec![
                ("falcon.attention.head_count", Value::Whole(32)),
                ("falcon.attention.head_count_kv", Value::Whole(8)),
            ];
            if base {
                entries.push(("falcon.rope.freq_base", Value::Float(500_042.0)));
            }
            of("falcon", &entries)
        };
        assert!(
            entries(false)["gguf_unread"]
                .to_string()
                .contains("rope.freq_base")
        );
        assert_eq!(entries(true).get("gguf_unread"), None);
    }

    #[test]
    fn groups_of_deepseek_are_those_stated_or_those_of_as_many_experts() {
        let of = |gating: Option<i128>, n_experts: i128, groups: Option<[i128; 2]>| {
            let mut entries = vec![("deepseek2.expert_count", Value::Whole(n_experts))];
            if let Some(gating) = gating {
                entries.push(("deepseek2.expert_gating_func", Value::Whole(gating)));
            }
            if let Some([n, top]) = groups {
                entries.push(("deepseek2.expert_group_count", Value::Whole(n)));
                entries.push(("deepseek2.expert_group_used_count", Value::Whole(top)));
            }
            let config = of("deepseek2", &entries);
            let text = |key: &str| config[key].as_str().unwrap().to_owned();
            let number = |key: &str| config[key].as_u64().unwrap();
            let groups = [number("n_group"), number("topk_group")];
            (text("model_type"), text("topk_method"), groups)
        };
        let (v2, v3) = ("deepseek_v2".to_owned(), "deepseek_v3".to_owned());
        let by_group = "group_limited_greedy".to_owned();
        let by_bias = "noaux_tc".to_owned();
        assert_eq!(
            of(None, 64, None),
            (v2.clone(), "greedy".to_owned(), [1, 1])
        );
        assert_eq!(of(None, 160, None), (v2.clone(), by_group.clone(), [8, 3]));
        assert_eq!(of(Some(1), 160, Some([4, 2])), (v2, by_group, [4, 2]));
        assert_eq!(
            of(Some(2), 256, None),
            (v3.clone(), by_bias.clone(), [8, 4])
        );
        assert_eq!(of(Some(2), 384, None), (v3, by_bias, [1, 1]));
    }

    #[test]
    fn factors_of_a_minicpm_of_before_they_were_written_are_those_of_the_first() {
        let old = of("minicpm", &[("minicpm.block_count", Value::Whole(40))]);
        assert_eq!(old["scale_emb"], 12.0);
        assert_eq!(old["scale_depth"], 1.4);
        assert_eq!(old["dim_model_base"], 256.0);
    }
}

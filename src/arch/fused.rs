//! Heads and units as config states them, and which rows of a fused tensor are q, k and v.

use super::family::Rule;
use serde_json::Value;

fn number(config: Option<&Value>, keys: &[&str]) -> Option<usize> {
    let config = config?;
    keys.iter()
        .find_map(|key| config.get(key).and_then(Value::as_u64))
        .and_then(|n| usize::try_from(n).ok())
        .filter(|&n| n > 0)
}

/// Heads and units as config.json states them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub n_heads: Option<usize>,
    pub n_kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub intermediate_size: Option<usize>,
    /// Parallel blocks have a norm each (Falcon 40B).
    pub two_parallel_norms: bool,
    pub experts: ExpertLayout,
}

/// How weights of stacked experts lie in a tensor; packed codes lie as [`Self::Rows`] whatever the config says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertLayout {
    /// `[n_experts, out, in]`, gate before up.
    Rows,
    /// `[n_experts, in, out]`, gate and up in turn (gpt-oss).
    InterleavedColumns,
    /// `[n_experts, in, out]`, gate before up (Llama 4), which no rule reads yet.
    Columns,
}

/// Whether it is Falcon's new decoder, which was first published without the flag that says so.
fn is_new_falcon(config: Option<&Value>) -> bool {
    let value = |key: &str| config.and_then(|c| c.get(key));
    let is_40b = value("model_type") == Some(&Value::from("RefinedWeb"));
    let flag = value("new_decoder_architecture").and_then(Value::as_bool);
    flag.unwrap_or(is_40b)
}

/// Key and value heads of Falcon: the new decoder states them, of the old ones some have one for all.
fn falcon_kv_heads(config: Option<&Value>, n_heads: Option<usize>) -> Option<usize> {
    let multi_query = config.and_then(|c| c.get("multi_query"));
    let stated = number(config, &["num_kv_heads", "n_head_kv"]);
    if is_new_falcon(config) {
        stated.or(n_heads)
    } else if multi_query.and_then(Value::as_bool).unwrap_or(true) {
        Some(1)
    } else {
        n_heads
    }
}

impl Heads {
    pub(super) fn read(config: Option<&Value>) -> Self {
        let n_heads = number(config, &["num_attention_heads", "n_head", "num_heads"]);
        let model_type = config.and_then(|c| c.get("model_type"));
        let model_type = model_type.and_then(Value::as_str).unwrap_or_default();
        let is_falcon = ["falcon", "RefinedWeb", "RefinedWebModel"].contains(&model_type);
        let n_norms = number(config, &["num_ln_in_parallel_attn"]).unwrap_or(2);
        let n_kv_heads = match is_falcon {
            true => falcon_kv_heads(config, n_heads),
            false => number(config, &["num_key_value_heads"]).or(n_heads),
        };
        Self {
            n_heads,
            n_kv_heads,
            experts: match model_type {
                "gpt_oss" => ExpertLayout::InterleavedColumns,
                "llama4" | "llama4_text" => ExpertLayout::Columns,
                _ => ExpertLayout::Rows,
            },
            head_dim: number(config, &["head_dim"]),
            intermediate_size: number(config, &["intermediate_size"]),
            two_parallel_norms: is_falcon && is_new_falcon(config) && n_norms == 2,
        }
    }
}

/// Rows of q, k and v in a fused tensor of `n_rows` rows. `None` when the config does not say.
pub(super) fn qkv_rows(rule: Rule, n_rows: usize, heads: Heads) -> Option<[Vec<usize>; 3]> {
    let (n_heads, n_kv_heads) = match (heads.n_heads, heads.n_kv_heads) {
        (Some(n), Some(kv)) => (n, kv),
        // Without a config, equal thirds are the only reading of plain blocks.
        _ if rule == Rule::QkvBlocks && n_rows.is_multiple_of(3) => (1, 1),
        _ => return None,
    };
    let slots = n_heads.checked_add(n_kv_heads.checked_mul(2)?)?;
    if !n_rows.is_multiple_of(slots) {
        return None;
    }
    let head_dim = n_rows / slots;
    if heads.head_dim.is_some_and(|stated| stated != head_dim) && heads.n_heads.is_some() {
        return None;
    }
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    match rule {
        Rule::QkvBlocks => {
            let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
            rows = [
                (0..q).collect(),
                (q..q + kv).collect(),
                (q + kv..q + 2 * kv).collect(),
            ];
        }
        Rule::QkvPerHead if n_heads == n_kv_heads => {
            for head in 0..n_heads {
                for (part, rows) in rows.iter_mut().enumerate() {
                    let start = (head * 3 + part) * head_dim;
                    rows.extend(start..start + head_dim);
                }
            }
        }
        Rule::QkvPerGroup if n_heads.is_multiple_of(n_kv_heads) => {
            let per_group = n_heads / n_kv_heads;
            for group in 0..n_kv_heads {
                let start = group * (per_group + 2) * head_dim;
                rows[0].extend(start..start + per_group * head_dim);
                rows[1].extend(start + per_group * head_dim..start + (per_group + 1) * head_dim);
                rows[2]
                    .extend(start + (per_group + 1) * head_dim..start + (per_group + 2) * head_dim);
            }
        }
        _ => return None,
    }
    Some(rows)
}

//! The shard index of sharded checkpoints (`*.safetensors.index.json`): which tensor lies in which file.
//!
//! The index comes from a stranger: a shard is a plain file name beside the index, never a path.

use super::error::short;
use super::{CheckpointError, CheckpointFile, DeclaredIndex};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Larger indexes than any model has: a million tensors make less than 128 MiB.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// Longest names of tensors that are accepted.
pub(super) const MAX_NAME_BYTES: usize = 4096;

/// Reads an index file.
///
/// # Errors
/// When it is no index, is too large, names a tensor twice, or names a shard by a path.
pub(super) fn read(file: &CheckpointFile) -> Result<DeclaredIndex, CheckpointError> {
    let wrong = |expected: &str, found: String| CheckpointError::File {
        file: file.path.clone(),
        expected: expected.to_owned(),
        found,
    };
    let len = file.source.len();
    if len > MAX_INDEX_BYTES {
        return Err(wrong("an index of at most 256 MiB", format!("{len} bytes")));
    }
    let bytes = file
        .source
        .read(0..len)
        .map_err(|error| CheckpointError::Io {
            file: file.path.clone(),
            error,
        })?;
    let mut parser = serde_json::Deserializer::from_slice(&bytes);
    let parsed = parser
        .deserialize_map(IndexVisitor)
        .and_then(|index| parser.end().map(|()| index))
        .map_err(|error| wrong("a JSON object with a weight_map", error.to_string()))?;
    let (weight_map, total_size) = parsed;
    let mut seen = HashSet::with_capacity(weight_map.len());
    for (tensor, shard) in &weight_map {
        let wrong = |expected: &str, found: &str| CheckpointError::Tensor {
            file: file.path.clone(),
            tensor: short(tensor),
            expected: expected.to_owned(),
            found: short(found),
        };
        if tensor.len() > MAX_NAME_BYTES {
            return Err(wrong("a name of at most 4096 bytes", tensor));
        }
        if !seen.insert(tensor) {
            return Err(wrong("one entry", "the name twice"));
        }
        if !is_plain_name(shard) {
            return Err(wrong(
                "the name of a shard beside the index, without a path",
                shard,
            ));
        }
    }
    Ok(DeclaredIndex {
        file: file.path.clone(),
        weight_map,
        total_size,
    })
}

/// Whether a name stays in its folder on every system.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.chars().any(|c| c.is_control() || "/\\:".contains(c))
}

type Parsed = (Vec<(String, String)>, Option<u64>);

/// Keeps the order of the file and repeated names, both of which a map would lose.
struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut weight_map = None;
        let mut total_size = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" if weight_map.is_some() => {
                    return Err(A::Error::custom("weight_map twice"));
                }
                "weight_map" => weight_map = Some(map.next_value::<Pairs>()?.0),
                "metadata" => {
                    let metadata: serde_json::Value = map.next_value()?;
                    // Some writers put a float there.
                    let size = metadata.get("total_size");
                    total_size = size.and_then(|size| {
                        size.as_u64().or_else(|| {
                            let whole = |x: &f64| *x >= 0.0 && *x < 9e15 && x.fract() == 0.0;
                            size.as_f64().filter(whole).map(|x| x as u64)
                        })
                    });
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let weight_map = weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))?;
        Ok((weight_map, total_size))
    }
}

/// A map of strings to strings, in order.
struct Pairs(Vec<(String, String)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and shards")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bytes::MemoryFile;
    use std::sync::Arc;

    fn index(json: &str) -> Result<DeclaredIndex, CheckpointError> {
        let path = "model.safetensors.index.json";
        read(&CheckpointFile {
            path: path.into(),
            source: Arc::new(MemoryFile::new(path, json.as_bytes().to_vec())),
        })
    }

    #[test]
    fn order_and_declared_size_are_kept() {
        let found = index(
            r#"{"weight_map": {"z": "a-1.safetensors", "a": "a-2.safetensors"}, "x": [1],
                "metadata": {"total_size": 12.0}}"#,
        )
        .unwrap();
        let names: Vec<&str> = found
            .weight_map
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["z", "a"]);
        assert_eq!(found.total_size, Some(12));
    }

    #[test]
    fn paths_repeated_names_and_what_is_no_index_are_refused() {
        let nested = "[".repeat(100_000);
        for json in [
            r#"{"weight_map": {"a": "../../etc/passwd"}}"#,
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            r#"{"weight_map": {"a": "x\\y.safetensors"}}"#,
            r#"{"weight_map": {"a": ".."}}"#,
            r#"{"weight_map": {"a": "x", "a": "y"}}"#,
            r#"{"weight_map": {}, "weight_map": {}}"#,
            r#"{"weight_map": []}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"metadata": {}}"#,
            r#"{"weight_map": {}} x"#,
            "",
            "[]",
            nested.as_str(),
        ] {
            let error = index(json).unwrap_err().to_string();
            assert!(
                error.starts_with("model.safetensors.index.json: "),
                "{error}"
            );
            assert!(error.contains("expected"), "{error}");
        }
    }
}

//! The values of a configuration file by dotted key.

use crate::arch::artefact::ArtefactError;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Values of one file that are compared; a file with more is not read to its end.
pub(super) const MAX_KEYS: usize = 10_000;

/// Values by dotted key. A list is one value.
pub(super) struct Keys<'a> {
    pub(super) values: BTreeMap<String, &'a Value>,
    /// Whether there were more than [`MAX_KEYS`].
    pub(super) truncated: bool,
}

impl<'a> Keys<'a> {
    /// Lists the values of a file.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub(super) fn read(json: &'a Value, file: &str) -> Result<Self, ArtefactError> {
        if !json.is_object() {
            let problem = "expected a JSON object, found something else".to_owned();
            return Err(ArtefactError {
                file: file.to_owned(),
                problem,
            });
        }
        let mut keys = Self {
            values: BTreeMap::new(),
            truncated: false,
        };
        keys.add("", json);
        Ok(keys)
    }

    /// The parser bounds the depth, so that this recursion is bounded too.
    fn add(&mut self, path: &str, value: &'a Value) {
        if self.values.len() >= MAX_KEYS {
            self.truncated = true;
            return;
        }
        match value
            .as_object()
            .filter(|map| !map.is_empty() || path.is_empty())
        {
            Some(map) => {
                for (key, inner) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.add(&format!("{path}{dot}{key}"), inner);
                }
            }
            None => {
                self.values.insert(path.to_owned(), value);
            }
        }
    }

    /// Keys that the other side lacks, whole absent groups as one.
    pub(super) fn missing_in(&self, other: &Self) -> (usize, Vec<String>) {
        let groups: BTreeSet<&str> = other.values.keys().map(|key| top(key)).collect();
        let mut absent: BTreeMap<&str, usize> = BTreeMap::new();
        let missing = self
            .values
            .keys()
            .filter(|key| !other.values.contains_key(*key));
        for key in missing {
            let name = if groups.contains(top(key)) {
                key.as_str()
            } else {
                top(key)
            };
            *absent.entry(name).or_default() += 1;
        }
        let named = absent.iter().map(|(name, n)| match n {
            1 => (*name).to_owned(),
            n => format!("{name} ({n} keys)"),
        });
        (absent.values().sum(), named.collect())
    }
}

/// The first segment of a dotted key.
fn top(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

/// Equal as JSON, with numbers compared as numbers: `1e-5` is `0.00001`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(x), Some(y)) if x == y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_and_an_empty_object_are_values() {
        let json = json!({"a": [1, {"b": 2}], "c": {}, "d": {"e": null}});
        let keys = Keys::read(&json, "config.json").unwrap();
        assert_eq!(keys.values.keys().collect::<Vec<_>>(), ["a", "c", "d.e"]);
    }

    #[test]
    fn integers_and_floats_of_one_value_are_the_same() {
        assert!(same(&json!(1), &json!(1.0)));
        assert!(!same(&json!(1), &json!("1")));
        assert!(!same(&json!(null), &json!(false)));
    }
}

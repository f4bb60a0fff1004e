//! A strict reader of config.json: every key is read, known to be harmless, or an error.

pub use super::error::SpecError;
use super::harmless::HARMLESS;
use crate::checkpoint::reads_quantization;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// More layers than any published model has.
const MAX_LAYERS: usize = 1024;

/// A config that is being read. Keys that are read, or named harmless, are known; [`Config::finish`]
/// refuses the rest.
#[derive(Debug)]
pub struct Config<'a> {
    object: &'a Map<String, Value>,
    /// Path of a nested section, with its final dot.
    path: String,
    known: BTreeSet<String>,
    assumptions: Vec<String>,
}

impl<'a> Config<'a> {
    /// Starts reading.
    ///
    /// # Errors
    /// When the value is no object.
    pub fn new(value: &'a Value) -> Result<Self, SpecError> {
        Ok(Self {
            object: value.as_object().ok_or(SpecError::NotAnObject)?,
            path: String::new(),
            known: BTreeSet::new(),
            assumptions: Vec::new(),
        })
    }

    /// The value of a key; JSON's null is as good as absent.
    pub fn value(&mut self, key: &str) -> Option<&'a Value> {
        self.known.insert(key.to_owned());
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there and not null; does not count as reading it.
    pub fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether a key is there and null: "none", where an absent key means the published default.
    pub fn is_null(&mut self, key: &str) -> bool {
        self.known.insert(key.to_owned());
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// Names keys that do not change the forward pass of this model type.
    pub fn harmless(&mut self, keys: &[&str]) {
        self.known.extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// An error about the value of a key.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> SpecError {
        SpecError::Value {
            key: format!("{}{key}", self.path),
            expected: expected.into(),
            found: self
                .object
                .get(key)
                .map_or_else(|| "nothing".to_owned(), Value::to_string)
                .chars()
                .take(200)
                .collect(),
        }
    }

    fn missing(&self, key: &str) -> SpecError {
        SpecError::Missing {
            key: format!("{}{key}", self.path),
        }
    }

    /// Notes that a key is absent and which value the published implementation supplies.
    pub fn assume(&mut self, key: &str, value: impl std::fmt::Display) {
        self.assumptions.push(format!(
            "config.json does not state {}{key}: {value}, the default of the published implementation",
            self.path
        ));
    }

    /// A string.
    ///
    /// # Errors
    /// When the key is missing or no string.
    pub fn text(&mut self, key: &str) -> Result<String, SpecError> {
        let value = self.value(key).ok_or_else(|| self.missing(key))?;
        let text = value.as_str().ok_or_else(|| self.wrong(key, "a string"))?;
        Ok(text.to_owned())
    }

    /// A string, or the published default.
    ///
    /// # Errors
    /// When it is no string.
    pub fn text_or(&mut self, key: &str, default: &str) -> Result<String, SpecError> {
        if self.value(key).is_none() {
            self.assume(key, default);
            return Ok(default.to_owned());
        }
        self.text(key)
    }

    /// A positive whole number below 2³¹.
    ///
    /// # Errors
    /// When the key is missing or no such number.
    pub fn size(&mut self, key: &str) -> Result<usize, SpecError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::size`], or the published default.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn size_or(&mut self, key: &str, default: usize) -> Result<usize, SpecError> {
        match self.optional_size(key)? {
            Some(size) => Ok(size),
            None => {
                self.assume(key, default);
                Ok(default)
            }
        }
    }

    /// As [`Self::size`], under the first of several names that is there: implementations renamed keys.
    ///
    /// # Errors
    /// When none is there, one is no such number, or two disagree.
    pub fn size_of(&mut self, names: &[&str]) -> Result<usize, SpecError> {
        match self.optional_size_of(names)? {
            Some(size) => Ok(size),
            None => Err(self.missing(&names.join(" or "))),
        }
    }

    /// The number of layers, under the first of several names that is there. Every layer of a spec is a
    /// value, so that what a config states is bounded before it costs memory.
    ///
    /// # Errors
    /// As [`Self::size_of`], and when there are more than any published model has.
    pub fn n_layers(&mut self, names: &[&str]) -> Result<usize, SpecError> {
        let n_layers = self.size_of(names)?;
        if n_layers > MAX_LAYERS {
            let stated = names.iter().find(|name| self.has(name));
            let key = stated.copied().unwrap_or_default();
            return Err(self.wrong(key, format!("at most {MAX_LAYERS} layers")));
        }
        Ok(n_layers)
    }

    /// As [`Self::size_of`] where one of the keys is there.
    ///
    /// # Errors
    /// When one is no such number, or two disagree.
    pub fn optional_size_of(&mut self, names: &[&str]) -> Result<Option<usize>, SpecError> {
        let mut found: Option<usize> = None;
        for name in names {
            let size = self.optional_size(name)?;
            if let (Some(first), Some(size)) = (found, size)
                && first != size
            {
                return Err(self.wrong(name, format!("{first}, as {} says", names.join(" or "))));
            }
            found = found.or(size);
        }
        Ok(found)
    }

    /// As [`Self::size`] where the key is there.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn optional_size(&mut self, key: &str) -> Result<Option<usize>, SpecError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|&n| n > 0 && n < 1 << 31)
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number between 1 and 2³¹")),
        }
    }

    /// A finite number.
    ///
    /// # Errors
    /// When the key is missing or no such number.
    pub fn number(&mut self, key: &str) -> Result<f64, SpecError> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Self::number`], or the published default.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn number_or(&mut self, key: &str, default: f64) -> Result<f64, SpecError> {
        match self.optional_number(key)? {
            Some(number) => Ok(number),
            None => {
                self.assume(key, default);
                Ok(default)
            }
        }
    }

    /// As [`Self::number`] where the key is there.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn optional_number(&mut self, key: &str) -> Result<Option<f64>, SpecError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a finite number")),
        }
    }

    /// A list of finite numbers.
    ///
    /// # Errors
    /// When the key is missing or no such list.
    pub fn numbers(&mut self, key: &str) -> Result<Vec<f64>, SpecError> {
        let value = self.value(key).ok_or_else(|| self.missing(key))?;
        value
            .as_array()
            .and_then(|list| {
                list.iter()
                    .map(|n| n.as_f64().filter(|n| n.is_finite()))
                    .collect()
            })
            .ok_or_else(|| self.wrong(key, "a list of finite numbers"))
    }

    /// A list of strings, where the key is there.
    ///
    /// # Errors
    /// When it is no such list.
    pub fn optional_texts(&mut self, key: &str) -> Result<Option<Vec<&'a str>>, SpecError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value
                .as_array()
                .and_then(|list| list.iter().map(Value::as_str).collect())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a list of strings")),
        }
    }

    /// A list of whole numbers from 0 on; absent is as good as empty.
    ///
    /// # Errors
    /// When it is no such list.
    pub fn indices(&mut self, key: &str) -> Result<Vec<usize>, SpecError> {
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(value) => value
                .as_array()
                .and_then(|list| {
                    list.iter()
                        .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
                        .collect()
                })
                .ok_or_else(|| self.wrong(key, "a list of whole numbers")),
        }
    }

    /// A truth value, or the published default.
    ///
    /// # Errors
    /// When it is no truth value.
    pub fn flag_or(&mut self, key: &str, default: bool) -> Result<bool, SpecError> {
        match self.value(key) {
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(key, "true or false")),
            None => {
                self.assume(key, default);
                Ok(default)
            }
        }
    }

    /// Demands one value of a key, where it is there.
    ///
    /// # Errors
    /// When it holds another: the engine does not compute that.
    pub fn demand(&mut self, key: &str, only: &Value) -> Result<(), SpecError> {
        match self.value(key) {
            Some(value) if value != only => {
                Err(self.wrong(key, format!("{only} (the engine computes no other)")))
            }
            _ => Ok(()),
        }
    }

    /// Reads a nested section, and holds it to the same strictness.
    ///
    /// # Errors
    /// Those of `read`, and unknown keys of the section.
    pub fn section<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Config<'a>) -> Result<T, SpecError>,
    ) -> Result<T, SpecError> {
        let value = self.value(key).ok_or_else(|| self.missing(key))?;
        let mut nested = Config::new(value).map_err(|_| self.wrong(key, "an object"))?;
        nested.path = format!("{}{key}.", self.path);
        let result = read(&mut nested)?;
        self.assumptions.extend(nested.finish()?);
        Ok(result)
    }

    /// Ends reading: what was assumed, in sentences.
    ///
    /// # Errors
    /// When there are keys that nobody knows.
    pub fn finish(self) -> Result<Vec<String>, SpecError> {
        let unknown: Vec<String> = self
            .object
            .iter()
            .filter(|(key, value)| {
                !value.is_null() && !self.known.contains(*key) && !HARMLESS.contains(&key.as_str())
            })
            // Weights that the checkpoint layer dequantizes are weights like any other.
            .filter(|(key, value)| *key != "quantization_config" || !reads_quantization(value))
            .map(|(key, _)| format!("{}{key}", self.path))
            .collect();
        if unknown.is_empty() {
            return Ok(self.assumptions);
        }
        let model_type = self.object.get("model_type").and_then(Value::as_str);
        Err(SpecError::UnknownKeys {
            keys: unknown.join(", "),
            model_type: model_type.unwrap_or("rotary").to_owned(),
            them: if unknown.len() == 1 { "it" } else { "them" },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_that_nobody_knows_is_an_error_that_names_it() {
        let value = json!({"model_type": "x", "a": 1, "attention_sinks": 4, "nothing": null});
        let mut config = Config::new(&value).unwrap();
        config.size("a").unwrap();
        let error = config.finish().unwrap_err().to_string();
        assert!(
            error.contains("attention_sinks") && !error.contains("nothing"),
            "{error}"
        );
    }

    #[test]
    fn what_is_assumed_is_said() {
        let value = json!({});
        let mut config = Config::new(&value).unwrap();
        assert_eq!(config.number_or("rope_theta", 10000.0), Ok(10000.0));
        let said = config.finish().unwrap();
        assert!(said[0].contains("rope_theta: 10000"), "{said:?}");
    }

    #[test]
    fn a_key_of_two_names_may_not_hold_two_values() {
        let value = json!({"n_head": 4, "num_attention_heads": 8, "n_layer": 2, "window": null});
        let mut config = Config::new(&value).unwrap();
        assert!(config.size_of(&["num_attention_heads", "n_head"]).is_err());
        assert_eq!(config.size_of(&["num_hidden_layers", "n_layer"]), Ok(2));
        assert!(config.size_of(&["hidden_size", "n_embd"]).is_err());
        assert!(config.is_null("window") && !config.is_null("n_layer"));
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        let value = json!({"n": -1, "x": "1", "f": 1, "s": {"odd": 1}, "l": [1, "2"]});
        let mut config = Config::new(&value).unwrap();
        assert!(config.size("n").is_err());
        assert!(config.number("x").is_err());
        assert!(config.flag_or("f", true).is_err());
        assert!(config.numbers("l").is_err());
        assert!(config.optional_texts("l").is_err());
        assert!(config.indices("l").is_err());
        assert!(
            config
                .text("gone")
                .unwrap_err()
                .to_string()
                .contains("gone is missing")
        );
        let error = config.section("s", |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("s.odd"), "{error}");
    }
}

//! What a repository states of its tokenizer beside the vocabulary: special tokens, what is put around a
//! text, what ends one.
//!
//! `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `generation_config.json` and
//! the model's config. The values are kept as stated; what follows from them is said where it follows.

use super::guard::wrong;
use crate::arch::artefact::{ArtefactError, Artefacts};
use crate::engine::EngineError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `tokenizer_config.json`.
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// More added tokens than any published tokenizer has.
const MAX_ADDED: usize = 1 << 17;

/// A token that is added to the trained vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Added {
    pub id: u32,
    pub token: tokenizers::AddedToken,
}

/// Statements about the tokenizer.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// `tokenizer_config.json` as it is.
    pub config: Map<String, Value>,
    /// The model's type, empty where its config has none.
    pub model_type: String,
    /// Special tokens by their key.
    special: BTreeMap<String, String>,
    /// Added tokens that the small files state, by id.
    pub added: Vec<Added>,
    /// Ids that end a text, from the generation config or the model's.
    pub eos_ids: Vec<u32>,
    /// The id that begins one, from the same.
    pub bos_id: Option<u32>,
    /// Tokens beside `eos_token` that a GGUF file says end a turn.
    pub end_tokens: Vec<String>,
}

impl From<ArtefactError> for EngineError {
    fn from(error: ArtefactError) -> Self {
        wrong(&error.file, error.problem)
    }
}

/// A token written as a string or as an object with `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// An object, or an error that names the file.
fn object(artefacts: &Artefacts, file: &str) -> Result<Map<String, Value>, EngineError> {
    match artefacts.json(file)? {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(wrong(file, "expected an object of JSON")),
    }
}

impl Settings {
    /// Reads whatever of the small files is there.
    pub(super) fn read(artefacts: &Artefacts, config: Option<&Value>) -> Result<Self, EngineError> {
        let mut read = Self {
            config: object(artefacts, CONFIG)?,
            model_type: config
                .and_then(|config| config.get("model_type")?.as_str())
                .unwrap_or_default()
                .to_owned(),
            ..Self::default()
        };
        if let Some(embedded) = &artefacts.embedded_tokenizer {
            read.special = embedded.special.clone();
            read.end_tokens = embedded.end_tokens.clone();
        }
        // The config of a tokenizer speaks before the older map of special tokens.
        for map in [&object(artefacts, "special_tokens_map.json")?, &read.config] {
            for (key, value) in map.iter().filter(|(key, _)| key.ends_with("_token")) {
                if let Some(text) = content(value) {
                    read.special.insert(key.clone(), text.to_owned());
                }
            }
        }
        read.read_added(artefacts)?;
        let generation = object(artefacts, "generation_config.json")?;
        let text_config = config.and_then(|config| config.get("text_config"));
        let sources = [
            generation.get("eos_token_id"),
            config.and_then(|config| config.get("eos_token_id")),
            text_config.and_then(|config| config.get("eos_token_id")),
        ];
        read.eos_ids = sources
            .into_iter()
            .map(ids)
            .find(|found| !found.is_empty())
            .unwrap_or_default();
        read.bos_id = [Some(&Value::Object(generation)), config, text_config]
            .into_iter()
            .flatten()
            .find_map(|config| ids(config.get("bos_token_id")).first().copied());
        Ok(read)
    }

    fn read_added(&mut self, artefacts: &Artefacts) -> Result<(), EngineError> {
        let mut added = BTreeMap::new();
        for (text, id) in object(artefacts, "added_tokens.json")? {
            let id = ids(Some(&id)).first().copied();
            let id = id.ok_or_else(|| wrong("added_tokens.json", format!("no id for {text:?}")))?;
            let is_special = self.special.values().any(|special| *special == text);
            added.insert(id, tokenizers::AddedToken::from(text, is_special));
        }
        let stated = self.config.get("added_tokens_decoder");
        for (id, value) in stated.and_then(Value::as_object).into_iter().flatten() {
            let what = || wrong(CONFIG, format!("added_tokens_decoder: entry {id:?}"));
            let number: u32 = id.parse().map_err(|_| what())?;
            let text = content(value).ok_or_else(what)?;
            let flag = |key: &str| value.get(key).and_then(Value::as_bool);
            let is_special = flag("special").unwrap_or(false);
            let token = tokenizers::AddedToken::from(text.to_owned(), is_special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!is_special));
            added.insert(number, token);
        }
        if added.len() > MAX_ADDED {
            return Err(wrong(CONFIG, format!("more than {MAX_ADDED} added tokens")));
        }
        self.added = added
            .into_iter()
            .map(|(id, token)| Added { id, token })
            .collect();
        Ok(())
    }

    /// Text of a special token by its key (`bos_token`, …).
    pub(super) fn special(&self, key: &str) -> Option<&str> {
        self.special.get(key).map(String::as_str)
    }

    /// All special tokens by their key.
    pub(super) fn specials(&self) -> impl Iterator<Item = (&str, &str)> {
        self.special.iter().map(|(key, text)| (&**key, &**text))
    }

    /// Makes a special token known where no file states it.
    pub(super) fn default_special(&mut self, key: &str, text: &str) {
        self.special
            .entry(key.to_owned())
            .or_insert_with(|| text.to_owned());
    }

    /// A flag of `tokenizer_config.json`: `None` where the key is absent, false where it is null.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config
            .get(key)
            .map(|value| value.as_bool().unwrap_or(false))
    }

    /// The class that `tokenizer_config.json` names.
    pub(super) fn class(&self) -> &str {
        self.config
            .get("tokenizer_class")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(files: &[(&str, &str)], config: Option<Value>) -> Result<Settings, EngineError> {
        let mut artefacts = Artefacts::default();
        for (path, text) in files {
            let bytes = text.as_bytes().to_vec();
            artefacts.contents.insert((*path).to_owned(), bytes);
        }
        Settings::read(&artefacts, config.as_ref())
    }

    #[test]
    fn what_ends_a_text_is_asked_of_the_generation_config_first() {
        let config = json!({"eos_token_id": 2, "bos_token_id": 1});
        let generation = ("generation_config.json", r#"{"eos_token_id": [7, 5]}"#);
        let both = read(&[generation], Some(config.clone())).unwrap();
        assert_eq!((both.eos_ids, both.bos_id), (vec![7, 5], Some(1)));
        assert_eq!(read(&[], Some(config)).unwrap().eos_ids, [2]);
        let nested = json!({"text_config": {"eos_token_id": 3}});
        assert_eq!(read(&[], Some(nested)).unwrap().eos_ids, [3]);
    }

    #[test]
    fn tokens_are_strings_or_objects_and_the_config_speaks_last() {
        let files = [
            (
                "special_tokens_map.json",
                r#"{"bos_token": "a", "eos_token": {"content": "b"}}"#,
            ),
            (CONFIG, r#"{"bos_token": "c", "add_bos_token": null}"#),
        ];
        let read = read(&files, None).unwrap();
        assert_eq!(read.special("bos_token"), Some("c"));
        assert_eq!(read.special("eos_token"), Some("b"));
        assert_eq!(
            (read.flag("add_bos_token"), read.flag("x")),
            (Some(false), None)
        );
    }

    #[test]
    fn files_that_are_not_what_their_name_says_are_named() {
        for (file, text) in [
            (CONFIG, "[]"),
            (CONFIG, "{"),
            (CONFIG, r#"{"added_tokens_decoder": {"x": "a"}}"#),
            (CONFIG, r#"{"added_tokens_decoder": {"1": 7}}"#),
            ("added_tokens.json", r#"{"a": -1}"#),
            ("generation_config.json", "3"),
        ] {
            let error = read(&[(file, text)], None).unwrap_err().to_string();
            assert!(error.starts_with(file), "{error}");
        }
    }
}

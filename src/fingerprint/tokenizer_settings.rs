//! What a repository states of its tokenizer beside the vocabulary: added tokens, special tokens,
//! chat template.
//!
//! These small files are often there when the vocabulary itself is not.

use crate::arch::artefact::{ArtefactError, Artefacts};
use serde_json::Value;
use std::collections::BTreeMap;

/// A token that was added to the trained vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether decoding leaves it out.
    pub special: bool,
}

/// Statements about the tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// Added tokens by id.
    pub added: Vec<AddedToken>,
    /// Text of the special tokens by their key (`bos_token`, `pad_token`, …).
    pub special: BTreeMap<String, String>,
    /// The chat template; the one named `default`, else the first, where there are several.
    pub chat_template: Option<String>,
    /// The files that were read.
    pub files: Vec<String>,
}

/// More added tokens than any published tokenizer has; the rest of a longer list is not read.
const MAX_ADDED: usize = 1_000_000;

/// A token written as a string or as an object with `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// One added token of an object with `content` and `special`.
fn added(id: Option<u32>, value: &Value) -> Option<AddedToken> {
    let special = value
        .get("special")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    Some(AddedToken {
        id: id?,
        content: content(value)?.to_owned(),
        special,
    })
}

/// A chat template written as a string or as a list of `{name, template}`.
fn template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let list = value.as_array()?;
    let named = |name: &str| {
        list.iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some(name))
    };
    let chosen = named("default").or_else(|| list.first())?;
    Some(chosen.get("template")?.as_str()?.to_owned())
}

impl TokenizerSettings {
    /// Reads whatever of the small tokenizer files is there.
    ///
    /// # Errors
    /// When a file is there and is not what its name says.
    pub fn read(artefacts: &Artefacts) -> Result<Self, ArtefactError> {
        let mut read = Self::default();
        if let Some(map) = read.json(artefacts, "special_tokens_map.json")? {
            read.take_special(&map);
        }
        let config = read.json(artefacts, "tokenizer_config.json")?;
        if let Some(config) = &config {
            read.take_special(config);
            let tokens = config
                .get("added_tokens_decoder")
                .and_then(Value::as_object);
            let tokens = tokens.into_iter().flatten().take(MAX_ADDED);
            read.take_added(tokens.filter_map(|(id, token)| added(id.parse().ok(), token)));
        }
        if let Some(Value::Object(tokens)) = read.json(artefacts, "added_tokens.json")? {
            let tokens = tokens.iter().take(MAX_ADDED);
            read.take_added(tokens.filter_map(|(text, value)| {
                Some(AddedToken {
                    id: id(value)?,
                    content: text.clone(),
                    special: false,
                })
            }));
        }
        if let Some(text) = artefacts.text("chat_template.jinja")? {
            read.files.push("chat_template.jinja".to_owned());
            read.chat_template = Some(text.to_owned());
        } else if let Some(file) = read.json(artefacts, "chat_template.json")? {
            read.chat_template = template(file.get("chat_template").unwrap_or(&file));
        }
        if read.chat_template.is_none() {
            read.chat_template = config
                .as_ref()
                .and_then(|c| template(c.get("chat_template")?));
        }
        read.take_embedded(artefacts);
        Ok(read)
    }

    /// Takes what the weights' own file carries, where no other file states it.
    fn take_embedded(&mut self, artefacts: &Artefacts) {
        let Some(embedded) = &artefacts.embedded_tokenizer else {
            return;
        };
        self.files.push(embedded.file.clone());
        self.take_added(
            embedded
                .added
                .iter()
                .take(MAX_ADDED)
                .map(|token| AddedToken {
                    id: token.id,
                    content: token.text.clone(),
                    special: token.special,
                }),
        );
        for (key, text) in &embedded.special {
            self.special
                .entry(key.clone())
                .or_insert_with(|| text.clone());
        }
        if self.chat_template.is_none() {
            self.chat_template = embedded.chat_template.clone();
        }
    }

    /// Takes over the `added_tokens` list of a `tokenizer.json`.
    pub fn take_added_list(&mut self, list: Option<&Value>) {
        let tokens = list
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .take(MAX_ADDED);
        self.take_added(tokens.filter_map(|t| added(id(t.get("id")?), t)));
    }

    fn json(&mut self, artefacts: &Artefacts, file: &str) -> Result<Option<Value>, ArtefactError> {
        let value = artefacts.json(file)?;
        if value.is_some() {
            self.files.push(file.to_owned());
        }
        Ok(value)
    }

    /// Keeps the first statement about an id.
    fn take_added(&mut self, tokens: impl Iterator<Item = AddedToken>) {
        self.added.extend(tokens);
        self.added.sort_by_key(|token| token.id);
        self.added.dedup_by_key(|token| token.id);
    }

    fn take_special(&mut self, file: &Value) {
        for (key, value) in file.as_object().into_iter().flatten() {
            if let (true, Some(text)) = (key.ends_with("_token"), content(value)) {
                self.special
                    .entry(key.clone())
                    .or_insert_with(|| text.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artefacts(files: &[(&str, &str)]) -> Artefacts {
        let contents = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        Artefacts {
            files: Vec::new(),
            contents: contents.collect(),
            ..Artefacts::default()
        }
    }

    #[test]
    fn special_tokens_are_read_as_strings_and_as_objects() {
        let read = TokenizerSettings::read(&artefacts(&[
            (
                "special_tokens_map.json",
                r#"{"bos_token": {"content": "<s>"}, "pad_token": "!"}"#,
            ),
            (
                "tokenizer_config.json",
                r#"{"pad_token": "other", "unk_token": null}"#,
            ),
        ]))
        .unwrap();
        assert_eq!(
            read.special.get("bos_token").map(String::as_str),
            Some("<s>")
        );
        assert_eq!(read.special.get("pad_token").map(String::as_str), Some("!"));
        assert_eq!(read.special.len(), 2);
    }

    #[test]
    fn added_tokens_come_in_the_order_of_their_ids() {
        let config = r#"{"added_tokens_decoder": {
            "9": {"content": "<b>", "special": true}, "7": {"content": "<a>"}, "x": {}}}"#;
        let read = TokenizerSettings::read(&artefacts(&[("tokenizer_config.json", config)]));
        let added = read.unwrap().added;
        assert_eq!(added.len(), 2);
        assert_eq!(
            (added[0].id, added[0].content.as_str(), added[0].special),
            (7, "<a>", false)
        );
    }

    #[test]
    fn the_default_of_several_chat_templates_is_taken() {
        let config = r#"{"chat_template": [
            {"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        let read = TokenizerSettings::read(&artefacts(&[("tokenizer_config.json", config)]));
        assert_eq!(read.unwrap().chat_template.as_deref(), Some("D"));
        let files = [
            ("tokenizer_config.json", config),
            ("chat_template.jinja", "J"),
        ];
        let read = TokenizerSettings::read(&artefacts(&files)).unwrap();
        assert_eq!(read.chat_template.as_deref(), Some("J"));
    }

    #[test]
    fn values_of_any_other_type_are_passed_over() {
        let config = r#"{"added_tokens_decoder": [1], "chat_template": 3, "bos_token": [[]],
            "pad_token": {"content": 4}}"#;
        let read = TokenizerSettings::read(&artefacts(&[
            ("tokenizer_config.json", config),
            (
                "added_tokens.json",
                r#"{"<x>": -1, "<y>": 99999999999, "<z>": 5}"#,
            ),
        ]))
        .unwrap();
        assert_eq!(read.added.len(), 1);
        assert!(read.special.is_empty() && read.chat_template.is_none());
    }

    #[test]
    fn a_file_that_is_no_json_is_an_error_that_names_it() {
        let error = TokenizerSettings::read(&artefacts(&[("tokenizer_config.json", "{")]));
        assert_eq!(error.unwrap_err().file, "tokenizer_config.json");
    }
}

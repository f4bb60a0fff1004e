//! The vocabulary of a tokenizer: tokens with their ids, merges in order, added and special tokens.
//!
//! Read from whichever file holds it (`tokenizer.json`, `vocab.json` with `merges.txt`, `vocab.txt`,
//! a SentencePiece or tiktoken `tokenizer.model`), else from what the weights' own file carries (GGUF).
//! Nothing here tokenizes text.

use super::sentencepiece;
use super::tiktoken;
use super::tokenizer_settings::{AddedToken, TokenizerSettings};
use crate::arch::artefact::{ArtefactError, Artefacts};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// A tokenizer's vocabulary.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vocabulary {
    /// Token to id, added tokens included.
    pub ids: HashMap<String, u32>,
    /// Merges as `left right`, in order; empty where the kind has none.
    pub merges: Vec<String>,
    /// Tokens added to the trained vocabulary, by id.
    pub added: Vec<AddedToken>,
    /// Special tokens by their key (`bos_token`, …).
    pub special: BTreeMap<String, String>,
    /// The chat template.
    pub chat_template: Option<String>,
    /// `BPE`, `Unigram`, `WordPiece`, `WordLevel`, `sentencepiece` or `tiktoken`.
    pub kind: String,
    /// The file that holds the tokens.
    pub file: String,
}

/// More tokens than any published vocabulary has; a file that holds more is refused.
const MAX_TOKENS: usize = 4_000_000;

/// Tokens, merges and kind of one file.
#[derive(Default)]
struct Tokens {
    ids: HashMap<String, u32>,
    merges: Vec<String>,
    kind: String,
}

impl Vocabulary {
    /// Reads the tokenizer of a model; `None` where no file holds a vocabulary.
    ///
    /// # Errors
    /// When a file that should hold the tokenizer is there and cannot be read as such.
    pub fn read(artefacts: &Artefacts) -> Result<Option<Self>, ArtefactError> {
        let mut settings = TokenizerSettings::read(artefacts)?;
        let Some((file, tokens)) = tokens(artefacts, &mut settings)? else {
            return Ok(None);
        };
        let mut ids = tokens.ids;
        for token in &settings.added {
            ids.entry(token.content.clone()).or_insert(token.id);
        }
        Ok(Some(Self {
            ids,
            merges: tokens.merges,
            added: settings.added,
            special: settings.special,
            chat_template: settings.chat_template,
            kind: tokens.kind,
            file,
        }))
    }
}

fn tokens(
    artefacts: &Artefacts,
    settings: &mut TokenizerSettings,
) -> Result<Option<(String, Tokens)>, ArtefactError> {
    let found = tokens_of_files(artefacts, settings)?;
    if let Some((file, tokens)) = found {
        return Ok(Some((file.to_owned(), tokens)));
    }
    let Some(embedded) = &artefacts.embedded_tokenizer else {
        return Ok(None);
    };
    let list = embedded.tokens.iter().map(|token| Some(token.clone()));
    let ids = numbered(list).map_err(|problem| ArtefactError {
        file: embedded.file.clone(),
        problem,
    })?;
    let tokens = Tokens {
        ids,
        merges: embedded.merges.clone(),
        kind: embedded.kind.clone(),
    };
    Ok(Some((embedded.file.clone(), tokens)))
}

fn tokens_of_files(
    artefacts: &Artefacts,
    settings: &mut TokenizerSettings,
) -> Result<Option<(&'static str, Tokens)>, ArtefactError> {
    let at = |file: &'static str| {
        move |problem: String| ArtefactError {
            file: file.to_owned(),
            problem,
        }
    };
    if let Some(mut json) = artefacts.json("tokenizer.json")? {
        settings.take_added_list(json.get("added_tokens"));
        let file = "tokenizer.json";
        let model = json.get_mut("model").map(Value::take).unwrap_or_default();
        return tokenizer_json(model)
            .map(|t| Some((file, t)))
            .map_err(at(file));
    }
    if let Some(json) = artefacts.json("vocab.json")? {
        let file = "vocab.json";
        let ids = id_map(json).map_err(at(file))?;
        let lines = artefacts.text("merges.txt")?.unwrap_or_default().lines();
        let merges = lines.filter(|l| !l.starts_with("#version") && !l.is_empty());
        let merges = merges.map(str::to_owned).collect();
        return Ok(Some((
            file,
            Tokens {
                ids,
                merges,
                kind: "BPE".to_owned(),
            },
        )));
    }
    if let Some(text) = artefacts.text("vocab.txt")? {
        let file = "vocab.txt";
        let list = text.lines().map(|line| Some(line.to_owned()));
        let ids = numbered(list).map_err(at(file))?;
        return Ok(Some((
            file,
            Tokens {
                ids,
                kind: "WordPiece".to_owned(),
                ..Tokens::default()
            },
        )));
    }
    if let Some(bytes) = artefacts.contents.get("tokenizer.model") {
        let file = "tokenizer.model";
        return tokenizer_model(bytes)
            .map(|t| Some((file, t)))
            .map_err(at(file));
    }
    Ok(None)
}

/// The `model` object of a `tokenizer.json`.
fn tokenizer_json(mut model: Value) -> Result<Tokens, String> {
    let kind = model.get("type").and_then(Value::as_str).map(str::to_owned);
    let merges = model
        .get("merges")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let merges: Result<Vec<String>, String> = merges.map(merge).collect();
    let merges = merges?;
    let vocabulary = model.get_mut("vocab").map(Value::take).unwrap_or_default();
    let is_list = vocabulary.is_array();
    let ids = match vocabulary {
        Value::Array(list) => numbered(
            list.iter()
                .map(|entry| Some(entry.get(0)?.as_str()?.to_owned())),
        ),
        map => id_map(map),
    }?;
    // Files of early versions do not name their model.
    let guess = match (is_list, merges.is_empty()) {
        (true, _) => "Unigram",
        (false, false) => "BPE",
        (false, true) => "WordPiece",
    };
    Ok(Tokens {
        ids,
        merges,
        kind: kind.unwrap_or_else(|| guess.to_owned()),
    })
}

/// A merge written as `"a b"` or as `["a", "b"]`.
fn merge(value: &Value) -> Result<String, String> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let part = |i: usize| value.get(i).and_then(Value::as_str);
    match (part(0), part(1), part(2)) {
        (Some(a), Some(b), None) => Ok(format!("{a} {b}")),
        _ => Err("expected a merge as \"a b\" or [\"a\", \"b\"], found something else".to_owned()),
    }
}

/// A JSON object of tokens with their ids.
fn id_map(json: Value) -> Result<HashMap<String, u32>, String> {
    let Value::Object(map) = json else {
        return Err("expected an object of tokens with ids, found something else".to_owned());
    };
    check_count(map.len())?;
    map.into_iter()
        .map(|(token, id)| {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            number.map(|id| (token, id)).ok_or_else(|| {
                let shown: String = id.to_string().chars().take(40).collect();
                format!("expected an id between 0 and {}, found {shown}", u32::MAX)
            })
        })
        .collect()
}

/// Tokens whose id is their position; of equal tokens the first counts.
fn numbered(tokens: impl Iterator<Item = Option<String>>) -> Result<HashMap<String, u32>, String> {
    let mut ids = HashMap::new();
    for (id, token) in (0u32..).zip(tokens) {
        check_count(ids.len() + 1)?;
        let token =
            token.ok_or_else(|| format!("expected a token at {id}, found something else"))?;
        ids.entry(token).or_insert(id);
    }
    Ok(ids)
}

fn check_count(n: usize) -> Result<(), String> {
    if n > MAX_TOKENS {
        return Err(format!("more than {MAX_TOKENS} tokens"));
    }
    Ok(())
}

/// SentencePiece, or the base64 lines of tiktoken, which share the file name.
fn tokenizer_model(bytes: &[u8]) -> Result<Tokens, String> {
    match sentencepiece::pieces(bytes) {
        Ok(pieces) => {
            let ids = numbered(pieces.into_iter().map(|piece| Some(piece.text)))?;
            Ok(Tokens {
                ids,
                kind: "sentencepiece".to_owned(),
                ..Tokens::default()
            })
        }
        Err(problem) => {
            let Some(ids) = tiktoken::ids(bytes)? else {
                return Err(problem);
            };
            check_count(ids.len())?;
            let kind = "tiktoken".to_owned();
            Ok(Tokens {
                ids,
                kind,
                ..Tokens::default()
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &[u8])]) -> Result<Option<Vocabulary>, ArtefactError> {
        let contents = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()));
        Vocabulary::read(&Artefacts {
            files: Vec::new(),
            contents: contents.collect(),
            ..Artefacts::default()
        })
    }

    #[test]
    fn merges_as_strings_and_as_pairs_are_the_same() {
        let file = |merges: &str| {
            format!(
                r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "ab": 2}}, "merges": {merges}}},
                "added_tokens": [{{"id": 3, "content": "<s>", "special": true}}]}}"#
            )
        };
        let old = read(&[("tokenizer.json", file(r#"["a b"]"#).as_bytes())])
            .unwrap()
            .unwrap();
        let new = read(&[("tokenizer.json", file(r#"[["a", "b"]]"#).as_bytes())])
            .unwrap()
            .unwrap();
        assert_eq!(old, new);
        assert_eq!(
            (old.kind.as_str(), old.ids["ab"], old.ids["<s>"]),
            ("BPE", 2, 3)
        );
        assert_eq!(old.merges, ["a b"]);
        assert!(old.added[0].special);
    }

    #[test]
    fn a_unigram_list_numbers_its_tokens() {
        let file = br#"{"model": {"vocab": [["<unk>", 0.0], ["x", -1.5]]}}"#;
        let read = read(&[("tokenizer.json", file)]).unwrap().unwrap();
        assert_eq!((read.kind.as_str(), read.ids["x"]), ("Unigram", 1));
    }

    #[test]
    fn vocab_json_takes_its_merges_from_the_file_beside_it() {
        let files: [(&str, &[u8]); 2] = [
            ("vocab.json", br#"{"a": 0, "b": 1}"#),
            ("merges.txt", b"#version: 0.2\na b\n"),
        ];
        let read = read(&files).unwrap().unwrap();
        assert_eq!(read.merges, ["a b"]);
        assert_eq!(read.file, "vocab.json");
    }

    #[test]
    fn vocab_txt_numbers_its_lines() {
        let read = read(&[("vocab.txt", b"[PAD]\n[UNK]\nthe\n")])
            .unwrap()
            .unwrap();
        assert_eq!((read.kind.as_str(), read.ids["the"]), ("WordPiece", 2));
    }

    #[test]
    fn tiktoken_lines_become_byte_level_tokens() {
        // "IHRoZQ==" is " the".
        let read = read(&[("tokenizer.model", b"IQ== 0\nIHRoZQ== 7\n")])
            .unwrap()
            .unwrap();
        assert_eq!(
            (read.kind.as_str(), read.ids["!"], read.ids["Ġthe"]),
            ("tiktoken", 0, 7)
        );
    }

    #[test]
    fn a_sentencepiece_model_numbers_its_pieces() {
        let file = b"\x0a\x07\x0a\x05<unk>\x0a\x03\x0a\x01a";
        let read = read(&[("tokenizer.model", file)]).unwrap().unwrap();
        assert_eq!((read.kind.as_str(), read.ids["a"]), ("sentencepiece", 1));
    }

    #[test]
    fn a_tokenizer_in_the_weights_file_is_read_where_no_other_file_holds_one() {
        use crate::arch::artefact::{EmbeddedToken, EmbeddedTokenizer};
        let mut artefacts = Artefacts {
            embedded_tokenizer: Some(EmbeddedTokenizer {
                file: "m.gguf".to_owned(),
                kind: "BPE".to_owned(),
                tokens: vec!["a".to_owned(), "b".to_owned(), "<s>".to_owned()],
                merges: vec!["a b".to_owned()],
                added: vec![EmbeddedToken {
                    id: 2,
                    text: "<s>".to_owned(),
                    special: true,
                }],
                special: [("bos_token".to_owned(), "<s>".to_owned())].into(),
                chat_template: Some("T".to_owned()),
                ..EmbeddedTokenizer::default()
            }),
            ..Artefacts::default()
        };
        let read = Vocabulary::read(&artefacts).unwrap().unwrap();
        assert_eq!((read.ids["b"], read.file.as_str()), (1, "m.gguf"));
        assert_eq!(read.merges, ["a b"]);
        assert_eq!((read.added[0].id, read.added[0].special), (2, true));
        assert_eq!(read.special["bos_token"], "<s>");
        assert_eq!(read.chat_template.as_deref(), Some("T"));
        artefacts
            .contents
            .insert("vocab.txt".to_owned(), b"x\n".to_vec());
        let read = Vocabulary::read(&artefacts).unwrap().unwrap();
        assert_eq!(read.file, "vocab.txt");
    }

    #[test]
    fn no_tokenizer_is_none_and_a_broken_one_is_an_error() {
        assert!(read(&[("config.json", b"{}")]).unwrap().is_none());
        let broken: [(&str, &[u8]); 8] = [
            ("tokenizer.json", b"{}"),
            ("tokenizer.json", b"[1, 2]"),
            ("tokenizer.json", br#"{"model": {"vocab": {"a": -1}}}"#),
            (
                "tokenizer.json",
                br#"{"model": {"vocab": {"a": 4294967296}}}"#,
            ),
            ("tokenizer.json", br#"{"model": {"vocab": [[1, 2]]}}"#),
            (
                "tokenizer.json",
                br#"{"model": {"vocab": {}, "merges": [["a"]]}}"#,
            ),
            ("vocab.json", b"\xff"),
            ("tokenizer.model", b"\x0a\xff\xff\x03"),
        ];
        for (file, bytes) in broken {
            let error = read(&[(file, bytes)]).unwrap_err();
            assert_eq!(error.file, file);
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let deep = "[".repeat(1_000_000);
        assert!(read(&[("tokenizer.json", deep.as_bytes())]).is_err());
    }
}

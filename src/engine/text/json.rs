//! `tokenizer.json`, and what every source has in common: parts written as JSON, added tokens, and what is
//! put around a text.

use super::guard::{self, wrong};
use super::settings::{self, Settings};
use super::{Built, spm_file};
use crate::arch::artefact::Artefacts;
use crate::engine::EngineError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

/// The file.
pub(super) const FILE: &str = "tokenizer.json";
/// How many times longer a text may become under the normalizers; published ones do not lengthen it.
const MAX_GROWTH: f64 = 4096.0;

/// What is looked at before the crate reads the file; the vocabulary is stepped over.
#[derive(Deserialize)]
struct Shape {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: ModelShape,
}

#[derive(Deserialize, Default)]
struct ModelShape {
    #[serde(default)]
    dropout: Option<f64>,
}

/// Reads the file.
pub(super) fn read(artefacts: &Artefacts, settings: &Settings) -> Result<Built, EngineError> {
    let text = artefacts.text(FILE)?.unwrap_or_default();
    let shape: Shape = serde_json::from_str(text).map_err(|e| wrong(FILE, e.to_string()))?;
    if let Some(dropout) = shape.model.dropout.filter(|&chance| chance != 0.0) {
        let message = format!("expected a tokenizer without chance, found dropout {dropout}");
        return Err(wrong(FILE, message));
    }
    let mut growth = 1.0;
    for part in [&shape.normalizer, &shape.pre_tokenizer, &shape.decoder] {
        check_part(part, &mut growth)?;
    }
    if !(growth <= MAX_GROWTH) {
        let message = format!("its replacements lengthen a text up to {growth:e} times");
        return Err(wrong(FILE, message));
    }
    let mut inner = guard::run(FILE, "the tokenizer", || Tokenizer::from_bytes(text))?;
    add_tokens(&mut inner, settings)?;
    let states_ends =
        settings.flag("add_bos_token").is_some() || settings.flag("add_eos_token").is_some();
    if states_ends || inner.get_post_processor().is_none() {
        let flag = |key: &str| settings.flag(key).unwrap_or(false);
        let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
        put_around(&mut inner, settings, FILE, bos, eos)?;
    }
    Ok(Built {
        inner,
        file: FILE.to_owned(),
    })
}

/// Walks normalizers, pre-tokenizers and decoders: refuses maps that would be read out of bounds and
/// chains of replacements that would fill memory.
fn check_part(part: &Value, growth: &mut f64) -> Result<(), EngineError> {
    match part {
        Value::Array(list) => list.iter().try_for_each(|part| check_part(part, growth)),
        Value::Object(map) => {
            if let Some(encoded) = map.get("precompiled_charsmap").and_then(Value::as_str) {
                let bytes = base64(encoded)
                    .ok_or_else(|| wrong(FILE, "precompiled_charsmap: expected base64"))?;
                spm_file::check_charsmap(&bytes)
                    .map_err(|problem| wrong(FILE, format!("precompiled_charsmap: {problem}")))?;
            }
            for key in ["content", "prepend"] {
                let written = map.get(key).and_then(Value::as_str).unwrap_or_default();
                // A literal pattern divides; a regular expression may match one character or none.
                let literal = map.get("pattern").and_then(|p| p.get("String"));
                let taken = literal.and_then(Value::as_str).map_or(0, str::len);
                let factor = written.len() as f64 / taken.max(1) as f64;
                *growth *= if taken == 0 { factor + 1.0 } else { factor }.max(1.0);
            }
            map.values().try_for_each(|part| check_part(part, growth))
        }
        _ => Ok(()),
    }
}

/// The bytes of standard base64; `None` where it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xf_ffff;
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
        }
    }
    Some(bytes)
}

/// A part of a tokenizer, written as in a `tokenizer.json`.
pub(super) fn part<T: DeserializeOwned>(file: &str, written: Value) -> Result<T, EngineError> {
    guard::run(file, "a part of the tokenizer", || {
        serde_json::from_value(written)
    })
}

/// Adds what the small files state: added tokens with their flags, and special tokens that are in no list.
pub(super) fn add_tokens(inner: &mut Tokenizer, settings: &Settings) -> Result<(), EngineError> {
    let is_new: Vec<bool> = settings
        .added
        .iter()
        .map(|added| inner.token_to_id(&added.token.content).is_none())
        .collect();
    // All at once: each call builds the search over all added tokens anew.
    let tokens: Vec<AddedToken> = settings.added.iter().map(|a| a.token.clone()).collect();
    guard::run(settings::CONFIG, "added tokens", || {
        inner.add_tokens(tokens)
    })?;
    for (added, is_new) in settings.added.iter().zip(is_new) {
        let text = &added.token.content;
        let found = inner.token_to_id(text);
        if is_new && !text.is_empty() && found != Some(added.id) {
            let message = format!(
                "the added token {text:?}: expected the id {}, found that the vocabulary's next is {}",
                added.id,
                found.map_or("none".to_owned(), |id| id.to_string())
            );
            return Err(wrong(settings::CONFIG, message));
        }
    }
    let known = inner.get_added_tokens_decoder();
    let missing: Vec<AddedToken> = settings
        .specials()
        .filter(|(_, text)| !text.is_empty())
        .filter(|(_, text)| known.values().all(|token| token.content != *text))
        .map(|(_, text)| AddedToken::from(text, true))
        .collect();
    guard::run(settings::CONFIG, "special tokens", || {
        inner.add_special_tokens(missing)
    })?;
    Ok(())
}

/// Puts the tokens that begin and end a sequence around every text, where the settings name them.
pub(super) fn put_around(
    inner: &mut Tokenizer,
    settings: &Settings,
    file: &str,
    bos: bool,
    eos: bool,
) -> Result<(), EngineError> {
    let id = |key: &str| {
        let text = settings.special(key)?;
        Some((text.to_owned(), inner.token_to_id(text)?))
    };
    let before = id("bos_token").filter(|_| bos);
    let after = id("eos_token").filter(|_| eos);
    let special = |(text, _): &(String, u32)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let mut single: Vec<Value> = before.iter().map(special).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(after.iter().map(special));
    let tokens: serde_json::Map<String, Value> = before
        .iter()
        .chain(&after)
        .map(|(text, id)| {
            let token = json!({"id": text, "ids": [id], "tokens": [text]});
            (text.clone(), token)
        })
        .collect();
    let template: PostProcessorWrapper = part(
        file,
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": tokens,
        }),
    )?;
    inner.with_post_processor(Some(template));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Built, EngineError> {
        let mut artefacts = Artefacts::default();
        let bytes = text.as_bytes().to_vec();
        artefacts.contents.insert(FILE.to_owned(), bytes);
        read(&artefacts, &Settings::default())
    }

    fn with(key: &str, part: &Value) -> String {
        let mut file = json!({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        });
        file[key] = part.clone();
        file.to_string()
    }

    #[test]
    fn base64_is_read_and_other_text_is_none() {
        assert_eq!(base64("IHRoZQ==").unwrap(), b" the");
        assert_eq!(base64("AAECAwQ=").unwrap(), [0, 1, 2, 3, 4]);
        assert!(base64("a b").is_none());
    }

    #[test]
    fn a_tokenizer_that_throws_dice_is_refused() {
        let model = json!({"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []});
        let error = read_text(&with("model", &model)).unwrap_err().to_string();
        assert!(error.contains("dropout"), "{error}");
    }

    #[test]
    fn replacements_that_would_fill_memory_are_refused() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let many = json!({"type": "Sequence", "normalizers": vec![double; 60]});
        let error = read_text(&with("normalizer", &many)).unwrap_err();
        assert!(error.to_string().contains("lengthen"), "{error}");
    }

    #[test]
    fn a_map_that_reads_out_of_bounds_is_refused() {
        // States a trie of 4 GiB; then one of a single unit whose children lie beyond it.
        for encoded in ["/P///w==", "BAAAAP///wAA"] {
            let part = json!({"type": "Precompiled", "precompiled_charsmap": encoded});
            let error = read_text(&with("normalizer", &part)).unwrap_err();
            assert!(
                error.to_string().contains("precompiled_charsmap"),
                "{error}"
            );
        }
    }

    #[test]
    fn files_that_are_no_tokenizer_are_errors_that_name_them() {
        for text in ["", "{}", "[1]", "{\"model\": {\"type\": \"BPE\"}}", "\u{0}"] {
            let error = read_text(text).err().unwrap().to_string();
            assert!(error.starts_with("tokenizer.json: "), "{error}");
        }
    }
}

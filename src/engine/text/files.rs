//! `vocab.json` and `merges.txt`: byte-level BPE as GPT-2 was published.
//!
//! The files do not say how words are cut; the tokenizer's class does. Classes that are not known here are
//! refused by name.

use super::guard::{self, wrong};
use super::settings::Settings;
use super::{Built, gguf_pre, json};
use crate::arch::artefact::Artefacts;
use crate::engine::EngineError;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Tokens and their ids.
pub(super) const VOCAB: &str = "vocab.json";
/// Merges, one a line.
pub(super) const MERGES: &str = "merges.txt";

/// Reads both files.
pub(super) fn read(artefacts: &Artefacts, settings: &Settings) -> Result<Built, EngineError> {
    let Some(merges) = artefacts.text(MERGES)? else {
        return Err(wrong(MERGES, format!("expected it beside {VOCAB}")));
    };
    let merges = split_merges(
        MERGES,
        merges.lines().filter(|l| !l.starts_with("#version")),
    )?;
    let text = artefacts.text(VOCAB)?.unwrap_or_default();
    let vocab: std::collections::HashMap<String, u32> =
        serde_json::from_str(text).map_err(|e| wrong(VOCAB, e.to_string()))?;
    let class = settings.class().trim_end_matches("Fast");
    let words = match (class, settings.model_type.as_str()) {
        ("GPT2Tokenizer", _) | ("", "gpt2") => "gpt-2",
        ("Qwen2Tokenizer", _) | ("", "qwen2" | "qwen3") => "qwen2",
        (class, model_type) => {
            return Err(wrong(
                VOCAB,
                format!(
                    "expected a tokenizer_class that says how words are cut (GPT2Tokenizer, \
                     Qwen2Tokenizer), found {class:?} for the model type {model_type:?}"
                ),
            ));
        }
    };
    let mut settings = settings.clone();
    for key in ["bos_token", "eos_token", "unk_token"] {
        // Qwen has no token that begins a sequence.
        if words == "gpt-2" || key != "bos_token" {
            settings.default_special(key, "<|endoftext|>");
        }
    }
    let add_prefix_space = settings.flag("add_prefix_space").unwrap_or(false);
    let vocab: Vocab = vocab.into_iter().collect();
    let mut inner = byte_level(VOCAB, vocab, merges, words, add_prefix_space)?;
    json::add_tokens(&mut inner, &settings)?;
    let flag = |key: &str| settings.flag(key).unwrap_or(false);
    let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
    json::put_around(&mut inner, &settings, VOCAB, bos, eos)?;
    Ok(Built {
        inner,
        file: VOCAB.to_owned(),
    })
}

/// `left right` for every merge. A space cannot be part of either: byte-level text has none.
pub(super) fn split_merges<'a>(
    file: &str,
    lines: impl Iterator<Item = &'a str>,
) -> Result<Vec<(String, String)>, EngineError> {
    lines
        .filter(|line| !line.is_empty())
        .map(|line| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(wrong(
                file,
                format!("expected a merge `left right`, found {line:?}"),
            )),
        })
        .collect()
}

/// Byte-level BPE with llama.cpp's name for how words are cut.
pub(super) fn byte_level(
    file: &str,
    vocab: Vocab,
    merges: Vec<(String, String)>,
    words: &str,
    add_prefix_space: bool,
) -> Result<Tokenizer, EngineError> {
    let known = gguf_pre::find(words).ok_or_else(|| {
        wrong(
            file,
            format!("expected a way to cut words that is known, found {words:?}"),
        )
    })?;
    let bpe = guard::run(file, "vocabulary and merges", || {
        BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(known.ignore_merges)
            .build()
    })?;
    let mut inner = Tokenizer::new(bpe);
    if known.is_nfc {
        let nfc: NormalizerWrapper = json::part(file, json!({"type": "NFC"}))?;
        guard::run(file, "the normalizer", || {
            inner.with_normalizer(Some(nfc)).map(|_| ())
        })?;
    }
    let mut cutters: Vec<serde_json::Value> = Vec::new();
    if add_prefix_space {
        // The space comes before words are cut, which only GPT-2's own cutter can do in this order.
        if words != "gpt-2" {
            return Err(wrong(
                file,
                format!("add_prefix_space with words cut as {words}"),
            ));
        }
    } else {
        cutters.extend(known.patterns.iter().map(|pattern| {
            json!({
                "type": "Split", "pattern": {"Regex": pattern},
                "behavior": "Isolated", "invert": false
            })
        }));
    }
    cutters.push(json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space,
        "trim_offsets": true, "use_regex": add_prefix_space
    }));
    let sequence = json!({"type": "Sequence", "pretokenizers": cutters});
    let sequence: PreTokenizerWrapper = json::part(file, sequence)?;
    inner.with_pre_tokenizer(Some(sequence));
    let decoder = json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
    });
    let decoder: DecoderWrapper = json::part(file, decoder)?;
    inner.with_decoder(Some(decoder));
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_two_words_a_line() {
        let read = split_merges("m", ["a b", "", "ab c"].into_iter()).unwrap();
        assert_eq!(read.len(), 2);
        for line in ["a", "a b c"] {
            let error = split_merges("merges.txt", [line].into_iter()).unwrap_err();
            assert!(error.to_string().starts_with("merges.txt: "), "{error}");
        }
    }
}

//! The tokenizer that a GGUF file carries, in the terms of a `tokenizer.json`.
//!
//! Token texts are kept as stored: byte-level tokens in GPT-2's alphabet, SentencePiece's with `▁`. Only
//! WordPiece is turned back: llama.cpp writes `▁the` for `the` and `ing` for `##ing`.

use super::super::tokenizer::{EmbeddedToken, EmbeddedTokenizer};
use super::metadata::Metadata;

/// The keys of special tokens, ours and llama.cpp's.
const SPECIAL: &[(&str, &str)] = &[
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("unk_token", "unknown_token_id"),
    ("sep_token", "seperator_token_id"),
    ("pad_token", "padding_token_id"),
    ("cls_token", "cls_token_id"),
    ("mask_token", "mask_token_id"),
];

/// Keys of tokens that end a turn or a message, beside the one that ends a sequence.
const ENDS: &[&str] = &["eot_token_id", "eom_token_id"];

/// Kinds of tokens (`tokenizer.ggml.token_type`) that stand beside the trained vocabulary.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Takes the token lists out of the metadata, which they make up almost entirely.
pub(super) fn take(
    metadata: &mut Metadata,
    file: &str,
    notes: &mut Vec<String>,
) -> Option<EmbeddedTokenizer> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let model = metadata.text(&key("model"))?.to_owned();
    let mut tokens = metadata.texts(&key("tokens"))?.to_vec();
    if model == "bert" {
        tokens = tokens.iter().map(|token| wordpiece(token)).collect();
    }
    let types = metadata.wholes(&key("token_type")).unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        notes.push(format!(
            "{}: {} entries for {} tokens",
            key("token_type"),
            types.len(),
            tokens.len()
        ));
    }
    let added = (0u32..)
        .zip(&tokens)
        .zip(types)
        .filter(|(_, kind)| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
        .map(|((id, text), kind)| EmbeddedToken {
            id,
            text: text.clone(),
            special: *kind != USER_DEFINED,
        })
        .collect();
    let mut special = std::collections::BTreeMap::new();
    for (name, id_key) in SPECIAL {
        let Some(id) = metadata.whole(&key(id_key)) else {
            continue;
        };
        match usize::try_from(id).ok().and_then(|id| tokens.get(id)) {
            Some(text) => {
                special.insert((*name).to_owned(), text.clone());
            }
            None => notes.push(format!(
                "{}: expected the id of one of {} tokens, found {id}",
                key(id_key),
                tokens.len()
            )),
        }
    }
    let end_tokens = ENDS
        .iter()
        .filter_map(|name| usize::try_from(metadata.whole(&key(name))?).ok())
        .filter_map(|id| tokens.get(id).cloned())
        .collect();
    let charsmap = metadata.wholes(&key("precompiled_charsmap"));
    // Signed and unsigned bytes are both in circulation.
    let charsmap = charsmap.unwrap_or_default().iter().map(|&byte| byte as u8);
    let kind = match model.as_str() {
        "llama" => "sentencepiece",
        "gpt2" => "BPE",
        "bert" => "WordPiece",
        "t5" => "Unigram",
        other => other,
    };
    let found = EmbeddedTokenizer {
        file: file.to_owned(),
        kind: kind.to_owned(),
        merges: metadata.texts(&key("merges")).unwrap_or_default().to_vec(),
        scores: metadata.floats(&key("scores")).unwrap_or_default().to_vec(),
        kinds: types.to_vec(),
        pre: metadata.text(&key("pre")).map(str::to_owned),
        add_bos: metadata.flag(&key("add_bos_token")),
        add_eos: metadata.flag(&key("add_eos_token")),
        add_space_prefix: metadata.flag(&key("add_space_prefix")),
        remove_extra_whitespaces: metadata.flag(&key("remove_extra_whitespaces")),
        charsmap: charsmap.collect(),
        end_tokens,
        tokens,
        added,
        special,
        chat_template: metadata.text("tokenizer.chat_template").map(str::to_owned),
    };
    for name in [
        "tokens",
        "merges",
        "scores",
        "token_type",
        "precompiled_charsmap",
    ] {
        metadata.entries.remove(&key(name));
    }
    Some(found)
}

/// WordPiece's own spelling of a token.
fn wordpiece(token: &str) -> String {
    if token.starts_with('[') && token.ends_with(']') {
        return token.to_owned();
    }
    match token.strip_prefix('▁') {
        Some(word) => word.to_owned(),
        None => format!("##{token}"),
    }
}

//! The tokenizer within a GGUF file, as llama.cpp reads it.
//!
//! Tokens of the kinds control, unknown and user-defined are found in the raw text, whatever surrounds
//! them; the rest goes through SentencePiece's BPE (`llama`), Unigram (`t5`) or byte-level BPE (`gpt2`).

use super::guard::{self, wrong};
use super::settings::Settings;
use super::spm_file::{self, Algorithm, Kind, Piece, SpmModel};
use super::{Built, files, gguf_pre, json, spm};
use crate::arch::artefact::EmbeddedTokenizer;
use crate::engine::EngineError;
use std::collections::HashMap;
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

/// Turns what the file carries into a tokenizer.
pub(super) fn read(
    embedded: &EmbeddedTokenizer,
    settings: &Settings,
) -> Result<Built, EngineError> {
    let file = embedded.file.as_str();
    if u32::try_from(embedded.tokens.len()).is_err() {
        return Err(wrong(file, "more tokens than there are ids"));
    }
    let mut ids = HashMap::with_capacity(embedded.tokens.len());
    for (id, text) in (0u32..).zip(&embedded.tokens) {
        if let Some(first) = ids.insert(text.clone(), id) {
            let message = format!("tokenizer.ggml.tokens: {text:?} is both {first} and {id}");
            return Err(wrong(file, message));
        }
    }
    let (mut inner, add_bos, add_eos) = match embedded.kind.as_str() {
        "sentencepiece" => {
            let model = spm_model(embedded, Algorithm::Bpe, &ids)?;
            (spm::build(file, &model, true)?, true, false)
        }
        "Unigram" => {
            let model = spm_model(embedded, Algorithm::Unigram, &ids)?;
            (spm::build(file, &model, true)?, false, true)
        }
        "BPE" => {
            let name = embedded.pre.as_deref().unwrap_or("default");
            let merges = embedded.merges.iter().map(String::as_str);
            let merges = files::split_merges(file, merges)?;
            let vocab: Vocab = ids.into_iter().collect();
            let inner = files::byte_level(file, vocab, merges, name, false)?;
            let add_bos = gguf_pre::find(name).is_some_and(|words| words.add_bos);
            (inner, add_bos, false)
        }
        other => {
            let expected =
                "expected a tokenizer of SentencePiece (llama, t5) or byte-level BPE (gpt2)";
            return Err(wrong(file, format!("{expected}, found {other:?}")));
        }
    };
    let added = embedded.added.iter();
    let added = added
        .filter(|token| !token.text.is_empty())
        .map(|token| AddedToken::from(token.text.clone(), token.special).normalized(false));
    let added: Vec<AddedToken> = added.collect();
    guard::run(file, "its special tokens", || inner.add_tokens(added))?;
    let bos = embedded.add_bos.unwrap_or(add_bos);
    let eos = embedded.add_eos.unwrap_or(add_eos);
    json::put_around(&mut inner, settings, file, bos, eos)?;
    Ok(Built {
        inner,
        file: file.to_owned(),
    })
}

/// The SentencePiece model that the converter took apart.
fn spm_model(
    embedded: &EmbeddedTokenizer,
    algorithm: Algorithm,
    ids: &HashMap<String, u32>,
) -> Result<SpmModel, EngineError> {
    let file = embedded.file.as_str();
    let n = embedded.tokens.len();
    for (name, found) in [
        ("scores", embedded.scores.len()),
        ("token_type", embedded.kinds.len()),
    ] {
        if found != n {
            let message = format!("tokenizer.ggml.{name}: expected {n} entries, found {found}");
            return Err(wrong(file, message));
        }
    }
    let mut pieces = Vec::with_capacity(n);
    for (id, text) in embedded.tokens.iter().enumerate() {
        let (score, number) = (embedded.scores[id], embedded.kinds[id]);
        let kind = Kind::from_number(number).filter(|_| score.is_finite());
        let kind = kind.ok_or_else(|| {
            let expected = format!("expected a score and a type from 1 to 6 for the token {id}");
            wrong(file, format!("{expected}, found {score} and {number}"))
        })?;
        pieces.push(Piece {
            text: text.clone(),
            score,
            // Found in the raw text, together with the special ones.
            kind: match kind {
                Kind::UserDefined => Kind::Unused,
                kind => kind,
            },
        });
    }
    let id = |key: &str| ids.get(embedded.special.get(key)?).copied();
    let model = SpmModel {
        algorithm,
        byte_fallback: pieces.iter().any(|piece| piece.kind == Kind::Byte),
        pieces,
        unk_id: id("unk_token").unwrap_or(0),
        bos_id: id("bos_token"),
        eos_id: id("eos_token"),
        charsmap: embedded.charsmap.clone(),
        add_dummy_prefix: embedded.add_space_prefix.unwrap_or(true),
        remove_extra_whitespaces: embedded.remove_extra_whitespaces.unwrap_or(false),
        escape_whitespaces: true,
    };
    model.check().map_err(|problem| wrong(file, problem))?;
    if !model.charsmap.is_empty() {
        spm_file::check_charsmap(&model.charsmap)
            .map_err(|problem| wrong(file, format!("precompiled_charsmap: {problem}")))?;
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::artefact::Artefacts;
    use crate::engine::text::Tokenizer;

    fn open(embedded: EmbeddedTokenizer) -> Result<Tokenizer, EngineError> {
        let artefacts = Artefacts {
            embedded_tokenizer: Some(embedded),
            ..Artefacts::default()
        };
        Tokenizer::read(&artefacts, None)
    }

    fn spm(tokens: &[&str]) -> EmbeddedTokenizer {
        EmbeddedTokenizer {
            file: "m.gguf".to_owned(),
            kind: "sentencepiece".to_owned(),
            tokens: tokens.iter().map(|text| (*text).to_owned()).collect(),
            scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
            kinds: vec![1; tokens.len()],
            ..EmbeddedTokenizer::default()
        }
    }

    #[test]
    fn the_best_score_is_merged_first() {
        let made = open(spm(&["<unk>", "a", "b", "c", "▁", "bc", "ab"])).unwrap();
        assert_eq!(made.encode("abc", false).unwrap(), [4, 1, 5]);
        assert_eq!(made.decode(&[4, 1, 5], false).unwrap(), "abc");
    }

    #[test]
    fn files_that_contradict_themselves_are_refused_by_key() {
        let mut short = spm(&["<unk>", "a"]);
        short.scores.pop();
        let mut wild = spm(&["<unk>", "a"]);
        wild.kinds[1] = 99;
        let mut nan = spm(&["<unk>", "a"]);
        nan.scores[1] = f32::NAN;
        let mut odd = spm(&["<unk>", "a"]);
        odd.kind = "rwkv".to_owned();
        let mut named = spm(&["a", "b"]);
        (named.kind, named.pre) = ("BPE".to_owned(), Some("made-up".to_owned()));
        let mut merges = spm(&["a", "b"]);
        (merges.kind, merges.merges) = ("BPE".to_owned(), vec!["a x".to_owned()]);
        for (embedded, told) in [
            (short, "tokenizer.ggml.scores"),
            (wild, "found -1 and 99"),
            (nan, "NaN"),
            (spm(&["<unk>", "a", "a"]), "both 1 and 2"),
            (odd, "rwkv"),
            (named, "made-up"),
            (merges, "out of vocabulary"),
        ] {
            let message = open(embedded).unwrap_err().to_string();
            assert!(
                message.starts_with("m.gguf: ") && message.contains(told),
                "{message}"
            );
        }
    }
}

//! `tokenizer.model`: a SentencePiece model turned into the same tokenizer of the crate `tokenizers`.
//!
//! Ids are those of `SentencePieceProcessor::encode`, which the model was trained with; what stands around
//! and between texts (special tokens, the token that begins a sequence) is as `transformers` does it. Its
//! `LlamaTokenizer` differs from both in one point that is not followed here: since version 5 it takes the
//! ranks of merges from the ids and swallows a leading space.

use super::Built;
use super::guard::{self, wrong};
use super::json;
use super::settings::Settings;
use super::spm_file::{self, Algorithm, Kind, SpmModel};
use crate::arch::artefact::Artefacts;
use crate::engine::EngineError;
use serde_json::json;
use std::collections::HashSet;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper, Tokenizer};

/// The file.
pub(super) const FILE: &str = "tokenizer.model";
/// Bytes compared when merges are derived: the sum of squared lengths of pieces. A vocabulary of 256,000
/// pieces takes 2²⁴.
const MAX_WORK: usize = 1 << 31;
/// User-defined pieces, which end up in one regular expression.
const MAX_USER_DEFINED: usize = 1 << 14;
/// Classes that put the token that begins a sequence before a text unless the config says otherwise.
const BEGIN_WITH_BOS: &[&str] = &["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"];
/// Model types for which `transformers` picks such a class where the config names none.
const LLAMA_LIKE: &[&str] = &[
    "llama",
    "mistral",
    "mixtral",
    "gemma",
    "gemma2",
    "code_llama",
];
/// Classes that end every text.
const END_WITH_EOS: &[&str] = &["T5Tokenizer"];

/// Reads the file.
pub(super) fn read(artefacts: &Artefacts, settings: &Settings) -> Result<Built, EngineError> {
    let bytes = artefacts.contents.get(FILE).map(Vec::as_slice);
    let mut model = spm_file::read(bytes.unwrap_or_default()).map_err(|problem| {
        let expected = "expected a SentencePiece model of the type Unigram or BPE";
        wrong(FILE, format!("{expected}, found {problem}"))
    })?;
    let mut settings = settings.clone();
    rename(&mut model, &settings);
    for (key, id) in [
        ("bos_token", model.bos_id),
        ("eos_token", model.eos_id),
        ("unk_token", Some(model.unk_id)),
    ] {
        if let Some(piece) = id.and_then(|id| model.pieces.get(id as usize)) {
            settings.default_special(key, &piece.text);
        }
    }
    // Added tokens are found in the raw text, so that what follows one gets its own dummy prefix.
    if model.add_dummy_prefix {
        for added in &mut settings.added {
            added.token.normalized = false;
        }
    }
    let legacy = settings.flag("legacy").unwrap_or(true);
    let mut inner = build(FILE, &model, legacy)?;
    json::add_tokens(&mut inner, &settings)?;
    let class = settings.class().trim_end_matches("Fast");
    let is_one_of = |list: &[&str]| list.contains(&class);
    let bos = settings.flag("add_bos_token").unwrap_or_else(|| {
        let by_model = class.is_empty() && LLAMA_LIKE.contains(&settings.model_type.as_str());
        is_one_of(BEGIN_WITH_BOS) || by_model
    });
    let eos = settings.flag("add_eos_token");
    let eos = eos.unwrap_or_else(|| is_one_of(END_WITH_EOS));
    json::put_around(&mut inner, &settings, FILE, bos, eos)?;
    Ok(Built {
        inner,
        file: FILE.to_owned(),
    })
}

/// Gives pieces the names that the config's added tokens have for their ids; placeholders of the trainer
/// were put to use so. A name that is taken stays where it is.
fn rename(model: &mut SpmModel, settings: &Settings) {
    let mut taken: HashSet<String> = model.pieces.iter().map(|p| p.text.clone()).collect();
    for added in &settings.added {
        if let Some(piece) = model.pieces.get_mut(added.id as usize)
            && taken.insert(added.token.content.clone())
        {
            piece.text.clone_from(&added.token.content);
        }
    }
}

/// The tokenizer of a model, without anything around a text. `legacy`: every text between special tokens
/// begins like a word of its own, not only the first.
pub(super) fn build(file: &str, model: &SpmModel, legacy: bool) -> Result<Tokenizer, EngineError> {
    let user_defined: Vec<&str> = texts(model, Kind::UserDefined).collect();
    if user_defined.len() > MAX_USER_DEFINED {
        let message = format!("more than {MAX_USER_DEFINED} user-defined pieces");
        return Err(wrong(file, message));
    }
    let mut inner = match model.algorithm {
        Algorithm::Bpe => bpe(file, model, !user_defined.is_empty())?,
        Algorithm::Unigram => {
            let scored = |piece: &spm_file::Piece| (piece.text.clone(), f64::from(piece.score));
            let vocab = model.pieces.iter().map(scored).collect();
            Tokenizer::new(guard::run(file, "the pieces", || {
                Unigram::from(vocab, Some(model.unk_id as usize), model.byte_fallback)
            })?)
        }
    };
    let mut normalizers = Vec::new();
    if !model.charsmap.is_empty() {
        let map = guard::run(file, "precompiled_charsmap", || {
            Precompiled::from(&model.charsmap)
        })?;
        normalizers.push(NormalizerWrapper::from(map));
    }
    let mut replace = |pattern: serde_json::Value, content: &str| -> Result<(), EngineError> {
        let written = json!({"type": "Replace", "pattern": pattern, "content": content});
        normalizers.push(json::part(file, written)?);
        Ok(())
    };
    if model.remove_extra_whitespaces {
        // At the end SentencePiece looks after spaces have been escaped, so that a written ▁ goes as well.
        let end = if model.escape_whitespaces {
            "[ ▁]"
        } else {
            " "
        };
        replace(json!({"Regex": format!(r"\A +|{end}+\z")}), "")?;
        replace(json!({"Regex": " {2,}"}), " ")?;
    }
    if model.escape_whitespaces {
        replace(json!({"String": " "}), "▁")?;
    }
    if model.add_dummy_prefix && legacy {
        // `Metaspace` adds no prefix to a text that begins with one; SentencePiece does.
        replace(json!({"Regex": r"\A▁"}), "▁▁")?;
    }
    let normalizer = tokenizers::normalizers::Sequence::new(normalizers);
    guard::run(file, "the normalizer", || {
        inner.with_normalizer(Some(normalizer)).map(|_| ())
    })?;
    let mut cutters = Vec::new();
    if model.add_dummy_prefix {
        let scheme = if legacy { "always" } else { "first" };
        cutters.push(json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false
        }));
    }
    if !user_defined.is_empty() {
        // SentencePiece never cuts nor joins these.
        cutters.push(json!({
            "type": "Split", "pattern": {"Regex": any_of(user_defined)},
            "behavior": "Isolated", "invert": false
        }));
    }
    if !cutters.is_empty() {
        let sequence = json!({"type": "Sequence", "pretokenizers": cutters});
        let sequence: PreTokenizerWrapper = json::part(file, sequence)?;
        inner.with_pre_tokenizer(Some(sequence));
    }
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if model.add_dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    let decoder: DecoderWrapper = json::part(file, decoder)?;
    inner.with_decoder(Some(decoder));
    let control = texts(model, Kind::Control).map(|text| AddedToken::from(text, true));
    let control: Vec<AddedToken> = control.collect();
    guard::run(file, "control pieces", || inner.add_special_tokens(control))?;
    Ok(inner)
}

/// Texts of the pieces of one kind.
fn texts(model: &SpmModel, kind: Kind) -> impl Iterator<Item = &str> {
    let pieces = model.pieces.iter().filter(move |piece| piece.kind == kind);
    pieces.map(|piece| piece.text.as_str())
}

/// A regular expression for any of these texts, the longest first.
fn any_of(mut texts: Vec<&str>) -> String {
    texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
    let escaped: Vec<String> = texts
        .iter()
        .map(|text| {
            let special = |c: char| c.is_ascii_punctuation() || c == ' ';
            let escape = |c: char| match special(c) {
                true => format!(r"\x{{{:x}}}", c as u32),
                false => c.to_string(),
            };
            text.chars().map(escape).collect()
        })
        .collect();
    escaped.join("|")
}

/// BPE whose merges follow from the scores: any two pieces whose join is a piece, the best score first.
fn bpe(file: &str, model: &SpmModel, has_user_defined: bool) -> Result<Tokenizer, EngineError> {
    let work: usize = model.pieces.iter().map(|p| p.text.len().pow(2)).sum();
    if work > MAX_WORK {
        return Err(wrong(
            file,
            "pieces that are too long to derive merges from",
        ));
    }
    let normal: HashSet<&str> = texts(model, Kind::Normal).collect();
    let mut ranked = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if piece.kind != Kind::Normal {
            continue;
        }
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if normal.contains(left) && normal.contains(right) {
                ranked.push((piece.score, id, left, right));
            }
        }
    }
    ranked.sort_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0);
        by_score.then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
    });
    let merges: Vec<(String, String)> = ranked
        .into_iter()
        .map(|(_, _, left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let ids = (0u32..).zip(&model.pieces);
    let vocab: Vocab = ids.map(|(id, piece)| (piece.text.clone(), id)).collect();
    let unk = model.pieces.get(model.unk_id as usize);
    let bpe = guard::run(file, "the pieces", || {
        BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(unk.map_or("<unk>".to_owned(), |piece| piece.text.clone()))
            .fuse_unk(true)
            .byte_fallback(model.byte_fallback)
            .ignore_merges(has_user_defined)
            .build()
    })?;
    Ok(Tokenizer::new(bpe))
}

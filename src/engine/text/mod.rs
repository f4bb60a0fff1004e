//! Words to token ids and back, as the model's own tokenizer does it, and chats to prompts.
//!
//! A tokenizer comes from `tokenizer.json`, else `tokenizer.model`, else `vocab.json` with `merges.txt`,
//! else from the weights' own file (GGUF). All four end in one type of the crate `tokenizers`, which does
//! the work; what is ours is how each source is turned into it, and that nothing in a stranger's file makes
//! the program fall over. Chat templates are [`chat`]'s business.
//!
//! Deliberately absent: training, padding, truncation, dropout, pairs of sequences, and what
//! `clean_up_tokenization_spaces` asks for, which destroys spaces that the model wrote.

pub mod chat;
mod files;
mod gguf;
mod gguf_pre;
mod guard;
mod json;
pub(crate) mod protobuf;
mod settings;
mod spm;
mod spm_file;
mod stream;

pub use stream::Stream;

use super::EngineError;
use crate::arch::Model;
use crate::arch::artefact::Artefacts;
use serde_json::Value;
use settings::Settings;
use std::collections::HashSet;

/// Longest text that is encoded at once, in bytes; contexts of millions of tokens are below it.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// The tokenizer of one model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// File that it was read from, relative to the model's root.
    file: String,
    /// `Some` where runs of these ids are bytes that only the whole run turns into characters.
    byte_ids: HashSet<u32>,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model.
    ///
    /// # Errors
    /// [`EngineError::Input`] with the file where it is not what its name says, asks for something that is
    /// not supported, or exceeds a limit; [`EngineError::NotAModel`] where the model has no tokenizer.
    pub fn of(model: &Model) -> Result<Self, EngineError> {
        Self::read(&model.artefacts, model.config.as_ref())
    }

    /// The tokenizer among these files; `config` is the model's.
    pub(crate) fn read(artefacts: &Artefacts, config: Option<&Value>) -> Result<Self, EngineError> {
        let settings = Settings::read(artefacts, config)?;
        let built = if artefacts.contents.contains_key(json::FILE) {
            json::read(artefacts, &settings)?
        } else if artefacts.contents.contains_key(spm::FILE) {
            spm::read(artefacts, &settings)?
        } else if artefacts.contents.contains_key(files::VOCAB) {
            files::read(artefacts, &settings)?
        } else if let Some(embedded) = &artefacts.embedded_tokenizer {
            gguf::read(embedded, &settings)?
        } else {
            return Err(EngineError::NotAModel(format!(
                "no tokenizer: expected {}, {}, {} with {} or one in the weights' file",
                json::FILE,
                spm::FILE,
                files::VOCAB,
                files::MERGES
            )));
        };
        let Built { mut inner, file } = built;
        // Both are for batches of a training loop; `transformers` as well applies them only when asked.
        guard::run(&file, "its padding and truncation", || {
            inner.with_padding(None).with_truncation(None).map(|_| ())
        })?;
        let id = |text: &str| inner.token_to_id(text);
        let bos = settings
            .special("bos_token")
            .and_then(id)
            .or(settings.bos_id);
        let mut eos = settings.eos_ids.clone();
        if eos.is_empty() {
            eos.extend(settings.special("eos_token").and_then(id));
            eos.extend(settings.end_tokens.iter().filter_map(|text| id(text)));
        }
        eos.sort_unstable();
        eos.dedup();
        let byte_ids = (0..=255u8)
            .filter_map(|byte| inner.token_to_id(&format!("<0x{byte:02X}>")))
            .collect();
        Ok(Self {
            inner,
            file,
            byte_ids,
            bos,
            eos,
        })
    }

    /// The ids of a text. `add_special` adds what the repository's tokenizer puts before and after it, such
    /// as the token that begins a sequence. Special tokens within the text are read as such.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text, or the text is longer than 64 MiB.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(EngineError::Request(format!(
                "expected at most {MAX_TEXT_BYTES} bytes of text at once, found {}",
                text.len()
            )));
        }
        let encoding = guard::run(&self.file, "this text", || {
            self.inner.encode_fast(text, add_special)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. `skip_special` leaves special tokens out. Ids without a token are left out: models
    /// are padded to more rows than their tokenizer has tokens.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, EngineError> {
        guard::run(&self.file, "these ids", || {
            self.inner.decode(ids, skip_special)
        })
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// The id of a token, written as the vocabulary writes it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, written as the vocabulary writes it.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    pub fn n_tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids that end a text: those of `generation_config.json`, else `config.json`, else the tokenizer's.
    /// Sorted; empty where nothing states any.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Id of the token that begins a sequence, whether or not `encode` adds it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// File that the tokenizer was read from, relative to the model's root.
    pub fn file(&self) -> &str {
        &self.file
    }
}

/// A tokenizer as a source's reader hands it over.
#[derive(Debug)]
struct Built {
    inner: tokenizers::Tokenizer,
    file: String,
}

#[cfg(test)]
mod tests;

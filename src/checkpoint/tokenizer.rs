//! A tokenizer that a checkpoint file carries with its weights.

use std::collections::BTreeMap;

/// A token of an embedded tokenizer that stands apart from ordinary ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether it steers and is no text (as opposed to text that users added).
    pub special: bool,
}

/// A tokenizer as the checkpoint file states it, in the terms of a `tokenizer.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbeddedTokenizer {
    /// File that holds it, relative to the model's root.
    pub file: String,
    /// `BPE`, `sentencepiece`, `WordPiece`, `Unigram`, else the file's own word.
    pub kind: String,
    /// Token texts; the position is the id.
    pub tokens: Vec<String>,
    /// Merges as `left right`, in order.
    pub merges: Vec<String>,
    /// Tokens beside the trained vocabulary, by id.
    pub added: Vec<EmbeddedToken>,
    /// Special tokens by their key (`bos_token`, …).
    pub special: BTreeMap<String, String>,
    /// The chat template.
    pub chat_template: Option<String>,
}

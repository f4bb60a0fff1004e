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
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Scores of the tokens, by id; empty where there are none.
    pub scores: Vec<f32>,
    /// Kinds of the tokens, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty
    /// where the file states none.
    pub kinds: Vec<i64>,
    /// llama.cpp's name for how words are cut before BPE.
    pub pre: Option<String>,
    /// Whether the token that begins a sequence is put before a text.
    pub add_bos: Option<bool>,
    /// Whether the token that ends a sequence is put after a text.
    pub add_eos: Option<bool>,
    /// Whether a text begins like a word.
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces become one.
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's map of characters and their replacements; empty where there is none.
    pub charsmap: Vec<u8>,
    /// Tokens beside `eos_token` that end a turn or a message.
    pub end_tokens: Vec<String>,
}

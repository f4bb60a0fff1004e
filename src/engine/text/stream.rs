//! Text out of ids that arrive one by one: pieces whose bytes are whole, and never a piece that a later id
//! would change.
//!
//! The pieces joined are what `decode` makes of all ids at once. That takes some holding back: a character
//! may span tokens, a run of byte tokens (`<0x..>`) is text only if the whole run is, and decoders that
//! strip the space before the first word must see a word before every later one.

use super::Tokenizer;
use crate::engine::EngineError;

/// A decoder for one sequence.
#[derive(Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Ids since the start of the window.
    ids: Vec<u32>,
    /// How many of them have been given out. They stay for what they do to those that follow.
    n_given: usize,
    /// Text of the ids that have been given out.
    given: String,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            n_given: 0,
            given: String::new(),
        }
    }

    /// Takes the next id; the text that is known by now and was not given out before, which may be empty.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, EngineError> {
        self.ids.push(id);
        // Byte tokens are judged by runs; only another token ends one.
        if self.tokenizer.byte_ids.contains(&id) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        if text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let Some(new) = text.strip_prefix(&self.given).map(str::to_owned) else {
            // A decoder that rewrites what lies before: more ids may settle it, the end will.
            return Ok(String::new());
        };
        self.move_window(text)?;
        Ok(new)
    }

    /// Starts the window at the ids given out last, once these show as text on their own.
    fn move_window(&mut self, text: String) -> Result<(), EngineError> {
        let last = self.ids.get(self.n_given..).unwrap_or_default();
        let alone = self.tokenizer.decode(last, self.skip_special)?;
        // Byte tokens at the start of a window would be cut off the run that they belong to.
        let begins_with_byte = last
            .first()
            .is_some_and(|id| self.tokenizer.byte_ids.contains(id));
        if alone.is_empty() || begins_with_byte {
            self.n_given = self.ids.len();
            self.given = text;
        } else {
            self.ids.drain(..self.n_given);
            self.n_given = self.ids.len();
            self.given = alone;
        }
        Ok(())
    }

    /// What is still held back, with replacement characters where bytes are no text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, EngineError> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(text
            .strip_prefix(&self.given)
            .map_or_else(String::new, str::to_owned))
    }
}

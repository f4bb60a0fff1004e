//! What a model said after one prompt: its tokens, their text, and why it ended.

use super::stops::Stops;
use crate::engine::EngineError;
use crate::engine::text::Stream;

/// One answer as it grows.
pub(super) struct Said<'a> {
    stream: Stream<'a>,
    stops: Stops<'a>,
    eos: &'a [u32],
    ids: Vec<u32>,
    reason: &'static str,
}

impl<'a> Said<'a> {
    /// Nothing yet. It ends before any of the stop texts, and before any of the tokens `eos`.
    pub fn new(stream: Stream<'a>, stop: &'a [String], eos: &'a [u32]) -> Self {
        Self {
            stream,
            stops: Stops::new(stop),
            eos,
            ids: Vec::new(),
            reason: "max-tokens",
        }
    }

    /// Takes a token; what can be shown since, and whether the text goes on.
    ///
    /// # Errors
    /// When the token is none of the tokenizer's.
    pub fn hear(&mut self, id: u32) -> Result<(String, bool), EngineError> {
        if self.eos.contains(&id) {
            self.reason = "end-of-text";
            return Ok((String::new(), false));
        }
        self.ids.push(id);
        let (text, goes_on) = self.stops.push(&self.stream.push(id)?);
        if !goes_on {
            self.reason = "stop";
        }
        Ok((text, goes_on))
    }

    /// What was held back, and the whole.
    ///
    /// # Errors
    /// When the last tokens have no text.
    pub fn finish(mut self) -> Result<(String, Answer), EngineError> {
        let mut rest = String::new();
        if self.reason != "stop" {
            let (text, goes_on) = self.stops.push(&self.stream.finish()?);
            if !goes_on {
                self.reason = "stop";
            }
            rest = text + &self.stops.rest();
        }
        let answer = Answer {
            ids: self.ids,
            text: self.stops.text().to_owned(),
            reason: self.reason,
        };
        Ok((rest, answer))
    }
}

/// A finished answer.
pub(super) struct Answer {
    /// Tokens, the one that ended the text excluded.
    pub ids: Vec<u32>,
    /// The text, without the stop text.
    pub text: String,
    /// Why it ended: `max-tokens`, `end-of-text` or `stop`.
    pub reason: &'static str,
}

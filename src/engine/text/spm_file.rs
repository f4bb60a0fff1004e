//! A SentencePiece model file: pieces, how it was trained, how text is normalised.
//!
//! A bounds-checked walk over protobuf fields
//! (<https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>). No length that the
//! file states is believed before it is checked; fields that mean nothing here are stepped over.

use super::protobuf::{Field, Fields};
use std::collections::HashSet;

/// Longest file that is read; the largest published ones have 5 MiB.
const MAX_BYTES: usize = 128 << 20;
/// More pieces than any published model has.
const MAX_PIECES: usize = 1 << 21;
/// Longest piece; trainers allow 16 characters unless told otherwise.
const MAX_PIECE_BYTES: usize = 4096;

/// How a model cuts words into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind by its number, which llama.cpp uses as well.
    pub(super) fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// One piece; its id is its position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// The text, with `▁` for a space.
    pub text: String,
    /// ln p (Unigram) or the negative rank of the merge that makes it (BPE).
    pub score: f32,
    pub kind: Kind,
}

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SpmModel {
    pub algorithm: Algorithm,
    pub pieces: Vec<Piece>,
    /// Whether characters without a piece become bytes.
    pub byte_fallback: bool,
    pub unk_id: u32,
    /// `None` where the model has none (-1).
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    /// A trie and its replacements, checked by [`check_charsmap`]; empty for none.
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl Default for SpmModel {
    /// The defaults of the format.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Unigram,
            pieces: Vec::new(),
            byte_fallback: false,
            unk_id: 0,
            bos_id: Some(1),
            eos_id: Some(2),
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

fn read_piece(message: &[u8]) -> Result<Piece, String> {
    let mut found = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
    };
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(text)) => {
                if text.len() > MAX_PIECE_BYTES {
                    return Err(format!("a piece of {} bytes", text.len()));
                }
                let text = std::str::from_utf8(text).map_err(|_| "a piece is not UTF-8")?;
                found.text = text.to_owned();
            }
            (2, Field::Fixed32(bytes)) => found.score = f32::from_le_bytes(bytes),
            (3, Field::Varint(kind)) => {
                found.kind = i64::try_from(kind)
                    .ok()
                    .and_then(Kind::from_number)
                    .ok_or_else(|| format!("a piece of the unknown type {kind}"))?;
            }
            _ => {}
        }
    }
    if !found.score.is_finite() {
        return Err(format!("the piece {:?} has no finite score", found.text));
    }
    Ok(found)
}

/// Protobuf writes a negative `int32` as ten bytes; negative says that there is no such piece.
fn id(value: u64) -> Option<u32> {
    u32::try_from(value).ok()
}

impl SpmModel {
    fn read_trainer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            let Field::Varint(value) = value else {
                continue;
            };
            match number {
                3 => {
                    self.algorithm = match value {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        3 | 4 => return Err("a model of whole words or single characters".into()),
                        other => return Err(format!("the unknown model type {other}")),
                    };
                }
                24 if value != 0 => return Err("spaces after words, not before them".into()),
                35 => self.byte_fallback = value != 0,
                40 => {
                    self.unk_id = id(value).ok_or("no piece for the unknown")?;
                }
                41 => self.bos_id = id(value),
                42 => self.eos_id = id(value),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Field::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Field::Varint(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Varint(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Field::Varint(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        if !self.charsmap.is_empty() {
            check_charsmap(&self.charsmap)?;
        }
        Ok(())
    }

    /// Refuses what no trainer writes: pieces twice, ids beyond the pieces.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.pieces.is_empty() {
            return Err("expected SentencePiece pieces, found none".to_owned());
        }
        let mut seen = HashSet::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            if !seen.insert(&piece.text) {
                return Err(format!("the piece {:?} is there twice", piece.text));
            }
        }
        let n = self.pieces.len();
        for id in [Some(self.unk_id), self.bos_id, self.eos_id] {
            if id.is_some_and(|id| id as usize >= n) {
                return Err(format!(
                    "expected the id of one of {n} pieces, found {id:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Reads a model file.
///
/// # Errors
/// What is wrong with the bytes, or what they ask for that is not supported.
pub(super) fn read(bytes: &[u8]) -> Result<SpmModel, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("a file of {} bytes", bytes.len()));
    }
    let mut model = SpmModel::default();
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(message)) => {
                if model.pieces.len() == MAX_PIECES {
                    return Err(format!("more than {MAX_PIECES} pieces"));
                }
                model.pieces.push(read_piece(message)?);
            }
            (2, Field::Bytes(message)) => model.read_trainer(message)?,
            (3, Field::Bytes(message)) => model.read_normalizer(message)?,
            _ => {}
        }
    }
    model.check()?;
    Ok(model)
}

/// Checks a map of replacements before it is walked: a length, a double-array trie (Darts) of `u32` units,
/// and texts that end with NUL. A walker may follow any byte from any unit that it can reach, so that every
/// block of 256 units that a reachable one points to must be there, and every value must be the start of a
/// character.
///
/// # Errors
/// What would be read out of bounds.
pub(super) fn check_charsmap(map: &[u8]) -> Result<(), String> {
    let (head, rest) = map.split_first_chunk::<4>().ok_or("no length")?;
    let n_bytes = u32::from_le_bytes(*head) as usize;
    if n_bytes > rest.len() || n_bytes == 0 || !n_bytes.is_multiple_of(4) {
        let have = rest.len();
        return Err(format!(
            "it states a trie of {n_bytes} bytes where {have} are left"
        ));
    }
    let (trie, texts) = rest.split_at(n_bytes);
    let texts = std::str::from_utf8(texts).map_err(|_| "its replacements are not UTF-8")?;
    let units: Vec<usize> = trie
        .chunks_exact(4)
        .map(|unit| {
            unit.iter()
                .rev()
                .fold(0, |n, &byte| n << 8 | usize::from(byte))
        })
        .collect();
    // As in Darts-clone: the place of the children, relative to the unit's own.
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let mut visited = vec![false; units.len()];
    let mut reachable = vec![0usize];
    while let Some(place) = reachable.pop() {
        if std::mem::replace(&mut visited[place], true) {
            continue;
        }
        let base = place ^ offset(units[place]);
        if base | 0xff >= units.len() {
            return Err(format!(
                "unit {place} points beyond its {} units",
                units.len()
            ));
        }
        if units[place] >> 8 & 1 == 1 {
            let value = units[base] & ((1 << 31) - 1);
            if !texts.is_char_boundary(value) {
                return Err(format!(
                    "unit {base} stands for text {value} of {}",
                    texts.len()
                ));
            }
        }
        // A unit is a child only if it carries the label by which it is reached.
        let is_child = |label: &usize| units[base ^ label] & (1 << 31 | 0xff) == *label;
        reachable.extend((1..=255).filter(is_child).map(|label| base ^ label));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The pieces of a SentencePiece model file: a bounds-checked walk over its protobuf fields.
//!
//! Only the repeated field 1 (`pieces`: 1 the text, 2 the score, 3 the type) is read; whatever else
//! the file holds is stepped over. No length that the file states is believed before it is checked.

use crate::engine::text::protobuf::{Field, Fields};

/// One piece; its id is its position in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The text, with `▁` for the space before a word.
    pub text: String,
    /// Log-probability (Unigram) or negative merge rank (BPE).
    pub score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub kind: u64,
}

/// More pieces than any published model has; a file that claims more is refused.
const MAX_PIECES: usize = 4_000_000;

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut found = Piece {
        text: String::new(),
        score: 0.0,
        kind: 1,
    };
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text);
                found.text = text
                    .map_err(|_| "a piece is not UTF-8".to_owned())?
                    .to_owned();
            }
            (2, Field::Fixed32(bytes)) => found.score = f32::from_le_bytes(bytes),
            (3, Field::Varint(kind)) => found.kind = kind,
            _ => {}
        }
    }
    Ok(found)
}

/// Reads all pieces, in order.
///
/// # Errors
/// What is wrong with the bytes: a truncated field, a piece that is not UTF-8, no pieces, too many.
pub fn pieces(bytes: &[u8]) -> Result<Vec<Piece>, String> {
    let mut fields = Fields(bytes);
    let mut found = Vec::new();
    while let Some((number, value)) = fields.next()? {
        if let (1, Field::Bytes(message)) = (number, value) {
            if found.len() == MAX_PIECES {
                return Err(format!("more than {MAX_PIECES} pieces"));
            }
            found.push(piece(message)?);
        }
    }
    if found.is_empty() {
        return Err("expected SentencePiece pieces, found none".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model file of the given pieces, followed by a field that the walk steps over.
    fn file(pieces: &[(&str, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (text, kind) in pieces {
            let mut message = vec![0x0a, text.len() as u8];
            message.extend(text.as_bytes());
            message.extend([0x15, 0, 0, 0x80, 0xbf, 0x18, *kind]);
            bytes.extend([0x0a, message.len() as u8]);
            bytes.extend(message);
        }
        bytes.extend([0x12, 2, 0x08, 1]);
        bytes
    }

    #[test]
    fn pieces_are_read_in_order_with_score_and_type() {
        let read = pieces(&file(&[("<unk>", 2), ("▁the", 1)])).unwrap();
        assert_eq!(
            read[0],
            Piece {
                text: "<unk>".to_owned(),
                score: -1.0,
                kind: 2
            }
        );
        assert_eq!(read[1].text, "▁the");
    }

    #[test]
    fn every_truncation_is_an_error_or_fewer_pieces_and_never_a_panic() {
        let whole = file(&[("<unk>", 2), ("a", 1), ("▁b", 6)]);
        for n in 0..whole.len() {
            if let Ok(read) = pieces(&whole[..n]) {
                assert!(read.len() <= 3);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_file_is_refused() {
        let hostile = [
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert!(pieces(&hostile).unwrap_err().contains("bytes where"));
    }

    #[test]
    fn an_endless_number_a_group_and_an_empty_file_are_refused() {
        assert!(pieces(&[0x80; 11]).is_err());
        assert!(pieces(&[0x0b]).unwrap_err().contains("wire type 3"));
        assert!(pieces(&[]).is_err());
    }
}

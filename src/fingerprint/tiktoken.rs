//! A tiktoken vocabulary: lines of a token in base64 and its rank, as Meta publishes `tokenizer.model`.
//!
//! Tokens are written in the byte-level alphabet of GPT-2, so that they compare with those of a
//! `tokenizer.json` of the same tokenizer.

use std::collections::HashMap;

/// Reads tokens with their ranks; `None` where the first line is no such line.
///
/// # Errors
/// When a later line is none.
pub fn ids(bytes: &[u8]) -> Result<Option<HashMap<String, u32>>, String> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(None);
    };
    let alphabet = byte_alphabet();
    let mut ids = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Some((token, id)) = entry(line) else {
            if ids.is_empty() {
                return Ok(None);
            }
            return Err("expected a line of base64 and a rank, found something else".to_owned());
        };
        let token = token
            .iter()
            .filter_map(|&byte| alphabet.get(usize::from(byte)))
            .collect();
        ids.insert(token, id);
    }
    Ok((!ids.is_empty()).then_some(ids))
}

fn entry(line: &str) -> Option<(Vec<u8>, u32)> {
    let (token, rank) = line.split_once(' ')?;
    Some((base64(token)?, rank.trim_end().parse().ok()?))
}

/// The characters that stand for the 256 bytes in byte-level BPE (GPT-2): printable Latin-1 for itself,
/// the others from U+0100 on.
fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100u32;
    (0u8..=255)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or('?')
            }
        })
        .collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len());
    let (mut bits, mut n_bits) = (0u32, 0u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_alphabet_of_byte_level_tokens() {
        // " the", a line break, and the two bytes of "é".
        let read = ids(b"IHRoZQ== 7\nCg== 8\nw6k= 9\n").unwrap().unwrap();
        assert_eq!((read["Ġthe"], read["Ċ"], read["Ã©"]), (7, 8, 9));
    }

    #[test]
    fn the_alphabet_has_a_character_of_its_own_for_each_byte() {
        let alphabet: std::collections::HashSet<char> = byte_alphabet().into_iter().collect();
        assert_eq!(alphabet.len(), 256);
    }

    #[test]
    fn other_text_is_none_and_a_broken_line_an_error() {
        assert_eq!(ids(b"some text\n"), Ok(None));
        assert_eq!(ids(b""), Ok(None));
        assert!(ids(b"IQ== 0\nIQ==\n").is_err());
        assert!(ids(b"IQ== 0\nIQ== 4294967296\n").is_err());
    }
}

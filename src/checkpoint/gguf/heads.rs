//! Undoes the order in which llama.cpp's converter writes the rows of queries and keys.
//!
//! `transformers` rotates the first half of a head against the second; llama.cpp rotates neighbours for
//! some architectures, and its converter therefore writes row i of either half at 2i and 2i + 1 of the
//! head. Here the rows are given out in the order of the original, so that q and k can be compared.

use crate::tensor::{TensorBytes, TensorError};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Architectures (`general.architecture`) whose q and k the converter re-orders (`permute` in
/// <https://github.com/ggml-org/llama.cpp/tree/master/conversion>). Others store them as published, or
/// were published interleaved. Files made of Meta's or Mistral's own format hold these as well, in the order
/// that the originals have there; they too come out in the order of `transformers`.
const INTERLEAVED: &[&str] = &[
    "llama",
    "mistral3",
    "minicpm",
    "granite",
    "granitemoe",
    "arcee",
    "smollm3",
    "deci",
    "olmo",
    "xverse",
    "baichuan",
    "internlm2",
    "deepseek",
    "bailingmoe",
    "arctic",
    "llada",
];

/// Whether q and k of an architecture are stored interleaved.
pub(super) fn are_interleaved(architecture: &str) -> bool {
    INTERLEAVED.contains(&architecture)
}

/// The bytes of one tensor, its rows in the order of the original.
#[derive(Debug)]
pub(super) struct Deinterleaved {
    pub stored: Arc<dyn TensorBytes>,
    /// Where the tensor begins in the file.
    pub offset: u64,
    pub row_bytes: u64,
    pub n_rows: u64,
    /// Rows of a head; even, and a divisor of `n_rows`.
    pub head_dim: u64,
}

impl Deinterleaved {
    /// Where the original's row is stored.
    fn stored_row(&self, row: u64) -> u64 {
        let half = self.head_dim / 2;
        let (head, within) = (row / self.head_dim, row % self.head_dim);
        head * self.head_dim + 2 * (within % half) + within / half
    }
}

impl TensorBytes for Deinterleaved {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        let end = self.row_bytes * self.n_rows;
        if range.start >= range.end || range.end > end {
            // Nothing, or what the file itself refuses.
            let beyond = range.start.min(range.end)..range.end;
            let shift = |at: u64| self.offset.saturating_add(at);
            return self.stored.read(shift(beyond.start)..shift(beyond.end));
        }
        let (first, last) = (
            range.start / self.row_bytes,
            (range.end - 1) / self.row_bytes,
        );
        let part = |row: u64| {
            let start = range.start.max(row * self.row_bytes) - row * self.row_bytes;
            start..range.end.min((row + 1) * self.row_bytes) - row * self.row_bytes
        };
        if first == last {
            let at = self.offset + self.stored_row(first) * self.row_bytes;
            let part = part(first);
            return self.stored.read(at + part.start..at + part.end);
        }
        // Rows of one head lie close together: one read for all of them.
        let heads = first / self.head_dim..last / self.head_dim + 1;
        let head_bytes = self.head_dim * self.row_bytes;
        let span = self
            .stored
            .read(self.offset + heads.start * head_bytes..self.offset + heads.end * head_bytes)?;
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        for row in first..=last {
            let at = self.stored_row(row) * self.row_bytes - heads.start * head_bytes;
            let part = part(row);
            bytes.extend_from_slice(&span[(at + part.start) as usize..(at + part.end) as usize]);
        }
        Ok(Cow::Owned(bytes))
    }

    fn file(&self) -> &str {
        self.stored.file()
    }

    /// A row, or the heads of several.
    fn stored(&self, range: Range<u64>) -> Vec<(&str, Range<u64>)> {
        // Rows may have no columns.
        if range.is_empty() || self.row_bytes == 0 {
            return Vec::new();
        }
        let rows = range.start / self.row_bytes..range.end.div_ceil(self.row_bytes);
        let rows = match rows.end.saturating_sub(rows.start) {
            1 => self.stored_row(rows.start)..self.stored_row(rows.start) + 1,
            _ => {
                let n_heads = rows.end.div_ceil(self.head_dim);
                rows.start / self.head_dim * self.head_dim..n_heads * self.head_dim
            }
        };
        let at = |row: u64| self.offset + row * self.row_bytes;
        self.stored.stored(at(rows.start)..at(rows.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Bytes(Vec<u8>);

    impl TensorBytes for Bytes {
        fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
            Ok(Cow::Borrowed(
                &self.0[range.start as usize..range.end as usize],
            ))
        }

        fn file(&self) -> &str {
            "memory"
        }
    }

    #[test]
    fn every_range_reads_the_rows_of_the_original() {
        // Two heads of six rows of three bytes, three bytes into the file. The converter's
        // reshape(n_head, 2, head_dim / 2).swapaxes(1, 2) writes original rows in this order.
        let written = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        let row = |r: u8| [r * 3, r * 3 + 1, r * 3 + 2];
        let mut file = vec![255; 3];
        file.extend(written.iter().flat_map(|&r| row(r)));
        let view = Deinterleaved {
            stored: Arc::new(Bytes(file)),
            offset: 3,
            row_bytes: 3,
            n_rows: 12,
            head_dim: 6,
        };
        for start in 0..36u64 {
            for end in start..=36 {
                let expected: Vec<u8> = (start as u8..end as u8).collect();
                assert_eq!(*view.read(start..end).unwrap(), *expected, "{start}..{end}");
            }
        }
        let without_columns = Deinterleaved {
            row_bytes: 0,
            stored: Arc::new(Bytes(Vec::new())),
            offset: 0,
            ..view
        };
        assert_eq!(without_columns.stored(0..0), []);
        assert_eq!(view.stored(4..4), []);
        // One row lies by itself; of several, whole heads are read.
        assert_eq!(view.stored(4..5), [("memory", 9..12)]);
        assert_eq!(view.stored(4..7), [("memory", 3..21)]);
        assert_eq!(view.stored(15..36), [("memory", 3..39)]);
    }
}

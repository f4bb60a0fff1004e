//! Codes of a few bits, packed into words, and how far rounding to a grid of steps moves a value.

use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;

/// Types in which scales are published.
pub(super) const SCALES: &[DType] = &[DType::F16, DType::BF16, DType::F32];

/// One code of a little-endian stream of codes of 1 to 8 bits that begins with the first byte. Codes may
/// cross bytes and words, as those of 3 bits do. Beyond the end lie zeros.
pub(super) fn code(bytes: &[u8], index: usize, n_bits: usize) -> i32 {
    let at = index * n_bits;
    let byte = |i: usize| u32::from(bytes.get(i).copied().unwrap_or(0));
    let pair = byte(at / 8) | byte(at / 8 + 1) << 8;
    ((pair >> (at % 8)) & ((1 << n_bits) - 1)) as i32
}

/// The code at `place` of the little-endian word of 32 bits that begins at `at`.
pub(super) fn word_code(bytes: &[u8], at: usize, place: usize, n_bits: usize) -> i32 {
    code(bytes.get(at..at + 4).unwrap_or_default(), place, n_bits)
}

/// The share of a step by which a quotient can be off that was computed in the type of the scales:
/// quantizers divide in it, and store the scale rounded to it.
pub(super) fn precision(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 2f32.powi(-10),
        DType::BF16 => 2f32.powi(-7),
        _ => 2f32.powi(-20),
    }
}

/// How far a value can have been from `steps` steps of a uniform grid that it was rounded to.
pub(super) fn bound(steps: f32, step: f32, precision: f32) -> f32 {
    // f16 holds what lies below 2⁻²⁴ of bf16 only roughly; quantizers cast before they round.
    step.abs() * (0.5 + (steps.abs() + 1.0) * precision) + 3e-8
}

/// The elements of some columns of one row of a matrix, as f32.
pub(super) fn row(
    tensor: &Tensor,
    row: usize,
    columns: Range<usize>,
) -> Result<Vec<f32>, TensorError> {
    let n_columns = tensor.shape().last().copied().unwrap_or(1);
    let start = row * n_columns;
    tensor.read_elements(start + columns.start..start + columns.end)
}

/// The bytes of some columns of one row of a matrix.
pub(super) fn row_bytes(
    tensor: &Tensor,
    row: usize,
    columns: Range<usize>,
) -> Result<std::borrow::Cow<'_, [u8]>, TensorError> {
    let n_columns = tensor.shape().last().copied().unwrap_or(1);
    let start = row * n_columns;
    let range = start + columns.start..start + columns.end;
    tensor.read_bytes(tensor.dtype().bytes_of(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_three_bits_cross_words_as_published() {
        // 32 codes in three words: the eleventh lies in the first and second, the 22nd in the second and third.
        let codes: Vec<u32> = (0..32).map(|i| (i * 5 + 3) % 8).collect();
        let mut stream = 0u128;
        for (i, code) in codes.iter().enumerate() {
            stream |= u128::from(*code) << (3 * i);
        }
        let bytes = &stream.to_le_bytes()[..12];
        for (i, expected) in codes.iter().enumerate() {
            assert_eq!(code(bytes, i, 3), *expected as i32, "{i}");
        }
        assert_eq!(code(&[0xff], 1, 8), 0);
        assert_eq!(word_code(&[0, 0x21, 0x43, 0x65, 0x87], 1, 7, 4), 8);
    }
}

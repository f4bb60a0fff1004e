//! The first schemes of llama.cpp: 32 elements, one f16 scale, in `_1` a minimum as well.
//!
//! Codes are rounded to the nearest with the scale before it was stored as f16. In `Q4_0` and `Q5_0`
//! the largest value takes the lowest code, so that its opposite, which has none, takes the highest
//! code a whole step away. Quantizers that weigh errors (importance matrices) fit the scale after the
//! rounding; such blocks may lie outside these bounds.

use super::{Put, f16_at, f16_slack, u32_at};

/// Element pairs of nibbles: element `i` in the lower half, `i + 16` in the upper.
fn nibble(codes: &[u8], i: usize) -> u8 {
    if i < 16 {
        codes[i] & 15
    } else {
        codes[i - 16] >> 4
    }
}

/// Symmetric codes around `middle`: value d·(code − middle).
fn symmetric(block: &[u8], put: &mut impl Put, middle: i32, code: impl Fn(usize) -> u8) {
    let (d, slack) = (f16_at(block, 0), f16_slack(block, 0));
    for i in 0..32 {
        let q = i32::from(code(i)) - middle;
        let cut = if q == middle - 1 { 1.0 } else { 0.5 };
        let q = q as f32;
        put(i, d * q, (d.abs() + slack) * cut + q.abs() * slack);
    }
}

/// Codes from a minimum upwards: value d·code + m.
fn affine(block: &[u8], put: &mut impl Put, code: impl Fn(usize) -> u8) {
    let (d, slack) = (f16_at(block, 0), f16_slack(block, 0));
    let (m, m_slack) = (f16_at(block, 2), f16_slack(block, 2));
    for i in 0..32 {
        let q = f32::from(code(i));
        put(i, d * q + m, (d.abs() + slack) * 0.5 + q * slack + m_slack);
    }
}

/// The fifth bit of an element.
fn fifth(block: &[u8], at: usize, i: usize) -> u8 {
    ((u32_at(block, at) >> i & 1) as u8) << 4
}

pub(super) fn q4_0(block: &[u8], put: &mut impl Put) {
    symmetric(block, put, 8, |i| nibble(&block[2..], i));
}

pub(super) fn q4_1(block: &[u8], put: &mut impl Put) {
    affine(block, put, |i| nibble(&block[4..], i));
}

pub(super) fn q5_0(block: &[u8], put: &mut impl Put) {
    symmetric(block, put, 16, |i| {
        nibble(&block[6..], i) | fifth(block, 2, i)
    });
}

pub(super) fn q5_1(block: &[u8], put: &mut impl Put) {
    affine(block, put, |i| nibble(&block[8..], i) | fifth(block, 4, i));
}

/// Signed bytes from `at` on.
fn bytes(block: &[u8], put: &mut impl Put, at: usize) {
    let (d, slack) = (f16_at(block, 0), f16_slack(block, 0));
    for (i, &code) in block[at..].iter().enumerate() {
        let q = f32::from(code as i8);
        put(i, q * d, (d.abs() + slack) * 0.5 + q.abs() * slack);
    }
}

pub(super) fn q8_0(block: &[u8], put: &mut impl Put) {
    bytes(block, put, 2);
}

/// As `Q8_0`, with the sum of the block, which is for products only, after the scale.
pub(super) fn q8_1(block: &[u8], put: &mut impl Put) {
    bytes(block, put, 4);
}

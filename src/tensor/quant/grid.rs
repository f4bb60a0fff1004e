//! Schemes whose codes name a row of a grid: 8 elements (`IQ1`, `IQ2`) or 4 (`IQ3`) at once, with signs apart.
//!
//! The grids of `IQ2` hold the points of a lattice that occur most often; a value may lie far from the row
//! that stands for it, which is why these schemes have no bounds. Their grids are in [`super::grids`].

use super::grids::{IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};
use super::{Put, f16_at, u16_at, u32_at};
use half::f16;

const TWO_BITS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const THREE_BITS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];

/// Entry `i` of a row of eight in two bits each.
fn of_eight(row: u16, i: usize) -> usize {
    usize::from(row >> (2 * i) & 3)
}

/// Entry `i` of a row of four in three bits each.
fn of_four(row: u16, i: usize) -> usize {
    usize::from(row >> (3 * i) & 7)
}

/// Seven signs and an eighth that makes their number even.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

fn signed(signs: u8, i: usize, value: f32) -> f32 {
    value * if signs >> i & 1 == 0 { 1.0 } else { -1.0 }
}

/// Eight elements of `IQ2`.
fn put_eight(put: &mut impl Put, start: usize, scale: f32, row: u16, signs: u8) {
    for i in 0..8 {
        let value = scale * TWO_BITS[of_eight(row, i)];
        put(start + i, signed(signs, i, value), 0.0);
    }
}

pub(super) fn iq2_xxs(block: &[u8], put: &mut impl Put) {
    let d = f16_at(block, 0);
    for s in 0..8 {
        let at = 2 + 8 * s;
        let word = u32_at(block, at + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for g in 0..4 {
            let row = IQ2XXS[usize::from(block[at + g])];
            put_eight(put, 32 * s + 8 * g, scale, row, even_signs(word >> (7 * g)));
        }
    }
}

/// The scale of 16 elements, from the nibbles that begin at `at`.
fn quarter_scale(block: &[u8], at: usize, sixteen: usize) -> f32 {
    let nibble = block[at + sixteen / 2] >> (sixteen % 2 * 4) & 15;
    f16_at(block, 0) * (0.5 + f32::from(nibble)) * 0.25
}

pub(super) fn iq2_xs(block: &[u8], put: &mut impl Put) {
    for g in 0..32 {
        let code = u16_at(block, 2 + 2 * g);
        let scale = quarter_scale(block, 66, g / 2);
        let signs = even_signs(u32::from(code >> 9));
        put_eight(put, 8 * g, scale, IQ2XS[usize::from(code & 511)], signs);
    }
}

pub(super) fn iq2_s(block: &[u8], put: &mut impl Put) {
    let (codes, signs, high) = (&block[2..34], &block[34..66], &block[66..74]);
    for g in 0..32 {
        let upper = high[g / 4] >> (g % 4 * 2) & 3;
        let row = IQ2S[usize::from(codes[g]) | usize::from(upper) << 8];
        put_eight(put, 8 * g, quarter_scale(block, 74, g / 2), row, signs[g]);
    }
}

pub(super) fn iq3_xxs(block: &[u8], put: &mut impl Put) {
    let (d, codes) = (f16_at(block, 0), &block[2..66]);
    for s in 0..8 {
        let word = u32_at(block, 66 + 4 * s);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        for i in 0..32 {
            let row = IQ3XXS[usize::from(codes[8 * s + i / 4])];
            let value = scale * THREE_BITS[of_four(row, i % 4)];
            let signs = even_signs(word >> (7 * (i / 8)));
            put(32 * s + i, signed(signs, i % 8, value), 0.0);
        }
    }
}

pub(super) fn iq3_s(block: &[u8], put: &mut impl Put) {
    let (codes, high, signs, scales) = (
        &block[2..66],
        &block[66..74],
        &block[74..106],
        &block[106..110],
    );
    let d = f16_at(block, 0);
    for i in 0..256 {
        let s = i / 32;
        let nibble = scales[s / 2] >> (s % 2 * 4) & 15;
        let scale = d * f32::from(1 + 2 * nibble);
        let upper = high[i / 32] >> (i / 4 % 8) & 1;
        let row = IQ3S[usize::from(codes[i / 4]) | usize::from(upper) << 8];
        let value = scale * (1 + 2 * of_four(row, i % 4)) as f32;
        put(i, signed(signs[i / 8], i % 8, value), 0.0);
    }
}

/// Eight elements of `IQ1`: −1, 0 or 1, all moved by an eighth up or down.
fn put_moved(put: &mut impl Put, start: usize, scale: f32, row: u16, down: bool) {
    let delta = if down { -0.125 } else { 0.125 };
    for i in 0..8 {
        let value = scale * (of_eight(row, i) as f32 - 1.0 + delta);
        put(start + i, value, 0.0);
    }
}

pub(super) fn iq1_s(block: &[u8], put: &mut impl Put) {
    let d = f16_at(block, 0);
    for g in 0..32 {
        let high = u16_at(block, 34 + g / 4 * 2);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let upper = usize::from(high >> (g % 4 * 3) & 7);
        let row = IQ1S[usize::from(block[2 + g]) | upper << 8];
        put_moved(put, 8 * g, scale, row, high & 0x8000 != 0);
    }
}

/// As `IQ1_S`; the f16 scale lies in the upper nibbles of the four words of scales.
pub(super) fn iq1_m(block: &[u8], put: &mut impl Put) {
    let word = |i: usize| u16_at(block, 48 + 2 * i);
    let bits = (0..4).fold(0, |bits, i| bits | (word(i) >> 12) << (4 * i));
    let d = f16::from_bits(bits).to_f32();
    for g in 0..32 {
        let sixteen = g / 2;
        let step = word(sixteen / 4) >> (sixteen % 4 * 3) & 7;
        let high = block[32 + g / 2] >> (g % 2 * 4) & 15;
        let row = IQ1S[usize::from(block[g]) | usize::from(high & 7) << 8];
        put_moved(put, 8 * g, d * f32::from(2 * step + 1), row, high & 8 != 0);
    }
}

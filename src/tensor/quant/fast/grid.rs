//! Values of the schemes whose codes name a row of a grid ([`super::super::grid`]), eight at once.

use super::super::grids::{IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};
use super::super::{f16_at, u16_at, u32_at};
use super::{part, part_mut};
use half::f16;

blocks!(iq1_s, 50, 256, iq1_s_block);
blocks!(iq1_m, 56, 256, iq1_m_block);
blocks!(iq2_xxs, 66, 256, iq2_xxs_block);
blocks!(iq2_xs, 74, 256, iq2_xs_block);
blocks!(iq2_s, 82, 256, iq2_s_block);
blocks!(iq3_xxs, 98, 256, iq3_xxs_block);
blocks!(iq3_s, 110, 256, iq3_s_block);

/// Factors of eight elements by their signs.
const fn signs() -> [[f32; 8]; 256] {
    let mut table = [[1.0; 8]; 256];
    let mut signs = 0;
    while signs < 256 {
        let mut i = 0;
        while i < 8 {
            if signs >> i & 1 == 1 {
                table[signs][i] = -1.0;
            }
            i += 1;
        }
        signs += 1;
    }
    table
}

static SIGNS: [[f32; 8]; 256] = signs();

/// Factors of eight elements by seven signs, the eighth making their number even.
#[inline(always)]
fn even_signs(seven: u32) -> &'static [f32; 8] {
    let seven = seven & 127;
    &SIGNS[(seven | (seven.count_ones() & 1) << 7) as usize]
}

/// Rows of `W` entries, of `BITS` bits each, as bytes.
const fn rows<const N: usize, const W: usize, const L: usize>(
    packed: &[u16; N],
    levels: [u8; L],
) -> [[u8; W]; N] {
    let bits = L.trailing_zeros() as usize;
    let mut table = [[0; W]; N];
    let mut row = 0;
    while row < N {
        let mut i = 0;
        while i < W {
            table[row][i] = levels[packed[row] as usize >> (bits * i) & (L - 1)];
            i += 1;
        }
        row += 1;
    }
    table
}

static IQ2XXS_ROWS: [[u8; 8]; 256] = rows(&IQ2XXS, [8, 25, 43, 0]);
static IQ2XS_ROWS: [[u8; 8]; 512] = rows(&IQ2XS, [8, 25, 43, 0]);
static IQ2S_ROWS: [[u8; 8]; 1024] = rows(&IQ2S, [8, 25, 43, 0]);
static IQ3XXS_ROWS: [[u8; 4]; 256] = rows(&IQ3XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3S_ROWS: [[u8; 4]; 512] = rows(&IQ3S, [1, 3, 5, 7, 9, 11, 13, 15]);
static IQ1S_ROWS: [[u8; 8]; 2048] = rows(&IQ1S, [0, 1, 2, 3]);

/// Eight elements of `IQ2` or `IQ3`.
#[inline(always)]
fn put_eight(out: &mut [f32; 256], at: usize, scale: f32, row: [u8; 8], signs: &[f32; 8]) {
    let out = part_mut::<8, 256>(out, at);
    for i in 0..8 {
        out[i] = scale * f32::from(row[i]) * signs[i];
    }
}

#[inline(always)]
fn iq2_xxs_block(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for s in 0..8 {
        let at = 2 + 8 * s;
        let word = u32_at(block, at + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for g in 0..4 {
            let row = IQ2XXS_ROWS[usize::from(block[at + g])];
            put_eight(out, 32 * s + 8 * g, scale, row, even_signs(word >> (7 * g)));
        }
    }
}

/// Scales of 16 elements each, from the nibbles that begin at `at`.
#[inline(always)]
fn quarter_scales<const B: usize>(block: &[u8; B], at: usize) -> [f32; 16] {
    let (d, nibbles) = (f16_at(block, 0), part::<8, B>(block, at));
    let mut scales = [0.0; 16];
    for i in 0..8 {
        scales[2 * i] = d * (0.5 + f32::from(nibbles[i] & 15)) * 0.25;
        scales[2 * i + 1] = d * (0.5 + f32::from(nibbles[i] >> 4)) * 0.25;
    }
    scales
}

#[inline(always)]
fn iq2_xs_block(block: &[u8; 74], out: &mut [f32; 256]) {
    let scales = quarter_scales(block, 66);
    for g in 0..32 {
        let code = u16_at(block, 2 + 2 * g);
        let row = IQ2XS_ROWS[usize::from(code & 511)];
        put_eight(
            out,
            8 * g,
            scales[g / 2],
            row,
            even_signs(u32::from(code >> 9)),
        );
    }
}

#[inline(always)]
fn iq2_s_block(block: &[u8; 82], out: &mut [f32; 256]) {
    let scales = quarter_scales(block, 74);
    for g in 0..32 {
        let upper = block[66 + g / 4] >> (g % 4 * 2) & 3;
        let row = IQ2S_ROWS[usize::from(block[2 + g]) | usize::from(upper) << 8];
        let signs = &SIGNS[usize::from(block[34 + g])];
        put_eight(out, 8 * g, scales[g / 2], row, signs);
    }
}

/// Two rows of four.
#[inline(always)]
fn joined(first: [u8; 4], second: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = first;
    let [e, f, g, h] = second;
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn iq3_xxs_block(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for s in 0..8 {
        let word = u32_at(block, 66 + 4 * s);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        for g in 0..4 {
            let row = |i: usize| IQ3XXS_ROWS[usize::from(block[2 + 8 * s + 2 * g + i])];
            let row = joined(row(0), row(1));
            put_eight(out, 32 * s + 8 * g, scale, row, even_signs(word >> (7 * g)));
        }
    }
}

#[inline(always)]
fn iq3_s_block(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for s in 0..8 {
        let nibble = block[106 + s / 2] >> (s % 2 * 4) & 15;
        let scale = d * f32::from(1 + 2 * nibble);
        let high = usize::from(block[66 + s]);
        for g in 0..4 {
            let row = |i: usize| {
                let upper = high >> (2 * g + i) & 1;
                IQ3S_ROWS[usize::from(block[2 + 8 * s + 2 * g + i]) | upper << 8]
            };
            let row = joined(row(0), row(1));
            let signs = &SIGNS[usize::from(block[74 + 4 * s + g])];
            put_eight(out, 32 * s + 8 * g, scale, row, signs);
        }
    }
}

/// Eight elements of `IQ1`.
#[inline(always)]
fn put_moved(out: &mut [f32; 256], at: usize, scale: f32, row: [u8; 8], down: bool) {
    let delta = if down { -0.125 } else { 0.125 };
    let out = part_mut::<8, 256>(out, at);
    for i in 0..8 {
        out[i] = scale * (f32::from(row[i]) - 1.0 + delta);
    }
}

#[inline(always)]
fn iq1_s_block(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    for s in 0..8 {
        let high = u16_at(block, 34 + 2 * s);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        for g in 0..4 {
            let upper = usize::from(high >> (3 * g) & 7);
            let row = IQ1S_ROWS[usize::from(block[2 + 4 * s + g]) | upper << 8];
            put_moved(out, 32 * s + 8 * g, scale, row, high & 0x8000 != 0);
        }
    }
}

#[inline(always)]
fn iq1_m_block(block: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(block, 48 + 2 * i);
    let bits = word(0) >> 12 | word(1) >> 12 << 4 | word(2) >> 12 << 8 | word(3) >> 12 << 12;
    let d = f16::from_bits(bits).to_f32();
    for sixteen in 0..16 {
        let step = word(sixteen / 4) >> (sixteen % 4 * 3) & 7;
        let scale = d * f32::from(2 * step + 1);
        for g in 0..2 {
            let high = block[32 + sixteen] >> (4 * g) & 15;
            let row = IQ1S_ROWS[usize::from(block[2 * sixteen + g]) | usize::from(high & 7) << 8];
            put_moved(out, 16 * sixteen + 8 * g, scale, row, high & 8 != 0);
        }
    }
}

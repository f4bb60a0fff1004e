//! Values of the first schemes ([`super::super::legacy`]), 32 elements at once.

use super::super::f16_at;
use super::part;

blocks!(q4_0, 18, 32, q4_0_block);
blocks!(q4_1, 20, 32, q4_1_block);
blocks!(q5_0, 22, 32, q5_0_block);
blocks!(q5_1, 24, 32, q5_1_block);
blocks!(q8_0, 34, 32, q8_0_block);
blocks!(q8_1, 36, 32, q8_1_block);

#[inline(always)]
fn q4_0_block(block: &[u8; 18], out: &mut [f32; 32]) {
    let (d, codes) = (f16_at(block, 0), part::<16, 18>(block, 2));
    for i in 0..16 {
        out[i] = d * (i32::from(codes[i] & 15) - 8) as f32;
        out[i + 16] = d * (i32::from(codes[i] >> 4) - 8) as f32;
    }
}

#[inline(always)]
fn q4_1_block(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m, codes) = (f16_at(block, 0), f16_at(block, 2), part::<16, 20>(block, 4));
    for i in 0..16 {
        out[i] = d * f32::from(codes[i] & 15) + m;
        out[i + 16] = d * f32::from(codes[i] >> 4) + m;
    }
}

/// Eight bits of a byte, each as the fifth of a code.
const fn fifths() -> [[u8; 8]; 256] {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut i = 0;
        while i < 8 {
            table[byte][i] = (byte as u8 >> i & 1) << 4;
            i += 1;
        }
        byte += 1;
    }
    table
}

static FIFTHS: [[u8; 8]; 256] = fifths();

/// Codes of 5 bits: nibbles, and four bytes of fifth bits.
#[inline(always)]
fn five_bits(nibbles: &[u8; 16], high: &[u8; 4]) -> [u8; 32] {
    let mut codes = [0; 32];
    let fifth = high.map(|byte| FIFTHS[usize::from(byte)]);
    let fifth = fifth.as_flattened();
    for i in 0..16 {
        codes[i] = nibbles[i] & 15 | fifth[i];
        codes[i + 16] = nibbles[i] >> 4 | fifth[i + 16];
    }
    codes
}

#[inline(always)]
fn q5_0_block(block: &[u8; 22], out: &mut [f32; 32]) {
    let codes = five_bits(part(block, 6), part(block, 2));
    let d = f16_at(block, 0);
    for i in 0..32 {
        out[i] = d * (i32::from(codes[i]) - 16) as f32;
    }
}

#[inline(always)]
fn q5_1_block(block: &[u8; 24], out: &mut [f32; 32]) {
    let codes = five_bits(part(block, 8), part(block, 4));
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for i in 0..32 {
        out[i] = d * f32::from(codes[i]) + m;
    }
}

#[inline(always)]
fn q8_0_block(block: &[u8; 34], out: &mut [f32; 32]) {
    let (d, codes) = (f16_at(block, 0), part::<32, 34>(block, 2));
    for i in 0..32 {
        out[i] = f32::from(codes[i] as i8) * d;
    }
}

#[inline(always)]
fn q8_1_block(block: &[u8; 36], out: &mut [f32; 32]) {
    let (d, codes) = (f16_at(block, 0), part::<32, 36>(block, 4));
    for i in 0..32 {
        out[i] = f32::from(codes[i] as i8) * d;
    }
}

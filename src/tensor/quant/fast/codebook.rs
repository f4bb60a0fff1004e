//! Values of the schemes whose codes name an entry of a short list ([`super::super::codebook`]).

use super::super::{codebook, f16_at, u16_at};
use super::{part, part_mut};

blocks!(iq4_nl, 18, 32, iq4_nl_block);
blocks!(iq4_xs, 136, 256, iq4_xs_block);
blocks!(tq1_0, 54, 256, tq1_0_block);
blocks!(tq2_0, 66, 256, tq2_0_block);
blocks!(mxfp4, 17, 32, mxfp4_block);
blocks!(nvfp4, 36, 64, nvfp4_block);

/// The two entries of a list that the halves of a byte name, the lower one first.
const fn pairs(entries: [i8; 16]) -> [[i8; 2]; 256] {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [entries[byte & 15], entries[byte >> 4]];
        byte += 1;
    }
    table
}

static IQ4_PAIRS: [[i8; 2]; 256] = pairs(codebook::IQ4);

/// Sixteen bytes of two codes each: the entries that lower halves name, then those of upper ones.
#[inline(always)]
fn put_entries(codes: &[u8; 16], scale: f32, entries: &[[i8; 2]; 256], out: &mut [f32; 32]) {
    let mut named = [0i8; 32];
    for i in 0..16 {
        [named[i], named[i + 16]] = entries[usize::from(codes[i])];
    }
    for i in 0..32 {
        out[i] = scale * f32::from(named[i]);
    }
}

#[inline(always)]
fn iq4_nl_block(block: &[u8; 18], out: &mut [f32; 32]) {
    put_entries(part(block, 2), f16_at(block, 0), &IQ4_PAIRS, out);
}

#[inline(always)]
fn iq4_xs_block(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (f16_at(block, 0), u16_at(block, 2));
    for s in 0..8 {
        let lower = block[4 + s / 2] >> (s % 2 * 4) & 15;
        let upper = (high >> (2 * s) & 3) as u8;
        let scale = d * (i32::from(lower | upper << 4) - 32) as f32;
        let out = part_mut::<32, 256>(out, 32 * s);
        put_entries(part(block, 8 + 16 * s), scale, &IQ4_PAIRS, out);
    }
}

/// −1, 0 or 1 times the scale.
#[inline(always)]
fn put_ternary<const N: usize>(codes: [u8; N], d: f32, out: &mut [f32; N]) {
    for i in 0..N {
        out[i] = d * f32::from(codes[i] as i8 - 1);
    }
}

/// One digit of base 3 of each byte.
#[inline(always)]
fn digits<const N: usize>(bytes: &[u8; N], power: u8) -> [u8; N] {
    let mut digits = [0; N];
    for i in 0..N {
        digits[i] = ((u16::from(bytes[i].wrapping_mul(power)) * 3) >> 8) as u8;
    }
    digits
}

#[inline(always)]
fn tq1_0_block(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(block, 52);
    for (digit, power) in [1, 3, 9, 27, 81].into_iter().enumerate() {
        let all = digits::<32>(part(block, 0), power);
        put_ternary(all, d, part_mut(out, 32 * digit));
        let next = digits::<16>(part(block, 32), power);
        put_ternary(next, d, part_mut(out, 160 + 16 * digit));
        if digit < 4 {
            let last = digits::<4>(part(block, 48), power);
            put_ternary(last, d, part_mut(out, 240 + 4 * digit));
        }
    }
}

#[inline(always)]
fn tq2_0_block(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 64);
    for half in 0..2 {
        let bytes = part::<32, 66>(block, 32 * half);
        for quarter in 0..4 {
            let codes = bytes.map(|byte| byte >> (2 * quarter) & 3);
            put_ternary(codes, d, part_mut(out, 128 * half + 32 * quarter));
        }
    }
}

/// The E2M1 of a code, doubled: what the list in [`codebook`] has, computed.
#[inline(always)]
fn e2m1(code: u8) -> i32 {
    let (exponent, mantissa) = (i32::from(code >> 1 & 3), i32::from(code & 1));
    let size = match exponent {
        0 => mantissa,
        _ => (2 | mantissa) << (exponent - 1),
    };
    if code & 8 == 0 { size } else { -size }
}

#[inline(always)]
fn mxfp4_block(block: &[u8; 17], out: &mut [f32; 32]) {
    let (d, codes) = (codebook::half_power(block[0]), part::<16, 17>(block, 1));
    for i in 0..16 {
        out[i] = d * e2m1(codes[i] & 15) as f32;
        out[i + 16] = d * e2m1(codes[i] >> 4) as f32;
    }
}

/// Half the value of an unsigned E4M3, as [`codebook`] has it, without its powers.
const fn halves_of_e4m3() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code as u32 >> 3 & 15, (code & 7) as f32);
        table[code] = match exponent {
            0 => mantissa / 1024.0,
            _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent + 119) << 23),
        };
        code += 1;
    }
    table[0x7f] = 0.0;
    table
}

static HALF_E4M3: [f32; 256] = halves_of_e4m3();

#[inline(always)]
fn nvfp4_block(block: &[u8; 36], out: &mut [f32; 64]) {
    for s in 0..4 {
        let (d, codes) = (
            HALF_E4M3[usize::from(block[s])],
            part::<8, 36>(block, 4 + 8 * s),
        );
        let out = part_mut::<16, 64>(out, 16 * s);
        for i in 0..8 {
            out[i] = d * e2m1(codes[i] & 15) as f32;
            out[i + 8] = d * e2m1(codes[i] >> 4) as f32;
        }
    }
}

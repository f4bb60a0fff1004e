//! Schemes whose codes name an entry of a short list: `IQ4`, ternary, and the 4-bit floats.
//!
//! The quantizers take the nearest entry. `IQ4` scales are searched by up to 7 in 127 around the largest
//! value, and those of `IQ4_XS` are stored in 6 bits; the shared exponents of `MXFP4` leave values up to
//! 16 where the largest entry is 12. Sources: ggml's `ggml-common.h`; the OCP microscaling
//! specification 1.0.

use super::{Put, f16_at, f16_slack, u16_at};

/// The entries of `IQ4_NL` and `IQ4_XS`.
pub(super) const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// E2M1, doubled.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half the wider gap beside each entry of a list in ascending order; `cut` at its ends.
const fn half_gaps(entries: [i8; 16], cut: f32) -> [f32; 16] {
    let mut bounds = [cut; 16];
    let mut i = 1;
    while i < 15 {
        let (below, above) = (
            entries[i] as i32 - entries[i - 1] as i32,
            entries[i + 1] as i32 - entries[i] as i32,
        );
        bounds[i] = if below > above { below } else { above } as f32 * 0.5;
        i += 1;
    }
    bounds
}

/// In units of the scale: beyond ±127 by 7, and as much again for the fit of the scale; at the upper
/// end the list reaches only to 113.
const IQ4_BOUNDS: [f32; 16] = half_gaps(IQ4, 28.0);
/// 12 stands for all up to 16.
const E2M1_BOUNDS: [f32; 16] = [
    0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 2.0, 4.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 2.0, 4.0,
];

fn nibble(codes: &[u8], i: usize, half: usize) -> usize {
    usize::from(codes[i / (2 * half) * half + i % half] >> (i % (2 * half) / half * 4) & 15)
}

pub(super) fn iq4_nl(block: &[u8], put: &mut impl Put) {
    let (d, slack) = (f16_at(block, 0), f16_slack(block, 0));
    for i in 0..32 {
        let code = nibble(&block[2..], i, 16);
        let entry = f32::from(IQ4[code]);
        put(
            i,
            d * entry,
            d.abs() * IQ4_BOUNDS[code] + entry.abs() * slack,
        );
    }
}

/// As `IQ4_NL`, with signed scales of 6 bits per 32 elements.
pub(super) fn iq4_xs(block: &[u8], put: &mut impl Put) {
    let d = f16_at(block, 0);
    let (high, low, codes) = (u16_at(block, 2), &block[4..8], &block[8..]);
    for s in 0..8 {
        let lower = low[s / 2] >> (s % 2 * 4) & 15;
        let upper = (high >> (2 * s) & 3) as u8;
        let scale = d * (i32::from(lower | upper << 4) - 32) as f32;
        for i in 32 * s..32 * (s + 1) {
            let code = nibble(codes, i, 16);
            // The ends move with what storing the scale lost: a code of 6 bits under an f16.
            let moved = if code == 0 || code == 15 || scale == 0.0 {
                127.0 * (d.abs() + 33.0 * f16_slack(block, 0))
            } else {
                0.0
            };
            let bound = scale.abs() * IQ4_BOUNDS[code] + moved;
            put(i, scale * f32::from(IQ4[code]), bound);
        }
    }
}

/// −1, 0 or 1 times the largest value.
fn ternary(block: &[u8], put: &mut impl Put, at: usize, code: impl Fn(usize) -> u8) {
    let (d, slack) = (f16_at(block, at), f16_slack(block, at));
    for i in 0..256 {
        let q = f32::from(code(i) as i8 - 1);
        put(i, d * q, (d.abs() + slack) * 0.5 + q.abs() * slack);
    }
}

/// Five digits of base 3 in a byte (four in the last four bytes), as a fixed-point fraction.
pub(super) fn tq1_0(block: &[u8], put: &mut impl Put) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ternary(block, put, 52, |i| {
        let (byte, digit) = match i {
            0..160 => (i % 32, i / 32),
            160..240 => (32 + i % 16, (i - 160) / 16),
            _ => (48 + i % 4, (i - 240) / 4),
        };
        let shifted = block[byte].wrapping_mul(POWERS[digit]);
        ((u16::from(shifted) * 3) >> 8) as u8
    });
}

/// Two bits each.
pub(super) fn tq2_0(block: &[u8], put: &mut impl Put) {
    ternary(block, put, 64, |i| {
        block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
    });
}

/// Half of 2^(e − 127), as an f32 that may be subnormal.
pub(super) fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}

pub(super) fn mxfp4(block: &[u8], put: &mut impl Put) {
    let d = half_power(block[0]);
    for i in 0..32 {
        let code = nibble(&block[1..], i, 16);
        put(i, d * f32::from(E2M1[code]), d * E2M1_BOUNDS[code]);
    }
}

/// Half the value of an unsigned E4M3; all ones stand for 0.
pub(super) fn half_e4m3(code: u8) -> f32 {
    let mantissa = f32::from(code & 7);
    match (code, code >> 3 & 15) {
        (0 | 0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-9) * 0.5,
        (_, exponent) => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 7) * 0.5,
    }
}

/// Four sub-blocks of 16, each with a scale of its own that was rounded to one of 3 mantissa bits.
pub(super) fn nvfp4(block: &[u8], put: &mut impl Put) {
    for i in 0..64 {
        let (d, codes) = (half_e4m3(block[i / 16]), &block[4..]);
        let code = nibble(codes, i, 8);
        put(i, d * f32::from(E2M1[code]), d * E2M1_BOUNDS[code]);
    }
}

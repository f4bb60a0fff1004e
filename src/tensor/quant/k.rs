//! The k-quants: 256 elements in sub-blocks of 16 or 32, whose scales are themselves codes.
//!
//! The quantizer searches scales, stores them, and only then rounds each element to the nearest code
//! of the stored scales, so that no slack remains inside the range. At its ends the search may leave up to
//! two steps out, and storing a scale as a code of few bits under an f16 moves the end by what was
//! lost times the number of levels; a sub-block whose scale was stored as 0 has no codes to choose from.

use super::{Put, f16_at, f16_slack};

/// A stored number that multiplies the codes of sub-blocks: its value, and what its f16 lost.
#[derive(Clone, Copy)]
struct Unit {
    value: f32,
    slack: f32,
}

impl Unit {
    const NONE: Self = Self {
        value: 0.0,
        slack: 0.0,
    };

    fn at(block: &[u8], at: usize) -> Self {
        Self {
            value: f16_at(block, at),
            slack: f16_slack(block, at),
        }
    }
}

/// What a sub-block stands for: value = d·scale·code − dmin·minimum.
struct Sub {
    d: Unit,
    dmin: Unit,
    /// Stored codes of the scale and of the minimum.
    scale: f32,
    minimum: f32,
    /// Lowest and highest code.
    ends: (i32, i32),
}

impl Sub {
    /// Without a minimum. A product, as in the reference: subtracting 0 would lose the sign of −0.
    fn symmetric(&self, code: i32) -> f32 {
        self.d.value * self.scale * code as f32
    }

    fn affine(&self, code: i32) -> f32 {
        self.d.value * self.scale * code as f32 - self.dmin.value * self.minimum
    }

    fn bound(&self, code: i32) -> f32 {
        let step = (self.d.value * self.scale).abs();
        let inside = self.ends.0 < code && code < self.ends.1;
        if inside && step > 0.0 {
            return 0.5 * step;
        }
        let levels = self.ends.1.max(-self.ends.0) as f32;
        // The largest scale may be one unit above the highest code of a scale.
        let unit = self.d.value.abs() + self.d.slack;
        let moved_scale = levels * (unit + self.scale.abs() * self.d.slack);
        let moved_minimum = 0.5 * self.dmin.value.abs() + self.minimum * self.dmin.slack;
        2.0 * (step + unit) + moved_scale + moved_minimum
    }
}

/// 2 bits; scales and minima of 4 bits per 16 elements.
pub(super) fn q2(block: &[u8], put: &mut impl Put) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (Unit::at(block, 80), Unit::at(block, 82));
    for (s, &packed) in scales.iter().enumerate() {
        let sub = Sub {
            d,
            dmin,
            scale: f32::from(packed & 15),
            minimum: f32::from(packed >> 4),
            ends: (0, 3),
        };
        for i in 16 * s..16 * (s + 1) {
            let code = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            let code = i32::from(code);
            put(i, sub.affine(code), sub.bound(code));
        }
    }
}

/// 3 bits, of which the highest stands apart, inverted; signed scales of 6 bits per 16 elements.
pub(super) fn q3(block: &[u8], put: &mut impl Put) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = Unit::at(block, 108);
    for s in 0..16 {
        let low = packed[s % 8] >> (s / 8 * 4) & 15;
        let upper = packed[8 + s % 4] >> (s / 4 * 2) & 3;
        let scale = i32::from(low | upper << 4) - 32;
        let sub = Sub {
            d,
            dmin: Unit::NONE,
            scale: scale as f32,
            minimum: 0.0,
            ends: (-4, 3),
        };
        for i in 16 * s..16 * (s + 1) {
            let low = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            let is_high = high[i % 32] >> (i / 32) & 1;
            let code = i32::from(low) - if is_high == 0 { 4 } else { 0 };
            put(i, sub.symmetric(code), sub.bound(code));
        }
    }
}

/// The eight 6-bit scales and minima of 12 bytes.
pub(super) fn scale_and_minimum(packed: &[u8], s: usize) -> (f32, f32) {
    let (scale, minimum) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let both = packed[s + 4];
        (
            both & 15 | packed[s - 4] >> 2 & 48,
            both >> 4 | packed[s] >> 2 & 48,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// 4 or 5 bits; scales and minima of 6 bits per 32 elements.
fn with_minima(block: &[u8], put: &mut impl Put, top: i32, code: impl Fn(usize) -> u8) {
    let (d, dmin) = (Unit::at(block, 0), Unit::at(block, 2));
    for s in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], s);
        let sub = Sub {
            d,
            dmin,
            scale,
            minimum,
            ends: (0, top),
        };
        for i in 32 * s..32 * (s + 1) {
            let code = i32::from(code(i));
            put(i, sub.affine(code), sub.bound(code));
        }
    }
}

/// Nibble `i` where 64 elements share 32 bytes: the first 32 in the lower halves.
fn nibble(codes: &[u8], i: usize) -> u8 {
    codes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

pub(super) fn q4(block: &[u8], put: &mut impl Put) {
    with_minima(block, put, 15, |i| nibble(&block[16..], i));
}

pub(super) fn q5(block: &[u8], put: &mut impl Put) {
    let high = &block[16..48];
    with_minima(block, put, 31, |i| {
        nibble(&block[48..], i) | (high[i % 32] >> (i / 32) & 1) << 4
    });
}

/// 6 bits; signed scales of 8 bits per 16 elements.
pub(super) fn q6(block: &[u8], put: &mut impl Put) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = Unit::at(block, 208);
    for (s, &scale) in scales.iter().enumerate() {
        let sub = Sub {
            d,
            dmin: Unit::NONE,
            scale: f32::from(scale as i8),
            minimum: 0.0,
            ends: (-32, 31),
        };
        for i in 16 * s..16 * (s + 1) {
            let (half, within) = (i / 128, i % 128);
            let lower = low[half * 64 + within % 64] >> (within / 64 * 4) & 15;
            let upper = high[half * 32 + within % 32] >> (within / 32 * 2) & 3;
            let code = i32::from(lower | upper << 4) - 32;
            put(i, sub.symmetric(code), sub.bound(code));
        }
    }
}

/// Signed bytes with an f32 scale; the sums of 16 at the end are for products only.
pub(super) fn q8(block: &[u8], put: &mut impl Put) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (i, &code) in block[4..260].iter().enumerate() {
        let q = code as i8;
        let cut = if q == i8::MAX || q == i8::MIN {
            1.0
        } else {
            0.5
        };
        put(i, d * f32::from(q), d.abs() * cut);
    }
}

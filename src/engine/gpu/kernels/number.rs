//! Numbers on the device: bits decoded to f32, functions that keep NaN, sums over a workgroup.
//!
//! The functions are our own where drivers may differ: `tanh` and `erf` of some lose digits or overflow,
//! and `max` of some drops NaN. All of f32 that is normal decodes exactly; what bf16 holds below
//! 2^−126 some drivers take for zero.

use cubecl::prelude::*;

/// How a weight's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) enum Stored {
    /// One f32 per word.
    F32,
    /// Two bf16 per word, the first in the lower half.
    Bf16,
    /// Two IEEE halves per word, the first in the lower half.
    F16,
}

impl Stored {
    /// Elements of one word.
    pub(in super::super) fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Whether bits mean NaN: by the bits, since compilers may assume that numbers are numbers.
#[cube]
pub(super) fn is_not_a_number(x: f32) -> bool {
    (u32::reinterpret(x) & 0x7fff_ffffu32) > 0x7f80_0000u32
}

/// Whether a number is −∞.
#[cube]
pub(super) fn is_negative_infinity(x: f32) -> bool {
    u32::reinterpret(x) == 0xff80_0000u32
}

/// The larger; NaN where either is.
#[cube]
pub(super) fn max_or_nan(a: f32, b: f32) -> f32 {
    let larger = select(b > a, b, a);
    let with_b = select(is_not_a_number(b), b, larger);
    select(is_not_a_number(a), a, with_b)
}

/// The value of 16 bits.
#[cube]
pub(super) fn decode_half(bits: u32, #[comptime] stored: Stored) -> f32 {
    if comptime!(stored == Stored::Bf16) {
        f32::reinterpret(bits << 16u32)
    } else {
        let sign = (bits & 0x8000u32) << 16u32;
        let magnitude = bits & 0x7fffu32;
        // Rebias the exponent from 15 to 127; all ones stay all ones.
        let normal = (magnitude << 13u32) + 0x3800_0000u32;
        let special = (magnitude << 13u32) | 0x7f80_0000u32;
        let large = select(magnitude >= 0x7c00u32, special, normal);
        // Below 2^-14 the mantissa is an integer in units of 2^-24; f32 holds it as a normal number.
        let small = u32::reinterpret(f32::cast_from(magnitude) * 5.960_464_5e-8f32);
        f32::reinterpret(sign | select(magnitude < 0x0400u32, small, large))
    }
}

/// The value of element `index % 2` of a word, or of the word itself where it holds one.
#[cube]
pub(super) fn decode_in_word(word: u32, index: usize, #[comptime] stored: Stored) -> f32 {
    if comptime!(stored == Stored::F32) {
        f32::reinterpret(word)
    } else {
        let shift = 16u32 * (index as u32 & 1u32);
        decode_half((word >> shift) & 0xffffu32, stored)
    }
}

/// exp(−x) / … as needed: σ(x) = 1 / (1 + e^−x).
#[cube]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + f32::exp(-x))
}

/// tanh(x) to some units in the last place: a series near zero, exponentials elsewhere.
#[cube]
pub(super) fn tanh_of(x: f32) -> f32 {
    let square = x * x;
    let series = x + x
        * square
        * (-0.333_333_34f32
            + square
                * (0.133_333_34f32 + square * (-0.053_968_254f32 + square * 0.021_869_488f32)));
    let size = select(x < 0.0f32, -x, x);
    let e = f32::exp(-2.0f32 * size);
    let ratio = (1.0f32 - e) / (1.0f32 + e);
    let large = select(x < 0.0f32, -ratio, ratio);
    select(size < 0.25f32, series, large)
}

/// The standard normal distribution function Φ(x), with a relative error below 2·10⁻⁷ in its tails, by
/// the Chebyshev fit of erfc in Press et al., Numerical Recipes, 2nd ed., section 6.2.
#[cube]
pub(super) fn normal_cdf(x: f32) -> f32 {
    let z = x * 0.707_106_77f32;
    let size = select(z < 0.0f32, -z, z);
    let t = 1.0f32 / (1.0f32 + 0.5f32 * size);
    let fit = -1.265_512_2f32
        + t * (1.000_023_7f32
            + t * (0.374_091_96f32
                + t * (0.096_784_18f32
                    + t * (-0.186_288_06f32
                        + t * (0.278_868_07f32
                            + t * (-1.135_204f32
                                + t * (1.488_515_9f32
                                    + t * (-0.822_152_23f32 + t * 0.170_872_77f32))))))));
    let erfc = t * f32::exp(fit - size * size);
    select(z < 0.0f32, 0.5f32 * erfc, 1.0f32 - 0.5f32 * erfc)
}

/// The sum of one value per unit of a workgroup, in a tree of fixed shape; `shared` has a place per unit.
#[cube]
pub(super) fn sum_of_units(
    shared: &mut SharedMemory<f32>,
    value: f32,
    #[comptime] n_units: usize,
) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut step = comptime!(n_units / 2).runtime();
    while step > 0usize {
        if unit < step {
            shared[unit] = shared[unit] + shared[unit + step];
        }
        sync_cube();
        step /= 2usize;
    }
    shared[0usize]
}

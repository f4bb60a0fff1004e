//! The number type of the CPU backend: f32, or f64 for measuring the noise of f32.

use super::product::total;
use half::{bf16, f16};
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};
use wide::f32x4;

/// f32 or f64.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Sum
    + Element
    + 'static
{
    /// What people call a backend of this type.
    const NAME: &'static str;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const LOWEST: Self;

    /// The nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exactly this value.
    fn from_f32(x: f32) -> Self;
    /// The nearest f32.
    fn to_f32(self) -> f32;
    /// self · a + b, rounded once.
    fn fused(self, a: Self, b: Self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// The totals of four sums of sixteen lanes, given by quarters (`super::product`).
    fn totals(lanes: &[[[Self; 4]; 4]; 4]) -> [Self; 4];
}

macro_rules! real {
    ($type:ty, $name:literal, $exp:path, $tanh:path, $erf:path, $totals:path) => {
        impl Real for $type {
            const NAME: &'static str = $name;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$type>::NEG_INFINITY;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $type
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                x as $type
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn fused(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn totals(lanes: &[[[Self; 4]; 4]; 4]) -> [Self; 4] {
                $totals(lanes)
            }
        }
    };
}

// Functions of ours and of `libm`, not the system's: theirs differ in the last bit from one to the next.
real!(f32, "cpu", exp, libm::tanhf, libm::erff, totals_f32);
real!(f64, "cpu-f64", libm::exp, libm::tanh, libm::erf, totals);

/// Totals one by one.
#[inline(always)]
fn totals<T: Real>(lanes: &[[[T; 4]; 4]; 4]) -> [T; 4] {
    let [a, b, c, d] = lanes;
    [total(a), total(b), total(c), total(d)]
}

/// The same side by side: compilers left to themselves gather values one by one.
#[inline(always)]
fn totals_f32(lanes: &[[[f32; 4]; 4]; 4]) -> [f32; 4] {
    let mut fours = [f32x4::ZERO; 4];
    for (four, &[a, b, c, d]) in fours.iter_mut().zip(lanes) {
        *four = (f32x4::new(a) + f32x4::new(c)) + (f32x4::new(b) + f32x4::new(d));
    }
    let [a, b, c, d] = f32x4::transpose(fours);
    ((a + c) + (b + d)).to_array()
}

/// eˣ to less than one unit in the last place, without branches, so that loops over it become vectors.
///
/// x = n · ln 2 + r with a whole n and |r| ≤ ln 2 / 2; eʳ is its Taylor series to r⁷, whose rest is below
/// 6·10⁻⁹, and 2ⁿ is multiplied in two halves, so that neither overflows before the result does.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it leaves no place for a fraction.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has zeros enough that its product with n is exact.
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    // Beyond these the result is infinite, or 0. NaN is neither and stays.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[0], x);
    let r = n.mul_add(-LN_2[1], r);
    let mut series = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = r.mul_add(series, factor);
    }
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    series * power(n >> 1) * power(n - (n >> 1))
}

/// A stored element: what a weight is kept as.
pub trait Element: Copy + Send + Sync + 'static {
    /// Its value in the type of the computation.
    fn as_real<T: Real>(self) -> T;
}

impl Element for f32 {
    #[inline(always)]
    fn as_real<T: Real>(self) -> T {
        T::from_f32(self)
    }
}

impl Element for f64 {
    #[inline(always)]
    fn as_real<T: Real>(self) -> T {
        T::from_f64(self)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn as_real<T: Real>(self) -> T {
        T::from_f32(f32::from_bits(u32::from(self.to_bits()) << 16))
    }
}

impl Element for f16 {
    /// Without branches, so that compilers turn loops over it into vectors: the exponent is corrected by
    /// a multiplication by 2¹¹², which is exact and takes subnormals along; infinity and NaN get their
    /// exponent by hand.
    #[inline(always)]
    fn as_real<T: Real>(self) -> T {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
        let special = if magnitude >= 0x1f << 23 {
            0xff << 23
        } else {
            0
        };
        T::from_f32(f32::from_bits(
            scaled.to_bits() | special | (bits & 0x8000) << 16,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_one_unit_in_the_last_place_everywhere() {
        for bits in (0..u32::MAX).step_by(40_009) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).exp();
            let rounded = exact as f32;
            if !x.is_finite() || rounded.is_infinite() {
                continue;
            }
            let unit = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
            assert!((f64::from(exp(x)) - exact).abs() <= unit, "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(90.0), f32::INFINITY);
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 1.0));
    }

    #[test]
    fn stored_elements_have_their_values() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (ours, theirs) in [
                (half.as_real::<f32>(), half.to_f32()),
                (brain.as_real::<f32>(), brain.to_f32()),
            ] {
                let both_nan = ours.is_nan() && theirs.is_nan();
                assert!(both_nan || ours.to_bits() == theirs.to_bits(), "{bits:x}");
            }
        }
    }
}

//! The number type of the CPU backend: f32, or f64 for measuring the noise of f32.

use half::{bf16, f16};
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

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
}

macro_rules! real {
    ($type:ty, $name:literal, $erf:path) => {
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
                self.exp()
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                self.tanh()
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
        }
    };
}

real!(f32, "cpu", libm::erff);
real!(f64, "cpu-f64", libm::erf);

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

//! What the CPU does to one row at a time: norms, rotary positions, non-linearities.

use super::product::{LANES, Lanes};
use super::real::Real;
use crate::arch::spec::{Activation, NormKind, NormSpec, RopeStyle};
use multiversion::multiversion;

/// Σ f(x), in lanes.
#[inline(always)]
fn sum<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = Lanes::ZERO;
    let (whole, rest) = x.as_chunks::<LANES>();
    for values in whole {
        for (lane, &value) in lanes.0.iter_mut().zip(values) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.0.iter_mut().zip(rest) {
        *lane += f(value);
    }
    std::hint::black_box(&lanes).total()
}

/// Norms one group of columns in place; gain and bias are as long as the group.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn norm<T: Real>(x: &mut [T], spec: &NormSpec, gain: Option<&[T]>, bias: Option<&[T]>) {
    let n = T::from_f64(x.len() as f64);
    if spec.kind == NormKind::Layer {
        let mean = sum(x, |v| v) / n;
        for value in x.iter_mut() {
            *value = *value - mean;
        }
    }
    let mean_square = sum(x, |v| v * v) / n;
    let factor = T::ONE / (mean_square + T::from_f32(spec.epsilon)).sqrt();
    let one = if spec.plus_one { T::ONE } else { T::ZERO };
    for (i, value) in x.iter_mut().enumerate() {
        *value = *value * factor;
        if let Some(gain) = gain {
            *value = *value * (one + gain[i]);
        }
        if let Some(bias) = bias {
            *value += bias[i];
        }
    }
}

/// Turns pairs of dimensions of a head, the first of which is `head[0]`.
pub(super) fn rope<T: Real>(head: &mut [T], cos: &[T], sin: &[T], style: RopeStyle) {
    let half = cos.len();
    for (i, (&cos, &sin)) in cos.iter().zip(sin).enumerate() {
        let (a, b) = match style {
            RopeStyle::Halves => (i, i + half),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos - y * sin;
        head[b] = y * cos + x * sin;
    }
}

/// The non-linearity of every value.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn activate<T: Real>(values: &mut [T], kind: Activation) {
    for value in values {
        *value = activation(*value, kind);
    }
}

/// act(gate) · up, into `gate`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn gated<T: Real>(gate: &mut [T], up: &[T], kind: Activation) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = activation(*gate, kind) * up;
    }
}

/// The non-linearity.
#[inline(always)]
fn activation<T: Real>(x: T, activation: Activation) -> T {
    let half = T::from_f64(0.5);
    match activation {
        Activation::Silu => x / (T::ONE + (-x).exp()),
        Activation::Gelu => {
            half * x * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
        }
        Activation::GeluTanh => {
            let inner = T::from_f64((2.0 / std::f64::consts::PI).sqrt())
                * (x + T::from_f64(0.044_715) * x * x * x);
            half * x * (T::ONE + inner.tanh())
        }
        Activation::QuickGelu => x / (T::ONE + (-(T::from_f64(1.702) * x)).exp()),
        Activation::Relu => {
            if x < T::ZERO {
                T::ZERO
            } else {
                x
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_those_of_the_papers() {
        let mut x = [3.0f64, 4.0];
        norm(&mut x, &NormSpec::rms(0.0), Some(&[1.0, 2.0]), None);
        let root = 12.5f64.sqrt();
        assert!((x[0] - 3.0 / root).abs() < 1e-15 && (x[1] - 8.0 / root).abs() < 1e-15);
        let mut x = [3.0f64, 4.0];
        norm(
            &mut x,
            &NormSpec::rms_plus_one(0.0),
            Some(&[0.0, 1.0]),
            None,
        );
        assert!((x[1] - 8.0 / root).abs() < 1e-15);
        let mut x = [1.0f64, 3.0];
        norm(
            &mut x,
            &NormSpec::layer(0.0),
            Some(&[1.0, 1.0]),
            Some(&[0.5, 0.5]),
        );
        assert_eq!(x, [-0.5, 1.5]);
    }

    #[test]
    fn rotation_keeps_lengths_and_pairs() {
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rope(&mut x, &cos, &sin, RopeStyle::Halves);
        assert_eq!(x, [-3.0, 2.0, 1.0, 4.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rope(&mut x, &cos, &sin, RopeStyle::Interleaved);
        assert_eq!(x, [-2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn activations_have_their_known_values_and_keep_nan() {
        let at = |a| activation(1.0f64, a);
        assert!((at(Activation::Silu) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((at(Activation::Gelu) - 0.841_344_746_068_542_9).abs() < 1e-12);
        assert!((at(Activation::GeluTanh) - 0.841_191_990_607_477).abs() < 1e-12);
        assert!((at(Activation::QuickGelu) - 0.845_795_765_932_821_2).abs() < 1e-12);
        for a in [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
            Activation::Relu,
        ] {
            assert!(activation(f32::NAN, a).is_nan());
        }
        assert_eq!(activation(-1.0f32, Activation::Relu), 0.0);
    }
}

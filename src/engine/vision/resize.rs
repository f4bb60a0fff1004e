//! Bicubic resizing, bit for bit as Pillow does it: published preprocessing is written with Pillow, and
//! the models were trained on its rounding.
//!
//! The filter is Keys' cubic with a = −0.5, widened by the factor of a reduction so that it averages.
//! Rows are resized first, then columns; weights are fixed-point numbers of 22 bits, and what lies
//! between the two passes is rounded to 8 bits. Pillow 13 turns the order round for pictures whose height
//! shrinks much more than their width; here it is that of all versions before, which the models knew.

use super::picture::Picture;
use rayon::prelude::*;

/// Fraction bits of a weight: what 32 bits leave beside 8 of a value and 2 of overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half the width of the filter.
const SUPPORT: f64 = 2.0;
/// Parameter of the cubic.
const A: f64 = -0.5;

/// Keys' cubic.
fn bicubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// What one output value is made of: the first input and the weights, which sum to 1.
pub(super) struct Taps {
    pub first: usize,
    pub weights: Vec<f64>,
}

/// The taps of all outputs when `n_in` values become `n_out`.
pub(super) fn taps(n_in: usize, n_out: usize) -> Vec<Taps> {
    let scale = n_in as f64 / n_out as f64;
    let widening = scale.max(1.0);
    let support = SUPPORT * widening;
    (0..n_out)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            // Casts cut towards zero, and to zero what is below it.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(n_in);
            let mut weights: Vec<f64> = (first..end)
                .map(|x| bicubic((x as f64 - center + 0.5) * (1.0 / widening)))
                .collect();
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            Taps { first, weights }
        })
        .collect()
}

/// Weights as fixed-point numbers, rounded away from zero at the half.
fn fixed(weights: &[f64]) -> Vec<i32> {
    weights
        .iter()
        .map(|weight| {
            let scaled = weight * f64::from(1u32 << PRECISION_BITS);
            (scaled + if *weight < 0.0 { -0.5 } else { 0.5 }) as i32
        })
        .collect()
}

/// Weighted sum of every `step`-th byte.
fn weigh(values: &[u8], step: usize, weights: &[i32]) -> u8 {
    let mut sum = 1i32 << (PRECISION_BITS - 1);
    for (value, weight) in values.iter().step_by(step).zip(weights) {
        sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
    }
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The picture at another size.
///
/// # Panics
/// When a side is 0.
pub fn resize(picture: &Picture, width: usize, height: usize) -> Picture {
    assert!(width > 0 && height > 0, "a picture has sides");
    let mut picture = picture.clone();
    if picture.width != width {
        let taps = taps(picture.width, width);
        let fixed: Vec<Vec<i32>> = taps.iter().map(|t| fixed(&t.weights)).collect();
        let mut rgb = vec![0; width * picture.height * 3];
        rgb.par_chunks_mut(width * 3)
            .zip(picture.rgb.par_chunks(picture.width * 3))
            .for_each(|(out, row)| {
                for ((out, taps), weights) in out.chunks_mut(3).zip(&taps).zip(&fixed) {
                    for (channel, out) in out.iter_mut().enumerate() {
                        *out = weigh(&row[taps.first * 3 + channel..], 3, weights);
                    }
                }
            });
        picture = Picture {
            width,
            height: picture.height,
            rgb,
        };
    }
    if picture.height != height {
        let n = width * 3;
        let taps = taps(picture.height, height);
        let mut rgb = vec![0; n * height];
        rgb.par_chunks_mut(n).zip(&taps).for_each(|(out, taps)| {
            let weights = fixed(&taps.weights);
            for (at, out) in out.iter_mut().enumerate() {
                *out = weigh(&picture.rgb[taps.first * n + at..], n, &weights);
            }
        });
        picture = Picture { width, height, rgb };
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (n_in, n_out) in [(1, 1), (1, 9), (9, 1), (7, 5), (5, 7), (1000, 3), (3, 1000)] {
            for taps in taps(n_in, n_out) {
                assert!(taps.first + taps.weights.len() <= n_in);
                let total: f64 = taps.weights.iter().sum();
                assert!((total - 1.0).abs() < 1e-12, "{n_in} to {n_out}: {total}");
            }
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let picture = Picture {
            width: 5,
            height: 3,
            rgb: [10, 200, 255].repeat(15),
        };
        for (width, height) in [(1, 1), (5, 3), (17, 2), (4, 30)] {
            let resized = resize(&picture, width, height);
            assert_eq!(resized.rgb, [10, 200, 255].repeat(width * height));
        }
    }
}

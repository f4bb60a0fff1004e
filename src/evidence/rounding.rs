//! Are the values of one tensor those of another, rounded? For [`super::tensor_identity`].
//!
//! Plain dtypes are cast and compared bit by bit. Block-quantized values are not quantized anew, since
//! quantizers differ: a value is rounding of another if it lies within the bound that its own block
//! states ([`crate::tensor::BlockType::rounding_bounds`]). A block may state any bound, so that a tensor
//! must also keep what it is said to be: most of the energy of the values that were rounded.

use super::record::Observation;
use crate::tensor::{DType, Matrix, Tensor, TensorError};
use ndarray::Array2;
use std::collections::BTreeMap;
use std::ops::Range;

/// Above this share of the candidate's bound, the reference's own rounding is no excuse: a change of
/// less than its step could hide in it.
const FINER: f32 = 0.25;
/// What rounding loses fills the bounds: |difference| ÷ bound is ½ in the mean. Training that stays within
/// the bounds of every value does not: a Gaussian change does so for 10⁵ values only below 0.18.
const FILLS_THE_BOUNDS: f64 = 0.35;
/// Rounding to −1, 0, 1 loses half the energy of Gaussian values; unrelated values, or zeros, lose all.
const LARGEST_LOSS: f64 = 0.75;

/// Counts over values of one pair of tensors.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Values {
    n: u64,
    /// Values that are equal bit for bit.
    pub n_equal: u64,
    n_rounded: u64,
    n_reversed: u64,
    /// Values of which a scheme says too little to deny that they are rounded.
    n_perhaps: u64,
    n_perhaps_reversed: u64,
    /// Whether bounds of blocks decided, and not casts.
    bounded: bool,
    bounded_reversed: bool,
    /// Sums of the squares of the reference, of the candidate, and of their difference.
    energy: [f64; 3],
    /// Sum of |difference| ÷ bound over the values of a block-quantized reference, and their number.
    spread: f64,
    n_spread: u64,
}

impl Values {
    /// `n` values of one dtype, of which the bytes of `n_equal` are equal.
    pub(super) fn same(n_equal: u64, n: u64) -> Self {
        Self {
            n,
            n_equal,
            n_rounded: n_equal,
            n_reversed: n_equal,
            n_perhaps: n_equal,
            n_perhaps_reversed: n_equal,
            ..Self::default()
        }
    }

    /// Number of values.
    pub(super) fn n(&self) -> u64 {
        self.n
    }

    /// Takes further values of the same tensors.
    pub(super) fn add(&mut self, other: Self) {
        self.n += other.n;
        self.n_equal += other.n_equal;
        self.n_rounded += other.n_rounded;
        self.n_reversed += other.n_reversed;
        self.n_perhaps += other.n_perhaps;
        self.n_perhaps_reversed += other.n_perhaps_reversed;
        self.bounded |= other.bounded;
        self.bounded_reversed |= other.bounded_reversed;
        for (sum, other) in self.energy.iter_mut().zip(other.energy) {
            *sum += other;
        }
        self.spread += other.spread;
        self.n_spread += other.n_spread;
    }

    /// Whether most of the energy of the reference is left in the candidate, or the other way round.
    fn is_kept(&self, reversed: bool) -> bool {
        let [reference, candidate, difference] = self.energy;
        difference <= LARGEST_LOSS * if reversed { candidate } else { reference }
    }

    /// Candidate's values that are the reference's, rounded.
    pub(super) fn n_rounded(&self) -> u64 {
        if self.is_kept(false) || !self.bounded {
            self.n_rounded
        } else {
            self.n_equal
        }
    }

    /// Reference's values that are the candidate's, rounded.
    pub(super) fn n_reversed(&self) -> u64 {
        let fills = self.spread >= FILLS_THE_BOUNDS * self.n_spread as f64;
        if (self.is_kept(true) && fills) || !self.bounded_reversed || self.n_equal == self.n {
            self.n_reversed
        } else {
            self.n_equal
        }
    }

    /// Values of which nothing denies that they are rounded: what is rounded, and of codes that are too
    /// coarse to tell what lies within their bounds, or has none. In the candidate, or (`reversed`) in
    /// the reference.
    pub(super) fn n_perhaps_rounded(&self, reversed: bool) -> u64 {
        let (sure, perhaps) = match reversed {
            false => (self.n_rounded(), self.n_perhaps),
            true => (self.n_reversed(), self.n_perhaps_reversed),
        };
        match self.is_kept(reversed) {
            true => sure.max(perhaps),
            false => sure,
        }
    }
}

/// Whether `found` is what rounding `value` to a dtype gives (or equals it).
fn rounds_to(value: f32, found: f32, dtype: DType) -> bool {
    value.to_bits() == found.to_bits() || dtype.round(value).to_bits() == found.to_bits()
}

/// How far the candidate's values may lie from those of the reference if they are their rounding, by
/// the bounds that both state. Two quantizations of one original differ by the sum of what each lost.
fn widened(bounds: Option<Vec<f32>>, finer: Option<&[f32]>) -> Option<Vec<f32>> {
    let mut bounds = bounds?;
    for (bound, &finer) in bounds.iter_mut().zip(finer.unwrap_or_default()) {
        *bound += if finer <= FINER * *bound { finer } else { 0.0 };
    }
    Some(bounds)
}

/// Compares values with their dtypes and bounds.
fn compare_bounded(
    (x, dtype_x, bounds_x): (Vec<f32>, DType, Option<Vec<f32>>),
    (y, dtype_y, bounds_y): (Vec<f32>, DType, Option<Vec<f32>>),
) -> Values {
    let unbounded =
        |dtype: DType, bounds: &Option<Vec<f32>>| dtype.is_quantized() && bounds.is_none();
    let (any_x, any_y) = (unbounded(dtype_x, &bounds_x), unbounded(dtype_y, &bounds_y));
    let forward = widened(bounds_y, bounds_x.as_deref());
    let backward = bounds_x.filter(|_| !dtype_y.is_quantized());
    let mut values = compare_values(
        (&x, dtype_x, backward.as_deref()),
        (&y, dtype_y, forward.as_deref()),
    );
    let or_all = |any: bool, n: u64| if any { values.n } else { n };
    values.n_perhaps = or_all(any_y, values.n_rounded);
    values.n_perhaps_reversed = or_all(any_x, values.n_reversed);
    values
}

/// Compares a range of elements of two tensors of equal shape and different dtypes.
pub(super) fn compare(a: &Tensor, b: &Tensor, range: Range<usize>) -> Result<Values, TensorError> {
    let side = |t: &Tensor| {
        let bounds = t.read_rounding_bounds(range.clone())?;
        Ok((t.read_elements(range.clone())?, t.dtype(), bounds))
    };
    Ok(compare_bounded(side(a)?, side(b)?))
}

/// Compares a range of rows of two matrices of equal shape.
pub(super) fn compare_rows(
    a: &Matrix,
    b: &Matrix,
    rows: Range<usize>,
) -> Result<Values, TensorError> {
    let flat = |m: Array2<f32>| m.into_iter().collect::<Vec<f32>>();
    let side = |m: &Matrix| {
        let bounds = m.rounding_bounds(rows.clone())?.map(flat);
        Ok((flat(m.rows(rows.clone())?), m.tensor().dtype(), bounds))
    };
    Ok(compare_bounded(side(a)?, side(b)?))
}

/// Compares values one by one; each side with its dtype and, where it is block-quantized, its bounds.
fn compare_values(
    (x, dtype_x, backward): (&[f32], DType, Option<&[f32]>),
    (y, dtype_y, forward): (&[f32], DType, Option<&[f32]>),
) -> Values {
    let mut values = Values {
        n: x.len() as u64,
        bounded: forward.is_some(),
        bounded_reversed: backward.is_some(),
        ..Values::default()
    };
    for (i, (&p, &q)) in x.iter().zip(y).enumerate() {
        let equal = p.to_bits() == q.to_bits();
        let difference = (p - q).abs();
        values.n_equal += u64::from(equal);
        values.n_rounded += u64::from(match forward {
            Some(bounds) => equal || difference <= bounds[i],
            None => rounds_to(p, q, dtype_y),
        });
        values.n_reversed += u64::from(match backward {
            Some(bounds) => equal || difference <= bounds[i],
            None => rounds_to(q, p, dtype_x),
        });
        for (sum, value) in values.energy.iter_mut().zip([p, q, difference]) {
            *sum += f64::from(value) * f64::from(value);
        }
        // Blocks of zeros lose nothing when they are rounded.
        if let Some(bounds) = backward
            && (p != 0.0 || q != 0.0)
        {
            values.spread += f64::from(difference / bounds[i]);
            values.n_spread += 1;
        }
    }
    values
}

/// What a reader should know of block-quantized tensors of the candidate.
pub(super) fn observations(n_by_scheme: &BTreeMap<&str, (u64, bool)>) -> Vec<Observation> {
    n_by_scheme
        .iter()
        .map(|(scheme, (n, has_bounds))| {
            let what = format!("{n} tensors of the candidate are stored as {scheme}");
            let (code, message) = if *has_bounds {
                (
                    "block-quantized",
                    format!(
                        "{what}; a value counts as rounding of the reference's if it lies within half \
                         a step of its block's codes and what the rounding of the scale adds."
                    ),
                )
            } else {
                (
                    "block-quantized-without-bound",
                    format!(
                        "{what}, whose codes stand for several values at once: how far rounding moves a \
                         value is not bounded, so that rounding cannot be told from a change."
                    ),
                )
            };
            Observation {
                code: code.to_owned(),
                message,
                file: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::BlockType;

    const BLOCK: DType = DType::Block(BlockType::Q8_0);

    /// 4096 numbers in −1..1, and what rounding them to steps of `step` gives.
    fn rounded(step: f32) -> (Vec<f32>, Vec<f32>) {
        let x: Vec<f32> = (0..4096)
            .map(|i| (i as f32 * 0.754_877_7).fract() * 2.0 - 1.0)
            .collect();
        let y = x.iter().map(|x| (x / step).round() * step).collect();
        (x, y)
    }

    #[test]
    fn rounding_is_seen_from_either_side() {
        let (x, y) = rounded(0.01);
        let bounds = vec![0.005_01; x.len()];
        let n = x.len() as u64;
        let forward = compare_values((&x, DType::F32, None), (&y, BLOCK, Some(&bounds)));
        assert_eq!(forward.n_rounded(), n);
        let backward = compare_values((&y, BLOCK, Some(&bounds)), (&x, DType::F32, None));
        assert_eq!(backward.n_reversed(), n);
        assert!(backward.n_rounded() < n);
    }

    #[test]
    fn light_training_of_dequantized_weights_does_not_fill_the_bounds() {
        let (_, y) = rounded(0.01);
        let bounds = vec![0.005_01; y.len()];
        let trained: Vec<f32> = y
            .iter()
            .enumerate()
            .map(|(i, y)| y + ((i as f32 * 0.618_034).fract() - 0.5) * 0.002)
            .collect();
        let found = compare_values((&y, BLOCK, Some(&bounds)), (&trained, DType::F32, None));
        assert!(found.n_reversed() < 100, "{found:?}");
    }

    #[test]
    fn codes_without_bounds_are_perhaps_rounding_of_what_they_keep() {
        let (x, y) = rounded(0.3);
        let unbounded = DType::Block(BlockType::Iq2Xxs);
        let side = |values: &[f32], dtype| (values.to_vec(), dtype, None);
        let n = x.len() as u64;
        let found = compare_bounded(side(&x, DType::F32), side(&y, unbounded));
        assert!(found.n_rounded() < n);
        assert_eq!(found.n_perhaps_rounded(false), n);
        let found = compare_bounded(side(&y, unbounded), side(&x, DType::F32));
        assert_eq!(found.n_perhaps_rounded(true), n);
        assert!(found.n_perhaps_rounded(false) < n);
        let other: Vec<f32> = y.iter().rev().copied().collect();
        let found = compare_bounded(side(&x, DType::F32), side(&other, unbounded));
        assert!(found.n_perhaps_rounded(false) < n / 2, "{found:?}");
    }

    #[test]
    fn blocks_that_state_any_bound_are_rounding_of_nothing() {
        let (x, _) = rounded(0.01);
        for (value, bound) in [
            (0.0, 1e4),
            (f32::INFINITY, f32::INFINITY),
            (f32::NAN, f32::NAN),
        ] {
            let (y, bounds) = (vec![value; x.len()], vec![bound; x.len()]);
            let found = compare_values((&x, DType::F32, None), (&y, BLOCK, Some(&bounds)));
            assert!(found.n_rounded() < 10, "{value}: {found:?}");
            let found = compare_values((&y, BLOCK, Some(&bounds)), (&x, DType::F32, None));
            assert!(found.n_reversed() < 10, "{value}: {found:?}");
        }
    }
}

//! Products of rows: y = x Wᵀ, with one order of summation whatever the sizes.
//!
//! 1. `plain`, in the tests, sums one product in [`LANES`] lanes: lane l adds up the products k ≡ l (mod
//!    `LANES`) in the order of k, each by one fused multiply-add; the lanes are then added in a fixed tree.
//! 2. [`few`] does so for a few rows of x, reading W in the type in which it is stored: what decoding
//!    needs, where every weight is used once.
//! 3. [`tiles`] does so for tiles of M × N products, so that each loaded value serves several.
//!
//! A product is therefore a function of its two rows alone: not of the number of rows, the place of a
//! row among them, the number of threads, or the width of the machine's vectors. Libraries of matrix
//! products promise none of this (docs: "Dependencies"), which is why the loops are ours.

// Loops over arrays by number, several at once: compilers turn them into vectors.
#![allow(clippy::needless_range_loop)]

pub(super) mod few;
pub(super) mod tiles;

use super::real::{Element, Real};

/// Lanes of a sum: the numbers of f32 in the widest vectors.
pub(super) const LANES: usize = 16;
/// Rows of x up to which W is read as it is stored.
pub(super) const FEW: usize = 4;

/// A vector of lanes. Aligned as the widest vectors are: one that crosses cache lines is read twice.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes<T>(pub [T; LANES]);

impl<T: Real> Lanes<T> {
    /// Zeros.
    pub const ZERO: Self = Self([T::ZERO; LANES]);

    /// Decodes `LANES` stored values.
    #[inline(always)]
    pub fn decode<E: Element>(stored: &[E; LANES]) -> Self {
        let mut lanes = Self::ZERO;
        for l in 0..LANES {
            lanes.0[l] = stored[l].as_real();
        }
        lanes
    }

    /// Decodes fewer than `LANES` stored values; the rest is 0.
    #[inline(always)]
    pub fn decode_part<E: Element>(stored: &[E]) -> Self {
        Self(decode_part(stored))
    }

    /// Adds the products of lanes.
    #[inline(always)]
    pub fn add_products(&mut self, x: &Self, w: &Self) {
        add_products(&mut self.0, &x.0, &w.0);
    }

    /// The lanes in four quarters.
    #[inline(always)]
    pub fn quarters(&self) -> [[T; 4]; 4] {
        let mut quarters = [[T::ZERO; 4]; 4];
        quarters.copy_from_slice(self.0.as_chunks::<4>().0);
        quarters
    }

    /// The lanes' sum.
    #[inline(always)]
    pub fn total(&self) -> T {
        total(&self.quarters())
    }
}

/// Decodes fewer than V stored values; the rest is 0.
#[inline(always)]
fn decode_part<T: Real, E: Element, const V: usize>(stored: &[E]) -> [T; V] {
    let mut values = [T::ZERO; V];
    for (value, stored) in values.iter_mut().zip(stored) {
        *value = stored.as_real();
    }
    values
}

/// Adds the products of lanes, all or those of one register, to their sums.
#[inline(always)]
fn add_products<T: Real, const V: usize>(sums: &mut [T; V], x: &[T; V], w: &[T; V]) {
    for l in 0..V {
        sums[l] = x[l].fused(w[l], sums[l]);
    }
}

/// The sum of all lanes, given by quarters: the upper half is added to the lower until one is left.
#[inline(always)]
pub(super) fn total<T: Real>([a, b, c, d]: &[[T; 4]; 4]) -> T {
    let mut four = [T::ZERO; 4];
    for l in 0..4 {
        four[l] = (a[l] + c[l]) + (b[l] + d[l]);
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

#[cfg(test)]
mod tests {
    use super::few::few_times;
    use super::tiles::{Out, Packed, Tile, packed_times};
    use super::*;
    use half::bf16;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// Σₖ x[k] · w[k]: the definition.
    fn plain<T: Real, E: Element>(x: &[T], w: &[E]) -> T {
        let mut lanes = Lanes::ZERO;
        for (k, (x, w)) in x.iter().zip(w).enumerate() {
            lanes.0[k % LANES] = x.fused(w.as_real(), lanes.0[k % LANES]);
        }
        lanes.total()
    }

    /// W xᵀ `[n_w, n_x]` of every version; memory of packed rows is used again, as products do.
    fn all<T: Real, E: Element>(
        x: &[T],
        w: &[E],
        width: usize,
        (packed_x, packed_w): &mut (Packed<T>, Packed<T>),
    ) -> Vec<Vec<T>> {
        let (n_x, n_w) = (x.len() / width, w.len() / width);
        let mut few = vec![T::from_f32(f32::NAN); n_w * n_x];
        few_times(x, w, width, &mut few);
        let mut versions = vec![few];
        for tile in Tile::ALL {
            packed_x.par_fill_x(x, width, tile);
            packed_w.fill_w(w, width, tile);
            let mut out = vec![T::from_f32(f32::NAN); n_w * n_x];
            let mut products = Out {
                values: &mut out,
                x_stride: 1,
                w_stride: n_x,
            };
            packed_times(packed_x.all(), packed_w.all(), tile, &mut products);
            versions.push(out);
        }
        versions
    }

    fn has_the_bits_of_its_definition<T: Real>(
        [width, n_x, n_w]: [usize; 3],
        packs: &mut (Packed<T>, Packed<T>),
    ) {
        let x: Vec<T> = numbers(n_x * width, 1)
            .into_iter()
            .map(T::from_f32)
            .collect();
        let w: Vec<bf16> = numbers(n_w * width, 2)
            .into_iter()
            .map(bf16::from_f32)
            .collect();
        for out in all(&x, &w, width, packs) {
            for i in 0..n_x {
                for j in 0..n_w {
                    let expected = plain(&x[i * width..][..width], &w[j * width..][..width]);
                    let found = out[j * n_x + i];
                    // Numbers that are equal have the same bits, but for zeros, of which one inverts to −∞.
                    let has_same_bits = found == expected && T::ONE / found == T::ONE / expected;
                    assert!(has_same_bits, "{width} {n_x} {n_w}");
                }
            }
        }
    }

    #[test]
    fn every_product_has_the_bits_of_its_definition_at_every_size() {
        let (mut packs, mut wide) = Default::default();
        for width in [3000, 1, 7, 8, 9, 15, 16, 17, 64, 100, 1000] {
            for n_x in [1, 2, 3, 5, 6, 7, 13] {
                for n_w in [1, 3, 4, 6, 9, 37] {
                    has_the_bits_of_its_definition::<f32>([width, n_x, n_w], &mut packs);
                    has_the_bits_of_its_definition::<f64>([width, n_x, n_w], &mut wide);
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for x in [f32::NAN, f32::INFINITY] {
            for out in all(&[x, 0.0f32], &[0.0f32, 1.0], 2, &mut Default::default()) {
                assert!(out[0].is_nan());
            }
        }
    }
}

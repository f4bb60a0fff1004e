//! Products of rows: y = x Wᵀ, with one order of summation whatever the sizes.
//!
//! 1. `plain` sums one product in [`LANES`] lanes: lane l adds up the products k ≡ l (mod `LANES`)
//!    in the order of k, each by one fused multiply-add; the lanes are then added in a fixed tree.
//! 2. `direct` does so for a few rows of x, reading W in the type in which it is stored: what decoding
//!    needs, where every weight is used once.
//! 3. `packed` does so for tiles of M × N products, so that each loaded value serves several. Both sides
//!    are first packed: decoded, padded with zeros to whole lanes, and laid out in the order of use.
//!
//! A product is therefore a function of its two rows alone: not of the number of rows, the place of a
//! row among them, the number of threads, or the width of the machine's vectors. Libraries of matrix
//! products promise none of this (docs: "Dependencies"), which is why the loop is ours.

use super::real::{Element, Real};
use multiversion::multiversion;

/// Lanes of a sum.
pub(super) const LANES: usize = 8;
/// Rows of x in a tile.
const TILE_M: usize = 3;
/// Rows of W in a tile; `TILE_M × TILE_N` vectors of lanes fit the 16 registers of AVX2 beside one tile row.
const TILE_N: usize = 4;
/// Rows of x up to which W is read as it is stored.
pub(super) const FEW: usize = 4;

/// The lanes' sum.
#[inline(always)]
pub(super) fn total<T: Real>(lanes: [T; LANES]) -> T {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Σₖ x[k] · w[k]: the definition.
#[cfg(test)]
fn plain<T: Real, E: Element>(x: &[T], w: &[E]) -> T {
    let mut lanes = [T::ZERO; LANES];
    for (k, (x, w)) in x.iter().zip(w).enumerate() {
        lanes[k % LANES] = x.fused(w.as_real(), lanes[k % LANES]);
    }
    total(lanes)
}

/// Adds the products of M × N vectors of lanes.
#[inline(always)]
fn step<T: Real, const M: usize, const N: usize>(
    x: &[[T; LANES]; M],
    w: &[[T; LANES]; N],
    lanes: &mut [[[T; LANES]; N]; M],
) {
    for j in 0..N {
        for i in 0..M {
            for l in 0..LANES {
                lanes[i][j][l] = x[i][l].fused(w[j][l], lanes[i][j][l]);
            }
        }
    }
}

/// Decodes `LANES` stored values.
#[inline(always)]
fn vector<T: Real, E: Element>(stored: &[E; LANES]) -> [T; LANES] {
    let mut values = [T::ZERO; LANES];
    for l in 0..LANES {
        values[l] = stored[l].as_real();
    }
    values
}

/// Decodes fewer than `LANES` stored values; the rest is 0.
#[inline(always)]
fn part_of_vector<T: Real, E: Element>(stored: &[E]) -> [T; LANES] {
    let mut values = [T::ZERO; LANES];
    for (value, stored) in values.iter_mut().zip(stored) {
        *value = stored.as_real();
    }
    values
}

/// Products of one row of x with N rows of W of the same length.
#[inline(always)]
fn row_times<T: Real, E: Element, const N: usize>(x: &[T], w: [&[E]; N]) -> [T; N] {
    let (whole, rest) = x.as_chunks::<LANES>();
    let n = whole.len();
    let w = w.map(|row| row.as_chunks::<LANES>());
    let mut lanes = [[[T::ZERO; LANES]; N]; 1];
    // Slices of one known length, so that no access is checked in the loop.
    let vectors = w.map(|(whole, _)| &whole[..n]);
    for k in 0..n {
        let mut stored = [[T::ZERO; LANES]; N];
        for j in 0..N {
            stored[j] = vector(&vectors[j][k]);
        }
        step(&[whole[k]], &stored, &mut lanes);
    }
    if !rest.is_empty() {
        lanes = std::hint::black_box(lanes);
        let mut stored = [[T::ZERO; LANES]; N];
        for j in 0..N {
            stored[j] = part_of_vector(w[j].1);
        }
        step(&[part_of_vector(rest)], &stored, &mut lanes);
    }
    // Opaque, so that the tree of the totals does not keep the lanes of the loop out of vectors.
    std::hint::black_box(lanes)[0].map(total)
}

/// `out` `[n_w, n_x]` of x `[n_x, width]` and W `[n_w, width]` as it is stored.
#[multiversion(targets("x86_64+avx2+fma"))]
fn direct<T: Real, E: Element>(x: &[T], w: &[E], width: usize, out: &mut [T]) {
    let n_x = x.len() / width;
    for (w, out) in w.chunks(TILE_N * width).zip(out.chunks_mut(TILE_N * n_x)) {
        for (i, x) in x.chunks_exact(width).enumerate() {
            if out.len() == TILE_N * n_x {
                let rows: [&[E]; TILE_N] = std::array::from_fn(|j| &w[j * width..(j + 1) * width]);
                for (j, product) in row_times(x, rows).into_iter().enumerate() {
                    out[j * n_x + i] = product;
                }
            } else {
                for (j, w) in w.chunks_exact(width).enumerate() {
                    [out[j * n_x + i]] = row_times(x, [w]);
                }
            }
        }
    }
}

/// Rows packed in groups of G, in the order in which tiles read them: of each group, for every vector of
/// lanes of the width, that of each of its rows. Missing rows are zeros.
#[derive(Debug, Default)]
pub(super) struct Packed<T> {
    values: Vec<[T; LANES]>,
    n_rows: usize,
    width: usize,
}

impl<T: Real> Packed<T> {
    /// Packs rows of x.
    pub fn x(&mut self, rows: &[T], width: usize) {
        self.pack::<T, TILE_M>(rows, width);
    }

    /// Packs rows of W.
    pub fn w<E: Element>(&mut self, rows: &[E], width: usize) {
        self.pack::<E, TILE_N>(rows, width);
    }

    fn pack<E: Element, const G: usize>(&mut self, rows: &[E], width: usize) {
        self.width = width;
        self.n_rows = rows.len() / width;
        let n_vectors = width.div_ceil(LANES);
        self.values.clear();
        self.values
            .resize(self.n_rows.div_ceil(G) * G * n_vectors, [T::ZERO; LANES]);
        pack_into::<T, E>(rows, width, G, &mut self.values);
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn pack_into<T: Real, E: Element>(rows: &[E], width: usize, group: usize, out: &mut [[T; LANES]]) {
    let n_vectors = width.div_ceil(LANES);
    for (number, row) in rows.chunks_exact(width).enumerate() {
        let start = number / group * group * n_vectors + number % group;
        let (whole, rest) = row.as_chunks::<LANES>();
        for (stored, out) in whole.iter().zip(out[start..].iter_mut().step_by(group)) {
            *out = vector(stored);
        }
        if !rest.is_empty() {
            out[start + whole.len() * group] = part_of_vector(rest);
        }
    }
}

/// `out` `[n_w, n_x]` of packed x and packed W.
#[multiversion(targets("x86_64+avx2+fma"))]
fn packed<T: Real>(x: &Packed<T>, w: &Packed<T>, out: &mut [T]) {
    let n_vectors = x.width.div_ceil(LANES);
    for (n, w_group) in w.values.chunks_exact(TILE_N * n_vectors).enumerate() {
        let w_group = w_group.as_chunks::<TILE_N>().0;
        for (m, x_group) in x.values.chunks_exact(TILE_M * n_vectors).enumerate() {
            let x_group = x_group.as_chunks::<TILE_M>().0;
            let mut lanes = [[[T::ZERO; LANES]; TILE_N]; TILE_M];
            for (x, w) in x_group.iter().zip(w_group) {
                step(x, w, &mut lanes);
            }
            let products = std::hint::black_box(lanes).map(|row| row.map(total));
            for j in 0..TILE_N.min(w.n_rows - n * TILE_N) {
                for i in 0..TILE_M.min(x.n_rows - m * TILE_M) {
                    out[(n * TILE_N + j) * x.n_rows + m * TILE_M + i] = products[i][j];
                }
            }
        }
    }
}

/// W xᵀ: `out` `[n_w, n_x]` of a few rows x `[n_x, width]` and w `[n_w, width]`, on this thread.
///
/// # Panics
/// When the lengths do not fit.
pub(super) fn few_times<T: Real, E: Element>(x: &[T], w: &[E], width: usize, out: &mut [T]) {
    let n_products = (x.len() / width) * (w.len() / width);
    assert_eq!(n_products, out.len(), "one product per pair");
    direct(x, w, width, out);
}

/// W xᵀ: `out` `[n_w, n_x]` of packed rows, on this thread.
///
/// # Panics
/// When the lengths do not fit.
pub(super) fn packed_times<T: Real>(x: &Packed<T>, w: &Packed<T>, out: &mut [T]) {
    assert_eq!(x.width, w.width, "rows of one width");
    assert_eq!(x.n_rows * w.n_rows, out.len(), "one product per pair");
    packed(x, w, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    fn both<E: Element>(x: &[f32], w: &[E], width: usize) -> [Vec<f32>; 2] {
        let n = x.len() / width * (w.len() / width);
        let mut out = [vec![f32::NAN; n], vec![f32::NAN; n]];
        few_times(x, w, width, &mut out[0]);
        let (mut packed_x, mut packed_w) = (Packed::default(), Packed::default());
        packed_x.x(x, width);
        packed_w.w(w, width);
        packed_times(&packed_x, &packed_w, &mut out[1]);
        out
    }

    #[test]
    fn every_product_has_the_bits_of_its_definition_at_every_size() {
        for width in [1, 7, 8, 9, 64, 100] {
            for n_x in 1..8 {
                for n_w in [1, 3, 4, 6, 9] {
                    let x = numbers(n_x * width, 1);
                    let w: Vec<bf16> = numbers(n_w * width, 2)
                        .into_iter()
                        .map(bf16::from_f32)
                        .collect();
                    for out in both(&x, &w, width) {
                        for i in 0..n_x {
                            for j in 0..n_w {
                                let expected =
                                    plain(&x[i * width..][..width], &w[j * width..][..width]);
                                let found = out[j * n_x + i];
                                assert_eq!(
                                    found.to_bits(),
                                    expected.to_bits(),
                                    "{width} {n_x} {n_w}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for x in [f32::NAN, f32::INFINITY] {
            for out in both(&[x, 0.0], &[0.0f32, 1.0], 2) {
                assert!(out[0].is_nan());
            }
        }
    }
}

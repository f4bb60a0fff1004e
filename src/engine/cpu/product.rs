//! Products of rows: y = x Wᵀ, with one order of summation whatever the sizes.
//!
//! 1. [`plain`] sums one product in [`LANES`] lanes: lane l adds up the products k ≡ l (mod `LANES`)
//!    in the order of k, each by one fused multiply-add; the lanes are then added in a fixed tree.
//! 2. `tile` does the same for M × N products at once, so that each loaded value serves several.
//!
//! A product is therefore a function of its two rows alone: not of the number of rows, the place of a
//! row among them, the number of threads, or the width of the machine's vectors. Libraries of matrix
//! products promise none of this (docs: "Dependencies"), which is why the loop is ours.

use super::real::{Element, Real};
use multiversion::multiversion;

/// Lanes of a sum.
pub(super) const LANES: usize = 8;
/// Rows of x that a tile takes.
const TILE_M: usize = 3;
/// Rows of W that a tile takes; `TILE_M × TILE_N` vectors of lanes fit the 16 registers of AVX2.
const TILE_N: usize = 4;

/// The lanes' sum.
#[inline(always)]
fn total<T: Real>(lanes: [T; LANES]) -> T {
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

/// M × N products of rows of equal length.
#[inline(always)]
fn tile<T: Real, E: Element, const M: usize, const N: usize>(
    x: [&[T]; M],
    w: [&[E]; N],
) -> [[T; N]; M] {
    let n = x[0].len();
    // Slices of one known length, so that no access is checked in the loop.
    let x = x.map(|row| &row[..n]);
    let w = w.map(|row| &row[..n]);
    let mut lanes = [[[T::ZERO; LANES]; N]; M];
    let whole = n - n % LANES;
    let mut k = 0;
    while k < whole {
        let mut xs = [[T::ZERO; LANES]; M];
        for i in 0..M {
            xs[i].copy_from_slice(&x[i][k..k + LANES]);
        }
        for j in 0..N {
            let mut ws = [T::ZERO; LANES];
            for (value, stored) in ws.iter_mut().zip(&w[j][k..k + LANES]) {
                *value = stored.as_real();
            }
            for i in 0..M {
                for l in 0..LANES {
                    lanes[i][j][l] = xs[i][l].fused(ws[l], lanes[i][j][l]);
                }
            }
        }
        k += LANES;
    }
    for l in 0..n - whole {
        for i in 0..M {
            for j in 0..N {
                let value = w[j][whole + l].as_real();
                lanes[i][j][l] = x[i][whole + l].fused(value, lanes[i][j][l]);
            }
        }
    }
    lanes.map(|row| row.map(total))
}

/// Rows `at..at + N` of a row-major matrix.
#[inline(always)]
fn rows<A, const N: usize>(matrix: &[A], width: usize, at: usize) -> [&[A]; N] {
    std::array::from_fn(|i| &matrix[(at + i) * width..(at + i + 1) * width])
}

/// Products of some rows of W with M rows of x, from row `i` on, into `out` `[n_w, n_x]`.
#[inline(always)]
fn strip<T: Real, E: Element, const M: usize>(
    x: &[T],
    w: &[E],
    width: usize,
    i: usize,
    n_x: usize,
    out: &mut [T],
) {
    let n_w = w.len() / width;
    let whole = n_w - n_w % TILE_N;
    for j in (0..whole).step_by(TILE_N) {
        let products = tile::<T, E, M, TILE_N>(rows(x, width, i), rows(w, width, j));
        for (m, row) in products.into_iter().enumerate() {
            for (n, product) in row.into_iter().enumerate() {
                out[(j + n) * n_x + i + m] = product;
            }
        }
    }
    for j in whole..n_w {
        let products = tile::<T, E, M, 1>(rows(x, width, i), rows(w, width, j));
        for (m, [product]) in products.into_iter().enumerate() {
            out[j * n_x + i + m] = product;
        }
    }
}

/// W xᵀ: `out` `[n_w, n_x]` of x `[n_x, width]` and w `[n_w, width]`, all row-major.
#[multiversion(targets("x86_64+avx2+fma"))]
fn products<T: Real, E: Element>(x: &[T], w: &[E], width: usize, out: &mut [T]) {
    let n_x = x.len() / width;
    let whole = n_x - n_x % TILE_M;
    for i in (0..whole).step_by(TILE_M) {
        strip::<T, E, TILE_M>(x, w, width, i, n_x, out);
    }
    match n_x - whole {
        2 => strip::<T, E, 2>(x, w, width, whole, n_x, out),
        1 => strip::<T, E, 1>(x, w, width, whole, n_x, out),
        _ => {}
    }
}

/// W xᵀ: `out` `[n_w, n_x]` of x `[n_x, width]` and w `[n_w, width]`, all row-major; on this thread.
///
/// # Panics
/// When the lengths do not fit.
pub(super) fn w_xt<T: Real, E: Element>(x: &[T], w: &[E], width: usize, out: &mut [T]) {
    assert_eq!(
        (x.len() / width) * (w.len() / width),
        out.len(),
        "one product per pair"
    );
    products(x, w, width, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
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
                    let mut out = vec![f32::NAN; n_x * n_w];
                    w_xt(&x, &w, width, &mut out);
                    for i in 0..n_x {
                        for j in 0..n_w {
                            let expected =
                                plain(&x[i * width..][..width], &w[j * width..][..width]);
                            assert_eq!(
                                out[j * n_x + i].to_bits(),
                                expected.to_bits(),
                                "{width} {n_x} {n_w}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let mut out = [0.0f32; 1];
        w_xt(&[f32::NAN, 0.0], &[0.0f32, 1.0], 2, &mut out);
        assert!(out[0].is_nan());
        w_xt(&[f32::INFINITY, 0.0], &[0.0f32, 1.0], 2, &mut out);
        assert!(out[0].is_nan());
    }
}

//! Products of a few rows of x with W as it is stored: the second version of [`super`].

use super::super::real::{Element, Real};
use super::{LANES, Lanes};
use multiversion::multiversion;

/// Rows of W that one row of x passes at once: as many sums as memory can feed.
const AT_ONCE: usize = 4;

/// Products of one row of x with N rows of W of the same length.
#[inline(always)]
fn row_times<T: Real, E: Element, const N: usize>(x: &[T], w: [&[E]; N]) -> [T; N] {
    let (whole, rest) = x.as_chunks::<LANES>();
    let n = whole.len();
    let w = w.map(|row| row.as_chunks::<LANES>());
    let mut lanes = [Lanes::ZERO; N];
    // Slices of one known length, so that no access is checked in the loop.
    let vectors = w.map(|(whole, _)| &whole[..n]);
    for k in 0..n {
        let x = Lanes(whole[k]);
        for j in 0..N {
            lanes[j].add_products(&x, &Lanes::decode(&vectors[j][k]));
        }
    }
    if !rest.is_empty() {
        lanes = std::hint::black_box(lanes);
        let x = Lanes::decode_part(rest);
        for j in 0..N {
            lanes[j].add_products(&x, &Lanes::decode_part(w[j].1));
        }
    }
    // Opaque, so that the tree of the totals does not keep the lanes of the loop out of vectors.
    let lanes = std::hint::black_box(&lanes);
    let mut products = [T::ZERO; N];
    let (fours, rest) = lanes.as_chunks::<4>();
    let (totals, others) = products.as_chunks_mut::<4>();
    for (lanes, totals) in fours.iter().zip(totals) {
        let [a, b, c, d] = lanes;
        *totals = T::totals(&[a.quarters(), b.quarters(), c.quarters(), d.quarters()]);
    }
    for (lanes, total) in rest.iter().zip(others) {
        *total = lanes.total();
    }
    products
}

/// W xᵀ: `out` `[n_w, n_x]` of a few rows x `[n_x, width]` and w `[n_w, width]`, on this thread.
///
/// # Panics
/// When the lengths do not fit.
pub(in super::super) fn few_times<T: Real, E: Element>(
    x: &[T],
    w: &[E],
    width: usize,
    out: &mut [T],
) {
    let n_products = (x.len() / width) * (w.len() / width);
    assert_eq!(n_products, out.len(), "one product per pair");
    direct(x, w, width, out);
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn direct<T: Real, E: Element>(x: &[T], w: &[E], width: usize, out: &mut [T]) {
    let n_x = x.len() / width;
    for (w, out) in w.chunks(AT_ONCE * width).zip(out.chunks_mut(AT_ONCE * n_x)) {
        for (i, x) in x.chunks_exact(width).enumerate() {
            if out.len() == AT_ONCE * n_x {
                let mut rows: [&[E]; AT_ONCE] = [&[]; AT_ONCE];
                for (j, row) in rows.iter_mut().enumerate() {
                    *row = &w[j * width..(j + 1) * width];
                }
                let products = row_times(x, rows);
                for j in 0..AT_ONCE {
                    out[j * n_x + i] = products[j];
                }
            } else {
                for (j, w) in w.chunks_exact(width).enumerate() {
                    [out[j * n_x + i]] = row_times(x, [w]);
                }
            }
        }
    }
}

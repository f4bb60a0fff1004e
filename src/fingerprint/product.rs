//! Matrix products and row normalisation, split into fixed blocks so that results depend neither on
//! the number of threads nor on how the work is scheduled.

use ndarray::{Array2, ArrayView2, Axis, Zip};
use rayon::prelude::*;

/// Rows per block. Fixed: it is part of the numerical result.
const BLOCK_ROWS: usize = 128;

/// `a · bᵀ`: `[n, k] × [m, k] → [n, m]`, f32 accumulated in f32 by blocks of rows of `a`.
///
/// # Panics
/// When the inner dimensions differ.
pub fn rows_by_rows(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    assert_eq!(a.ncols(), b.ncols(), "inner dimensions of a product differ");
    let mut out = Array2::<f32>::zeros((a.nrows(), b.nrows()));
    let transposed = b.t();
    out.axis_chunks_iter_mut(Axis(0), BLOCK_ROWS)
        .into_par_iter()
        .zip(a.axis_chunks_iter(Axis(0), BLOCK_ROWS).into_par_iter())
        .for_each(|(mut out, a)| {
            ndarray::linalg::general_mat_mul(1.0, &a, &transposed, 0.0, &mut out);
        });
    out
}

/// Scales each row to unit length, in place; a row of zeros stays zero.
pub fn normalise_rows(rows: &mut Array2<f32>) {
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if square > 0.0 {
            let scale = (1.0 / square.sqrt()) as f32;
            row *= scale;
        }
    });
}

/// Subtracts each row's mean, in place.
pub fn centre_rows(rows: &mut Array2<f32>) {
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        row -= mean as f32;
    });
}

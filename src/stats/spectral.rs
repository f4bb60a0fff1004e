//! Leading singular directions of a matrix by subspace iteration (Halko, Martinsson and Tropp, 2011).

use super::sampling;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand::RngExt;

/// Orthonormalises the columns in place (modified Gram–Schmidt, twice for stability).
fn orthonormalise(columns: &mut Array2<f64>) {
    let k = columns.ncols();
    for _ in 0..2 {
        for i in 0..k {
            for j in 0..i {
                let (earlier, mut column) =
                    columns.multi_slice_mut((ndarray::s![.., j], ndarray::s![.., i]));
                let dot = earlier.dot(&column);
                column.scaled_add(-dot, &earlier);
            }
            let mut column = columns.column_mut(i);
            let norm = column.dot(&column).sqrt();
            if norm > 0.0 {
                column /= norm;
            }
        }
    }
}

/// An orthonormal basis of the leading right singular subspace: `[n_cols, k]`, f64.
///
/// Deterministic in `seed`. `n_iterations` doublings of the spectrum's contrast; where the spectrum
/// has no gap the subspace is one of several equally good ones, which suits every use here.
pub fn top_right_subspace(
    a: ArrayView2<f64>,
    k: usize,
    n_iterations: usize,
    seed: u64,
) -> Array2<f64> {
    let k = k.min(a.ncols()).min(a.nrows());
    let mut rng = sampling::rng(seed, "top-right-subspace");
    let mut basis = Array2::from_shape_fn((a.ncols(), k), |_| rng.random::<f64>() - 0.5);
    orthonormalise(&mut basis);
    for _ in 0..n_iterations {
        basis = a.t().dot(&a.dot(&basis));
        orthonormalise(&mut basis);
    }
    basis
}

/// The largest singular value, from below: exact to a few tenths of a percent after 30 iterations.
pub fn top_singular_value(a: ArrayView2<f64>, seed: u64) -> f64 {
    let direction: Array1<f64> = top_right_subspace(a, 1, 30, seed).index_axis_move(Axis(1), 0);
    let image = a.dot(&direction);
    image.dot(&image).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_direction_is_found() {
        let a = Array2::from_shape_fn((40, 30), |(i, j)| {
            let noise = ((i * 31 + j * 17) % 13) as f64 / 130.0;
            (i as f64 / 40.0) * (j as f64 / 30.0) * 5.0 + noise
        });
        let value = top_singular_value(a.view(), 1);
        let frobenius = a.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(value <= frobenius * (1.0 + 1e-12) && value > 0.99 * frobenius);
        let basis = top_right_subspace(a.view(), 3, 8, 1);
        let gram = basis.t().dot(&basis);
        for ((i, j), &g) in gram.indexed_iter() {
            assert!(
                (g - f64::from(u8::from(i == j))).abs() < 1e-10,
                "{i} {j} {g}"
            );
        }
    }
}

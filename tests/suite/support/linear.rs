//! Random numbers and matrices of the derivations, from a seed.

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;

/// The generator of one derivation; `step` keeps the derivations of one seed apart.
pub fn generator(seed: u64, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    rng
}

/// A standard normal value (Box–Muller).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

/// A random angle.
pub fn angle(rng: &mut ChaCha8Rng) -> f64 {
    TAU * rng.random::<f64>()
}

/// Log-uniform in [1 / most, most].
pub fn log_uniform(most: f64, rng: &mut ChaCha8Rng) -> f64 {
    (most.ln() * (2.0 * rng.random::<f64>() - 1.0)).exp()
}

/// 0, 1, …, n − 1 in random order.
pub fn permutation(n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(rng);
    order
}

/// A random orthogonal matrix: Gram–Schmidt on normal rows, twice over for orthogonality to the last bits.
pub fn orthogonal(n: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
    let mut q = Array2::from_shape_simple_fn((n, n), || normal(rng));
    for row in 0..n {
        for _ in 0..2 {
            for earlier in 0..row {
                let direction = q.row(earlier).to_owned();
                let along = direction.dot(&q.row(row));
                q.row_mut(row).scaled_add(-along, &direction);
            }
            let length = q.row(row).dot(&q.row(row)).sqrt();
            q.row_mut(row).mapv_inplace(|value| value / length);
        }
    }
    q
}

/// A random invertible matrix and its inverse, singular values in [1/2, 2]: inverted by its factors, not by elimination.
pub fn invertible(n: usize, rng: &mut ChaCha8Rng) -> (Array2<f64>, Array2<f64>) {
    let (left, right) = (orthogonal(n, rng), orthogonal(n, rng));
    let scales = Array1::from_shape_simple_fn(n, || log_uniform(2.0, rng));
    let matrix = (&left * &scales).dot(&right);
    let inverse = right.t().to_owned();
    let inverse = (&inverse / &scales).dot(&left.t());
    (matrix, inverse)
}

/// Rows (axis 0) or columns (axis 1) in the given order.
pub fn select(array: &ArrayD<f64>, axis: usize, order: &[usize]) -> ArrayD<f64> {
    array.select(Axis(axis), order)
}

/// Indices of whole blocks of `size` in the order of the blocks.
pub fn expand(blocks: &[usize], size: usize) -> Vec<usize> {
    blocks
        .iter()
        .flat_map(|&block| block * size..(block + 1) * size)
        .collect()
}

/// Standard deviation of the entries about their mean.
pub fn std(array: &ArrayD<f64>) -> f64 {
    array.std(0.0)
}

/// Independent standard normal entries.
pub fn normals(shape: &[usize], rng: &mut ChaCha8Rng) -> ArrayD<f64> {
    ArrayD::from_shape_simple_fn(IxDyn(shape), || normal(rng))
}

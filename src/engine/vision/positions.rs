//! Learned positions for images of other shapes than those they were learned for, and fixed ones.

use super::resize::{Taps, taps};

/// For `n` patches in a line, the cell of each among `n_side` learned ones.
///
/// Numbers are rounded as in the published implementation, in f32: where the corner of a patch lies on
/// the border of two cells, rounding decides. Patch i lies at i · (1 / n), and border k, the double
/// precision number 1 / n_side + (k − 1) / n_side, is rounded once.
fn bucket(n: usize, n_side: usize) -> Vec<u32> {
    let step = 1.0 / n as f32;
    let cell = 1.0 / n_side as f64;
    let borders: Vec<f32> = (0..n_side.saturating_sub(1))
        .map(|k| (cell + k as f64 * cell) as f32)
        .collect();
    (0..n)
        .map(|i| {
            let at = (i as f32 * step).min((1.0 - 1e-6) as f32);
            borders.partition_point(|border| *border <= at) as u32
        })
        .collect()
}

/// Rows of the learned table for the patches of an image of `grid` rows and columns, row by row.
pub fn buckets(grid: (usize, usize), n_side: usize) -> Vec<u32> {
    let columns = bucket(grid.1, n_side);
    bucket(grid.0, n_side)
        .into_iter()
        .flat_map(|row| {
            columns
                .iter()
                .map(move |column| row * n_side as u32 + column)
        })
        .collect()
}

/// A learned square `[n_side², width]`, resized to rows and columns of patches by the antialiased bicubic
/// filter of `torch.nn.functional.interpolate`: `[grid.0 × grid.1, width]`.
pub fn resized(square: &[f32], n_side: usize, width: usize, grid: (usize, usize)) -> Vec<f32> {
    if grid == (n_side, n_side) {
        return square.to_vec();
    }
    // Columns first, as PyTorch does; sums here are exact enough that the order does not matter.
    let mut wide = vec![0.0f64; n_side * grid.1 * width];
    for (row, out) in wide.chunks_mut(grid.1 * width).enumerate() {
        let line = &square[row * n_side * width..(row + 1) * n_side * width];
        for (out, taps) in out.chunks_mut(width).zip(taps(n_side, grid.1)) {
            weigh(out, &taps, |at, i| f64::from(line[at * width + i]));
        }
    }
    let mut result = vec![0.0f64; grid.0 * grid.1 * width];
    for (out, taps) in result.chunks_mut(grid.1 * width).zip(taps(n_side, grid.0)) {
        weigh(out, &taps, |at, i| wide[at * grid.1 * width + i]);
    }
    result.into_iter().map(|value| value as f32).collect()
}

/// Weighted sums over inputs.
fn weigh(out: &mut [f64], taps: &Taps, value: impl Fn(usize, usize) -> f64) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = taps
            .weights
            .iter()
            .enumerate()
            .map(|(tap, weight)| weight * value(taps.first + tap, i))
            .sum();
    }
}

/// Fixed positions of patches, row by row `[grid.0 × grid.1, width]`: the first half of a row tells the
/// column and the second the row of the patch, each by sines and then cosines of
/// position / 10000^(i / (width / 4)).
pub fn sine_cosine(width: usize, grid: (usize, usize)) -> Vec<f32> {
    let quarter = width / 4;
    let line = |n: usize| -> Vec<Vec<f32>> {
        (0..n)
            .map(|at| {
                let angle = |i: usize| at as f64 / 10000f64.powf(i as f64 / quarter as f64);
                let sines = (0..quarter).map(|i| angle(i).sin() as f32);
                sines
                    .chain((0..quarter).map(|i| angle(i).cos() as f32))
                    .collect()
            })
            .collect()
    };
    let columns = line(grid.1);
    let mut values = Vec::with_capacity(grid.0 * grid.1 * width);
    for row in line(grid.0) {
        for column in &columns {
            values.extend_from_slice(column);
            values.extend_from_slice(&row);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_the_learned_shape_gets_the_learned_positions() {
        for n_side in [2, 8, 32, 70] {
            let ids: Vec<u32> = (0..(n_side * n_side) as u32).collect();
            assert_eq!(buckets((n_side, n_side), n_side), ids);
        }
        let square: Vec<f32> = (0..3 * 3 * 2).map(|i| i as f32).collect();
        assert_eq!(resized(&square, 3, 2, (3, 3)), square);
    }

    #[test]
    fn a_constant_square_stays_constant() {
        let resized = resized(&[0.25; 5 * 5 * 3], 5, 3, (2, 9));
        assert_eq!(resized.len(), 2 * 9 * 3);
        assert!(resized.iter().all(|v| (v - 0.25).abs() < 1e-7));
    }

    #[test]
    fn the_first_half_tells_the_column() {
        let values = sine_cosine(8, (2, 3));
        let rows: Vec<&[f32]> = values.chunks(8).collect();
        assert_eq!(rows.len(), 6);
        // Row 1, column 2.
        let expected = [2f64, 0.02, 1.0, 0.01];
        for (pair, angle) in expected.iter().enumerate() {
            let at = (pair / 2) * 4 + pair % 2;
            assert!((f64::from(rows[5][at]) - angle.sin()).abs() < 1e-7);
            assert!((f64::from(rows[5][at + 2]) - angle.cos()).abs() < 1e-7);
        }
    }
}

//! Small content sketches of tensors, by which a tensor is recognised whatever it is called.
//!
//! `values`: runs of elements at positions that depend on the shape alone, so that two tensors of
//! one shape are read at the same places. `spectrum`: quantiles of the row norms, which no
//! permutation of rows and no rotation of columns changes.

use crate::tensor::{Tensor, TensorError};

/// Elements in a run, and number of runs: 1,024 elements, a few pages of a file.
const RUN: usize = 256;
const N_RUNS: usize = 4;
/// Rows sampled for a spectrum, elements read of each, and quantiles kept.
const SPECTRUM_ROWS: usize = 256;
const N_QUANTILES: usize = 16;

/// Values at fixed positions, centred and scaled to unit length; `None` for a constant tensor.
///
/// # Errors
/// When the tensor cannot be read or a sampled value is not finite.
pub fn values(tensor: &Tensor) -> Result<Option<Vec<f32>>, TensorError> {
    let n = tensor.n_elements();
    let mut sample = Vec::with_capacity(RUN * N_RUNS);
    if n <= RUN * N_RUNS {
        sample = tensor.read_elements(0..n)?;
    } else {
        for run in 0..N_RUNS {
            // Evenly spread, the last run flush with the end.
            let start = (n - RUN) / (N_RUNS - 1) * run;
            sample.extend(tensor.read_elements(start..start + RUN)?);
        }
    }
    if sample.iter().any(|x| !x.is_finite()) {
        return Err(TensorError::not_finite(tensor));
    }
    let mean = sample.iter().map(|&x| f64::from(x)).sum::<f64>() / sample.len().max(1) as f64;
    let norm = sample
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        .sqrt();
    if !(norm > 1e-12 * (1.0 + mean.abs()) * (sample.len() as f64).sqrt()) {
        return Ok(None);
    }
    Ok(Some(
        sample
            .into_iter()
            .map(|x| ((f64::from(x) - mean) / norm) as f32)
            .collect(),
    ))
}

/// Quantiles of the norms of rows, `[N_QUANTILES]`, smallest first; of a vector, of its magnitudes.
///
/// # Errors
/// When the tensor cannot be read or a value is not finite.
pub fn spectrum(tensor: &Tensor) -> Result<Vec<f64>, TensorError> {
    let n = tensor.n_elements();
    let n_rows = tensor.shape().first().copied().unwrap_or(1).max(1);
    let row = n / n_rows;
    let mut norms = Vec::new();
    if row <= 1 {
        norms.extend(
            tensor
                .read_elements(0..n)?
                .into_iter()
                .map(|x| f64::from(x).abs()),
        );
    } else {
        let step = n_rows.div_ceil(SPECTRUM_ROWS);
        for r in (0..n_rows).step_by(step) {
            let values = tensor.read_elements(r * row..(r + 1) * row)?;
            norms.push(
                values
                    .iter()
                    .map(|&x| f64::from(x).powi(2))
                    .sum::<f64>()
                    .sqrt(),
            );
        }
    }
    if norms.iter().any(|x| !x.is_finite()) {
        return Err(TensorError::not_finite(tensor));
    }
    norms.sort_by(f64::total_cmp);
    let last = norms.len().saturating_sub(1);
    Ok((0..N_QUANTILES)
        .map(|q| {
            norms
                .get(last * q / (N_QUANTILES - 1))
                .copied()
                .unwrap_or(0.0)
        })
        .collect())
}

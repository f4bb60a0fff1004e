//! RMSNorm and LayerNorm of groups of columns.
//!
//! Versions: 1. a unit per group. 2. a workgroup per group: units sum every 256th value, then a tree in shared
//! memory; the values are read again for the second pass, from cache. 3. (here) the same by vectors of four,
//! where the width is whole vectors. The order of the sum
//! depends on the width alone. No plane operations: software Vulkan has none.

use super::super::device::{Device, UNITS, Words, launch};
use super::number::sum_of_units;
use crate::engine::EngineError;
use cubecl::prelude::*;

/// What a launch needs to know.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Norm {
    /// Columns of a group.
    pub(in super::super) width: usize,
    /// Subtract the mean first (LayerNorm).
    pub(in super::super) centred: bool,
    /// ε.
    pub(in super::super) epsilon: f32,
    /// The gain is 1 + γ.
    pub(in super::super) plus_one: bool,
}

#[cube(launch, launch_unchecked)]
fn norm_kernel<N: Size>(
    x: &Array<Vector<f32, N>>,
    gain: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<f32, N>>,
    width: usize,
    n_groups: usize,
    epsilon: f32,
    #[comptime] centred: bool,
    #[comptime] has_gain: bool,
    #[comptime] has_bias: bool,
    #[comptime] plus_one: bool,
) {
    let mut shared = SharedMemory::<f32>::new(UNITS as usize);
    let group = CUBE_POS;
    // The same for all units of a workgroup, so that all or none wait for each other.
    if group < n_groups {
        let start = group * width;
        let unit = UNIT_POS as usize;
        let count = f32::cast_from((width * N::value()) as u32);

        let mut mean = 0.0f32;
        if comptime!(centred) {
            let mut sum = 0.0f32;
            let mut i = unit;
            while i < width {
                let v = x[start + i];
                #[unroll]
                for k in 0..N::value() {
                    sum += v[k];
                }
                i += UNITS as usize;
            }
            mean = sum_of_units(&mut shared, sum, UNITS as usize) / count;
        }

        let mut squares = 0.0f32;
        let mut i = unit;
        while i < width {
            let v = x[start + i];
            #[unroll]
            for k in 0..N::value() {
                let d = v[k] - mean;
                squares = fma(d, d, squares);
            }
            i += UNITS as usize;
        }
        let variance = sum_of_units(&mut shared, squares, UNITS as usize) / count;
        let factor = 1.0f32 / f32::sqrt(variance + epsilon);

        let mut i = unit;
        while i < width {
            let v = x[start + i];
            let mut y = Vector::<f32, N>::empty();
            #[unroll]
            for k in 0..N::value() {
                y[k] = (v[k] - mean) * factor;
            }
            if comptime!(has_gain) {
                let g = gain[(start + i) % gain.len()];
                #[unroll]
                for k in 0..N::value() {
                    if comptime!(plus_one) {
                        y[k] *= 1.0f32 + g[k];
                    } else {
                        y[k] *= g[k];
                    }
                }
            }
            if comptime!(has_bias) {
                let b = bias[(start + i) % bias.len()];
                #[unroll]
                for k in 0..N::value() {
                    y[k] += b[k];
                }
            }
            out[start + i] = y;
            i += UNITS as usize;
        }
    }
}

/// Norms of all groups of `width` values; x is whole groups. Gain and bias repeat along the columns: their length is
/// `width` or the number of columns.
pub(in super::super) fn norm<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    gain: Option<&Words>,
    bias: Option<&Words>,
    norm: Norm,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len())?;
    let n_groups = x.len() / norm.width;
    let grid = device.grid(n_groups)?;
    // Gain and bias are whole groups too, so that they are whole vectors where a group is.
    let lanes = if norm.width.is_multiple_of(4) { 4 } else { 1 };
    launch!(
        device,
        norm_kernel,
        grid,
        UNITS,
        lanes,
        device.arg(x),
        device.arg(gain.unwrap_or(x)),
        device.arg(bias.unwrap_or(x)),
        device.arg(&out),
        norm.width / lanes,
        n_groups,
        norm.epsilon,
        norm.centred,
        gain.is_some(),
        bias.is_some(),
        norm.plus_one,
    );
    Ok(out)
}

/// What is right, in f64.
#[cfg(test)]
pub(in super::super) fn plain(
    x: &[f32],
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
    norm: Norm,
) -> Vec<f64> {
    let mut out = Vec::new();
    for group in x.chunks(norm.width) {
        let n = group.len() as f64;
        let mean = if norm.centred {
            group.iter().map(|&v| f64::from(v)).sum::<f64>() / n
        } else {
            0.0
        };
        let variance = group
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / n;
        for &v in group {
            let at = out.len();
            let mut y = (f64::from(v) - mean) / (variance + f64::from(norm.epsilon)).sqrt();
            if let Some(gain) = gain {
                y *= f64::from(gain[at % gain.len()]) + if norm.plus_one { 1.0 } else { 0.0 };
            }
            if let Some(bias) = bias {
                y += f64::from(bias[at % bias.len()]);
            }
            out.push(y);
        }
    }
    out
}

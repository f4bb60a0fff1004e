//! RMSNorm and LayerNorm of groups of columns.
//!
//! Versions: 1. a unit per group. 2. a workgroup per group: units sum every 256th value, then a tree in shared
//! memory; the values are read again for the second pass, from cache. 3. the same by vectors of four, where the
//! width is whole vectors. 4. (here) the first 8,192 values of a group are held in registers between the passes.
//! The order of the sum depends on the width alone. No plane operations: software Vulkan has none.

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

/// Vectors of a group that a unit holds in registers between the passes.
const MAX_HELD: usize = 8;

/// Sum of a vector's values after those before.
#[cube]
fn add_values<N: Size>(v: Vector<f32, N>, before: f32) -> f32 {
    let mut sum = before;
    #[unroll]
    for k in 0..N::value() {
        sum += v[k];
    }
    sum
}

/// Sum of the squared distances of a vector's values from the mean after those before.
#[cube]
fn add_squares<N: Size>(v: Vector<f32, N>, mean: f32, before: f32) -> f32 {
    let mut sum = before;
    #[unroll]
    for k in 0..N::value() {
        let d = v[k] - mean;
        sum = fma(d, d, sum);
    }
    sum
}

/// (v − mean) · factor · gain + bias.
#[cube]
fn scaled<N: Size>(
    v: Vector<f32, N>,
    gain: Vector<f32, N>,
    bias: Vector<f32, N>,
    mean: f32,
    factor: f32,
    #[comptime] kind: Kind,
) -> Vector<f32, N> {
    let mut y = Vector::<f32, N>::empty();
    #[unroll]
    for k in 0..N::value() {
        y[k] = (v[k] - mean) * factor;
        if comptime!(kind.has_gain && kind.plus_one) {
            y[k] *= 1.0f32 + gain[k];
        } else if comptime!(kind.has_gain) {
            y[k] *= gain[k];
        }
        if comptime!(kind.has_bias) {
            y[k] += bias[k];
        }
    }
    y
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    centred: bool,
    has_gain: bool,
    has_bias: bool,
    plus_one: bool,
    /// Vectors that a unit holds.
    n_held: usize,
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
    #[comptime] kind: Kind,
) {
    let mut shared = SharedMemory::<f32>::new(UNITS as usize);
    let n_held = comptime!(kind.n_held);
    let group = CUBE_POS;
    // The same for all units of a workgroup, so that all or none wait for each other.
    if group < n_groups {
        let start = group * width;
        let (gain_start, bias_start) = (start % gain.len(), start % bias.len());
        let unit = UNIT_POS as usize;
        let count = f32::cast_from((width * N::value()) as u32);
        let mut held = Array::<Vector<f32, N>>::new(comptime!(MAX_HELD));
        #[unroll]
        for step in 0..n_held {
            let i = unit + comptime!(step * UNITS as usize);
            held[step] = x[start + select(i < width, i, 0usize)];
        }

        let mut mean = 0.0f32;
        if comptime!(kind.centred) {
            let mut sum = 0.0f32;
            #[unroll]
            for step in 0..n_held {
                if unit + comptime!(step * UNITS as usize) < width {
                    sum = add_values(held[step], sum);
                }
            }
            let mut i = unit + comptime!(n_held * UNITS as usize);
            while i < width {
                sum = add_values(x[start + i], sum);
                i += UNITS as usize;
            }
            mean = sum_of_units(&mut shared, sum, UNITS as usize) / count;
        }

        let mut squares = 0.0f32;
        #[unroll]
        for step in 0..n_held {
            if unit + comptime!(step * UNITS as usize) < width {
                squares = add_squares(held[step], mean, squares);
            }
        }
        let mut i = unit + comptime!(n_held * UNITS as usize);
        while i < width {
            squares = add_squares(x[start + i], mean, squares);
            i += UNITS as usize;
        }
        let variance = sum_of_units(&mut shared, squares, UNITS as usize) / count;
        let factor = 1.0f32 / f32::sqrt(variance + epsilon);

        #[unroll]
        for step in 0..n_held {
            let i = unit + comptime!(step * UNITS as usize);
            if i < width {
                let (g, b) = (gain[gain_start + i], bias[bias_start + i]);
                out[start + i] = scaled(held[step], g, b, mean, factor, kind);
            }
        }
        let mut i = unit + comptime!(n_held * UNITS as usize);
        while i < width {
            let (g, b) = (gain[gain_start + i], bias[bias_start + i]);
            out[start + i] = scaled(x[start + i], g, b, mean, factor, kind);
            i += UNITS as usize;
        }
    }
}

/// Norms of all groups of `width` values; x is whole groups. Gain and bias repeat along the columns: their
/// length is `width` or the number of columns.
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
    let kind = Kind {
        centred: norm.centred,
        has_gain: gain.is_some(),
        has_bias: bias.is_some(),
        plus_one: norm.plus_one,
        n_held: (norm.width / lanes).div_ceil(UNITS as usize).min(MAX_HELD),
    };
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
        kind,
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

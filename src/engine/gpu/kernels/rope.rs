//! Rotary positions: pairs of dimensions of every head turned by the angles of a table.
//!
//! Versions: 1. (here) a unit per element, each reading its partner. It is bound by memory, and small
//! beside everything else of a layer.

use super::super::device::{Device, UNITS, Words, launch};
use crate::engine::EngineError;
use cubecl::prelude::*;

/// Which dimensions turn.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Turn {
    /// Width of a head.
    pub(in super::super) head_dim: usize,
    /// First dimension that turns.
    pub(in super::super) offset: usize,
    /// Dimensions that turn.
    pub(in super::super) rotated: usize,
    /// 2i turns with 2i + 1; otherwise i with i + rotated / 2.
    pub(in super::super) interleaved: bool,
}

#[cube(launch, launch_unchecked)]
fn rope_kernel(
    x: &Array<f32>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    out: &mut Array<f32>,
    n_cols: usize,
    head_dim: usize,
    offset: usize,
    rotated: usize,
    #[comptime] interleaved: bool,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let row = i / n_cols;
        let d = (i % n_cols) % head_dim;
        let mut value = x[i];
        if d >= offset && d < offset + rotated {
            let j = d - offset;
            let half = rotated / 2usize;
            if comptime!(interleaved) {
                let angle = row * half + j / 2usize;
                if j & 1usize == 0usize {
                    value = value * cos[angle] - x[i + 1usize] * sin[angle];
                } else {
                    value = value * cos[angle] + x[i - 1usize] * sin[angle];
                }
            } else if j < half {
                let angle = row * half + j;
                value = value * cos[angle] - x[i + half] * sin[angle];
            } else {
                let angle = row * half + j - half;
                value = value * cos[angle] + x[i - half] * sin[angle];
            }
        }
        out[i] = value;
    }
}

/// x `[n_rows, n_cols]` turned by cos and sin `[n_rows, rotated / 2]`.
pub(in super::super) fn rope<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    cos: &Words,
    sin: &Words,
    n_cols: usize,
    turn: Turn,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len())?;
    let grid = device.grid(x.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        rope_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(cos),
        device.arg(sin),
        device.arg(&out),
        n_cols,
        turn.head_dim,
        turn.offset,
        turn.rotated,
        turn.interleaved,
    );
    Ok(out)
}

/// What is right, in f64.
#[cfg(test)]
pub(in super::super) fn plain(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    n_cols: usize,
    turn: Turn,
) -> Vec<f64> {
    let mut out: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let half = turn.rotated / 2;
    for head in 0..x.len() / turn.head_dim {
        let row = head * turn.head_dim / n_cols;
        for pair in 0..half {
            let (a, b) = if turn.interleaved {
                (2 * pair, 2 * pair + 1)
            } else {
                (pair, pair + half)
            };
            let start = head * turn.head_dim + turn.offset;
            let (c, s) = (
                f64::from(cos[row * half + pair]),
                f64::from(sin[row * half + pair]),
            );
            let (u, v) = (f64::from(x[start + a]), f64::from(x[start + b]));
            out[start + a] = u * c - v * s;
            out[start + b] = v * c + u * s;
        }
    }
    out
}

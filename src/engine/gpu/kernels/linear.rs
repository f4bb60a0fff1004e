//! y = x Wᵀ + bias, with W as it is stored and every product and sum in f32.
//!
//! Versions:
//! 1. `plain`: a unit per output, W read element by element. What the others are compared with, on the
//!    device itself.
//! 2. `tiled` (a file of its own): for many rows. A workgroup computes a square of outputs from tiles in shared memory, a unit
//!    a square of those in registers; the next tiles are on their way meanwhile.
//! 3. `vector`: for few rows. 32 lanes per row of W, each loading 16 bytes at a time; bound by the memory
//!    that W occupies.
//!
//! All three sum in the same order, with fused multiply-adds, so that a row of the result is the same
//! bits whatever rows are computed with it and whichever version runs: the columns are dealt in chunks of
//! [`CHUNK`] to [`LANES`] lanes in turn, a lane sums its chunks in order, and the lanes are added in order.
//! Rows are padded with zeros to whole chunks, which adds nothing.

use super::super::device::{Device, Four, UNITS, Words, launch};
use super::number::{Stored, decode_half, decode_in_word};
use super::tiled;
use crate::engine::EngineError;
use cubecl::prelude::*;

/// Columns that a lane takes at a time: 32 bytes of bf16, one sector of a memory transaction.
pub(in super::super) const CHUNK: usize = 16;
/// Partial sums of an output.
pub(super) const LANES: usize = 32;
/// Rows of W that a workgroup of the vector kernel reads at a time.
pub(super) const GROUPS: usize = UNITS as usize / LANES;
/// Some rows of a weight and where their outputs go.
#[derive(Clone, Copy)]
pub(in super::super) struct Part<'a> {
    /// Rows of [`padded`] columns.
    pub(in super::super) words: &'a Words,
    /// How elements are stored.
    pub(in super::super) stored: Stored,
    /// The first row's number among all outputs.
    pub(in super::super) first: usize,
    /// How many rows.
    pub(in super::super) n_rows: usize,
}

/// Which version runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Version {
    /// 1.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare"))]
    Plain,
    /// 2.
    Tiled,
    /// 3.
    Vector,
}

/// Columns with the padding to whole chunks.
pub(in super::super) fn padded(n_cols: usize) -> usize {
    n_cols.div_ceil(CHUNK) * CHUNK
}

/// Eight consecutive elements from number `8 · eighth` on, as they are stored: two vectors of f32, or one of
/// halves.
#[cube]
pub(super) fn load_words(
    source: &Array<Vector<u32, Four>>,
    words: &mut Array<Vector<u32, Four>>,
    eighth: usize,
    #[comptime] stored: Stored,
) {
    if comptime!(stored == Stored::F32) {
        words[0] = source[2usize * eighth];
        words[1] = source[2usize * eighth + 1usize];
    } else {
        words[0] = source[eighth];
    }
}

/// What [`load_words()`] brought, as two vectors of four.
#[cube]
pub(super) fn decode_eight(
    words: &Array<Vector<u32, Four>>,
    #[comptime] stored: Stored,
) -> (Vector<f32, Four>, Vector<f32, Four>) {
    let mut low = Vector::<f32, Four>::empty();
    let mut high = Vector::<f32, Four>::empty();
    let a = words[0];
    if comptime!(stored == Stored::F32) {
        let b = words[1];
        #[unroll]
        for k in 0..4 {
            low[k] = f32::reinterpret(a[k]);
            high[k] = f32::reinterpret(b[k]);
        }
    } else {
        #[unroll]
        for k in 0..2usize {
            low[2 * k] = decode_half(a[k] & 0xffffu32, stored);
            low[2 * k + 1] = decode_half(a[k] >> 16u32, stored);
            high[2 * k] = decode_half(a[2 + k] & 0xffffu32, stored);
            high[2 * k + 1] = decode_half(a[2 + k] >> 16u32, stored);
        }
    }
    (low, high)
}

#[cube(launch, launch_unchecked)]
fn plain_kernel(
    x: &Array<f32>,
    w: &Array<u32>,
    bias: &Array<f32>,
    out: &mut Array<f32>,
    n_cols: usize,
    n_out: usize,
    first: usize,
    part_rows: usize,
    n_rows: usize,
    #[comptime] stored: Stored,
    #[comptime] has_bias: bool,
) {
    let i = ABSOLUTE_POS;
    if i < n_rows * part_rows {
        let row = i / part_rows;
        let j = i % part_rows;
        let mut total = 0.0f32;
        for lane in 0..LANES {
            let mut partial = 0.0f32;
            let mut start = lane * CHUNK;
            while start < n_cols {
                for k in 0..CHUNK {
                    let c = j * n_cols + start + k;
                    let word = if comptime!(stored == Stored::F32) {
                        w[c]
                    } else {
                        w[c / 2usize]
                    };
                    partial = fma(
                        decode_in_word(word, c, stored),
                        x[row * n_cols + start + k],
                        partial,
                    );
                }
                start += LANES * CHUNK;
            }
            total += partial;
        }
        if comptime!(has_bias) {
            total += bias[first + j];
        }
        out[row * n_out + first + j] = total;
    }
}

/// What a lane adds up of the products of a row of W, whose first element has number `at`, with `rows` rows of x
/// from `first_row` on; those from `end` on repeat the last.
#[cube]
pub(super) fn accumulate(
    x: &Array<Vector<f32, Four>>,
    w: &Array<Vector<u32, Four>>,
    partial: &mut Array<f32>,
    at: usize,
    first_row: usize,
    end: usize,
    n_cols: usize,
    lane: usize,
    #[comptime] stored: Stored,
    #[comptime] rows: usize,
) {
    let mut start = lane * CHUNK;
    while start < n_cols {
        #[unroll]
        for eighth in 0..comptime!(CHUNK / 8) {
            let mut words = Array::<Vector<u32, Four>>::new(2usize);
            load_words(w, &mut words, (at + start) / 8usize + eighth, stored);
            let (low, high) = decode_eight(&words, stored);
            #[unroll]
            for r in 0..rows {
                let row = select(first_row + r < end, first_row + r, end - 1usize);
                let from = (row * n_cols + start) / 4usize + comptime!(2 * eighth);
                let xl = x[from];
                let xh = x[from + 1usize];
                let mut sum = partial[r];
                #[unroll]
                for k in 0..4 {
                    sum = fma(low[k], xl[k], sum);
                }
                #[unroll]
                for k in 0..4 {
                    sum = fma(high[k], xh[k], sum);
                }
                partial[r] = sum;
            }
        }
        start += LANES * CHUNK;
    }
}

/// A workgroup computes [`GROUPS`] columns of up to `rows` rows; W is read once for all of these.
#[cube(launch, launch_unchecked)]
fn vector_kernel(
    x: &Array<Vector<f32, Four>>,
    w: &Array<Vector<u32, Four>>,
    bias: &Array<f32>,
    out: &mut Array<f32>,
    n_cols: usize,
    n_out: usize,
    first: usize,
    part_rows: usize,
    n_rows: usize,
    #[comptime] stored: Stored,
    #[comptime] has_bias: bool,
    #[comptime] rows: usize,
) {
    let mut shared = SharedMemory::<f32>::new(comptime!(UNITS as usize * rows));
    let unit = UNIT_POS as usize;
    let lane = unit % LANES;
    let blocks = n_rows.div_ceil(rows);
    let first_row = CUBE_POS % blocks * rows;
    let j = CUBE_POS / blocks * GROUPS + unit / LANES;

    let mut partial = Array::<f32>::new(rows);
    #[unroll]
    for r in 0..rows {
        partial[r] = 0.0f32;
    }
    if j < part_rows {
        accumulate(
            x,
            w,
            &mut partial,
            j * n_cols,
            first_row,
            n_rows,
            n_cols,
            lane,
            stored,
            rows,
        );
    }
    #[unroll]
    for r in 0..rows {
        shared[comptime!(r * UNITS as usize) + unit] = partial[r];
    }
    sync_cube();
    if lane < rows && j < part_rows && first_row + lane < n_rows {
        let mut total = 0.0f32;
        for l in 0..LANES {
            total += shared[lane * UNITS as usize + unit - lane + l];
        }
        if comptime!(has_bias) {
            total += bias[first + j];
        }
        out[(first_row + lane) * n_out + first + j] = total;
    }
}

#[cube(launch, launch_unchecked)]
fn pad_kernel(x: &Array<f32>, out: &mut Array<f32>, n_cols: usize, n_padded: usize) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let column = i % n_padded;
        let mut value = 0.0f32;
        if column < n_cols {
            value = x[i / n_padded * n_cols + column];
        }
        out[i] = value;
    }
}

/// x with its rows padded to whole chunks; x itself where they are.
pub(in super::super) fn pad<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    n_rows: usize,
    n_cols: usize,
) -> Result<Words, EngineError> {
    if n_cols.is_multiple_of(CHUNK) {
        return Ok(x.clone());
    }
    let out = device.empty(n_rows * padded(n_cols))?;
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        pad_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(&out),
        n_cols,
        padded(n_cols),
    );
    Ok(out)
}

/// Rows above which the tiled kernel pays.
const FEW_ROWS: usize = 16;

/// The version for so many rows.
pub(in super::super) fn version_for(n_rows: usize) -> Version {
    if n_rows <= FEW_ROWS {
        Version::Vector
    } else {
        Version::Tiled
    }
}

/// Outputs of one part, for x `[n_rows, n_cols]` with `n_cols` padded, into out `[n_rows, n_out]`.
pub(in super::super) fn linear<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    part: Part<'_>,
    bias: Option<&Words>,
    out: &Words,
    (n_rows, n_cols, n_out): (usize, usize, usize),
    version: Version,
) -> Result<(), EngineError> {
    let (b, has_bias) = (device.arg(bias.unwrap_or(x)), bias.is_some());
    match version {
        Version::Plain => {
            let grid = device.grid((n_rows * part.n_rows).div_ceil(UNITS as usize))?;
            launch!(
                device,
                plain_kernel,
                grid,
                UNITS,
                device.arg(x),
                device.arg(part.words),
                b,
                device.arg(out),
                n_cols,
                n_out,
                part.first,
                part.n_rows,
                n_rows,
                part.stored,
                has_bias,
            );
        }
        Version::Tiled => {
            tiled::linear(device, x, part, bias, out, (n_rows, n_cols, n_out))?;
        }
        Version::Vector => {
            let rows = n_rows.next_power_of_two().min(4);
            let grid = device.grid(part.n_rows.div_ceil(GROUPS) * n_rows.div_ceil(rows))?;
            launch!(
                device,
                vector_kernel,
                grid,
                UNITS,
                device.arg4(x),
                device.arg4(part.words),
                b,
                device.arg(out),
                n_cols,
                n_out,
                part.first,
                part.n_rows,
                n_rows,
                part.stored,
                has_bias,
                rows,
            );
        }
    }
    Ok(())
}

/// What is right, in f64: x `[n_rows, n_cols]`, W `[n_out, n_cols]`.
#[cfg(test)]
pub(in super::super) fn plain(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    n_cols: usize,
) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(n_cols) {
        for (j, weights) in w.chunks(n_cols).enumerate() {
            let sum: f64 = row
                .iter()
                .zip(weights)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    out
}

//! Rows moved: looked up in a table, chosen, scattered, copied into place, joined head by head.
//!
//! Versions: 1. a unit per element; reads and writes of neighbours lie beside each other. 2. (here, for rows
//! chosen and copied) a unit per 16 bytes where rows are whole vectors of four.

use super::super::device::{Device, UNITS, Words, launch};
use super::number::{Stored, decode_in_word};
use crate::engine::EngineError;
use cubecl::prelude::*;

#[cube(launch, launch_unchecked)]
fn embed_kernel(
    table: &Array<u32>,
    ids: &Array<u32>,
    out: &mut Array<f32>,
    n_cols: usize,
    stride: usize,
    first: usize,
    n_rows: usize,
    scale: f32,
    #[comptime] stored: Stored,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let column = i % n_cols;
        let id = ids[i / n_cols] as usize;
        if id >= first && id < first + n_rows {
            let word = if comptime!(stored == Stored::F32) {
                table[(id - first) * stride + column]
            } else {
                table[(id - first) * stride + column / 2usize]
            };
            out[i] = decode_in_word(word, column, stored) * scale;
        }
    }
}

#[cube(launch, launch_unchecked)]
fn gather_kernel<N: Size>(
    x: &Array<Vector<f32, N>>,
    rows: &Array<u32>,
    out: &mut Array<Vector<f32, N>>,
    row_vectors: usize,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        out[i] = x[rows[i / row_vectors] as usize * row_vectors + i % row_vectors];
    }
}

#[cube(launch, launch_unchecked)]
fn scatter_add_kernel(
    x: &mut Array<f32>,
    rows: &Array<u32>,
    weights: &Array<f32>,
    y: &Array<f32>,
    n_cols: usize,
) {
    let i = ABSOLUTE_POS;
    if i < y.len() {
        let row = i / n_cols;
        let to = rows[row] as usize * n_cols + i % n_cols;
        x[to] = x[to] + weights[row] * y[i];
    }
}

#[cube(launch, launch_unchecked)]
fn copy_kernel<N: Size>(
    source: &Array<Vector<f32, N>>,
    target: &mut Array<Vector<f32, N>>,
    from_start: usize,
    to_start: usize,
    count: usize,
) {
    let i = ABSOLUTE_POS;
    if i < count {
        target[to_start + i] = source[from_start + i];
    }
}

#[cube(launch, launch_unchecked)]
fn join_kernel(
    a: &Array<f32>,
    b: &Array<f32>,
    out: &mut Array<f32>,
    n_heads: usize,
    width_a: usize,
    width_b: usize,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let width = width_a + width_b;
        let d = i % width;
        let head = i / width;
        if d < width_a {
            out[i] = a[head * width_a + d];
        } else {
            out[i] = b[head / n_heads * width_b + d - width_a];
        }
    }
}

fn grid<R: Runtime>(device: &Device<R>, n: usize) -> Result<CubeCount, EngineError> {
    device.grid(n.div_ceil(UNITS as usize))
}

/// Values that a unit moves at once: four where all of these are whole vectors of four.
fn lanes(sizes: &[usize]) -> usize {
    if sizes.iter().all(|n| n.is_multiple_of(4)) {
        4
    } else {
        1
    }
}

/// Some rows of a table: those from `first` on, each of `stride` words.
pub(in super::super) struct TablePart<'a> {
    /// Their words.
    pub(in super::super) words: &'a Words,
    /// The first.
    pub(in super::super) first: usize,
    /// How many.
    pub(in super::super) n_rows: usize,
    /// Words of a row.
    pub(in super::super) stride: usize,
    /// How elements are stored.
    pub(in super::super) stored: Stored,
}

/// Writes, of the rows that `ids` name, those that lie in this part, times `scale`.
pub(in super::super) fn embed<R: Runtime>(
    device: &Device<R>,
    part: &TablePart<'_>,
    ids: &Words,
    out: &Words,
    n_cols: usize,
    scale: f32,
) -> Result<(), EngineError> {
    let grid = grid(device, out.len())?;
    launch!(
        device,
        embed_kernel,
        grid,
        UNITS,
        device.arg(part.words),
        device.arg(ids),
        device.arg(out),
        n_cols,
        part.stride,
        part.first,
        part.n_rows,
        scale,
        part.stored,
    );
    Ok(())
}

/// Chosen rows of `n_cols` values.
pub(in super::super) fn gather<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    rows: &Words,
    n_cols: usize,
) -> Result<Words, EngineError> {
    let out = device.empty(rows.len() * n_cols)?;
    let lanes = lanes(&[n_cols]);
    let grid = grid(device, out.len() / lanes)?;
    launch!(
        device,
        gather_kernel,
        grid,
        UNITS,
        lanes,
        device.arg(x),
        device.arg(rows),
        device.arg(&out),
        n_cols / lanes,
    );
    Ok(out)
}

/// Row `rows[i]` of x grows by `weights[i]` times row i of y, in place; the rows differ from each other.
pub(in super::super) fn scatter_add<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    rows: &Words,
    weights: &Words,
    y: &Words,
    n_cols: usize,
) -> Result<(), EngineError> {
    let grid = grid(device, y.len())?;
    launch!(
        device,
        scatter_add_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(rows),
        device.arg(weights),
        device.arg(y),
        n_cols,
    );
    Ok(())
}

/// Copies `n` values from a place of one array to a place of another.
pub(in super::super) fn copy<R: Runtime>(
    device: &Device<R>,
    (from, from_start): (&Words, usize),
    (to, to_start): (&Words, usize),
    n: usize,
) -> Result<(), EngineError> {
    let lanes = lanes(&[from_start, to_start, n]);
    let grid = grid(device, n / lanes)?;
    launch!(
        device,
        copy_kernel,
        grid,
        UNITS,
        lanes,
        device.arg(from),
        device.arg(to),
        from_start / lanes,
        to_start / lanes,
        n / lanes,
    );
    Ok(())
}

/// Per head, its columns of `a` and then all of `b`, the same for every head of a row.
pub(in super::super) fn join<R: Runtime>(
    device: &Device<R>,
    (a, width_a): (&Words, usize),
    (b, width_b): (&Words, usize),
    n_heads: usize,
) -> Result<Words, EngineError> {
    let out = device.empty(a.len() / width_a.max(1) * (width_a + width_b))?;
    let grid = grid(device, out.len())?;
    launch!(
        device,
        join_kernel,
        grid,
        UNITS,
        device.arg(a),
        device.arg(b),
        device.arg(&out),
        n_heads,
        width_a,
        width_b,
    );
    Ok(out)
}

//! Products of rows with weights that differ from group to group: the experts of a mixture.
//!
//! Versions: 1. a product per group, by [`super::linear`]. 2. (here) few rows per group: the weights of all
//! groups lie one after the other in one array, and one launch computes all of them. A workgroup takes a block
//! of up to `rows` rows of one group, as the vector version of [`super::linear`] does, and sums in its order, so
//! that the bits are those of 1.

use super::super::device::{Device, Four, UNITS, Words, launch};
use super::linear::{GROUPS, LANES, accumulate};
use super::number::Stored;
use crate::engine::EngineError;
use cubecl::prelude::*;
use std::ops::Range;

/// Rows of one block at most.
const MAX_ROWS: usize = 4;
/// Numbers that describe a block: its first row, how many rows, the number of its weight.
const PER_BLOCK: usize = 3;

/// Weights `[n_out, n_cols]` (padded) of one shape, one after the other.
#[derive(Clone, Copy)]
pub(in super::super) struct Stack<'a> {
    /// All of them.
    pub words: &'a Words,
    /// How elements are stored.
    pub stored: Stored,
    /// Elements from the beginning of one to that of the next.
    pub stride: usize,
    /// Rows of each.
    pub n_out: usize,
    /// Columns, padded.
    pub n_cols: usize,
}

#[cube(launch, launch_unchecked)]
fn grouped_kernel(
    x: &Array<Vector<f32, Four>>,
    w: &Array<Vector<u32, Four>>,
    blocks: &Array<u32>,
    out: &mut Array<f32>,
    n_cols: usize,
    n_out: usize,
    stride: usize,
    n_blocks: usize,
    #[comptime] stored: Stored,
    #[comptime] rows: usize,
) {
    let mut shared = SharedMemory::<f32>::new(comptime!(UNITS as usize * rows));
    let unit = UNIT_POS as usize;
    let lane = unit % LANES;
    let block = CUBE_POS % n_blocks * comptime!(PER_BLOCK);
    let j = CUBE_POS / n_blocks * GROUPS + unit / LANES;
    let first_row = blocks[block] as usize;
    let n_rows = blocks[block + 1usize] as usize;
    let number = blocks[block + 2usize] as usize;

    let mut partial = Array::<f32>::new(rows);
    #[unroll]
    for r in 0..rows {
        partial[r] = 0.0f32;
    }
    if j < n_out {
        let at = number * stride + j * n_cols;
        accumulate(
            x,
            w,
            &mut partial,
            at,
            first_row,
            first_row + n_rows,
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
    if lane < rows && j < n_out && lane < n_rows {
        let mut total = 0.0f32;
        for l in 0..LANES {
            total += shared[lane * UNITS as usize + unit - lane + l];
        }
        out[(first_row + lane) * n_out + j] = total;
    }
}

/// Rows of x `[n_rows, n_cols]` (padded) times the weight of their group, into out `[n_rows, n_out]`. Groups
/// are ranges of rows and the number of a weight in the stack.
pub(in super::super) fn grouped<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    groups: &[(Range<usize>, usize)],
    stack: Stack<'_>,
    out: &Words,
) -> Result<(), EngineError> {
    let largest = groups.iter().map(|(rows, _)| rows.len()).max();
    let rows = largest.unwrap_or(1).next_power_of_two().min(MAX_ROWS);
    let mut blocks = Vec::new();
    for (of_group, number) in groups {
        for first in of_group.clone().step_by(rows) {
            let n_rows = rows.min(of_group.end - first);
            blocks.extend([first as u32, n_rows as u32, *number as u32]);
        }
    }
    let n_blocks = blocks.len() / PER_BLOCK;
    if n_blocks == 0 {
        return Ok(());
    }
    let table = device.upload_indices(&blocks)?;
    let grid = device.grid(stack.n_out.div_ceil(GROUPS) * n_blocks)?;
    launch!(
        device,
        grouped_kernel,
        grid,
        UNITS,
        device.arg4(x),
        device.arg4(stack.words),
        device.arg(&table),
        device.arg(out),
        stack.n_cols,
        stack.n_out,
        stack.stride,
        n_blocks,
        stack.stored,
        rows,
    );
    Ok(())
}

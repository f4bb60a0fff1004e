//! y = x Wᵀ + bias for many rows: the second version of [`super::linear`], which says in which order it sums.
//!
//! A workgroup computes a square of outputs from tiles in shared memory, a unit a square of those in registers.
//! With two buffers the next chunk of columns is on its way in registers while this one is multiplied.

use super::super::device::{Device, Four, UNITS, Words, launch};
use super::linear::{CHUNK, LANES, Part, decode_eight, load_words};
use super::number::Stored;
use crate::engine::EngineError;
use cubecl::prelude::*;

/// Vectors of four between the starts of rows of a shared tile: one more than a chunk has, so that rows
/// that are read together lie in different banks.
const TILE_STRIDE: usize = CHUNK / 4 + 1;

/// Brings a chunk of columns of `16 · tile` rows into registers, zeros where there are no rows.
#[cube]
fn fetch(
    source: &Array<Vector<u32, Four>>,
    held: &mut Array<Vector<u32, Four>>,
    first_row: usize,
    n_rows: usize,
    n_cols: usize,
    start: usize,
    #[comptime] stored: Stored,
    #[comptime] tile: usize,
) {
    let unit = UNIT_POS as usize;
    let row = first_row + unit / 2usize;
    if unit < comptime!(32 * tile) && row < n_rows {
        let eighth = (row * n_cols + start) / 8usize + unit % 2usize;
        load_words(source, held, eighth, stored);
    } else {
        held[0] = Vector::<u32, Four>::new(0u32);
        held[1] = Vector::<u32, Four>::new(0u32);
    }
}

/// Puts them into shared memory as f32.
#[cube]
fn put(
    held: &Array<Vector<u32, Four>>,
    shared: &mut SharedMemory<Vector<f32, Four>>,
    buffer_start: usize,
    #[comptime] stored: Stored,
    #[comptime] tile: usize,
) {
    let unit = UNIT_POS as usize;
    if unit < comptime!(32 * tile) {
        let at = buffer_start + unit / 2usize * TILE_STRIDE + 2usize * (unit % 2usize);
        let (low, high) = decode_eight(held, stored);
        shared[at] = low;
        shared[at + 1usize] = high;
    }
}

/// A workgroup of 16 × 16 units computes `16 · tile_m` rows and `16 · tile_n` columns; unit (a, b) the rows
/// a, a + 16, … and the columns b, b + 16, …. With two buffers, the next chunk of columns is on its way in
/// registers while this one is multiplied.
#[cube(launch, launch_unchecked)]
fn tiled_kernel(
    x: &Array<Vector<u32, Four>>,
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
    #[comptime] tile_m: usize,
    #[comptime] tile_n: usize,
    #[comptime] n_buffers: usize,
) {
    let x_buffer = comptime!(16 * tile_m * TILE_STRIDE);
    let w_buffer = comptime!(16 * tile_n * TILE_STRIDE);
    let mut x_tile = SharedMemory::<Vector<f32, Four>>::new(comptime!(n_buffers * x_buffer));
    let mut w_tile = SharedMemory::<Vector<f32, Four>>::new(comptime!(n_buffers * w_buffer));
    let first_column = CUBE_POS_X as usize * comptime!(16 * tile_n);
    let first_row = CUBE_POS_Y as usize * comptime!(16 * tile_m);
    let a = UNIT_POS as usize / 16usize;
    let b = UNIT_POS as usize % 16usize;

    let mut total = Array::<f32>::new(comptime!(tile_m * tile_n));
    let mut partial = Array::<f32>::new(comptime!(tile_m * tile_n));
    #[unroll]
    for i in 0..comptime!(tile_m * tile_n) {
        total[i] = 0.0f32;
        partial[i] = 0.0f32;
    }
    let mut held_x = Array::<Vector<u32, Four>>::new(2usize);
    let mut held_w = Array::<Vector<u32, Four>>::new(2usize);
    fetch(
        x,
        &mut held_x,
        first_row,
        n_rows,
        n_cols,
        0usize,
        Stored::F32,
        tile_m,
    );
    fetch(
        w,
        &mut held_w,
        first_column,
        part_rows,
        n_cols,
        0usize,
        stored,
        tile_n,
    );
    put(&held_x, &mut x_tile, 0usize, Stored::F32, tile_m);
    put(&held_w, &mut w_tile, 0usize, stored, tile_n);
    sync_cube();

    let n_chunks = n_cols / CHUNK;
    let mut lane = 0usize.runtime();
    let mut start = 0usize.runtime();
    for chunk in 0..n_chunks {
        // A lane's chunks in order, then the next lane's.
        let is_last = start + comptime!(LANES * CHUNK) >= n_cols;
        let next = select(
            is_last,
            (lane + 1usize) * CHUNK,
            start + comptime!(LANES * CHUNK),
        );
        let is_more = chunk + 1usize < n_chunks;
        if is_more {
            fetch(
                x,
                &mut held_x,
                first_row,
                n_rows,
                n_cols,
                next,
                Stored::F32,
                tile_m,
            );
            fetch(
                w,
                &mut held_w,
                first_column,
                part_rows,
                n_cols,
                next,
                stored,
                tile_n,
            );
        }
        let this = chunk % n_buffers;
        for quarter in 0..comptime!(CHUNK / 4) {
            let mut ws = Array::<Vector<f32, Four>>::new(tile_n);
            #[unroll]
            for j in 0..tile_n {
                ws[j] = w_tile[this * w_buffer + (b + comptime!(16 * j)) * TILE_STRIDE + quarter];
            }
            #[unroll]
            for i in 0..tile_m {
                let xs = x_tile[this * x_buffer + (a + comptime!(16 * i)) * TILE_STRIDE + quarter];
                #[unroll]
                for j in 0..tile_n {
                    let wj = ws[j];
                    let mut sum = partial[comptime!(i * tile_n + j)];
                    #[unroll]
                    for k in 0..4 {
                        sum = fma(wj[k], xs[k], sum);
                    }
                    partial[comptime!(i * tile_n + j)] = sum;
                }
            }
        }
        if is_last {
            lane += 1usize;
            #[unroll]
            for i in 0..comptime!(tile_m * tile_n) {
                total[i] += partial[i];
                partial[i] = 0.0f32;
            }
        }
        start = next;
        if comptime!(n_buffers == 1) {
            sync_cube();
        }
        if is_more {
            let other = (chunk + 1usize) % n_buffers;
            put(&held_x, &mut x_tile, other * x_buffer, Stored::F32, tile_m);
            put(&held_w, &mut w_tile, other * w_buffer, stored, tile_n);
        }
        sync_cube();
    }
    #[unroll]
    for i in 0..tile_m {
        let row = first_row + a + comptime!(16 * i);
        #[unroll]
        for j in 0..tile_n {
            let column = first_column + b + comptime!(16 * j);
            if row < n_rows && column < part_rows {
                let mut y = total[comptime!(i * tile_n + j)];
                if comptime!(has_bias) {
                    y += bias[first + column];
                }
                out[row * n_out + first + column] = y;
            }
        }
    }
}

/// The largest tiles that shared memory holds, that are more than half full and that leave no more than a
/// quarter of the processors idle; and the number of buffers.
fn tiles(
    n_rows: usize,
    part_rows: usize,
    n_processors: usize,
    shared_bytes: usize,
) -> (usize, usize, usize) {
    let bytes_of = |m: usize, n: usize| 16 * (m + n) * TILE_STRIDE * 16;
    let pays = |&(m, n): &(usize, usize)| {
        let n_tiles = n_rows.div_ceil(16 * m) * part_rows.div_ceil(16 * n);
        bytes_of(m, n) <= shared_bytes
            && n_rows > 8 * m
            && part_rows > 8 * n
            && n_tiles * 4 >= n_processors * 3
    };
    let (m, n) = [(8, 8), (4, 8)].into_iter().find(pays).unwrap_or((4, 4));
    (m, n, (shared_bytes / bytes_of(m, n)).min(2))
}

/// Outputs of one part, for x `[n_rows, n_cols]` with whole chunks of columns, into out `[n_rows, n_out]`.
pub(super) fn linear<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    part: Part<'_>,
    bias: Option<&Words>,
    out: &Words,
    (n_rows, n_cols, n_out): (usize, usize, usize),
) -> Result<(), EngineError> {
    let hardware = &device.client().properties().hardware;
    let n_processors = hardware.num_streaming_multiprocessors.unwrap_or(0) as usize;
    let shared_bytes = device.limits().shared_bytes;
    let (tile_m, tile_n, n_buffers) = tiles(n_rows, part.n_rows, n_processors, shared_bytes);
    let grid = device.grid_3d(
        part.n_rows.div_ceil(16 * tile_n),
        n_rows.div_ceil(16 * tile_m),
        1,
    )?;
    launch!(
        device,
        tiled_kernel,
        grid,
        UNITS,
        device.arg4(x),
        device.arg4(part.words),
        device.arg(bias.unwrap_or(x)),
        device.arg(out),
        n_cols,
        n_out,
        part.first,
        part.n_rows,
        n_rows,
        part.stored,
        bias.is_some(),
        tile_m,
        tile_n,
        n_buffers,
    );
    Ok(())
}

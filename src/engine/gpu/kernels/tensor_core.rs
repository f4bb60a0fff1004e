//! y = x Wᵀ + bias on tensor cores: both factors in bf16, sums in f32.
//!
//! Versions: 1. fragments loaded from global memory. 2. 128 × 128 outputs per workgroup, two buffers of 32
//! columns filled through registers. 3. (here) up to 128 × 256 outputs per workgroup of eight planes, each
//! a 64 × 64 piece of them in registers; 64 columns at a time in shared memory, as many buffers deep as the
//! device holds (four on an H100), filled by asynchronous copies that pass no register; the fragments of the
//! next 16 columns are read while these are multiplied.
//!
//! Shared memory holds a row's 64 columns as eight vectors of 16 bytes; vector v of row r lies at v xor
//! (r mod 8), so that the eight rows that a matrix load reads at once lie in different banks.
//!
//! Every output is the sum over its columns in order, 16 at a time, whatever the shape of the tile: a row
//! does not depend on the others. Runs where the device states 16 × 8 × 16 products of bf16, matrix loads and
//! asynchronous copies (CUDA from compute capability 8.0 on); [`is_supported`] says so, and nothing else may
//! be launched: an unsupported matrix type returns garbage without an error.

use super::super::device::{Device, Words, launch};
use super::linear::Part;
use super::number::Stored;
use crate::engine::EngineError;
use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::barrier::{Barrier, copy_async_checked};
use cubecl::prelude::*;
use half::bf16;

/// Eight bf16: what one copy of 16 bytes brings.
type Eight = Const<8>;
/// Two of 16 or 32 bits: what one register of a fragment, or two of a sum, hold.
type Two = Const<2>;

/// Vectors of eight in the columns of one step.
const STEP: usize = 8;
/// Products of 16 columns in one step.
const SLICES: usize = STEP / 2;
/// Units of a plane, on every device that passes [`is_supported`].
const PLANE: usize = 32;
/// Buffers at most: more bring nothing.
const MAX_BUFFERS: usize = 4;
/// Tiles of rows that are computed together, so that what they read stays in the cache.
const GROUP: usize = 8;

/// How the outputs are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct Tile {
    /// Planes along the rows of x.
    planes_m: usize,
    /// Planes along the rows of W.
    planes_n: usize,
    /// Fragments of 16 rows of x in a plane.
    per_plane_m: usize,
    /// Fragments of 16 rows of W in a plane.
    per_plane_n: usize,
    /// Steps in shared memory at a time.
    n_buffers: usize,
}

impl Tile {
    /// Every shape.
    #[cfg(test)]
    pub(in super::super) const ALL: [Self; 3] = [Self::WIDE, Self::SQUARE, Self::FLAT];
    /// For many outputs.
    const WIDE: Self = Self::of(2, 4, 4, 4);
    /// For outputs that would leave the device idle with the wide one.
    const SQUARE: Self = Self::of(2, 4, 4, 2);
    /// For a few rows: bound by the memory that W occupies.
    const FLAT: Self = Self::of(1, 4, 1, 1);

    const fn of(planes_m: usize, planes_n: usize, per_plane_m: usize, per_plane_n: usize) -> Self {
        Self {
            planes_m,
            planes_n,
            per_plane_m,
            per_plane_n,
            n_buffers: MAX_BUFFERS,
        }
    }

    /// Rows of x.
    const fn m(self) -> usize {
        self.planes_m * self.per_plane_m * 16
    }

    /// Rows of W.
    const fn n(self) -> usize {
        self.planes_n * self.per_plane_n * 16
    }

    const fn units(self) -> usize {
        self.planes_m * self.planes_n * PLANE
    }

    /// The buffers that so much shared memory holds; barriers take a little of it.
    fn fitting(self, shared_bytes: usize) -> Self {
        let step_bytes = (self.m() + self.n()) * STEP * 16;
        let n_buffers = (shared_bytes.saturating_sub(1 << 10) / step_bytes).min(MAX_BUFFERS);
        Self { n_buffers, ..self }
    }

    /// The tile for a product of so many rows of x and W on so many processors.
    fn choose(n_rows: usize, part_rows: usize, n_processors: usize, shared_bytes: usize) -> Self {
        let wide = Self::WIDE.fitting(shared_bytes);
        let n_wide = n_rows.div_ceil(wide.m()) * part_rows.div_ceil(wide.n());
        if n_rows <= Self::FLAT.m() {
            Self::FLAT.fitting(shared_bytes)
        } else if n_wide * 4 >= n_processors * 3 && wide.n_buffers >= 2 {
            wide
        } else {
            Self::SQUARE.fitting(shared_bytes)
        }
    }
}

/// Whether the device computes this.
pub(in super::super) fn is_supported<R: Runtime>(device: &Device<R>) -> bool {
    let properties = device.client().properties();
    let (bf16, f32) = (
        ElemType::Float(FloatKind::BF16).into(),
        ElemType::Float(FloatKind::F32).into(),
    );
    let config = MmaConfig {
        a_type: bf16,
        b_type: bf16,
        cd_type: f32,
        m: 16,
        n: 8,
        k: 16,
    };
    let hardware = &properties.hardware;
    let features = &properties.features;
    features.matmul.mma.contains(&config)
        && features.matmul.ldmatrix.contains(&bf16)
        && features.copy_async
        && hardware.max_vector_size >= 8
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && Tile::SQUARE
            .fitting(hardware.max_shared_memory_size)
            .n_buffers
            >= 2
}

/// Starts copies of one quarter of a step's vectors of some rows into shared memory. Rows beyond the last
/// repeat it, and what comes of them is not written; columns beyond the last are zeros.
#[cube]
fn copy_quarter(
    source: &Array<Vector<bf16, Eight>>,
    shared: &mut SharedMemory<Vector<bf16, Eight>>,
    first_row: usize,
    n_rows: usize,
    row_vectors: usize,
    step: usize,
    #[comptime] quarter: usize,
    #[comptime] buffer_start: usize,
    #[comptime] tile_rows: usize,
    #[comptime] units: usize,
) {
    let lane = UNIT_POS as usize % STEP;
    let unit_row = UNIT_POS as usize / STEP;
    let v = step * STEP + lane;
    let is_there = v < row_vectors;
    let v = select(is_there, v, 0usize);
    let rows_at_once = comptime!(units / STEP);
    let n_passes = comptime!(tile_rows.div_ceil(rows_at_once));
    #[unroll]
    for pass in comptime!(quarter * n_passes / 4)..comptime!((quarter + 1) * n_passes / 4) {
        let row = unit_row + comptime!(pass * rows_at_once);
        if comptime!(tile_rows.is_multiple_of(rows_at_once)) || row < tile_rows {
            let from_row = select(first_row + row < n_rows, first_row + row, n_rows - 1usize);
            let from = from_row * row_vectors + v;
            let to = comptime!(buffer_start) + row * STEP + (lane ^ (row % STEP));
            copy_async_checked(
                &source.slice(from, from + usize::cast_from(is_there)),
                &mut shared.slice_mut(to, to + 1usize),
                8u32,
            );
        }
    }
}

/// Reads 16 rows of 16 columns from shared memory into a plane's registers: four matrices of 8 × 8. The second
/// of them is the second half of the columns for W, and of the rows for x.
#[cube]
fn read_fragment(
    shared: &SharedMemory<Vector<bf16, Eight>>,
    fragment: &mut Array<Vector<bf16, Two>>,
    first_row: usize,
    #[comptime] buffer_start: usize,
    #[comptime] slice: usize,
    #[comptime] ident: MatrixIdent,
) {
    let definition = MmaDefinition::<bf16, bf16, f32>::new(16usize, 8usize, 16usize);
    let lane = UNIT_POS as usize % PLANE;
    let mut row = lane % 16usize;
    let mut half = lane / 16usize;
    if comptime!(ident == MatrixIdent::B) {
        row = lane % 8usize + lane / 16usize * 8usize;
        half = lane / 8usize % 2usize;
    }
    let v = comptime!(2 * slice) + half;
    let at = comptime!(buffer_start) + (first_row + row) * STEP + (v ^ (row % STEP));
    let read = definition.load_matrix::<Vector<bf16, Eight>, Two>(
        &shared.slice(at, at + 1usize),
        ident,
        4usize,
        false,
    );
    #[unroll]
    for k in 0..4usize {
        fragment[k] = read[k];
    }
}

#[cube(launch, launch_unchecked)]
fn tensor_core_kernel<N: Size>(
    x: &Array<Vector<bf16, Eight>>,
    w: &Array<Vector<bf16, Eight>>,
    bias: &Array<f32>,
    out: &mut Array<Vector<f32, N>>,
    row_vectors: usize,
    n_out: usize,
    first: usize,
    part_rows: usize,
    n_rows: usize,
    #[comptime] has_bias: bool,
    #[comptime] tile: Tile,
) {
    let n_buffers = comptime!(tile.n_buffers);
    let x_buffer = comptime!(tile.m() * STEP);
    let w_buffer = comptime!(tile.n() * STEP);
    let units = comptime!(tile.units());
    let (tile_m, tile_n) = comptime!((tile.m(), tile.n()));
    let per_plane_m = comptime!(tile.per_plane_m);
    let per_plane_n = comptime!(tile.per_plane_n);
    let mut xs =
        SharedMemory::<Vector<bf16, Eight>>::new_aligned(comptime!(n_buffers * x_buffer), 128usize);
    let mut ws =
        SharedMemory::<Vector<bf16, Eight>>::new_aligned(comptime!(n_buffers * w_buffer), 128usize);
    let mut filled = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..n_buffers {
        filled.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
    }

    let tiles_m = n_rows.div_ceil(tile_m);
    let tiles_n = part_rows.div_ceil(tile_n);
    if CUBE_POS >= tiles_m * tiles_n {
        terminate!();
    }
    let in_group = GROUP * tiles_n;
    let group = CUBE_POS / in_group * GROUP;
    let group_m = select(tiles_m - group < GROUP, tiles_m - group, GROUP);
    let inside = CUBE_POS % in_group;
    let first_row = (group + inside % group_m) * tile_m;
    let first_column = inside / group_m * tile_n;
    let plane = UNIT_POS as usize / PLANE;
    let plane_row = plane / comptime!(tile.planes_n) * comptime!(per_plane_m * 16);
    let plane_column = plane % comptime!(tile.planes_n) * comptime!(per_plane_n * 16);

    let definition = MmaDefinition::<bf16, bf16, f32>::new(16usize, 8usize, 16usize);
    let mut sums = Sequence::<Array<Vector<f32, Two>>>::new();
    #[unroll]
    for _ in 0..comptime!(per_plane_m * per_plane_n * 2) {
        let mut sum = Array::<Vector<f32, Two>>::new(2usize);
        sum[0] = Vector::<f32, Two>::new(0.0f32);
        sum[1] = Vector::<f32, Two>::new(0.0f32);
        sums.push(sum);
    }
    // Those that are multiplied and those that are read meanwhile: of x a slice, of W a fragment.
    let mut x_fragments = Sequence::<Array<Vector<bf16, Two>>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * per_plane_m) {
        x_fragments.push(Array::<Vector<bf16, Two>>::new(4usize));
    }
    let mut w_fragments = Sequence::<Array<Vector<bf16, Two>>>::new();
    #[unroll]
    for _ in 0..2usize {
        w_fragments.push(Array::<Vector<bf16, Two>>::new(4usize));
    }

    // All but one of the buffers are filled ahead; steps beyond the last bring zeros, so that nothing below
    // depends on where the columns end.
    #[unroll]
    for b in 0..comptime!(n_buffers - 1) {
        #[unroll]
        for quarter in 0..SLICES {
            copy_quarter(
                x,
                &mut xs,
                first_row,
                n_rows,
                row_vectors,
                b.runtime(),
                quarter,
                comptime!(b * x_buffer),
                tile_m,
                units,
            );
            copy_quarter(
                w,
                &mut ws,
                first_column,
                part_rows,
                row_vectors,
                b.runtime(),
                quarter,
                comptime!(b * w_buffer),
                tile_n,
                units,
            );
        }
        filled.index(b).commit_copy_async();
        filled.index(b).arrive();
    }
    filled.index(0usize).wait_parity(0u32);
    #[unroll]
    for i in 0..per_plane_m {
        let fragment = x_fragments.index_mut(i);
        let row = plane_row + i * 16usize;
        read_fragment(&xs, fragment, row, 0usize, 0usize, MatrixIdent::A);
    }
    let fragment = w_fragments.index_mut(0usize);
    read_fragment(&ws, fragment, plane_column, 0usize, 0usize, MatrixIdent::B);

    let n_rounds = row_vectors.div_ceil(STEP).div_ceil(n_buffers);
    for round in 0..n_rounds {
        #[unroll]
        for b in 0..n_buffers {
            // The buffer of the step before this one is free: all units have passed its last barrier.
            let free = comptime!((b + n_buffers - 1) % n_buffers);
            let refill = round * n_buffers + comptime!(b + n_buffers - 1);
            let next = comptime!((b + 1) % n_buffers);
            #[unroll]
            for slice in 0..SLICES {
                copy_quarter(
                    x,
                    &mut xs,
                    first_row,
                    n_rows,
                    row_vectors,
                    refill,
                    slice,
                    comptime!(free * x_buffer),
                    tile_m,
                    units,
                );
                copy_quarter(
                    w,
                    &mut ws,
                    first_column,
                    part_rows,
                    row_vectors,
                    refill,
                    slice,
                    comptime!(free * w_buffer),
                    tile_n,
                    units,
                );
                if comptime!(slice + 1 == SLICES) {
                    filled.index(free).commit_copy_async();
                    filled.index(free).arrive();
                    let turn = (round + comptime!((b + 1) / n_buffers)) % 2usize;
                    filled.index(next).wait_parity(turn as u32);
                    sync_cube();
                }
                let from = comptime!(if slice + 1 == SLICES { next } else { b });
                let ahead = comptime!((slice + 1) % SLICES);
                #[unroll]
                for i in 0..per_plane_m {
                    let to = comptime!((slice + 1) % 2 * per_plane_m + i);
                    let fragment = x_fragments.index_mut(to);
                    let row = plane_row + i * 16usize;
                    let start = comptime!(from * x_buffer);
                    read_fragment(&xs, fragment, row, start, ahead, MatrixIdent::A);
                }
                #[unroll]
                for j in 0..per_plane_n {
                    // The fragment of W after this one, which may be the first of the next slice.
                    let place = comptime!(slice * per_plane_n + j);
                    let is_last = comptime!(j + 1 == per_plane_n);
                    let w_from = comptime!(if is_last { from } else { b });
                    let w_slice = comptime!(if is_last { ahead } else { slice });
                    let fragment = w_fragments.index_mut(comptime!((place + 1) % 2));
                    let row = plane_column + comptime!((j + 1) % per_plane_n * 16);
                    let start = comptime!(w_from * w_buffer);
                    read_fragment(&ws, fragment, row, start, w_slice, MatrixIdent::B);
                    let pair = w_fragments.index(comptime!(place % 2));
                    #[unroll]
                    for half in 0..2usize {
                        let mut columns = Array::<Vector<bf16, Two>>::new(2usize);
                        columns[0] = pair[comptime!(2 * half)];
                        columns[1] = pair[comptime!(2 * half + 1)];
                        #[unroll]
                        for i in 0..per_plane_m {
                            let rows = x_fragments.index(comptime!(slice % 2 * per_plane_m + i));
                            let sum = sums.index_mut(comptime!((i * per_plane_n + j) * 2 + half));
                            definition.execute_inplace(rows, &columns, sum);
                        }
                    }
                }
            }
        }
    }
    // No copy may be under way when the workgroup ends.
    #[unroll]
    for b in 1..comptime!(n_buffers - 1) {
        filled.index(b).wait_parity((n_rounds % 2usize) as u32);
    }

    let lane = UNIT_POS as usize % PLANE;
    let lanes = N::value();
    #[unroll]
    for i in 0..per_plane_m {
        #[unroll]
        for j in 0..comptime!(2 * per_plane_n) {
            let sum = sums.index(comptime!(i * 2 * per_plane_n + j));
            #[unroll]
            for half in 0..2usize {
                let row = first_row + plane_row + i * 16usize + half * 8usize + lane / 4usize;
                let column = first_column + plane_column + j * 8usize + lane % 4usize * 2usize;
                let two = sum[half];
                // A pair at a time where pairs are whole, else value by value.
                #[unroll]
                for k in 0..comptime!(2 / lanes) {
                    let column = column + k;
                    if row < n_rows && column < part_rows {
                        let mut y = Vector::<f32, N>::empty();
                        #[unroll]
                        for e in 0..lanes {
                            y[e] = two[comptime!(k + e)];
                            if comptime!(has_bias) {
                                y[e] += bias[first + column + e];
                            }
                        }
                        out[(row * n_out + first + column) / lanes] = y;
                    }
                }
            }
        }
    }
}

/// Outputs of one part stored as bf16, for x `[n_rows, n_cols]` in bf16 with padded columns, into out
/// `[n_rows, n_out]`. Only where [`is_supported`].
pub(in super::super) fn linear<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    part: Part<'_>,
    bias: Option<&Words>,
    out: &Words,
    (n_rows, n_cols, n_out): (usize, usize, usize),
) -> Result<(), EngineError> {
    let hardware = &device.client().properties().hardware;
    let n_processors = hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
    let shared_bytes = hardware.max_shared_memory_size;
    let tile = Tile::choose(n_rows, part.n_rows, n_processors, shared_bytes);
    linear_by(device, x, part, bias, out, (n_rows, n_cols, n_out), tile)
}

/// [`linear`] with a tile of the caller's choice.
pub(in super::super) fn linear_by<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    part: Part<'_>,
    bias: Option<&Words>,
    out: &Words,
    (n_rows, n_cols, n_out): (usize, usize, usize),
    tile: Tile,
) -> Result<(), EngineError> {
    debug_assert_eq!(part.stored, Stored::Bf16);
    let tile = tile.fitting(device.client().properties().hardware.max_shared_memory_size);
    let grid = device.grid(n_rows.div_ceil(tile.m()) * part.n_rows.div_ceil(tile.n()))?;
    let even = [n_out, part.first, part.n_rows].iter().all(|n| n % 2 == 0);
    launch!(
        device,
        tensor_core_kernel,
        grid,
        tile.units() as u32,
        if even { 2 } else { 1 },
        device.arg_of_halves(x),
        device.arg_of_halves(part.words),
        device.arg(bias.unwrap_or(out)),
        device.arg(out),
        n_cols / 8,
        n_out,
        part.first,
        part.n_rows,
        n_rows,
        bias.is_some(),
        tile,
    );
    Ok(())
}

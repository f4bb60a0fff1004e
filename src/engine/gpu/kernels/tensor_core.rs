//! y = x Wᵀ + bias on tensor cores: both factors in bf16, sums in f32.
//!
//! Versions: 1. fragments loaded from global memory. 2. (here) 128 × 128 outputs per workgroup of eight
//! planes, each plane a 64 × 32 piece of them; 32 columns at a time in shared memory, two buffers deep, the
//! next columns on their way in registers while these are multiplied.
//!
//! Every row goes through the same fragments in the same order, few rows or many, so that a row does not
//! depend on the others. Runs where the device states 16 × 16 × 16 products of bf16 and loads of 16 bytes
//! (CUDA from compute capability 8.0 on); [`is_supported`] says so, and nothing else may be launched: an
//! unsupported matrix type returns garbage without an error.

use super::super::device::{Device, UNITS, Words, launch};
use super::linear::Part;
use super::number::Stored;
use crate::engine::EngineError;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use half::bf16;

/// Eight bf16: what one load of 16 bytes brings.
type Eight = Const<8>;

/// Rows and columns of a workgroup's outputs.
const TILE: usize = 128;
/// Vectors of eight in the columns of one step.
const STEP: usize = 4;
/// Vectors between the starts of rows in shared memory: one more than a step, against bank conflicts.
const STRIDE: usize = STEP + 1;
/// Vectors of one shared tile.
const BUFFER: usize = TILE * STRIDE;
/// Units of a plane, on every device that passes [`is_supported`].
const PLANE: usize = 32;

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
        n: 16,
        k: 16,
    };
    let hardware = &properties.hardware;
    properties.features.matmul.cmma.contains(&config)
        && hardware.max_vector_size >= 8
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && hardware.max_shared_memory_size >= 48 << 10
}

/// Brings the next columns of a tile into registers, zeros where there are none.
#[cube]
fn fetch(
    source: &Array<Vector<bf16, Eight>>,
    held: &mut Array<Vector<bf16, Eight>>,
    first_row: usize,
    n_rows: usize,
    row_vectors: usize,
    step: usize,
) {
    #[unroll]
    for i in 0..2usize {
        let slot = UNIT_POS as usize + i * UNITS as usize;
        let row = first_row + slot / STEP;
        let v = step * STEP + slot % STEP;
        if row < n_rows && v < row_vectors {
            held[i] = source[row * row_vectors + v];
        } else {
            held[i] = Vector::<bf16, Eight>::new(bf16::from_int(0));
        }
    }
}

/// Puts them into shared memory.
#[cube]
fn put(
    held: &Array<Vector<bf16, Eight>>,
    shared: &mut SharedMemory<Vector<bf16, Eight>>,
    buffer: usize,
) {
    #[unroll]
    for i in 0..2usize {
        let slot = UNIT_POS as usize + i * UNITS as usize;
        shared[buffer * BUFFER + slot / STEP * STRIDE + slot % STEP] = held[i];
    }
}

#[cube(launch, launch_unchecked)]
fn tensor_core_kernel(
    x: &Array<Vector<bf16, Eight>>,
    w: &Array<Vector<bf16, Eight>>,
    bias: &Array<f32>,
    out: &mut Array<f32>,
    row_vectors: usize,
    n_out: usize,
    first: usize,
    part_rows: usize,
    n_rows: usize,
    #[comptime] has_bias: bool,
) {
    let mut xs = SharedMemory::<Vector<bf16, Eight>>::new_aligned(comptime!(2 * BUFFER), 128usize);
    let mut ws = SharedMemory::<Vector<bf16, Eight>>::new_aligned(comptime!(2 * BUFFER), 128usize);
    let mut results =
        SharedMemory::<f32>::new_aligned(comptime!(UNITS as usize / PLANE * 256), 128usize);
    let first_row = CUBE_POS_Y as usize * TILE;
    let first_column = CUBE_POS_X as usize * TILE;
    let plane = UNIT_POS as usize / PLANE;
    let lane = UNIT_POS as usize % PLANE;
    let plane_row = plane / 4usize * 64usize;
    let plane_column = plane % 4usize * 32usize;

    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..8usize {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            16usize,
            16usize,
            16usize,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        ));
    }

    let n_steps = row_vectors.div_ceil(STEP);
    let mut held_x = Array::<Vector<bf16, Eight>>::new(2usize);
    let mut held_w = Array::<Vector<bf16, Eight>>::new(2usize);
    fetch(x, &mut held_x, first_row, n_rows, row_vectors, 0usize);
    fetch(w, &mut held_w, first_column, part_rows, row_vectors, 0usize);
    put(&held_x, &mut xs, 0usize);
    put(&held_w, &mut ws, 0usize);
    sync_cube();
    for step in 0..n_steps {
        let buffer = step % 2usize;
        if step + 1usize < n_steps {
            fetch(
                x,
                &mut held_x,
                first_row,
                n_rows,
                row_vectors,
                step + 1usize,
            );
            fetch(
                w,
                &mut held_w,
                first_column,
                part_rows,
                row_vectors,
                step + 1usize,
            );
        }
        #[unroll]
        for half in 0..2usize {
            let mut factors = Sequence::<cmma::Matrix<Vector<bf16, Eight>>>::new();
            #[unroll]
            for j in 0..2usize {
                let at = buffer * BUFFER + (plane_column + j * 16usize) * STRIDE + half * 2usize;
                factors.push(cmma::Matrix::<Vector<bf16, Eight>>::from_slice(
                    cmma::MatrixIdent::B,
                    16usize,
                    16usize,
                    16usize,
                    cmma::MatrixLayout::ColMajor,
                    &ws.slice(at, at + comptime!(16 * STRIDE)),
                    comptime!(8 * STRIDE as u32),
                ));
            }
            #[unroll]
            for i in 0..4usize {
                let at = buffer * BUFFER + (plane_row + i * 16usize) * STRIDE + half * 2usize;
                let rows = cmma::Matrix::<Vector<bf16, Eight>>::from_slice(
                    cmma::MatrixIdent::A,
                    16usize,
                    16usize,
                    16usize,
                    cmma::MatrixLayout::RowMajor,
                    &xs.slice(at, at + comptime!(16 * STRIDE)),
                    comptime!(8 * STRIDE as u32),
                );
                #[unroll]
                for j in 0..2usize {
                    let sum = sums.index(comptime!(i * 2 + j));
                    cmma::execute(&rows, factors.index(j), sum, sum);
                }
            }
        }
        if step + 1usize < n_steps {
            put(&held_x, &mut xs, 1usize - buffer);
            put(&held_w, &mut ws, 1usize - buffer);
        }
        sync_cube();
    }

    #[unroll]
    for i in 0..4usize {
        #[unroll]
        for j in 0..2usize {
            let start = plane * 256usize;
            cmma::store(
                &mut results.slice_mut(start, start + 256usize),
                sums.index(comptime!(i * 2 + j)),
                16u32,
                cmma::MatrixLayout::RowMajor,
            );
            sync_cube();
            #[unroll]
            for e in 0..8usize {
                let place = lane + e * PLANE;
                let row = first_row + plane_row + i * 16usize + place / 16usize;
                let column = first_column + plane_column + j * 16usize + place % 16usize;
                if row < n_rows && column < part_rows {
                    let mut y = results[start + place];
                    if comptime!(has_bias) {
                        y += bias[first + column];
                    }
                    out[row * n_out + first + column] = y;
                }
            }
            sync_cube();
        }
    }
}

/// Rounds f32 to bf16, ties to even, two in a word; NaN stays NaN.
#[cube(launch, launch_unchecked)]
fn round_kernel(x: &Array<f32>, out: &mut Array<u32>) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let mut word = 0u32;
        #[unroll]
        for half in 0..2usize {
            let bits = u32::reinterpret(x[2usize * i + half]);
            let even = (bits >> 16u32) & 1u32;
            let rounded = (bits + 0x7fffu32 + even) >> 16u32;
            let nan = (bits >> 16u32) | 0x40u32;
            let is_nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
            word |= select(is_nan, nan, rounded) << comptime!(16 * half as u32);
        }
        out[i] = word;
    }
}

/// x, an even number of values, as bf16.
pub(in super::super) fn round<R: Runtime>(
    device: &Device<R>,
    x: &Words,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len() / 2)?;
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        round_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(&out)
    );
    Ok(out)
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
    debug_assert_eq!(part.stored, Stored::Bf16);
    let grid = device.grid_3d(part.n_rows.div_ceil(TILE), n_rows.div_ceil(TILE), 1)?;
    launch!(
        device,
        tensor_core_kernel,
        grid,
        UNITS,
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
    );
    Ok(())
}

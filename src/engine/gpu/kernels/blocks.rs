//! Block-quantized weights decoded on the device: a unit per element, f32 as the host would decode it.
//!
//! Two launches share one decoder: rows in order, for a product to read, and rows that ids name, for a
//! lookup. The value of an element is computed operation by operation as in `tensor/quant`. Its products
//! are of integers of few bits with one f16, so that they are exact in f32, and neither fused
//! multiply-adds nor flushed subnormals can change a bit; MXFP4, whose scale reaches below the normal
//! numbers, is put together from integers.
//!
//! Not here: products that decode as they multiply, and the schemes with grids (`IQ1` to `IQ3`), ternary
//! codes, `Q8_1`, `Q8_K` and `NVFP4`, which the host decodes.

use super::super::device::{Device, UNITS, Words, launch};
use super::number::{Stored, decode_half};
use crate::engine::EngineError;
use crate::tensor::BlockType;
use cubecl::prelude::*;

/// Whether the kernels decode a type.
pub(in super::super) fn is_decoded(block: BlockType) -> bool {
    use BlockType::*;
    matches!(
        block,
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Nl | Iq4Xs | Mxfp4
    )
}

#[cube]
fn byte_at(blocks: &Array<u32>, at: usize) -> u32 {
    (blocks[at / 4usize] >> (8u32 * (at as u32 & 3u32))) & 0xffu32
}

/// The f16 at a byte.
#[cube]
fn half_at(blocks: &Array<u32>, at: usize) -> f32 {
    decode_half(
        byte_at(blocks, at) | (byte_at(blocks, at + 1usize) << 8u32),
        Stored::F16,
    )
}

/// A byte as a signed number.
#[cube]
fn signed(byte: u32) -> f32 {
    f32::cast_from(byte ^ 0x80u32) - 128.0f32
}

/// Code of `width` bits of element `i`, where groups of `group` bytes hold one code per byte and layer: the
/// first `group` elements in the lowest bits, the next above them.
#[cube]
fn layered(
    blocks: &Array<u32>,
    at: usize,
    i: usize,
    #[comptime] group: usize,
    #[comptime] width: usize,
) -> u32 {
    let per_group = comptime!(group * 8 / width);
    let byte = byte_at(blocks, at + i / per_group * group + i % group);
    let layer = (i % per_group / group) as u32;
    (byte >> (layer * comptime!(width as u32))) & comptime!((1u32 << width) - 1)
}

/// An entry of the list of `IQ4`, whose entries lie as bytes in four words, each raised by 128.
#[cube]
fn iq4_entry(code: u32) -> f32 {
    let low = select(code < 4u32, 0x3f2d_1801u32, 0x766a_5d4fu32);
    let high = select(code < 12u32, 0xa699_8d81u32, 0xf1d9_c5b5u32);
    let word = select(code < 8u32, low, high);
    f32::cast_from((word >> (8u32 * (code & 3u32))) & 0xffu32) - 128.0f32
}

/// ± (0, 1, 2, 3, 4, 6, 8, 12) · 2^(exponent − 128), by integers: the product may be below the normal numbers,
/// which some drivers take for zero.
#[cube]
fn mxfp4_value(code: u32, exponent: u32) -> f32 {
    let size = code & 7u32;
    let sign = (code & 8u32) << 28u32;
    let field = size / 2u32 + exponent;
    // 1 is 1.0 · 2^0; 2 and 3 are 1.0 and 1.5 times 2^1, and so on.
    let fraction = select(size > 1u32, (size & 1u32) << 22u32, 0u32);
    // The biased exponent is field − 1; below 1 the fraction moves to the right.
    let normal = ((field - 1u32) << 23u32) | fraction;
    let moved = (0x0080_0000u32 | fraction) >> ((2u32 - field) & 31u32);
    let small = select(field >= 2u32, normal, moved);
    let magnitude = select(field >= 256u32, 0x7f80_0000u32, small);
    f32::reinterpret(select(size == 0u32, 0u32, sign | magnitude))
}

/// Values of the schemes with 32 elements; the block begins at byte `start`.
#[cube]
fn element_of_32(blocks: &Array<u32>, start: usize, i: usize, #[comptime] block: BlockType) -> f32 {
    let mut value = 0.0f32;
    if comptime!(block == BlockType::Mxfp4) {
        let code = layered(blocks, start + 1usize, i, 16usize, 4usize);
        value = mxfp4_value(code, byte_at(blocks, start));
    } else {
        let d = half_at(blocks, start);
        if comptime!(block == BlockType::Q8_0) {
            value = signed(byte_at(blocks, start + 2usize + i)) * d;
        } else if comptime!(block == BlockType::Iq4Nl) {
            value = d * iq4_entry(layered(blocks, start + 2usize, i, 16usize, 4usize));
        } else if comptime!(block == BlockType::Q4_0) {
            let code = layered(blocks, start + 2usize, i, 16usize, 4usize);
            value = d * (f32::cast_from(code) - 8.0f32);
        } else if comptime!(block == BlockType::Q4_1) {
            let code = layered(blocks, start + 4usize, i, 16usize, 4usize);
            value = d * f32::cast_from(code) + half_at(blocks, start + 2usize);
        } else if comptime!(block == BlockType::Q5_0) {
            let fifth = layered(blocks, start + 2usize, i, 1usize, 1usize) << 4u32;
            let code = layered(blocks, start + 6usize, i, 16usize, 4usize) | fifth;
            value = d * (f32::cast_from(code) - 16.0f32);
        } else if comptime!(block == BlockType::Q5_1) {
            let fifth = layered(blocks, start + 4usize, i, 1usize, 1usize) << 4u32;
            let code = layered(blocks, start + 8usize, i, 16usize, 4usize) | fifth;
            value = d * f32::cast_from(code) + half_at(blocks, start + 2usize);
        }
    }
    value
}

/// `Q4_K` and `Q5_K`: eight scales and minima of 6 bits in 12 bytes.
#[cube]
fn with_minima(blocks: &Array<u32>, start: usize, i: usize, code: u32) -> f32 {
    let sub = i / 32usize;
    let packed = start + 4usize + sub % 4usize;
    let (a, b, c) = (
        byte_at(blocks, packed),
        byte_at(blocks, packed + 4usize),
        byte_at(blocks, packed + 8usize),
    );
    let early = sub < 4usize;
    let scale = select(early, a & 63u32, (c & 15u32) | ((a >> 2u32) & 48u32));
    let minimum = select(early, b & 63u32, (c >> 4u32) | ((b >> 2u32) & 48u32));
    let step = half_at(blocks, start) * f32::cast_from(scale);
    step * f32::cast_from(code) - half_at(blocks, start + 2usize) * f32::cast_from(minimum)
}

/// Values of the schemes with 256 elements.
#[cube]
fn element_of_256(
    blocks: &Array<u32>,
    start: usize,
    i: usize,
    #[comptime] block: BlockType,
) -> f32 {
    let mut value = 0.0f32;
    if comptime!(block == BlockType::Q2K) {
        let packed = byte_at(blocks, start + i / 16usize);
        let code = layered(blocks, start + 16usize, i, 32usize, 2usize);
        let step = half_at(blocks, start + 80usize) * f32::cast_from(packed & 15u32);
        let minimum = half_at(blocks, start + 82usize) * f32::cast_from(packed >> 4u32);
        value = step * f32::cast_from(code) - minimum;
    } else if comptime!(block == BlockType::Q3K) {
        let sub = i / 16usize;
        let low = layered(blocks, start + 96usize, sub, 8usize, 4usize);
        let upper = layered(blocks, start + 104usize, sub, 4usize, 2usize);
        let scale = f32::cast_from(low | (upper << 4u32)) - 32.0f32;
        let code = layered(blocks, start + 32usize, i, 32usize, 2usize)
            | (layered(blocks, start, i, 32usize, 1usize) << 2u32);
        let step = half_at(blocks, start + 108usize) * scale;
        value = step * (f32::cast_from(code) - 4.0f32);
    } else if comptime!(block == BlockType::Q4K) {
        let code = layered(blocks, start + 16usize, i, 32usize, 4usize);
        value = with_minima(blocks, start, i, code);
    } else if comptime!(block == BlockType::Q5K) {
        let fifth = layered(blocks, start + 16usize, i, 32usize, 1usize) << 4u32;
        let code = layered(blocks, start + 48usize, i, 32usize, 4usize) | fifth;
        value = with_minima(blocks, start, i, code);
    } else if comptime!(block == BlockType::Q6K) {
        let scale = signed(byte_at(blocks, start + 192usize + i / 16usize));
        let upper = layered(blocks, start + 128usize, i, 32usize, 2usize) << 4u32;
        let code = layered(blocks, start, i, 64usize, 4usize) | upper;
        let step = half_at(blocks, start + 208usize) * scale;
        value = step * (f32::cast_from(code) - 32.0f32);
    } else if comptime!(block == BlockType::Iq4Xs) {
        let sub = i / 32usize;
        let lower = layered(blocks, start + 4usize, sub, 1usize, 4usize);
        let upper = layered(blocks, start + 2usize, sub, 1usize, 2usize);
        let scale = f32::cast_from(lower | (upper << 4u32)) - 32.0f32;
        let code = layered(blocks, start + 8usize, i, 16usize, 4usize);
        value = half_at(blocks, start) * scale * iq4_entry(code);
    }
    value
}

/// The element in column `column` of the row that begins at byte `row`.
#[cube]
fn element(blocks: &Array<u32>, row: usize, column: usize, #[comptime] block: BlockType) -> f32 {
    let size = comptime!(block.block_elements());
    let start = row + column / size * comptime!(block.block_bytes());
    if comptime!(size == 32) {
        element_of_32(blocks, start, column % size, block)
    } else {
        element_of_256(blocks, start, column % size, block)
    }
}

#[cube(launch, launch_unchecked)]
fn decode_kernel(
    blocks: &Array<u32>,
    out: &mut Array<f32>,
    n_cols: usize,
    stride: usize,
    first: usize,
    #[comptime] block: BlockType,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let row_bytes = n_cols / comptime!(block.block_elements()) * comptime!(block.block_bytes());
        let column = i % stride;
        let mut value = 0.0f32;
        if column < n_cols {
            value = element(blocks, (first + i / stride) * row_bytes, column, block);
        }
        out[i] = value;
    }
}

#[cube(launch, launch_unchecked)]
fn embed_kernel(
    blocks: &Array<u32>,
    ids: &Array<u32>,
    out: &mut Array<f32>,
    n_cols: usize,
    first: usize,
    n_rows: usize,
    scale: f32,
    #[comptime] block: BlockType,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let row_bytes = n_cols / comptime!(block.block_elements()) * comptime!(block.block_bytes());
        let id = ids[i / n_cols] as usize;
        if id >= first && id < first + n_rows {
            let value = element(blocks, (id - first) * row_bytes, i % n_cols, block);
            out[i] = value * scale;
        }
    }
}

/// Some rows of a weight, as blocks.
#[derive(Clone, Copy)]
pub(in super::super) struct BlockRows<'a> {
    /// The bytes of their blocks, one row after the other.
    pub(in super::super) words: &'a Words,
    /// How they are coded: one for which [`is_decoded`].
    pub(in super::super) block: BlockType,
    /// The first row's number in the weight.
    pub(in super::super) first: usize,
    /// How many.
    pub(in super::super) n_rows: usize,
    /// Columns, a whole number of blocks.
    pub(in super::super) n_cols: usize,
}

/// Rows of a part from its row `from` on as f32, each `stride` long with zeros behind its columns: as many as
/// `out` holds.
pub(in super::super) fn decode<R: Runtime>(
    device: &Device<R>,
    part: BlockRows<'_>,
    from: usize,
    stride: usize,
    out: &Words,
) -> Result<(), EngineError> {
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        decode_kernel,
        grid,
        UNITS,
        device.arg(part.words),
        device.arg(out),
        part.n_cols,
        stride,
        from,
        part.block,
    );
    Ok(())
}

/// Writes, of the rows that `ids` name, those that lie in this part, times `scale`.
pub(in super::super) fn embed<R: Runtime>(
    device: &Device<R>,
    part: BlockRows<'_>,
    ids: &Words,
    out: &Words,
    scale: f32,
) -> Result<(), EngineError> {
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        embed_kernel,
        grid,
        UNITS,
        device.arg(part.words),
        device.arg(ids),
        device.arg(out),
        part.n_cols,
        part.first,
        part.n_rows,
        scale,
        part.block,
    );
    Ok(())
}

//! Weights on the device: in the type in which they are stored where kernels read it, else as f32.
//!
//! Block-quantized weights stay blocks, which a kernel decodes as they are used (`kernels/blocks.rs`); of the
//! types that it does not decode, f32 is brought instead.

use super::device::{Device, Words};
use super::kernels::blocks::{self, BlockRows};
use super::kernels::grouped::Stack;
use super::kernels::linear::{Part, padded};
use super::kernels::number::Stored;
use super::kernels::rows::{self, TablePart};
use crate::engine::EngineError;
use crate::tensor::{BlockType, DType, Matrix};
use cubecl::prelude::Runtime;

/// Bytes that are read from a checkpoint and brought to the device at a time.
const STAGED_BYTES: usize = 256 << 20;

/// Bytes of weights that lie in one array: they are staged at once.
const STACKED_BYTES: u64 = 1 << 30;

/// Bytes of f32 that blocks are decoded to at a time.
const DECODED_BYTES: usize = 64 << 20;

/// A weight `[n_out, n_in]`: f32, bf16, f16 and most block-quantized types as they are stored, everything else
/// as f32.
///
/// Rows are padded with zeros to whole chunks of columns (blocks are not), and lie in as many arrays as the
/// device's limit asks for.
pub struct GpuWeight {
    parts: Vec<StoredRows>,
    stored: Stored,
    /// How the parts are coded, where they are blocks; what a product reads is `stored` all the same.
    block: Option<BlockType>,
    /// Rows that are decoded at a time.
    n_decoded: usize,
    n_in: usize,
    n_out: usize,
    /// Where it lies among others of its shape, if it was brought with them.
    member: Option<Member>,
}

/// A weight's place in an array of several.
struct Member {
    words: Words,
    /// Elements from one to the next.
    stride: usize,
    number: usize,
}

struct StoredRows {
    words: Words,
    first: usize,
    n_rows: usize,
}

impl GpuWeight {
    /// Brings a matrix to the device.
    pub(super) fn new<R: Runtime>(
        device: &Device<R>,
        matrix: &Matrix,
    ) -> Result<Self, EngineError> {
        let stored = match matrix.tensor().dtype() {
            DType::BF16 => Stored::Bf16,
            DType::F16 => Stored::F16,
            _ => Stored::F32,
        };
        let (n_out, n_in) = (matrix.n_rows(), matrix.n_cols());
        let block = match matrix.tensor().dtype() {
            DType::Block(block)
                if blocks::is_decoded(block) && matrix.read_blocks(0..0)?.is_some() =>
            {
                Some(block)
            }
            _ => None,
        };
        let wide_bytes = padded(n_in) * 4 / stored.per_word();
        let row_bytes = match block {
            Some(block) => n_in / block.block_elements() * block.block_bytes(),
            None => wide_bytes,
        };
        let limit = usize::try_from(device.limits().buffer_bytes).unwrap_or(usize::MAX);
        let rows_at_a_time = (limit.min(STAGED_BYTES) / row_bytes).min(n_out);
        let n_decoded = (limit / wide_bytes).min((DECODED_BYTES / wide_bytes).max(1));
        if rows_at_a_time == 0 || n_decoded == 0 {
            return Err(device.error(format!(
                "a row of {n_in} columns is larger than an array may be"
            )));
        }
        let mut parts = Vec::new();
        for first in (0..n_out).step_by(rows_at_a_time) {
            let rows = first..n_out.min(first + rows_at_a_time);
            let n_rows = rows.len();
            let bytes = match block {
                Some(_) => matrix.read_blocks(rows.clone())?,
                None => None,
            };
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => read(matrix, rows, stored)?,
            };
            let words = device.upload_bytes(bytes)?;
            parts.push(StoredRows {
                words,
                first,
                n_rows,
            });
        }
        Ok(Self {
            parts,
            stored,
            block,
            n_decoded,
            n_in,
            n_out,
            member: None,
        })
    }

    /// Brings matrices of one shape to the device in one array, so that a grouped product can read all of
    /// them. `None` where they are blocks, of several types, or more than an array holds.
    pub(super) fn stack<R: Runtime>(
        device: &Device<R>,
        matrices: &[Matrix],
    ) -> Result<Option<Vec<Self>>, EngineError> {
        let Some(first) = matrices.first() else {
            return Ok(None);
        };
        let dtype = first.tensor().dtype();
        let (n_out, n_in) = (first.n_rows(), first.n_cols());
        let stored = match dtype {
            DType::BF16 => Stored::Bf16,
            DType::F16 => Stored::F16,
            DType::F32 => Stored::F32,
            _ => return Ok(None),
        };
        let alike =
            |m: &Matrix| m.tensor().dtype() == dtype && (m.n_rows(), m.n_cols()) == (n_out, n_in);
        let n_bytes = n_out * padded(n_in) * 4 / stored.per_word();
        let stride_bytes = n_bytes.next_multiple_of(Words::PART_BYTES);
        let whole = stride_bytes.checked_mul(matrices.len()).map(|n| n as u64);
        let fits = whole.is_some_and(|n| n <= device.limits().buffer_bytes.min(STACKED_BYTES));
        if n_bytes == 0 || !fits || !matrices.iter().all(alike) {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(stride_bytes * matrices.len());
        for matrix in matrices {
            bytes.extend(read(matrix, 0..n_out, stored)?);
            bytes.resize(bytes.len().next_multiple_of(Words::PART_BYTES), 0);
        }
        let words = device.upload_bytes(bytes)?;
        let (stride_words, n_words) = (stride_bytes / 4, n_bytes.div_ceil(4));
        let weights = (0..matrices.len()).map(|number| Self {
            parts: vec![StoredRows {
                words: words.part(number * stride_words, n_words),
                first: 0,
                n_rows: n_out,
            }],
            stored,
            block: None,
            n_decoded: n_out,
            n_in,
            n_out,
            member: Some(Member {
                words: words.clone(),
                stride: stride_words * stored.per_word(),
                number,
            }),
        });
        Ok(Some(weights.collect()))
    }

    /// The array that these weights lie in, and the number of each, if it is one for all of them.
    pub(super) fn stack_of<'a>(weights: &[&'a Self]) -> Option<(Stack<'a>, Vec<usize>)> {
        let first = weights.first()?;
        let whole = first.member.as_ref()?;
        let numbers = weights.iter().map(|weight| {
            let member = weight.member.as_ref()?;
            member.words.is_same(&whole.words).then_some(member.number)
        });
        let stack = Stack {
            words: &whole.words,
            stored: first.stored,
            stride: whole.stride,
            n_out: first.n_out,
            n_cols: padded(first.n_in),
        };
        Some((stack, numbers.collect::<Option<Vec<usize>>>()?))
    }

    /// Columns.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Rows.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// How elements are stored.
    pub(super) fn stored(&self) -> Stored {
        self.stored
    }

    /// Words that the weight occupies.
    #[cfg(test)]
    pub(super) fn n_words(&self) -> usize {
        self.parts.iter().map(|part| part.words.len()).sum()
    }

    /// Decodes other numbers of rows at a time, at least one.
    #[cfg(test)]
    pub(super) fn decode_at_a_time(&mut self, n_rows: usize) {
        self.n_decoded = n_rows.max(1);
    }

    /// Gives `each` the arrays as a product reads them, one after the other. Blocks are decoded here, some rows
    /// at a time, into memory that is let go of after `each`; the device works in the order of launches.
    ///
    /// # Errors
    /// As `each`, and when blocks cannot be decoded.
    pub(super) fn for_each_part<R: Runtime>(
        &self,
        device: &Device<R>,
        mut each: impl FnMut(Part<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for part in &self.parts {
            let Some(block) = self.block else {
                each(Part {
                    words: &part.words,
                    stored: self.stored,
                    first: part.first,
                    n_rows: part.n_rows,
                })?;
                continue;
            };
            for from in (0..part.n_rows).step_by(self.n_decoded) {
                let n_rows = self.n_decoded.min(part.n_rows - from);
                let words = device.empty(n_rows * padded(self.n_in))?;
                let rows = self.block_rows(part, block);
                blocks::decode(device, rows, from, padded(self.n_in), &words)?;
                each(Part {
                    words: &words,
                    stored: self.stored,
                    first: part.first + from,
                    n_rows,
                })?;
            }
        }
        Ok(())
    }

    fn block_rows<'a>(&self, part: &'a StoredRows, block: BlockType) -> BlockRows<'a> {
        BlockRows {
            words: &part.words,
            block,
            first: part.first,
            n_rows: part.n_rows,
            n_cols: self.n_in,
        }
    }

    /// Writes the rows that `ids` name, times `scale`, to `out`.
    ///
    /// # Errors
    /// When the device cannot count so many.
    pub(super) fn embed<R: Runtime>(
        &self,
        device: &Device<R>,
        ids: &Words,
        out: &Words,
        scale: f32,
    ) -> Result<(), EngineError> {
        for part in &self.parts {
            match self.block {
                Some(block) => {
                    blocks::embed(device, self.block_rows(part, block), ids, out, scale)?;
                }
                None => {
                    let table = TablePart {
                        words: &part.words,
                        first: part.first,
                        n_rows: part.n_rows,
                        stride: padded(self.n_in) / self.stored.per_word(),
                        stored: self.stored,
                    };
                    rows::embed(device, &table, ids, out, self.n_in, scale)?;
                }
            }
        }
        Ok(())
    }
}

/// Rows as the device holds them, little-endian, padded.
fn read(
    matrix: &Matrix,
    rows: std::ops::Range<usize>,
    stored: Stored,
) -> Result<Vec<u8>, EngineError> {
    let n_cols = matrix.n_cols();
    let size = 4 / stored.per_word();
    let tensor = matrix.tensor();
    let mut bytes = match matrix.contiguous_elements() {
        Some(elements)
            if tensor.dtype().block_elements() == 1
                && tensor.dtype().size_bytes() == size
                && tensor.dtype().is_float() =>
        {
            let start = elements.start + rows.start * n_cols;
            let range = tensor.dtype().bytes_of(start..start + rows.len() * n_cols);
            tensor.read_bytes(range)?.into_owned()
        }
        _ => {
            let mut values = vec![0.0; rows.len() * n_cols];
            matrix.read_rows(rows.clone(), &mut values)?;
            // What was stored in 16 bits is the same bits again.
            match stored {
                Stored::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Stored::Bf16 => values
                    .iter()
                    .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
                    .collect(),
                Stored::F16 => values
                    .iter()
                    .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
                    .collect(),
            }
        }
    };
    let (row, wide) = (n_cols * size, padded(n_cols) * size);
    if row != wide {
        let mut out = Vec::with_capacity(rows.len() * wide);
        for row in bytes.chunks(row) {
            out.extend_from_slice(row);
            out.resize(out.len() + wide - row.len(), 0);
        }
        bytes = out;
    }
    Ok(bytes)
}

//! Weights on the device: in the type in which they are stored where kernels read it, else as f32.

use super::device::{Device, Words};
use super::kernels::linear::{Part, padded};
use super::kernels::number::Stored;
use super::kernels::rows::TablePart;
use crate::engine::EngineError;
use crate::tensor::{DType, Matrix};
use cubecl::prelude::Runtime;

/// Bytes that are read from a checkpoint and brought to the device at a time.
const STAGED_BYTES: usize = 256 << 20;

/// A weight `[n_out, n_in]`: f32, bf16 and f16 as they are stored, everything else as f32.
///
/// Rows are padded with zeros to whole chunks of columns, and lie in as many arrays as the device's limit
/// asks for.
pub struct GpuWeight {
    parts: Vec<StoredRows>,
    stored: Stored,
    n_in: usize,
    n_out: usize,
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
        let row_bytes = padded(n_in) * 4 / stored.per_word();
        let limit = usize::try_from(device.limits().buffer_bytes).unwrap_or(usize::MAX);
        let rows_at_a_time = (limit.min(STAGED_BYTES) / row_bytes).min(n_out);
        if rows_at_a_time == 0 {
            return Err(device.error(format!(
                "a row of {n_in} columns is larger than an array may be"
            )));
        }
        let mut parts = Vec::new();
        for first in (0..n_out).step_by(rows_at_a_time) {
            let rows = first..n_out.min(first + rows_at_a_time);
            let n_rows = rows.len();
            let words = device.upload_bytes(read(matrix, rows, stored)?)?;
            parts.push(StoredRows {
                words,
                first,
                n_rows,
            });
        }
        Ok(Self {
            parts,
            stored,
            n_in,
            n_out,
        })
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

    /// The arrays, as a product reads them.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.parts.iter().map(|part| Part {
            words: &part.words,
            stored: self.stored,
            first: part.first,
            n_rows: part.n_rows,
        })
    }

    /// The arrays, as a table of rows.
    pub(super) fn tables(&self) -> impl Iterator<Item = TablePart<'_>> {
        self.parts.iter().map(|part| TablePart {
            words: &part.words,
            first: part.first,
            n_rows: part.n_rows,
            stride: padded(self.n_in) / self.stored.per_word(),
            stored: self.stored,
        })
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

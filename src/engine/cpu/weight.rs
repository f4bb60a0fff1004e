//! Weights on the CPU: kept in memory in the type in which they are stored, or left in their file.
//!
//! Half-precision weights stay half precision, quantized ones stay in their blocks, and both become
//! numbers block by block as they are used. Where a budget of memory is spent, a weight stays in its
//! file and its rows are read when they are needed: a model that does not fit runs, as fast as the
//! disk and the page cache give it.

use super::product::few::few_times;
use super::product::tiles::Place;
use super::real::{Element, Real};
use crate::tensor::{DType, InMemory, Matrix, Tensor, TensorError};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Values that are decoded at once while a weight is loaded.
const LOAD_VALUES: usize = 1 << 18;

/// A weight `[n_out, n_in]`.
#[derive(Debug)]
pub struct Weight {
    /// Rows.
    pub n_out: usize,
    /// Columns.
    pub n_in: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    /// Rows are decoded when they are used, from memory or from the file.
    Rows(Matrix),
}

/// What may still be kept in memory.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    /// A budget of this many bytes.
    pub fn new(n_bytes: u64) -> Self {
        Self(AtomicU64::new(n_bytes))
    }

    /// Takes from the budget what a weight needs, if it is there.
    fn take(&self, n_bytes: u64) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(n_bytes)
            })
            .is_ok()
    }
}

/// All values of a matrix, converted.
fn values<E: Send + Copy + Default>(
    matrix: &Matrix,
    convert: impl Fn(f32) -> E + Sync,
) -> Result<Vec<E>, TensorError> {
    let n_cols = matrix.n_cols();
    let n_rows = (LOAD_VALUES / n_cols).max(1);
    let mut out = vec![E::default(); matrix.n_rows() * n_cols];
    out.par_chunks_mut(n_rows * n_cols)
        .enumerate()
        .try_for_each(|(at, out)| {
            let start = at * n_rows;
            let mut decoded = vec![0.0; out.len()];
            matrix.read_rows(start..start + out.len() / n_cols, &mut decoded)?;
            for (out, value) in out.iter_mut().zip(decoded) {
                *out = convert(value);
            }
            Ok(())
        })?;
    Ok(out)
}

impl Weight {
    /// Loads a matrix, or leaves it in its file where the budget is spent.
    pub(super) fn load(matrix: &Matrix, budget: &Budget) -> Result<Self, TensorError> {
        let dtype = matrix.tensor().dtype();
        let n_values = (matrix.n_rows() * matrix.n_cols()) as u64;
        let store = match (dtype, matrix.contiguous_elements()) {
            (DType::BF16, _) if budget.take(2 * n_values) => {
                Store::Bf16(values(matrix, bf16::from_f32)?)
            }
            (DType::F16, _) if budget.take(2 * n_values) => {
                Store::F16(values(matrix, f16::from_f32)?)
            }
            // Every value of these 8-bit types is a value of bf16.
            (DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 | DType::Bool, _)
                if budget.take(2 * n_values) =>
            {
                Store::Bf16(values(matrix, bf16::from_f32)?)
            }
            (DType::Block(_), Some(elements))
                if budget.take(
                    dtype.bytes_of(elements.clone()).end - dtype.bytes_of(elements.clone()).start,
                ) =>
            {
                let tensor = matrix.tensor();
                let bytes = tensor.read_bytes(dtype.bytes_of(elements))?.into_owned();
                let kept = Tensor::new(
                    tensor.name().to_owned(),
                    dtype,
                    vec![matrix.n_rows(), matrix.n_cols()],
                    Arc::new(InMemory {
                        bytes,
                        file: tensor.file().to_owned(),
                    }),
                    0,
                )?;
                Store::Rows(Matrix::new(kept)?)
            }
            (DType::Block(_), None) | (DType::F32, _) if budget.take(4 * n_values) => {
                Store::F32(values(matrix, |value| value)?)
            }
            (DType::BF16 | DType::F16 | DType::F32 | DType::Block(_), _) => {
                Store::Rows(matrix.clone())
            }
            _ if budget.take(4 * n_values) => Store::F32(values(matrix, |value| value)?),
            _ => Store::Rows(matrix.clone()),
        };
        Ok(Self {
            n_out: matrix.n_rows(),
            n_in: matrix.n_cols(),
            store,
        })
    }

    /// Values of a range of rows, into `out` `[range.len(), n_in]`.
    pub(super) fn read<T: Real>(
        &self,
        rows: Range<usize>,
        out: &mut [T],
    ) -> Result<(), TensorError> {
        fn copy<T: Real, E: Element>(stored: &[E], out: &mut [T]) {
            for (out, stored) in out.iter_mut().zip(stored) {
                *out = stored.as_real();
            }
        }
        let elements = rows.start * self.n_in..rows.end * self.n_in;
        match &self.store {
            Store::F32(values) => copy(&values[elements], out),
            Store::Bf16(values) => copy(&values[elements], out),
            Store::F16(values) => copy(&values[elements], out),
            Store::Rows(matrix) => {
                let mut decoded = vec![0.0f32; elements.len()];
                matrix.read_rows(rows, &mut decoded)?;
                copy(&decoded, out);
            }
        }
        Ok(())
    }

    /// W xᵀ of a few rows x, for a range of rows: `out` `[range.len(), n_x]`, on this thread.
    pub(super) fn times_few<T: Real>(
        &self,
        rows: Range<usize>,
        x: &[T],
        decoded: &mut Vec<f32>,
        out: &mut [T],
    ) -> Result<(), TensorError> {
        let elements = rows.start * self.n_in..rows.end * self.n_in;
        match &self.store {
            Store::F32(values) => few_times(x, &values[elements], self.n_in, out),
            Store::Bf16(values) => few_times(x, &values[elements], self.n_in, out),
            Store::F16(values) => few_times(x, &values[elements], self.n_in, out),
            Store::Rows(matrix) => {
                decoded.resize(elements.len(), 0.0);
                matrix.read_rows(rows, decoded)?;
                few_times(x, decoded, self.n_in, out);
            }
        }
        Ok(())
    }

    /// Packs a range of rows into their place, on this thread.
    pub(super) fn pack<T: Real>(
        &self,
        rows: Range<usize>,
        decoded: &mut Vec<f32>,
        mut place: Place<'_, T>,
    ) -> Result<(), TensorError> {
        let elements = rows.start * self.n_in..rows.end * self.n_in;
        match &self.store {
            Store::F32(values) => place.pack(&values[elements], self.n_in),
            Store::Bf16(values) => place.pack(&values[elements], self.n_in),
            Store::F16(values) => place.pack(&values[elements], self.n_in),
            Store::Rows(matrix) => {
                decoded.resize(elements.len(), 0.0);
                matrix.read_rows(rows, decoded)?;
                place.pack(decoded, self.n_in);
            }
        }
        Ok(())
    }
}

//! A weight in the orientation of `y = W x`, read row by row.

mod part;

use super::{RowRuns, Tensor, TensorError};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Below this many values a read is not worth spreading over cores.
const PARALLEL_ABOVE: usize = 1 << 16;
/// Neighbouring stored rows are read together up to so many values.
const TOGETHER: usize = 1 << 18;
/// Stored rows from which columns are gathered together.
const COLUMN_ROWS: usize = 64;

/// Which stored rows (or columns, where transposed) a view shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rows {
    Range(Range<usize>),
    Chosen(Arc<[usize]>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Rows::Range(range) => range.len(),
            Rows::Chosen(chosen) => chosen.len(),
        }
    }

    fn stored(&self, row: usize) -> Option<usize> {
        match self {
            Rows::Range(range) => range.start.checked_add(row).filter(|r| *r < range.end),
            Rows::Chosen(chosen) => chosen.get(row).copied(),
        }
    }
}

/// A view of a tensor as `[n_rows, n_cols]`: the first axis against all others.
///
/// A vector `[n]` is `n × 1`, a convolution `[out, in, h, w]` is `out × (in·h·w)`. Reads are checked:
/// a value that is NaN or infinite is an error, never a number.
#[derive(Clone, Debug)]
pub struct Matrix {
    tensor: Tensor,
    /// The element of the tensor at which the matrix begins: that of a slice, in a stack of them.
    start: usize,
    /// Stored sizes `[rows, cols]`, before transposition.
    stored: (usize, usize),
    transposed: bool,
    rows: Rows,
    /// Which rows these are of a matrix of so many, where only some of its tensor's are at hand.
    part: Option<Arc<(RowRuns, usize)>>,
}

impl Matrix {
    /// The whole tensor.
    ///
    /// # Errors
    /// When it has no elements.
    pub fn new(tensor: Tensor) -> Result<Self, TensorError> {
        let n_rows = tensor.shape().first().copied().unwrap_or(1);
        if tensor.n_elements() == 0 {
            return Err(TensorError::shape(&tensor, "a tensor with elements"));
        }
        let stored = (n_rows, tensor.n_elements() / n_rows);
        Ok(Self {
            tensor,
            start: 0,
            stored,
            transposed: false,
            rows: Rows::Range(0..n_rows),
            part: None,
        })
    }

    /// One slice of a stack, such as the weights of one expert `[n_slices, n_rows, n_cols]`, or their biases
    /// `[n_slices, n_rows]`, of which each is `n_rows × 1`.
    ///
    /// # Errors
    /// When the tensor is no such stack, or has no such slice.
    pub fn slice_of_stack(tensor: Tensor, slice: usize) -> Result<Self, TensorError> {
        let (n_slices, stored) = match *tensor.shape() {
            [n_slices, n_rows, n_cols] => (n_slices, (n_rows, n_cols)),
            [n_slices, n_rows] => (n_slices, (n_rows, 1)),
            _ => return Err(TensorError::shape(&tensor, "a stack of matrices")),
        };
        if slice >= n_slices || tensor.n_elements() == 0 {
            return Err(TensorError::index(&tensor, slice, n_slices));
        }
        Ok(Self {
            // Below the number of elements, which the tensor's constructor checked.
            start: slice * stored.0 * stored.1,
            tensor,
            stored,
            transposed: false,
            rows: Rows::Range(0..stored.0),
            part: None,
        })
    }

    /// Rows become columns; a selection of rows made before is dropped.
    pub fn transposed(self) -> Self {
        let transposed = !self.transposed;
        let n_rows = if transposed {
            self.stored.1
        } else {
            self.stored.0
        };
        Self {
            transposed,
            rows: Rows::Range(0..n_rows),
            part: None,
            ..self
        }
    }

    /// Only these rows, in this order.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn select_rows(self, rows: &[usize]) -> Result<Self, TensorError> {
        let chosen: Result<Arc<[usize]>, TensorError> =
            rows.iter().map(|&row| self.stored_row(row)).collect();
        Ok(Self {
            rows: Rows::Chosen(chosen?),
            part: None,
            ..self
        })
    }

    /// Only a range of rows.
    ///
    /// # Errors
    /// When it reaches beyond the last row.
    pub fn row_range(self, range: Range<usize>) -> Result<Self, TensorError> {
        if range.start > range.end || range.end > self.n_rows() {
            return Err(TensorError::index(&self.tensor, range.end, self.n_rows()));
        }
        let rows = match &self.rows {
            Rows::Range(whole) => Rows::Range(whole.start + range.start..whole.start + range.end),
            Rows::Chosen(chosen) => Rows::Chosen(chosen[range].into()),
        };
        Ok(Self {
            rows,
            part: None,
            ..self
        })
    }

    /// Number of rows: outputs.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// Number of columns: inputs.
    pub fn n_cols(&self) -> usize {
        if self.transposed {
            self.stored.0
        } else {
            self.stored.1
        }
    }

    /// Whether the view takes its rows from its tensor in the same way as another does.
    pub fn has_layout_of(&self, other: &Self) -> bool {
        (self.start, self.transposed) == (other.start, other.transposed)
            && self.rows == other.rows
            && self.part == other.part
    }

    /// Whether rows are columns of what is stored: each is scattered over the whole matrix, and few at a
    /// time cost as many reads as many.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// The tensor behind the view.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The same view of another tensor; `None` where its shape differs.
    ///
    /// # Errors
    /// None today; views that depend on content would have some.
    pub fn same_view_of(&self, tensor: Tensor) -> Result<Option<Self>, TensorError> {
        Ok((tensor.shape() == self.tensor.shape()).then(|| Self {
            tensor,
            ..self.clone()
        }))
    }

    /// The elements of a row of what is stored.
    fn stored_elements(&self, row: usize) -> Range<usize> {
        let start = self.start + row * self.stored.1;
        start..start + self.stored.1
    }

    fn stored_row(&self, row: usize) -> Result<usize, TensorError> {
        self.rows
            .stored(row)
            .ok_or_else(|| TensorError::index(&self.tensor, row, self.n_rows()))
    }

    /// Chosen rows as `[indices.len(), n_cols]`, f32.
    ///
    /// # Errors
    /// When a row does not exist, cannot be read, or holds a value that is not finite.
    pub fn gather(&self, indices: &[usize]) -> Result<Array2<f32>, TensorError> {
        let stored: Result<Vec<usize>, TensorError> =
            indices.iter().map(|&row| self.stored_row(row)).collect();
        let stored = stored?;
        let mut values = Array2::zeros((stored.len(), self.n_cols()));
        if self.transposed {
            self.gather_columns(&stored, &mut values)?;
        } else if let Some(out) = values.as_slice_mut() {
            let n_cols = self.n_cols();
            let runs = together(&stored, n_cols, out);
            let read = |(first, out): (usize, &mut [f32])| {
                let start = self.stored_elements(first).start;
                self.decode(start..start + out.len(), out)
            };
            if stored.len() * n_cols < PARALLEL_ABOVE {
                runs.into_iter().try_for_each(read)?;
            } else {
                runs.into_par_iter().try_for_each(read)?;
            }
        }
        Ok(values)
    }

    /// Decodes stored elements and refuses what is not finite.
    fn decode(&self, elements: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        self.tensor.decode(elements, out)?;
        if out.iter().all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err(TensorError::not_finite(&self.tensor))
        }
    }

    /// Reads, of each stored row, the span that holds the wanted columns.
    fn gather_columns(
        &self,
        columns: &[usize],
        values: &mut Array2<f32>,
    ) -> Result<(), TensorError> {
        let (Some(&first), Some(&last)) = (columns.iter().min(), columns.iter().max()) else {
            return Ok(());
        };
        let blocks: Result<Vec<Array2<f32>>, TensorError> = (0..self.stored.0)
            .step_by(COLUMN_ROWS)
            .collect::<Vec<usize>>()
            .into_par_iter()
            .map(|start| {
                let rows = start..self.stored.0.min(start + COLUMN_ROWS);
                let mut span = vec![0.0; last + 1 - first];
                let mut block = Array2::zeros((columns.len(), rows.len()));
                for (row, mut out) in rows.zip(block.columns_mut()) {
                    let start = self.stored_elements(row).start;
                    self.decode(start + first..start + last + 1, &mut span)?;
                    for (&column, out) in columns.iter().zip(&mut out) {
                        *out = span[column - first];
                    }
                }
                Ok(block)
            })
            .collect();
        for (block, mut out) in blocks?
            .iter()
            .zip(values.axis_chunks_iter_mut(Axis(1), COLUMN_ROWS))
        {
            out.assign(block);
        }
        Ok(())
    }

    /// Rows of a range as `[range.len(), n_cols]`, f32.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn rows(&self, range: Range<usize>) -> Result<Array2<f32>, TensorError> {
        self.gather(&range.collect::<Vec<usize>>())
    }

    /// Rows of a range as `[range.len(), n_cols]` into `out`, f32. NaN and infinity are passed on: a model
    /// computes with what it holds. Runs on the calling thread.
    ///
    /// # Errors
    /// When a row does not exist or cannot be read.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn read_rows(&self, range: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        let n_cols = self.n_cols();
        assert_eq!(out.len(), range.len() * n_cols, "one value per element");
        if let Some(elements) = self.contiguous_elements() {
            if range.end > self.n_rows() {
                return Err(TensorError::index(&self.tensor, range.end, self.n_rows()));
            }
            let start = elements.start + range.start * n_cols;
            return self.tensor.decode(start..start + out.len(), out);
        }
        let stored: Result<Vec<usize>, TensorError> =
            range.map(|row| self.stored_row(row)).collect();
        let stored = stored?;
        if !self.transposed {
            for (out, row) in out.chunks_mut(n_cols).zip(stored) {
                self.tensor.decode(self.stored_elements(row), out)?;
            }
        } else if let (Some(&first), Some(&last)) = (stored.iter().min(), stored.iter().max()) {
            let mut span = vec![0.0; last + 1 - first];
            for at in 0..n_cols {
                let start = self.stored_elements(at).start;
                self.tensor
                    .decode(start + first..start + last + 1, &mut span)?;
                for (row, &column) in stored.iter().enumerate() {
                    out[row * n_cols + at] = span[column - first];
                }
            }
        }
        Ok(())
    }

    /// The bytes of the blocks of rows of a range, one row after the other: `None` where the type has no
    /// blocks, or a row is not a whole number of them (or transposed). Runs on the calling thread.
    ///
    /// # Errors
    /// When a row does not exist or cannot be read.
    pub fn read_blocks(&self, range: Range<usize>) -> Result<Option<Vec<u8>>, TensorError> {
        let (dtype, n_cols) = (self.tensor.dtype(), self.n_cols());
        let is_whole = n_cols.is_multiple_of(dtype.block_elements());
        if dtype.block_elements() == 1 || self.transposed || !is_whole {
            return Ok(None);
        }
        if range.end > self.n_rows() {
            return Err(TensorError::index(&self.tensor, range.end, self.n_rows()));
        }
        if let Some(elements) = self.contiguous_elements() {
            let start = elements.start + range.start * n_cols;
            let bytes = dtype.bytes_of(start..start + range.len() * n_cols);
            return Ok(Some(self.tensor.read_bytes(bytes)?.into_owned()));
        }
        let mut bytes = Vec::new();
        for row in range {
            let row = dtype.bytes_of(self.stored_elements(self.stored_row(row)?));
            bytes.extend_from_slice(&self.tensor.read_bytes(row)?);
        }
        Ok(Some(bytes))
    }

    /// The stored elements that the view shows, where they lie one after the other in its order.
    pub fn contiguous_elements(&self) -> Option<Range<usize>> {
        match &self.rows {
            Rows::Range(rows) if !self.transposed => {
                let elements = |rows: usize| self.start + rows * self.stored.1;
                Some(elements(rows.start)..elements(rows.end))
            }
            _ => None,
        }
    }

    /// For rows of a range, how far from its value each can have been before it was rounded to its code:
    /// `[range.len(), n_cols]`, f32 (see [`Tensor::read_rounding_bounds`]). `None` where the type states no
    /// bound, and for transposed views, whose rows share their blocks with others.
    ///
    /// # Errors
    /// When a row does not exist or cannot be read.
    pub fn rounding_bounds(&self, range: Range<usize>) -> Result<Option<Array2<f32>>, TensorError> {
        if self.transposed {
            return Ok(None);
        }
        if range.end > self.n_rows() {
            return Err(TensorError::index(&self.tensor, range.end, self.n_rows()));
        }
        let n_cols = self.n_cols();
        let mut bounds = Array2::zeros((range.len(), n_cols));
        for (row, mut out) in range.zip(bounds.rows_mut()) {
            let elements = self.stored_elements(self.stored_row(row)?);
            match self.tensor.read_rounding_bounds(elements)? {
                Some(row) => out.assign(&ndarray::ArrayView1::from(&row)),
                None => return Ok(None),
            }
        }
        Ok(Some(bounds))
    }

    /// All rows. Takes as much memory as the matrix has values: for those known to be small.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn all(&self) -> Result<Array2<f32>, TensorError> {
        self.rows(0..self.n_rows())
    }
}

/// Runs of neighbouring stored rows, each with its place in `out`, which holds all rows one after the other:
/// what lies together is read together, be it on a disk or behind a request.
fn together<'a>(
    stored: &[usize],
    n_cols: usize,
    mut out: &'a mut [f32],
) -> Vec<(usize, &'a mut [f32])> {
    let most = (TOGETHER / n_cols.max(1)).max(1);
    let mut runs = Vec::new();
    let mut at = 0;
    while at < stored.len() {
        let mut n = 1;
        while n < most && stored.get(at + n) == Some(&(stored[at] + n)) {
            n += 1;
        }
        let (run, rest) = std::mem::take(&mut out).split_at_mut(n * n_cols);
        runs.push((stored[at], run));
        out = rest;
        at += n;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::store::tests::tensor;

    fn counting(n_rows: usize, n_cols: usize) -> Matrix {
        let values: Vec<f32> = (0..n_rows * n_cols).map(|i| i as f32).collect();
        Matrix::new(tensor(&[n_rows, n_cols], &values)).unwrap()
    }

    #[test]
    fn views_compose() {
        let matrix = counting(4, 3);
        let part = matrix
            .clone()
            .row_range(1..4)
            .unwrap()
            .select_rows(&[2, 0])
            .unwrap();
        assert_eq!(
            part.all().unwrap(),
            ndarray::array![[9.0, 10.0, 11.0], [3.0, 4.0, 5.0]]
        );
        let turned = matrix.transposed();
        assert_eq!((turned.n_rows(), turned.n_cols()), (3, 4));
        assert_eq!(
            turned.rows(1..2).unwrap(),
            ndarray::array![[1.0, 4.0, 7.0, 10.0]]
        );
        assert_eq!(
            turned.gather(&[2, 0]).unwrap().row(0).to_vec(),
            [2.0, 5.0, 8.0, 11.0]
        );
        let part = turned.row_range(1..3).unwrap().row_range(1..2).unwrap();
        assert_eq!(part.all().unwrap().row(0).to_vec(), [2.0, 5.0, 8.0, 11.0]);
    }

    #[test]
    fn rows_that_do_not_exist_are_refused() {
        let matrix = counting(4, 3).row_range(0..2).unwrap();
        assert!(matrix.gather(&[2]).is_err());
        assert!(matrix.clone().select_rows(&[0, 2]).is_err());
        assert!(matrix.clone().row_range(1..3).is_err());
        assert!(matrix.row_range(usize::MAX..usize::MAX).is_err());
    }

    #[test]
    fn a_large_read_equals_a_small_one() {
        let matrix = counting(300, 400);
        let whole = matrix.all().unwrap();
        for row in [0, 7, 299] {
            assert_eq!(whole.row(row), matrix.rows(row..row + 1).unwrap().row(0));
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_an_error_that_names_the_tensor() {
        for bad in [f32::NAN, f32::INFINITY] {
            let matrix = Matrix::new(tensor(&[2, 2], &[0.0, 1.0, bad, 2.0])).unwrap();
            assert!(matrix.rows(0..1).is_ok());
            let error = matrix.all().unwrap_err().to_string();
            assert!(error.contains("memory: t: expected finite"), "{error}");
            assert!(matrix.transposed().all().is_err());
        }
    }

    #[test]
    fn unchecked_rows_are_those_of_the_view_and_pass_nan_on() {
        let whole = counting(4, 3);
        let mut out = vec![0.0; 6];
        let views = [
            whole.clone().row_range(1..4).unwrap(),
            whole.clone().select_rows(&[3, 0, 2]).unwrap(),
            whole.clone().transposed().select_rows(&[2, 0]).unwrap(),
        ];
        for view in views {
            out.resize(2 * view.n_cols(), 0.0);
            view.read_rows(0..2, &mut out).unwrap();
            assert_eq!(out, view.rows(0..2).unwrap().into_raw_vec_and_offset().0);
        }
        assert_eq!(whole.contiguous_elements(), Some(0..12));
        assert_eq!(
            whole.clone().row_range(1..3).unwrap().contiguous_elements(),
            Some(3..9)
        );
        assert!(whole.clone().transposed().contiguous_elements().is_none());
        assert!(whole.read_rows(3..5, &mut [0.0; 6]).is_err());
        let nan = Matrix::new(tensor(&[1, 1], &[f32::NAN])).unwrap();
        nan.read_rows(0..1, &mut out[..1]).unwrap();
        assert!(out[0].is_nan());
    }

    #[test]
    fn bounds_follow_the_rows_of_the_view() {
        use crate::tensor::store::tests::in_memory;
        use crate::tensor::{BlockType, DType};
        let dtype = DType::Block(BlockType::Q8_0);
        let mut bytes = vec![0; 2 * 34];
        // Scales 1 and 2.
        bytes[1] = 0x3c;
        bytes[35] = 0x40;
        let file = in_memory(bytes);
        let tensor_ = Tensor::new("t".into(), dtype, vec![2, 32], file, 0).unwrap();
        let matrix = Matrix::new(tensor_).unwrap().select_rows(&[1, 0]).unwrap();
        let bounds = matrix.rounding_bounds(0..2).unwrap().unwrap();
        assert!((bounds[(0, 0)] - 1.0).abs() < 0.01 && (bounds[(1, 31)] - 0.5).abs() < 0.01);
        assert!(
            matrix
                .clone()
                .transposed()
                .rounding_bounds(0..1)
                .unwrap()
                .is_none()
        );
        assert!(matrix.rounding_bounds(1..3).is_err());
        assert!(counting(2, 2).rounding_bounds(0..1).unwrap().is_none());
    }

    #[test]
    fn a_slice_of_a_stack_is_its_rows() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let stack = tensor(&[2, 3, 2], &values);
        let second = Matrix::slice_of_stack(stack.clone(), 1).unwrap();
        assert_eq!(
            second.all().unwrap(),
            ndarray::array![[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]
        );
        assert!(Matrix::slice_of_stack(stack, 2).is_err());
        assert!(Matrix::slice_of_stack(tensor(&[2], &[0.0, 1.0]), 0).is_err());
    }

    #[test]
    fn scalars_and_vectors_are_matrices_and_nothing_is_not() {
        let scalar = Matrix::new(tensor(&[], &[5.0])).unwrap();
        assert_eq!((scalar.n_rows(), scalar.n_cols()), (1, 1));
        let vector = Matrix::new(tensor(&[3], &[1.0, 2.0, 3.0])).unwrap();
        assert_eq!((vector.n_rows(), vector.n_cols()), (3, 1));
        assert!(Matrix::new(tensor(&[0, 4], &[])).is_err());
    }
}

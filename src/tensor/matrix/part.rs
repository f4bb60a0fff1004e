//! Views of a tensor of which only some rows are at hand.
//!
//! The rows are numbered as those of the whole view are, so that two models are looked at in the same rows
//! also where one of them stores several matrices in one tensor. Which rows these are is not decided here.

use super::{Matrix, Rows};
use crate::tensor::{RowRuns, Tensor, TensorError};
use std::sync::Arc;

impl Matrix {
    /// The stored rows that the view shows, where it is a plain view of rows and may be read in part:
    /// `None` for transposed views and for slices of stacks, whose rows are not those of the tensor.
    pub fn stored_rows(&self, rows: &RowRuns) -> Option<RowRuns> {
        if self.transposed || self.tensor.shape() != [self.stored.0, self.stored.1] {
            return None;
        }
        match &self.rows {
            Rows::Range(shown) => {
                let moved = rows
                    .runs()
                    .map(|r| shown.start + r.start..shown.start + r.end);
                (rows.end() <= shown.len()).then(|| RowRuns::new(moved))
            }
            Rows::Chosen(shown) => {
                let stored = rows.runs().flatten().map(|row| shown.get(row).copied());
                let stored: Option<Vec<usize>> = stored.collect();
                Some(RowRuns::new(stored?.into_iter().map(|row| row..row + 1)))
            }
        }
    }

    /// The same view of a part of its tensor that holds at least these rows of the view.
    ///
    /// # Errors
    /// When the part does not hold them, or the view cannot be read in part.
    pub fn of_part(&self, tensor: &Tensor, rows: &RowRuns) -> Result<Self, TensorError> {
        let expected = || TensorError::shape(tensor, "a part with the rows that were chosen");
        let (Some((_, held)), Some(_)) = (tensor.whole(), self.stored_rows(rows)) else {
            return Err(expected());
        };
        let place = |row: usize| held.position(self.rows.stored(row)?);
        let places: Option<Vec<usize>> = rows.runs().flatten().map(place).collect();
        let places = places.ok_or_else(expected)?;
        let is_run = places.windows(2).all(|w| w[1] == w[0] + 1);
        let rows_of_part = match places.first() {
            Some(&first) if is_run => Rows::Range(first..first + places.len()),
            _ => Rows::Chosen(places.into()),
        };
        Ok(Self {
            tensor: tensor.clone(),
            start: 0,
            stored: (held.len(), self.stored.1),
            transposed: false,
            rows: rows_of_part,
            part: Some(Arc::new((rows.clone(), self.n_rows()))),
        })
    }

    /// Which rows of the whole matrix these are, where only some of them are at hand.
    pub fn part(&self) -> Option<&RowRuns> {
        self.part.as_ref().map(|part| &part.0)
    }

    /// Number of rows of the whole matrix, those that are not at hand included.
    pub fn n_rows_of_whole(&self) -> usize {
        self.part.as_ref().map_or(self.n_rows(), |part| part.1)
    }

    /// The row of the view that is this row of the whole, if it is at hand.
    pub fn position(&self, row_of_whole: usize) -> Option<usize> {
        match self.part() {
            Some(part) => part.position(row_of_whole),
            None => Some(row_of_whole).filter(|&row| row < self.n_rows()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::store::tests::tensor;

    #[test]
    fn a_view_of_a_part_shows_the_rows_that_were_chosen() {
        // Two roles in one tensor, the second in an order of its own.
        let whole = Matrix::new(tensor(
            &[10, 3],
            &(0..30).map(|i| i as f32).collect::<Vec<_>>(),
        ))
        .unwrap();
        let first = whole.clone().row_range(0..6).unwrap();
        let second = whole.clone().select_rows(&[9, 6, 8, 7]).unwrap();
        let chosen = RowRuns::one(1..3);
        let stored = first
            .stored_rows(&chosen)
            .unwrap()
            .union(&second.stored_rows(&chosen).unwrap());
        assert_eq!(stored, RowRuns::new([1..3, 6..7, 8..9]));
        let part = whole.tensor().part(&stored).unwrap();
        for view in [first, second] {
            let of_part = view.of_part(&part, &chosen).unwrap();
            assert_eq!(of_part.all().unwrap(), view.rows(1..3).unwrap());
            assert_eq!(
                (of_part.n_rows(), of_part.n_rows_of_whole()),
                (2, view.n_rows())
            );
            assert_eq!((of_part.position(2), of_part.position(3)), (Some(1), None));
            assert!(view.of_part(&part, &RowRuns::one(0..3)).is_err());
            assert!(!of_part.has_layout_of(&view));
        }
        assert!(whole.transposed().stored_rows(&chosen).is_none());
    }
}

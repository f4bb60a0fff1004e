//! Which rows of a tensor a part of it holds: runs of neighbouring rows, in ascending order.
//!
//! Runs and not single rows, so that what belongs together lies together where it is stored. Nothing here
//! reads a value.

use std::ops::Range;

/// Rows of a whole, as disjoint runs in ascending order that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowRuns {
    runs: Vec<Run>,
    /// Rows before each run.
    before: Vec<usize>,
    n: usize,
}

/// First row, and the first that follows.
type Run = (usize, usize);

impl RowRuns {
    /// The rows of some ranges, which may overlap and come in any order; empty ones are dropped.
    pub fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let ranges = ranges.into_iter().filter(|range| !range.is_empty());
        let mut sorted: Vec<Run> = ranges.map(|range| (range.start, range.end)).collect();
        sorted.sort_unstable();
        let mut found = Self::default();
        for (start, end) in sorted {
            match found.runs.last_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => found.runs.push((start, end)),
            }
        }
        for &(start, end) in &found.runs {
            found.before.push(found.n);
            found.n = found.n.saturating_add(end - start);
        }
        found
    }

    /// The rows of one range.
    pub fn one(range: Range<usize>) -> Self {
        Self::new(std::iter::once(range))
    }

    /// The runs.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + '_ {
        self.runs.iter().map(|&(start, end)| start..end)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The first row that none of them is before: 0 where there are none.
    pub fn end(&self) -> usize {
        self.runs.last().map_or(0, |run| run.1)
    }

    /// All rows of either.
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.runs().chain(other.runs()))
    }

    /// The rows of both.
    pub fn intersection(&self, other: &Self) -> Self {
        let shared = |x: Range<usize>| {
            other
                .runs()
                .map(move |y| x.start.max(y.start)..x.end.min(y.end))
        };
        Self::new(self.runs().flat_map(shared))
    }

    /// Which row of the whole stands at a position of the part.
    pub fn row(&self, position: usize) -> Option<usize> {
        let run = self.before.partition_point(|&before| before <= position);
        let run = run.checked_sub(1)?;
        let row = self.runs[run].0 + (position - self.before[run]);
        (row < self.runs[run].1).then_some(row)
    }

    /// At which position of the part a row of the whole stands, if it is there.
    pub fn position(&self, row: usize) -> Option<usize> {
        let run = self.runs.partition_point(|run| run.0 <= row);
        let run = run.checked_sub(1)?;
        let (start, end) = self.runs[run];
        (row < end).then(|| self.before[run] + (row - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_positions_are_each_others_inverse() {
        let runs = RowRuns::new([7..9, 2..4, 3..5, 20..20, 9..10]);
        assert_eq!(runs.runs().collect::<Vec<_>>(), [2..5, 7..10]);
        assert_eq!((runs.len(), runs.end()), (6, 10));
        let rows: Vec<usize> = (0..6).filter_map(|at| runs.row(at)).collect();
        assert_eq!(rows, [2, 3, 4, 7, 8, 9]);
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(runs.position(*row), Some(at));
        }
        assert_eq!(
            (
                runs.row(6),
                runs.position(1),
                runs.position(5),
                runs.position(10)
            ),
            (None, None, None, None)
        );
        assert_eq!(
            (RowRuns::default().row(0), RowRuns::default().position(0)),
            (None, None)
        );
    }

    #[test]
    fn unions_and_intersections_are_of_rows() {
        let (a, b) = (RowRuns::new([0..4, 8..12]), RowRuns::one(2..9));
        assert_eq!(a.union(&b), RowRuns::one(0..12));
        assert_eq!(a.intersection(&b), RowRuns::new([2..4, 8..9]));
    }
}

//! The exact linear assignment problem: match rows to columns so that the total similarity is largest.
//!
//! Shortest augmenting paths with dual prices (Jonker and Volgenant, 1987; the rectangular form of
//! Crouse, 2016): reduction transfer and augmenting row reduction settle most rows, Dijkstra searches
//! over the dense matrix settle the rest. Deterministic: equal input gives an equal matching.
//!
//! # Cost
//! O(n²) time and no more memory than the matrix when rows have clear favourites, as copies have;
//! O(n³) at worst. The matrix is 4·n·m bytes, the rest O(n + m). Measured times up to 30,000 units
//! are in `benches/results`.
//!
//! # Exactness
//! Similarities are f32, prices f64. The matching is optimal for the given numbers up to the rounding
//! of sums of a few f64 values: a relative error of about 1e-15·n, below the resolution of the input.

use ndarray::ArrayView2;

const FREE: usize = usize::MAX;

/// An optimal matching of every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Column of each row; all distinct.
    pub row_to_col: Vec<usize>,
    /// Sum of the matched similarities, accumulated in f64.
    pub total: f64,
}

/// An assignment problem that has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// More rows than columns: some row would stay without a partner.
    #[error("expected no more rows than columns, found {n_rows} × {n_cols}")]
    TooManyRows {
        /// Rows of the matrix.
        n_rows: usize,
        /// Columns of the matrix.
        n_cols: usize,
    },
    /// A similarity is NaN or infinite.
    #[error("the similarity of row {row} and column {col} is not finite")]
    NotFinite {
        /// Row of the value.
        row: usize,
        /// Column of the value.
        col: usize,
    },
}

/// Finds the matching of all rows to distinct columns with the largest total similarity.
///
/// `similarity`: `[n_rows, n_cols]`, f32, n_rows ≤ n_cols. Ties are broken by the lower column where
/// the search meets them; another optimal matching may exist then.
///
/// # Errors
/// More rows than columns, or a value that is not finite.
pub fn assign_max(similarity: ArrayView2<f32>) -> Result<Assignment, AssignmentError> {
    let (n_rows, n_cols) = similarity.dim();
    if n_rows > n_cols {
        return Err(AssignmentError::TooManyRows { n_rows, n_cols });
    }
    if let Some(((row, col), _)) = similarity.indexed_iter().find(|(_, x)| !x.is_finite()) {
        return Err(AssignmentError::NotFinite { row, col });
    }
    let standard = similarity.as_standard_layout();
    let rows: Vec<&[f32]> = standard
        .outer_iter()
        .filter_map(|row| row.to_slice())
        .collect();
    let mut solver = Solver::new(&rows, n_cols);
    solver.reduce_columns();
    for _ in 0..2 {
        solver.reduce_rows();
    }
    solver.augment();
    let row_to_col = solver.row_to_col;
    let total = row_to_col
        .iter()
        .enumerate()
        .map(|(row, &col)| f64::from(rows[row][col]))
        .sum();
    Ok(Assignment { row_to_col, total })
}

/// Prices and the matching so far. Costs are negated similarities.
struct Solver<'a> {
    rows: &'a [&'a [f32]],
    n_cols: usize,
    /// Price of each column; never above 0, and 0 for columns that were never matched.
    price: Vec<f64>,
    row_to_col: Vec<usize>,
    col_to_row: Vec<usize>,
    free_rows: Vec<usize>,
}

impl<'a> Solver<'a> {
    fn new(rows: &'a [&'a [f32]], n_cols: usize) -> Self {
        Self {
            rows,
            n_cols,
            price: vec![0.0; n_cols],
            row_to_col: vec![FREE; rows.len()],
            col_to_row: vec![FREE; n_cols],
            free_rows: (0..rows.len()).collect(),
        }
    }

    /// Square problems only: each column's price becomes its least cost, and the row that gives it
    /// takes the column. With spare columns, unmatched columns must keep the price 0.
    fn reduce_columns(&mut self) {
        if self.rows.len() != self.n_cols {
            return;
        }
        let mut best = vec![(f32::NEG_INFINITY, FREE); self.n_cols];
        for (row, values) in self.rows.iter().enumerate() {
            for (best, &value) in best.iter_mut().zip(*values) {
                if value > best.0 {
                    *best = (value, row);
                }
            }
        }
        for (col, (value, row)) in best.into_iter().enumerate() {
            self.price[col] = -f64::from(value);
            if self.row_to_col[row] == FREE {
                self.row_to_col[row] = col;
                self.col_to_row[col] = row;
            }
        }
        self.free_rows.retain(|&row| self.row_to_col[row] == FREE);
    }

    /// The two cheapest columns of a row at current prices: (cost, column), second cost.
    fn two_cheapest(&self, row: usize) -> (f64, usize, f64, usize) {
        let (mut first, mut first_col, mut second, mut second_col) =
            (f64::INFINITY, FREE, f64::INFINITY, FREE);
        for (col, (&value, &price)) in self.rows[row].iter().zip(&self.price).enumerate() {
            let cost = -f64::from(value) - price;
            if cost < second {
                if cost < first {
                    (second, second_col) = (first, first_col);
                    (first, first_col) = (cost, col);
                } else {
                    (second, second_col) = (cost, col);
                }
            }
        }
        (first, first_col, second, second_col)
    }

    /// Augmenting row reduction: a free row takes its cheapest column and lowers that column's price
    /// until the second cheapest is as good; the row it displaced tries next.
    fn reduce_rows(&mut self) {
        let mut queue = std::mem::take(&mut self.free_rows);
        let mut left = Vec::new();
        let mut next = 0;
        // A displaced row is tried again at once only while prices fall by a measurable amount.
        let mut budget = queue.len() * 4 + 16;
        while next < queue.len() {
            let row = queue[next];
            next += 1;
            let (first, mut col, second, second_col) = self.two_cheapest(row);
            let mut owner = self.col_to_row[col];
            let gain = second - first;
            if gain > 0.0 && gain.is_finite() {
                self.price[col] -= gain;
            } else if owner != FREE && second_col != FREE {
                col = second_col;
                owner = self.col_to_row[col];
            }
            self.row_to_col[row] = col;
            self.col_to_row[col] = row;
            if owner != FREE {
                self.row_to_col[owner] = FREE;
                if gain > 0.0 && budget > 0 {
                    budget -= 1;
                    next -= 1;
                    queue[next] = owner;
                } else {
                    left.push(owner);
                }
            }
        }
        self.free_rows = left;
    }

    /// Settles every remaining free row along a shortest augmenting path.
    fn augment(&mut self) {
        let free = std::mem::take(&mut self.free_rows);
        let mut search = Search::new(self.n_cols);
        for row in free {
            search.run(self, row);
        }
    }
}

/// Working space of one Dijkstra search over the columns.
struct Search {
    distance: Vec<f64>,
    predecessor: Vec<usize>,
    /// Columns: `[0, done)` settled, `[done, n_cols)` open.
    columns: Vec<usize>,
}

impl Search {
    fn new(n_cols: usize) -> Self {
        Self {
            distance: vec![0.0; n_cols],
            predecessor: vec![FREE; n_cols],
            columns: (0..n_cols).collect(),
        }
    }

    fn run(&mut self, solver: &mut Solver, start: usize) {
        for (index, column) in self.columns.iter_mut().enumerate() {
            *column = index;
        }
        for (col, (&value, &price)) in solver.rows[start].iter().zip(&solver.price).enumerate() {
            self.distance[col] = -f64::from(value) - price;
            self.predecessor[col] = start;
        }
        let (mut settled, mut low) = (0, 0);
        let mut nearest = 0.0;
        let end = loop {
            if settled == low {
                // Every column at the least distance is settled together.
                nearest = f64::INFINITY;
                for at in low..self.columns.len() {
                    let distance = self.distance[self.columns[at]];
                    if distance < nearest {
                        nearest = distance;
                        low = settled;
                    }
                    if distance == nearest {
                        self.columns.swap(at, low);
                        low += 1;
                    }
                }
                let free = self.columns[settled..low]
                    .iter()
                    .copied()
                    .filter(|&col| solver.col_to_row[col] == FREE)
                    .min();
                if let Some(col) = free {
                    break col;
                }
            }
            let col = self.columns[settled];
            settled += 1;
            let row = solver.col_to_row[col];
            let values = solver.rows[row];
            let reached = -f64::from(values[col]) - solver.price[col] - nearest;
            let mut found = None;
            for at in low..self.columns.len() {
                let other = self.columns[at];
                let distance = -f64::from(values[other]) - solver.price[other] - reached;
                if distance < self.distance[other] {
                    self.predecessor[other] = row;
                    self.distance[other] = distance;
                    if distance <= nearest {
                        if solver.col_to_row[other] == FREE {
                            found = Some(other);
                            break;
                        }
                        self.columns.swap(at, low);
                        low += 1;
                    }
                }
            }
            if let Some(col) = found {
                break col;
            }
        };
        for &col in &self.columns[..settled] {
            let change = self.distance[col] - nearest;
            if change < 0.0 {
                solver.price[col] += change;
            }
        }
        // Walks back along the path, turning each edge over.
        let mut col = end;
        loop {
            let row = self.predecessor[col];
            solver.col_to_row[col] = row;
            std::mem::swap(&mut solver.row_to_col[row], &mut col);
            if row == start {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::sampling;
    use ndarray::Array2;
    use proptest::prelude::*;
    use rand::RngExt;

    /// The best total over all injections, by trying them.
    fn brute_force(similarity: &Array2<f32>) -> f64 {
        fn rest(similarity: &Array2<f32>, row: usize, used: u32) -> f64 {
            if row == similarity.nrows() {
                return 0.0;
            }
            (0..similarity.ncols())
                .filter(|col| used & (1 << col) == 0)
                .map(|col| {
                    f64::from(similarity[(row, col)]) + rest(similarity, row + 1, used | 1 << col)
                })
                .fold(f64::NEG_INFINITY, f64::max)
        }
        rest(similarity, 0, 0)
    }

    fn is_injection(assignment: &Assignment, n_cols: usize) -> bool {
        let mut seen = vec![false; n_cols];
        assignment
            .row_to_col
            .iter()
            .all(|&col| !std::mem::replace(&mut seen[col], true))
    }

    proptest! {
        #[test]
        fn no_injection_is_better(
            n_rows in 0usize..6,
            extra in 0usize..3,
            levels in prop::sample::select(vec![2u32, 5, 1000]),
            seed in 0u64..1_000_000,
        ) {
            // Few levels make ties, which is where such solvers go wrong.
            let mut rng = sampling::rng(seed, "assignment-test");
            let similarity = Array2::from_shape_fn((n_rows, n_rows + extra), |_| {
                rng.random_range(0..levels) as f32 - levels as f32 / 2.0
            });
            let found = assign_max(similarity.view()).unwrap();
            prop_assert!(is_injection(&found, n_rows + extra));
            prop_assert!((found.total - brute_force(&similarity)).abs() < 1e-6);
        }
    }

    /// Whether handing columns around some cycle of rows would raise the total (Bellman and Ford).
    fn has_improving_cycle(similarity: &Array2<f32>, assignment: &Assignment) -> bool {
        let n = similarity.nrows();
        let value = |row: usize, of: usize| f64::from(similarity[(row, assignment.row_to_col[of])]);
        let mut potential = vec![0.0f64; n];
        for _ in 0..=n {
            let mut changed = false;
            for a in 0..n {
                for b in 0..n {
                    let better = potential[a] + value(a, b) - value(b, b);
                    if better > potential[b] + 1e-9 {
                        potential[b] = better;
                        changed = true;
                    }
                }
            }
            if !changed {
                return false;
            }
        }
        true
    }

    #[test]
    fn a_hundred_noisy_units_are_matched_at_the_optimum() {
        for seed in 0..4 {
            let mut rng = sampling::rng(seed, "assignment-hundred");
            let similarity = Array2::from_shape_fn((100, 100), |_| rng.random::<f32>());
            let found = assign_max(similarity.view()).unwrap();
            assert!(is_injection(&found, 100));
            assert!(!has_improving_cycle(&similarity, &found));
            let mut worse = found;
            worse.row_to_col.swap(0, 1);
            assert!(
                has_improving_cycle(&similarity, &worse),
                "the check itself must be able to fail"
            );
        }
    }

    #[test]
    fn a_planted_permutation_is_recovered() {
        let mut rng = sampling::rng(3, "assignment-planted");
        let truth = sampling::permutation(300, &mut rng);
        let similarity = Array2::from_shape_fn((200, 300), |(row, col)| {
            rng.random::<f32>() * 0.3 + f32::from(u8::from(truth[row] == col))
        });
        let found = assign_max(similarity.view()).unwrap();
        assert_eq!(found.row_to_col, truth[..200]);
    }

    #[test]
    fn nan_and_spare_rows_are_refused() {
        let mut similarity = Array2::<f32>::zeros((2, 2));
        similarity[(1, 0)] = f32::NAN;
        let error = assign_max(similarity.view()).unwrap_err();
        assert_eq!(error, AssignmentError::NotFinite { row: 1, col: 0 });
        let error = assign_max(Array2::<f32>::zeros((3, 2)).view()).unwrap_err();
        assert_eq!(
            error,
            AssignmentError::TooManyRows {
                n_rows: 3,
                n_cols: 2
            }
        );
    }
}

//! The exact linear assignment problem: match rows to columns so that the total similarity is largest.
//!
//! Shortest augmenting paths with dual prices (Jonker and Volgenant, 1987; the rectangular form of
//! Crouse, 2016): reduction transfer and augmenting row reduction settle most rows, Dijkstra searches
//! settle the rest. Deterministic: equal input gives an equal matching, whatever the number of threads.
//!
//! # Lists instead of rows
//! Prices only ever fall, so that reduced costs (cost − price) only ever rise. Each row keeps the
//! list of its cheapest columns as of some moment; every column outside it then costs at least the
//! dearest one listed, for ever. A step looks at the list alone as long as that bound proves that
//! nothing outside matters, and draws the list up anew from the whole row when it no longer does.
//! Nothing is approximated: it is the same search, without reading what cannot change it.
//!
//! # Cost
//! O(n·m) time and no more memory than the matrix when rows have clear favourites, as copies have;
//! about that, times a small factor, for random matrices; O(n²·m) at worst. The matrix is 4·n·m
//! bytes, the rest O(n + m). Measured times up to 30,000 units are in `benches/results`.
//!
//! # Exactness
//! Similarities are f32, prices f64. The matching is optimal for the given numbers up to the rounding
//! of sums of a few f64 values: a relative error of about 1e-15·n, below the resolution of the input.

use ndarray::ArrayView2;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
    let standard = similarity.as_standard_layout();
    let rows: Vec<&[f32]> = standard
        .outer_iter()
        .filter_map(|row| row.to_slice())
        .collect();
    let not_finite = rows.par_iter().enumerate().find_map_first(|(row, values)| {
        let col = values.iter().position(|x| !x.is_finite())?;
        Some(AssignmentError::NotFinite { row, col })
    });
    if let Some(error) = not_finite {
        return Err(error);
    }
    let mut solver = Solver::new(&rows, n_cols);
    solver.reduce_columns();
    solver.list_free_rows();
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

/// Columns in a row's list at first.
const LIST: usize = 32;
/// Columns whose maxima are sought together.
const COLUMN_BLOCK: usize = 1024;

/// The cheapest columns of a row as of some moment, with their similarities.
#[derive(Default, Clone)]
struct List {
    entries: Vec<(u32, f32)>,
    /// No column outside the list costs less than this, now or later; infinite where there is none.
    bound: f64,
}

impl List {
    /// The `len` cheapest columns at these prices; of equally cheap ones the lower.
    fn new(values: &[f32], price: &[f64], len: usize) -> Self {
        let mut kept: Vec<(f64, u32)> = Vec::with_capacity(2 * len);
        let by_cost = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let mut limit = f64::INFINITY;
        for (col, (&value, &price)) in values.iter().zip(price).enumerate() {
            let cost = -f64::from(value) - price;
            if cost < limit {
                kept.push((cost, col as u32));
                if kept.len() == 2 * len {
                    kept.select_nth_unstable_by(len - 1, by_cost);
                    kept.truncate(len);
                    limit = kept[len - 1].0;
                }
            }
        }
        if kept.len() > len {
            kept.select_nth_unstable_by(len - 1, by_cost);
            kept.truncate(len);
        }
        let bound = match kept.iter().map(|(cost, _)| *cost).max_by(f64::total_cmp) {
            Some(dearest) if values.len() > kept.len() => dearest,
            _ => f64::INFINITY,
        };
        kept.sort_unstable_by_key(|(_, col)| *col);
        let with_value = |(_, col): (f64, u32)| (col, values[col as usize]);
        Self {
            entries: kept.into_iter().map(with_value).collect(),
            bound,
        }
    }
}

/// Prices and the matching so far. Costs are negated similarities.
struct Solver<'a> {
    rows: &'a [&'a [f32]],
    n_cols: usize,
    /// Price of each column; never above 0 once a row took it for its price, never rising, and 0 for
    /// columns that were never matched in a problem with spare columns.
    price: Vec<f64>,
    row_to_col: Vec<usize>,
    col_to_row: Vec<usize>,
    free_rows: Vec<usize>,
    /// Empty until a row is looked at.
    lists: Vec<List>,
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
            lists: vec![List::default(); rows.len()],
        }
    }

    /// Square problems only: each column's price becomes its least cost, and the row that gives it
    /// takes the column. With spare columns, unmatched columns must keep the price 0.
    fn reduce_columns(&mut self) {
        if self.rows.len() != self.n_cols {
            return;
        }
        let mut best = vec![(f32::NEG_INFINITY, FREE); self.n_cols];
        best.par_chunks_mut(COLUMN_BLOCK)
            .enumerate()
            .for_each(|(block, best)| {
                let start = block * COLUMN_BLOCK;
                for (row, values) in self.rows.iter().enumerate() {
                    for (best, &value) in best.iter_mut().zip(&values[start..]) {
                        if value > best.0 {
                            *best = (value, row);
                        }
                    }
                }
            });
        for (col, (value, row)) in best.into_iter().enumerate() {
            self.price[col] = -f64::from(value);
            if self.row_to_col[row] == FREE {
                self.row_to_col[row] = col;
                self.col_to_row[col] = row;
            }
        }
        self.free_rows.retain(|&row| self.row_to_col[row] == FREE);
    }

    /// Draws up the lists of the rows that are still free, all at the same prices.
    fn list_free_rows(&mut self) {
        let lists: Vec<List> = self
            .free_rows
            .par_iter()
            .map(|&row| List::new(self.rows[row], &self.price, LIST))
            .collect();
        for (&row, list) in self.free_rows.iter().zip(lists) {
            self.lists[row] = list;
        }
    }

    /// Draws a row's list up anew; a longer one where prices have not moved its bound.
    fn list_anew(&mut self, row: usize) {
        let old = (self.lists[row].entries.len(), self.lists[row].bound);
        let mut len = old.0.max(LIST);
        self.lists[row] = List::new(self.rows[row], &self.price, len);
        while old.0 > 0 && self.lists[row].bound <= old.1 {
            len *= 2;
            self.lists[row] = List::new(self.rows[row], &self.price, len);
        }
    }

    /// The two cheapest columns of a row at current prices: cost, column, cost, column.
    fn two_cheapest(&mut self, row: usize) -> (f64, usize, f64, usize) {
        if self.lists[row].entries.is_empty() {
            self.list_anew(row);
        }
        loop {
            let (mut first, mut first_col, mut second, mut second_col) =
                (f64::INFINITY, FREE, f64::INFINITY, FREE);
            for &(col, value) in &self.lists[row].entries {
                let col = col as usize;
                let cost = -f64::from(value) - self.price[col];
                if cost < second {
                    if cost < first {
                        (second, second_col) = (first, first_col);
                        (first, first_col) = (cost, col);
                    } else {
                        (second, second_col) = (cost, col);
                    }
                }
            }
            if second <= self.lists[row].bound {
                return (first, first_col, second, second_col);
            }
            self.list_anew(row);
        }
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

/// A distance as a key of a heap: never NaN, since similarities are finite.
#[derive(PartialEq, Clone, Copy)]
struct Distance(f64);

impl Eq for Distance {}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Working space of one Dijkstra search over the columns.
struct Search {
    distance: Vec<f64>,
    predecessor: Vec<usize>,
    is_settled: Vec<bool>,
    /// Columns with a distance, and those of them that are settled, in order.
    touched: Vec<usize>,
    settled: Vec<usize>,
    /// Open columns, nearest first; at equal distance free ones first. May hold outdated entries.
    open: BinaryHeap<Reverse<(Distance, bool, usize)>>,
    /// Rows whose list may leave out something nearer than this, and the row's offset.
    unlisted: BinaryHeap<Reverse<(Distance, usize, Distance)>>,
}

impl Search {
    fn new(n_cols: usize) -> Self {
        Self {
            distance: vec![f64::INFINITY; n_cols],
            predecessor: vec![FREE; n_cols],
            is_settled: vec![false; n_cols],
            touched: Vec::new(),
            settled: Vec::new(),
            open: BinaryHeap::new(),
            unlisted: BinaryHeap::new(),
        }
    }

    /// Offers the listed columns of a row, at `offset` plus their reduced cost.
    fn relax(&mut self, solver: &mut Solver, row: usize, offset: f64) {
        if solver.lists[row].entries.is_empty() {
            solver.list_anew(row);
        }
        for &(col, value) in &solver.lists[row].entries {
            let col = col as usize;
            let distance = offset - f64::from(value) - solver.price[col];
            if distance < self.distance[col] && !self.is_settled[col] {
                if self.distance[col] == f64::INFINITY {
                    self.touched.push(col);
                }
                self.distance[col] = distance;
                self.predecessor[col] = row;
                let is_taken = solver.col_to_row[col] != FREE;
                self.open.push(Reverse((Distance(distance), is_taken, col)));
            }
        }
        let bound = solver.lists[row].bound;
        if bound.is_finite() {
            let entry = (Distance(offset + bound), row, Distance(offset));
            self.unlisted.push(Reverse(entry));
        }
    }

    fn run(&mut self, solver: &mut Solver, start: usize) {
        for col in self.touched.drain(..) {
            self.distance[col] = f64::INFINITY;
            self.is_settled[col] = false;
        }
        self.settled.clear();
        self.open.clear();
        self.unlisted.clear();
        self.relax(solver, start, 0.0);
        let (end, nearest) = loop {
            let nearest = self.open.peek().map(|Reverse((distance, ..))| *distance);
            let hidden = self.unlisted.peek().map(|Reverse((bound, ..))| *bound);
            if let Some(hidden) = hidden
                && nearest.is_none_or(|nearest| hidden < nearest)
            {
                if let Some(Reverse((_, row, offset))) = self.unlisted.pop() {
                    solver.list_anew(row);
                    self.relax(solver, row, offset.0);
                }
                continue;
            }
            let Some(Reverse((Distance(nearest), is_taken, col))) = self.open.pop() else {
                // No more rows than columns: a free column is always within reach.
                return;
            };
            if self.is_settled[col] || nearest > self.distance[col] {
                continue;
            }
            if !is_taken {
                break (col, nearest);
            }
            self.is_settled[col] = true;
            self.settled.push(col);
            let row = solver.col_to_row[col];
            let offset = nearest + f64::from(solver.rows[row][col]) + solver.price[col];
            self.relax(solver, row, offset);
        };
        for &col in &self.settled {
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

//! What the unit tests share: matching hidden units of every pair of layers and combining the p's.
//!
//! A *cell* is a pair of MLPs. Units of the smaller one (a seeded sample of a large one) are assigned
//! to units of the larger one, exactly, by cosine. Cells on the diagonal (layer l against layer l)
//! are combined by Fisher: under independence the layers of a model are independent. Where the
//! diagonal does not link every layer, or depths differ, each chosen reference layer is held against
//! every candidate layer; its best cell pays for the search (Šidák), and reference layers are
//! combined by Fisher: given the candidate, they are independent. Diagonal and search are then
//! combined by Šidák. Nothing is fitted, so nothing is used twice.
//!
//! Units without any weight in a view (padding, pruned units) are left out of the test: two models
//! that were padded alike would otherwise match padding to padding by both views and look related.

use super::context::{EvidenceError, Settings};
use super::layers;
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use crate::arch::Component;
use crate::fingerprint::product;
use crate::fingerprint::units::{
    Mlp,
    View::{self, First, Second},
};
use crate::stats::{self, MatchingTest, PKind, PValue};
use crate::tensor::TensorError;
use ndarray::{Array2, Axis, s};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A cell is called linked below this p: the share of false cells is then negligible in any grid.
pub const LINKED_LN_P: f64 = -13.815_510_557_964_274; // ln 1e-6
/// Fewer units than this cannot be ranked.
pub const MIN_UNITS: usize = 8;
/// Units of the larger MLP whose views are in memory at once.
const BLOCK_UNITS: usize = 4096;

/// Which of the two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The reference.
    Reference,
    /// The candidate.
    Candidate,
}

/// Reads a view of the given units, `[units.len(), width]`; `coarse` asks for a cheaper, narrower one.
pub type ReadView<'a> =
    dyn Fn(Side, &Mlp<'_>, View, &[usize], bool) -> Result<Array2<f32>, TensorError> + Sync + 'a;

/// What is asked of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Do matchings by the first and by the second view agree?
    Agreement,
    /// Is the matching by the up rows the identity?
    Order,
}

/// One cell: two MLPs and what was found.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Layer and expert of the reference.
    pub reference: (u32, Option<u32>),
    /// Layer and expert of the candidate.
    pub candidate: (u32, Option<u32>),
    /// The test of the cell.
    pub test: MatchingTest,
}

impl Cell {
    /// Fraction of the matched units on which both matchings agree.
    pub fn agreement(&self) -> f64 {
        // No unit is left where all of them are zero.
        self.test.n_coincident as f64 / self.test.n.max(1) as f64
    }
}

/// Layer and expert.
type Place = (u32, Option<u32>);

/// Which matching: the smaller MLP, whether it is the reference's, the larger one, whether by the
/// second view, whether coarse.
type MatchingKey = (Place, bool, Place, bool, bool);

/// Matchings that two questions ask for, each computed once.
type Matchings = Mutex<BTreeMap<MatchingKey, Arc<Matching>>>;

/// Partners of the sampled units of the smaller MLP by one view.
#[derive(Debug)]
struct Matching {
    /// Unit of the larger MLP for each sampled unit.
    targets: Vec<usize>,
    /// Which sampled units have no weight at all in this view.
    empty_small: Vec<bool>,
    /// Which units of the larger MLP have none.
    empty_large: Vec<bool>,
}

fn is_empty(rows: &Array2<f32>) -> impl Iterator<Item = bool> + '_ {
    rows.rows()
        .into_iter()
        .map(|row| row.iter().all(|&x| x == 0.0))
}

/// Reads views and matches units by them.
struct Matcher<'a> {
    settings: &'a Settings,
    read: &'a ReadView<'a>,
    known: Option<&'a Matchings>,
    /// Coarse views of one large MLP, which the search holds against several small ones.
    kept: Vec<((Side, Place, View), Array2<f32>)>,
}

impl Matcher<'_> {
    /// Rows of unit length of units of the larger MLP, block by block.
    fn for_each_block(
        &self,
        (side, mlp): (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
        f: &mut dyn FnMut(usize, &Array2<f32>),
    ) -> Result<(), TensorError> {
        let n = mlp.n_units();
        for start in (0..n).step_by(BLOCK_UNITS) {
            let units: Vec<usize> = (start..n.min(start + BLOCK_UNITS)).collect();
            let mut block = (self.read)(side, mlp, view, &units, coarse)?;
            product::normalise_rows(&mut block);
            f(start, &block);
        }
        Ok(())
    }

    /// Cosines of the given rows with all units of the larger MLP, and which of these are empty.
    fn similarity(
        &mut self,
        rows: &Array2<f32>,
        large: (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
    ) -> Result<(Array2<f32>, Vec<bool>), TensorError> {
        let n = large.1.n_units();
        let mut out = Array2::<f32>::zeros((rows.nrows(), n));
        let mut empty = Vec::with_capacity(n);
        let mut compare = |start: usize, block: &Array2<f32>| {
            empty.extend(is_empty(block));
            out.slice_mut(s![.., start..start + block.nrows()])
                .assign(&product::rows_by_rows(rows.view(), block.view()));
        };
        if !coarse {
            self.for_each_block(large, view, coarse, &mut compare)?;
            return Ok((out, empty));
        }
        let place = (large.0, (large.1.layer, large.1.expert));
        self.kept.retain(|((side, at, _), _)| (*side, *at) == place);
        let key = (place.0, place.1, view);
        if !self.kept.iter().any(|(kept, _)| *kept == key) {
            let mut whole = Array2::zeros((0, 0));
            self.for_each_block(large, view, coarse, &mut |start, block| {
                if start == 0 {
                    whole = Array2::zeros((n, block.ncols()));
                }
                whole
                    .slice_mut(s![start..start + block.nrows(), ..])
                    .assign(block);
            })?;
            self.kept.push((key, whole));
        }
        if let Some((_, whole)) = self.kept.iter().find(|(kept, _)| *kept == key) {
            compare(0, whole);
        }
        Ok((out, empty))
    }

    fn matching(
        &mut self,
        small: (Side, &Mlp<'_>, &[usize]),
        large: (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
    ) -> Result<Arc<Matching>, EvidenceError> {
        let key = (
            (small.1.layer, small.1.expert),
            small.0 == Side::Reference,
            (large.1.layer, large.1.expert),
            view == Second,
            coarse,
        );
        let known = self
            .known
            .map(|known| known.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = known.as_ref().and_then(|known| known.get(&key)) {
            return Ok(Arc::clone(found));
        }
        drop(known);
        let mut rows = (self.read)(small.0, small.1, view, small.2, coarse)?;
        product::normalise_rows(&mut rows);
        let (similarity, empty_large) = self.similarity(&rows, large, view, coarse)?;
        let targets = stats::assign_max(similarity.view())
            .map_err(|e| EvidenceError::Numerical(e.to_string()))?
            .row_to_col;
        let found = Arc::new(Matching {
            targets,
            empty_small: is_empty(&rows).collect(),
            empty_large,
        });
        if let Some(known) = self.known {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, Arc::clone(&found));
        }
        Ok(found)
    }

    /// Tests one cell.
    fn cell(
        &mut self,
        a: &Mlp<'_>,
        b: &Mlp<'_>,
        question: Question,
        coarse: bool,
    ) -> Result<Cell, EvidenceError> {
        let (small, large) = if a.n_units() <= b.n_units() {
            ((Side::Reference, a), (Side::Candidate, b))
        } else {
            ((Side::Candidate, b), (Side::Reference, a))
        };
        let limit = if coarse {
            self.settings.n_units / 8
        } else {
            self.settings.n_units
        }
        .max(MIN_UNITS);
        let n = small.1.n_units().min(limit);
        // The stream names the layer so that no two layers share their sample by accident of size.
        let stream = format!("units/{}", small.1.layer);
        let units = stats::choose(small.1.n_units(), n, self.settings.seed, &stream);
        let mut matching =
            |view| self.matching((small.0, small.1, units.as_slice()), large, view, coarse);
        let test = match question {
            Question::Agreement => {
                let (first, second) = (matching(First)?, matching(Second)?);
                test(&first.targets, &second.targets, &[&first, &second])
            }
            Question::Order => {
                let found = matching(a.up_view())?;
                test(&units, &found.targets, &[&found])
            }
        }?;
        Ok(Cell {
            reference: (a.layer, a.expert),
            candidate: (b.layer, b.expert),
            test,
        })
    }
}

/// The test of two matchings, over units that have weights in all the views that were looked at.
///
/// Under the null the units that have weights can be permuted in one view alone, so that among them
/// the one matching is a uniformly random injection relative to the other.
fn test(
    first: &[usize],
    second: &[usize],
    views: &[&Matching],
) -> Result<MatchingTest, EvidenceError> {
    let n_large = views.first().map_or(0, |view| view.empty_large.len());
    let mut n_targets = 0;
    let place: Vec<Option<usize>> = (0..n_large)
        .map(|unit| {
            let is_empty = views.iter().any(|view| view.empty_large[unit]);
            (!is_empty).then(|| {
                n_targets += 1;
                n_targets - 1
            })
        })
        .collect();
    let (first, second): (Vec<usize>, Vec<usize>) = (0..first.len())
        .filter(|&unit| !views.iter().any(|view| view.empty_small[unit]))
        .filter_map(|unit| Some((place[first[unit]]?, place[second[unit]]?)))
        .unzip();
    stats::matching_test(&first, &second, n_targets)
        .map_err(|e| EvidenceError::Numerical(e.to_string()))
}

/// All that was measured.
#[derive(Debug)]
pub struct Grid {
    /// Layer l against layer l.
    pub diagonal: Vec<Cell>,
    /// Each chosen reference layer against every other candidate layer.
    pub search: Vec<Cell>,
    /// ln p of all together.
    pub ln_p: f64,
    /// Which layers and units were taken, in words.
    pub selection: String,
}

/// What a grid came to: measured, nothing to match (with the reason), or an error.
pub type Outcome = Result<Result<Grid, String>, EvidenceError>;

/// Grids that several tests read, each computed once.
#[derive(Debug, Default)]
pub struct Grids {
    /// Gate against up in residual coordinates.
    pub agreement: OnceLock<Outcome>,
    /// Order of the units in residual coordinates.
    pub order: OnceLock<Outcome>,
    /// Gate against up through the token lens.
    pub lens: OnceLock<Outcome>,
    /// Matchings in residual coordinates, which order and agreement both ask for.
    matchings: Matchings,
}

/// ln of 1 − (1 − p)^n: the smallest of `n` independent p-values, paid for.
pub fn sidak(ln_p: f64, n: usize) -> f64 {
    if ln_p < -30.0 {
        return (ln_p + (n as f64).ln()).min(0.0);
    }
    (-(n as f64 * (-ln_p.exp()).ln_1p()).exp_m1()).ln().min(0.0)
}

/// ln p of the search: per reference layer the best cell, paid for; then Fisher.
fn search_ln_p(cells: &[Cell]) -> Option<f64> {
    let mut rows: BTreeMap<(u32, Option<u32>), Vec<f64>> = BTreeMap::new();
    for cell in cells {
        rows.entry(cell.reference).or_default().push(cell.test.ln_p);
    }
    let paid: Vec<f64> = rows
        .values()
        .map(|ps| sidak(ps.iter().copied().fold(0.0, f64::min), ps.len()))
        .collect();
    stats::fisher(&paid)
}

/// The MLPs of a cell; where only one of them is gated, both are seen as plain.
pub fn mlps(
    pair: &ComponentPair,
    reference: (u32, Option<u32>),
    candidate: (u32, Option<u32>),
) -> Option<(Mlp<'_>, Mlp<'_>)> {
    let a = Mlp::find(&pair.reference, reference.0, reference.1)?;
    let b = Mlp::find(&pair.candidate, candidate.0, candidate.1)?;
    if a.n_units().min(b.n_units()) < MIN_UNITS {
        return None;
    }
    Some(if a.is_gated() && b.is_gated() {
        (a, b)
    } else {
        (a.as_plain(), b.as_plain())
    })
}

/// Whether the MLPs of the first component have more units than those of the second.
fn is_larger(a: &Component, b: &Component) -> bool {
    let n_units = |c: &Component| {
        let expert = c.experts(0).first().copied()?;
        Mlp::find(c, 0, expert).map(|mlp| mlp.n_units())
    };
    n_units(a) > n_units(b)
}

/// Matches units of the chosen layers. `Ok(Err(reason))` when there is nothing to match.
pub fn run(
    pair: &ComponentPair,
    question: Question,
    settings: &Settings,
    read: &ReadView,
) -> Outcome {
    run_with(pair, question, settings, read, None)
}

fn run_with(
    pair: &ComponentPair,
    question: Question,
    settings: &Settings,
    read: &ReadView,
    known: Option<&Matchings>,
) -> Outcome {
    let (a, b) = (&pair.reference, &pair.candidate);
    let chosen = layers::chosen(a.n_layers, settings);
    let mut matcher = Matcher {
        settings,
        read,
        known,
        kept: Vec::new(),
    };
    let mut diagonal = Vec::new();
    if a.n_layers == b.n_layers {
        for &layer in &chosen {
            let experts_b = b.experts(layer);
            for (i, expert_a) in a.experts(layer).into_iter().enumerate() {
                // A dense layer stands against the first expert of a mixture.
                let Some(&expert_b) = experts_b.get(i) else {
                    continue;
                };
                if let Some((x, y)) = mlps(pair, (layer, expert_a), (layer, expert_b)) {
                    diagonal.push(matcher.cell(&x, &y, question, false)?);
                }
            }
        }
    }
    let all_linked =
        !diagonal.is_empty() && diagonal.iter().all(|cell| cell.test.ln_p <= LINKED_LN_P);
    let coarse = chosen.len() < a.n_layers as usize;
    let mut search = Vec::new();
    if !all_linked {
        let mut places: Vec<(u32, u32)> = (0..b.n_layers)
            .flat_map(|j| chosen.iter().map(move |&i| (i, j)))
            .collect();
        if is_larger(a, b) {
            // The larger MLP's views are kept while it stands against the others in turn.
            places.sort_unstable();
        }
        for (i, j) in places {
            let Some(expert_a) = a.experts(i).first().copied() else {
                continue;
            };
            for (e, expert_b) in b.experts(j).into_iter().enumerate() {
                let on_diagonal = i == j && e == 0 && a.n_layers == b.n_layers;
                // Experts may be re-ordered within a layer; across layers the first stands for all.
                if on_diagonal || (i != j && e > 0) {
                    continue;
                }
                if let Some((x, y)) = mlps(pair, (i, expert_a), (j, expert_b)) {
                    search.push(matcher.cell(&x, &y, question, coarse)?);
                }
            }
        }
        search.sort_by_key(|cell| (cell.candidate.0, cell.reference.0));
    }
    let diagonal_ps: Vec<f64> = diagonal.iter().map(|cell| cell.test.ln_p).collect();
    let parts: Vec<f64> = [stats::fisher(&diagonal_ps), search_ln_p(&search)]
        .into_iter()
        .flatten()
        .collect();
    let Some(best) = parts.iter().copied().reduce(f64::min) else {
        return Ok(Err(format!(
            "no layer of the two has MLPs that can be matched: up and down projections of at least \
             {MIN_UNITS} units"
        )));
    };
    // Two looks are paid for also when the diagonal made the second one needless.
    let n_looks = if diagonal.is_empty() { 1 } else { 2 };
    let units = diagonal
        .iter()
        .chain(&search)
        .map(|c| c.test.n)
        .max()
        .unwrap_or(0);
    let mut selection = layers::rule(a.n_layers, settings);
    selection.push_str(&format!(
        "; up to {units} units of the smaller MLP against all of the larger"
    ));
    if !search.is_empty() {
        selection.push_str(&format!(
            "; searched among all {} candidate layers",
            b.n_layers
        ));
    }
    Ok(Ok(Grid {
        diagonal,
        search,
        ln_p: sidak(best, n_looks),
        selection,
    }))
}

impl Grid {
    /// The cell of each reference layer that links best.
    pub fn best_cells(&self) -> Vec<&Cell> {
        best_cells(self)
    }

    /// Whether any cell is linked.
    pub fn has_link(&self) -> bool {
        self.diagonal
            .iter()
            .chain(&self.search)
            .any(|c| c.test.ln_p <= LINKED_LN_P)
    }
}

fn best_cells(grid: &Grid) -> Vec<&Cell> {
    let mut best: BTreeMap<(u32, Option<u32>), &Cell> = BTreeMap::new();
    for cell in grid.diagonal.iter().chain(&grid.search) {
        best.entry(cell.reference)
            .and_modify(|kept| {
                if cell.test.ln_p < kept.test.ln_p {
                    *kept = cell;
                }
            })
            .or_insert(cell);
    }
    best.into_values().collect()
}

/// Turns an outcome into a record: p, effects, heat map, selection; or the reason why not.
///
/// # Errors
/// When the grid could not be computed or its combined ln p is no p-value.
pub fn record(
    test: &'static str,
    component: &str,
    outcome: &Outcome,
) -> Result<TestRecord, EvidenceError> {
    let grid = match outcome {
        Ok(Ok(grid)) => grid,
        Ok(Err(reason)) => return Ok(TestRecord::not_applicable(test, component, reason)),
        Err(error) => return Err(EvidenceError::Numerical(error.to_string())),
    };
    let best = best_cells(grid);
    let n = best.len() as f64;
    let linked = best.iter().filter(|c| c.test.ln_p <= LINKED_LN_P).count();
    let moved = best
        .iter()
        .filter(|c| c.test.ln_p <= LINKED_LN_P && c.reference.0 != c.candidate.0)
        .count();
    let cells = grid.diagonal.iter().chain(&grid.search).map(|c| LayerCell {
        reference_layer: Some(c.reference.0),
        candidate_layer: Some(c.candidate.0),
        role: test.to_owned(),
        value: c.agreement(),
        ln_p: Some(c.test.ln_p),
    });
    // Half of the units of the closest layer, say, agreeing by chance is what the p excludes.
    Ok(TestRecord::measured(test, component)
        .with_p(PValue::new(grid.ln_p.min(0.0), PKind::Exact)?)
        .with_effect(
            "agreement",
            best.iter().map(|c| c.agreement()).sum::<f64>() / n,
        )
        .with_effect(
            "spearman",
            best.iter().map(|c| c.test.spearman).sum::<f64>() / n,
        )
        .with_effect("n-layers-tested", n)
        .with_effect("n-layers-linked", linked as f64)
        .with_effect("n-layers-moved", moved as f64)
        .with_detail(Detail::Selection(grid.selection.clone()))
        .with_detail(Detail::Grid(LayerGrid {
            quantity: "fraction of units on which the two matchings agree".to_owned(),
            range: (0.0, 1.0),
            cells: cells.collect(),
        })))
}

/// Residual coordinates that the coarse search looks at.
const COARSE_WIDTH: usize = 1024;

/// The grid of a question in residual coordinates.
pub fn in_residual_coordinates(
    pair: &ComponentPair,
    question: Question,
    settings: &Settings,
) -> Outcome {
    let (a, b) = (pair.reference.hidden_size, pair.candidate.hidden_size);
    let (Some(width), true) = (a, a == b) else {
        let name = |d: Option<usize>| d.map_or("unknown".to_owned(), |d| d.to_string());
        return Ok(Err(format!(
            "the residual streams have widths {} and {}: their coordinates cannot be compared \
             (token-lens-matching needs no equal width)",
            name(a),
            name(b)
        )));
    };
    let coarse = stats::choose(width, width.min(COARSE_WIDTH), settings.seed, "coordinates");
    run_with(
        pair,
        question,
        settings,
        &|_, mlp, view, units, is_coarse| {
            let rows = mlp.rows(view, units)?;
            Ok(if is_coarse {
                rows.select(Axis(1), &coarse)
            } else {
                rows
            })
        },
        Some(&pair.grids.matchings),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_without_weights_match_each_other_and_do_not_count() {
        // Ten units of which the last four are padding in both models.
        let padded = |targets: [usize; 10]| Matching {
            targets: targets.to_vec(),
            empty_small: (0..10).map(|unit| unit >= 6).collect(),
            empty_large: (0..10).map(|unit| unit >= 6).collect(),
        };
        let first = padded([3, 1, 0, 5, 4, 2, 6, 7, 8, 9]);
        let second = padded([2, 0, 5, 3, 1, 4, 6, 7, 8, 9]);
        let found = test(&first.targets, &second.targets, &[&first, &second]).unwrap();
        assert_eq!((found.n, found.n_targets, found.n_coincident), (6, 6, 0));
        let empty = Matching {
            empty_small: vec![true; 10],
            ..padded([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        };
        let none = test(&empty.targets, &empty.targets, &[&empty]).unwrap();
        assert_eq!((none.n, none.ln_p), (0, 0.0));
    }

    #[test]
    fn sidak_is_exact_in_the_bulk_and_additive_in_the_tail() {
        let p: f64 = 0.01;
        let paid = sidak(p.ln(), 10).exp();
        assert!((paid - (1.0 - 0.99f64.powi(10))).abs() < 1e-12);
        assert!((sidak(-500.0, 10) - (-500.0 + 10f64.ln())).abs() < 1e-12);
        assert_eq!(sidak(0.0, 3), 0.0);
    }
}

//! What the unit tests share: matching hidden units of every pair of layers and combining the p's.
//!
//! A *cell* is a pair of MLPs. Units of the smaller one (a seeded sample of a large one) are assigned
//! to units of the larger one, exactly, by cosine. Cells on the diagonal (layer l against layer l)
//! are combined by Fisher: under independence the layers of a model are independent. Where the
//! diagonal does not link every layer, or depths differ, each chosen reference layer is held against
//! every candidate layer; its best cell pays for the search (Šidák), and reference layers are
//! combined by Fisher: given the candidate, they are independent. Diagonal and search are then
//! combined by Šidák. Nothing is fitted, so nothing is used twice.

use super::context::{EvidenceError, Settings};
use super::layers;
use super::matcher::{Matcher, Matchings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use crate::arch::Component;
use crate::engine::EngineError;
use crate::fingerprint::units::{Mlp, View};
use crate::stats::{self, MatchingTest, PKind, PValue};
use ndarray::{Array2, Axis};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A cell is called linked below this p: the share of false cells is then negligible in any grid.
pub const LINKED_LN_P: f64 = -13.815_510_557_964_274; // ln 1e-6
/// Fewer units than this cannot be ranked.
pub const MIN_UNITS: usize = 8;

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
    dyn Fn(Side, &Mlp<'_>, View, &[usize], bool) -> Result<Array2<f32>, EngineError> + Sync + 'a;

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
    /// Where only a part of the units was read: how many of the matched ones have their partner in the other
    /// part if the order is another one.
    pub n_if_reordered: Option<f64>,
}

impl Cell {
    /// Fraction of the matched units on which both matchings agree.
    pub fn agreement(&self) -> f64 {
        // No unit is left where all of them are zero.
        self.test.n_coincident as f64 / self.test.n.max(1) as f64
    }

    /// Matched units whose partner was read, whatever the order.
    fn n_partners(&self) -> f64 {
        self.n_if_reordered.unwrap_or(self.test.n as f64)
    }

    /// Coincidences beyond those of chance.
    fn n_beyond_chance(&self) -> f64 {
        let by_chance = self.test.n as f64 / self.test.n_targets.max(1) as f64;
        (self.test.n_coincident as f64 - by_chance).max(0.0)
    }
}

/// Mean agreement of the best cells of a grid. Where parts of the units were read, two matchings can only agree
/// on units whose partners were: it is then the share of those that there are in a copy with another order, at
/// most 1, over the cells that are linked, or in the cell that has most of them.
fn agreement(grid: &Grid, best: &[&Cell]) -> f64 {
    let in_part = |cell: &&Cell| cell.n_if_reordered.is_some();
    if grid.question == Question::Order || !best.iter().any(in_part) {
        return best.iter().map(|cell| cell.agreement()).sum::<f64>() / best.len().max(1) as f64;
    }
    let expected = Cell::n_partners;
    let mut cells: Vec<&Cell> = best
        .iter()
        .copied()
        .filter(|c| c.test.ln_p <= LINKED_LN_P)
        .collect();
    if cells.is_empty() {
        let largest = grid
            .cells()
            .max_by(|x, y| expected(x).total_cmp(&expected(y)));
        cells.extend(largest);
    }
    let found: f64 = cells.iter().map(|cell| cell.n_beyond_chance()).sum();
    let most: f64 = cells.iter().copied().map(expected).sum();
    if most > 0.0 {
        (found / most).min(1.0)
    } else {
        0.0
    }
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
    /// What was asked of each cell.
    pub question: Question,
    /// Which layers and units were taken, in words.
    pub selection: String,
    /// Share of the candidate's layers whose MLPs were searched, where a budget left some out.
    pub layers_read: Option<f64>,
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
        Mlp::find(c, 0, expert).map(|mlp| mlp.n_units_of_whole())
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
    let mut matcher = Matcher::new(settings, read, known);
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
    if diagonal
        .iter()
        .chain(&search)
        .any(|c| c.n_if_reordered.is_some())
    {
        selection
            .push_str("; of the units only those that the budget holds, the same in both models");
    }
    let is_read = |&layer: &u32| {
        let first = b.experts(layer).first().copied();
        first.is_some_and(|expert| Mlp::find(b, layer, expert).is_some())
    };
    let n_read = (0..b.n_layers).filter(is_read).count();
    let layers_read = (b.n_left_out > 0).then_some(n_read as f64 / f64::from(b.n_layers.max(1)));
    Ok(Ok(Grid {
        diagonal,
        search,
        ln_p: sidak(best, n_looks),
        question,
        selection,
        layers_read,
    }))
}

impl Grid {
    /// The cell of each reference layer that links best.
    pub fn best_cells(&self) -> Vec<&Cell> {
        best_cells(self)
    }

    /// All cells.
    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.diagonal.iter().chain(&self.search)
    }

    /// Whether any cell is linked.
    pub fn has_link(&self) -> bool {
        self.cells().any(|c| c.test.ln_p <= LINKED_LN_P)
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
    let cells = grid.cells().map(|c| LayerCell {
        reference_layer: Some(c.reference.0),
        candidate_layer: Some(c.candidate.0),
        role: test.to_owned(),
        value: c.agreement(),
        ln_p: Some(c.test.ln_p),
    });
    // Half of the units of the closest layer, say, agreeing by chance is what the p excludes.
    let mut record = TestRecord::measured(test, component);
    if grid.cells().any(|c| c.n_if_reordered.is_some()) {
        let partners = grid.cells().map(Cell::n_partners);
        record = record.with_effect("n-partners-if-reordered", partners.fold(0.0, f64::max));
    }
    if let Some(share) = grid.layers_read {
        record = record.with_effect("fraction-layers-read", share);
    }
    Ok(record
        .with_p(PValue::new(grid.ln_p.min(0.0), PKind::Exact)?)
        .with_effect("agreement", agreement(grid, &best))
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
    fn sidak_is_exact_in_the_bulk_and_additive_in_the_tail() {
        let p: f64 = 0.01;
        let paid = sidak(p.ln(), 10).exp();
        assert!((paid - (1.0 - 0.99f64.powi(10))).abs() < 1e-12);
        assert!((sidak(-500.0, 10) - (-500.0 + 10f64.ln())).abs() < 1e-12);
        assert_eq!(sidak(0.0, 3), 0.0);
    }
}

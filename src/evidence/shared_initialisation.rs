//! `shared-initialisation`: what two models have in common, is it what was learned or where it began?
//!
//! Every exact test has independent *initialisation* as its null and links two runs from one seed.
//! A derived model holds what its parent learned: the reference's leading singular directions are in
//! it. Two runs from one initialisation share the initialiser's noise and little else.

use super::block;
use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::token_lens_matching;
use super::unit_matching::{self, Cell, Grid, LINKED_LN_P, Outcome, Side};
use super::{Run, Test};
use crate::fingerprint::product;
use crate::fingerprint::units::{Mlp, View};
use crate::stats;
use crate::tensor::TensorError;
use ndarray::{Array2, Axis};

static SPEC: TestSpec = TestSpec {
    id: "shared-initialisation",
    title: "Shared initialisation",
    question: "Do the models share what one of them learned, or only the random numbers from which both \
               started?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "noise, casting, fine-tuning, long continued pre-training",
    defeated_by: "a changed basis or order (there is then nothing in common in these coordinates); a twin \
                  of the parent that was hardly trained",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Leading directions, and iterations to find them.
const N_DIRECTIONS: usize = 8;
const N_ITERATIONS: usize = 8;
/// Units of the smaller MLP that are aligned at most.
const MAX_UNITS: usize = 768;

fn inner(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// How much of `a`'s leading directions, and of the rest of `a`, is in `b`: 1 where b = a + noise.
fn coefficients(a: &Array2<f64>, b: &Array2<f64>, seed: u64) -> Option<(f64, f64)> {
    let basis = stats::top_right_subspace(a.view(), N_DIRECTIONS, N_ITERATIONS, seed);
    let leading = a.dot(&basis).dot(&basis.t());
    let rest = a - &leading;
    let (top_norm, rest_norm) = (inner(&leading, &leading), inner(&rest, &rest));
    (top_norm > 0.0 && rest_norm > 0.0)
        .then(|| (inner(&leading, b) / top_norm, inner(&rest, b) / rest_norm))
}

/// Rows of the second view of two matched MLPs, the candidate's units in the reference's order.
///
/// The order comes from the first view alone (or is the identity, whichever fits the first view
/// better), so that what is measured was not used to align.
struct Aligned {
    reference: Array2<f64>,
    candidate: Array2<f64>,
    identity: bool,
}

/// Mean cosine of corresponding rows.
fn mean_cosine(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let dots = a
        .rows()
        .into_iter()
        .zip(b.rows())
        .map(|(x, y)| f64::from(x.dot(&y)));
    dots.sum::<f64>() / a.nrows().max(1) as f64
}

fn align(
    cell: &Cell,
    pair: &ComponentPair,
    settings: &Settings,
    read: &dyn Fn(Side, &Mlp<'_>, View, &[usize]) -> Result<Array2<f32>, TensorError>,
) -> Result<Option<Aligned>, EvidenceError> {
    let Some((a, b)) = unit_matching::mlps(pair, cell.reference, cell.candidate) else {
        return Ok(None);
    };
    // The larger MLP's look-alikes of a sample of the smaller one's units.
    let (small, large) = if a.n_units() <= b.n_units() {
        ((Side::Reference, &a), (Side::Candidate, &b))
    } else {
        ((Side::Candidate, &b), (Side::Reference, &a))
    };
    let n = small.1.n_units().min(MAX_UNITS);
    let units = stats::choose(small.1.n_units(), n, settings.seed, "aligned-units");
    let all: Vec<usize> = (0..large.1.n_units()).collect();
    let mut x = read(small.0, small.1, View::First, &units)?;
    let mut y = read(large.0, large.1, View::First, &all)?;
    product::normalise_rows(&mut x);
    product::normalise_rows(&mut y);
    let similarity = product::rows_by_rows(x.view(), y.view());
    let matched = stats::assign_max(similarity.view())
        .map_err(|e| EvidenceError::Numerical(e.to_string()))?
        .row_to_col;
    let fit = |order: &[usize]| mean_cosine(&x, &y.select(Axis(0), order));
    // An assignment always fits better than chance; the identity needs no such advantage.
    let identity = small.1.n_units() == large.1.n_units() && fit(&units) >= 0.8 * fit(&matched);
    let order = if identity { &units } else { &matched };
    let of_small = read(small.0, small.1, View::Second, &units)?.mapv(f64::from);
    let of_large = read(large.0, large.1, View::Second, order)?.mapv(f64::from);
    let (reference, candidate) = if small.0 == Side::Reference {
        (of_small, of_large)
    } else {
        (of_large, of_small)
    };
    Ok(Some(Aligned {
        reference,
        candidate,
        identity,
    }))
}

/// Running totals over layers.
#[derive(Default)]
struct Totals {
    shared: Vec<f64>,
    spread: Vec<f64>,
    forward: Vec<f64>,
    backward: Vec<f64>,
    rest: Vec<f64>,
    cells: Vec<LayerCell>,
}

impl Totals {
    fn add(
        &mut self,
        a: &Array2<f64>,
        b: &Array2<f64>,
        seed: u64,
        (reference_layer, candidate_layer, role): (Option<u32>, Option<u32>, String),
    ) {
        let (Some(ab), Some(ba)) = (coefficients(a, b, seed), coefficients(b, a, seed)) else {
            return;
        };
        let n = a.len() as f64;
        let product = inner(a, b) / n;
        self.shared.push(product.signum() * product.abs().sqrt());
        self.spread.push((inner(a, a) / n).sqrt());
        self.forward.push(ab.0);
        self.backward.push(ba.0);
        self.rest.push(ab.1);
        self.cells.push(LayerCell {
            reference_layer,
            candidate_layer,
            role,
            value: ab.0,
            ln_p: None,
        });
    }

    fn record(self, pair: &ComponentPair, basis: &str) -> TestRecord {
        if self.shared.is_empty() {
            let reason = "no weight matrices of equal role and shape";
            return TestRecord::not_applicable(SPEC.id, &pair.id, reason);
        }
        let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
        let deviation = |xs: &[f64]| {
            let m = mean(xs);
            (xs.iter().map(|x| (x - m).powi(2)).sum::<f64>() / xs.len() as f64).sqrt()
        };
        TestRecord::measured(SPEC.id, &pair.id)
            .with_effect("shared-std", mean(&self.shared))
            .with_effect("shared-std-deviation", deviation(&self.shared))
            .with_effect("reference-std", mean(&self.spread))
            .with_effect(
                "leading-directions-of-reference-in-candidate",
                mean(&self.forward),
            )
            .with_effect(
                "leading-directions-of-candidate-in-reference",
                mean(&self.backward),
            )
            .with_effect("leading-directions-deviation", deviation(&self.forward))
            .with_effect("rest-of-reference-in-candidate", mean(&self.rest))
            .with_effect("n-tensors", self.shared.len() as f64)
            .with_detail(Detail::Selection(basis.to_owned()))
            .with_detail(Detail::Grid(LayerGrid {
                quantity: "share of the reference's leading directions found in the candidate"
                    .to_owned(),
                range: (0.0, 1.0),
                cells: self.cells,
            }))
    }
}

/// The grid that links, and whether it looks through the token lens.
fn linking_grid<'a>(pair: &'a ComponentPair, settings: &Settings) -> Option<(&'a Grid, bool)> {
    let linked = |outcome: &'a Outcome| match outcome {
        Ok(Ok(grid)) if grid.has_link() => Some(grid),
        _ => None,
    };
    linked(pair.order_grid(settings))
        .or_else(|| linked(pair.agreement_grid(settings)))
        .map(|grid| (grid, false))
        .or_else(|| linked(pair.lens_grid(settings)).map(|grid| (grid, true)))
}

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut totals = Totals::default();
    let Some((grid, through_lens)) = linking_grid(pair, settings) else {
        block::for_each(pair, settings, |block| {
            let layer = block.role.layer;
            let place = (layer, layer, block.role.row_name());
            totals.add(&block.reference, &block.candidate, settings.seed, place);
            Ok(())
        })?;
        return Ok(totals.record(
            pair,
            "matrices of equal role, in the order in which they stand",
        ));
    };
    let lenses = match through_lens {
        true => token_lens_matching::lenses(pair)?.ok(),
        false => None,
    };
    let read = |side, mlp: &Mlp<'_>, view, units: &[usize]| match (&lenses, side) {
        (Some((a, _)), Side::Reference) => a.rows(mlp, view, units),
        (Some((_, b)), Side::Candidate) => b.rows(mlp, view, units),
        (None, _) => mlp.rows(view, units),
    };
    let mut n_identity = 0;
    for cell in grid
        .best_cells()
        .into_iter()
        .filter(|c| c.test.ln_p <= LINKED_LN_P)
    {
        if let Some(aligned) = align(cell, pair, settings, &read)? {
            n_identity += u32::from(aligned.identity);
            let place = (
                Some(cell.reference.0),
                Some(cell.candidate.0),
                "second view".to_owned(),
            );
            totals.add(&aligned.reference, &aligned.candidate, settings.seed, place);
        }
    }
    let basis = format!(
        "the second view of the MLPs of {} linked layers{}, units in the order that the first view \
         gives ({n_identity} of them as they stand)",
        totals.shared.len(),
        if through_lens {
            ", through the token lens"
        } else {
            ""
        },
    );
    Ok(totals.record(pair, &basis))
}

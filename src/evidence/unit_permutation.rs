//! `unit-permutation`: are the hidden units alike, and in the same order?
//!
//! φ_U of *Independence Tests for Language Models* (ICML 2025), in log space.

use super::context::{EvidenceError, Settings};
use super::matcher::Matching;
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::unit_matching;
use super::{Run, Test};
use crate::arch::{Component, ComponentKind};
use crate::fingerprint::product;
use crate::stats::{self, PKind, PValue};
use crate::tensor::Matrix;
use std::collections::BTreeSet;

/// Rows that a tensor outside the transformer shapes must have to be ranked.
const MIN_ROWS: usize = 16;
/// Rows beyond which a dense assignment of a generic tensor would not pay.
const MAX_ROWS: usize = 8192;

static SPEC: TestSpec = TestSpec {
    id: "unit-permutation",
    title: "Unit permutation",
    question: "Do the hidden units of both models look alike in the same order?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: Some(
        "The candidate's initialisation is independent of the reference and exchangeable over hidden \
         units, and training treats units alike: every order of its units is equally likely, so the \
         best assignment of units is a uniformly random injection.",
    ),
    p_value: Some(
        "One-sided Spearman correlation of the exact cosine assignment with the identity; below \
         1e-6 no smaller than the exactly known tail of the number of units in place. Fisher over \
         layers, Šidák over the layer search.",
    ),
    survives: "fine-tuning, long continued pre-training, noise, casting, per-unit scaling",
    defeated_by: "re-ordering the units, rotating the residual stream. It also links two runs from one \
                  random initialisation (see shared-initialisation)",
    citation: "Zhu et al., Independence Tests for Language Models, ICML 2025, section 3.2",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let has_mlp = |c: &Component| (0..c.n_layers).any(|layer| !c.experts(layer).is_empty());
    if has_mlp(&pair.reference) && has_mlp(&pair.candidate) {
        return unit_matching::record(SPEC.id, &pair.id, pair.order_grid(settings));
    }
    let channels = match pair.channels() {
        Ok(Ok(channels)) => channels,
        Ok(Err(reason)) => return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason)),
        Err(error) => return Err(EvidenceError::Numerical(error.to_string())),
    };
    let n = channels.cells.len();
    let agreement = channels.cells.iter().map(|cell| cell.value).sum::<f64>() / n as f64;
    Ok(TestRecord::measured(SPEC.id, &pair.id)
        .with_p(PValue::new(channels.ln_p, PKind::Exact)?)
        .with_effect("agreement", agreement)
        .with_effect("n-tensors-tested", n as f64)
        .with_effect("n-tensors-equal", f64::from(channels.n_equal))
        .with_detail(Detail::Selection(format!(
            "output channels of {n} tensors whose outputs other tensors read"
        )))
        .with_detail(Detail::Grid(LayerGrid {
            quantity: "fraction of channels in place".to_owned(),
            range: (0.0, 1.0),
            cells: channels.cells.clone(),
        })))
}

/// What was found of the output channels of a network without MLPs.
#[derive(Debug)]
pub(super) struct Channels {
    /// ln p of all tensors together.
    pub(super) ln_p: f64,
    /// One cell a tensor: the fraction of its channels in place, and ln p.
    cells: Vec<LayerCell>,
    /// Tensors that are equal in both and say nothing.
    n_equal: u32,
}

/// Measured, nothing to match (with the reason), or an error.
pub(super) type ChannelOutcome = Result<Result<Channels, String>, EvidenceError>;

/// Widths that some tensor of the component reads: `[out, in, …]` → in.
fn widths_read(component: &Component) -> BTreeSet<usize> {
    component
        .tensors
        .iter()
        .filter_map(|t| t.shape().get(1).copied())
        .collect()
}

/// Output channels of any network: tensors of equal shape, whose outputs another tensor reads.
///
/// The outputs of a last layer mean something (a class, a coordinate) and are not exchangeable, so a
/// tensor counts only if its outputs are another one's inputs. Tensors of one residual group share
/// their order: they are dependent, so the smallest p pays for all by Bonferroni.
pub(super) fn channels(pair: &ComponentPair) -> ChannelOutcome {
    if pair.reference.kind != ComponentKind::Network {
        // What a projector writes goes into a stream that both models may have in common: its
        // outputs are then not exchangeable and the null would be false.
        return Ok(Err(
            "no MLP whose units can be matched, and its outputs are not exchangeable".to_owned(),
        ));
    }
    let read = widths_read(&pair.reference);
    let mut cells = Vec::new();
    let mut best: Option<f64> = None;
    let mut n_equal = 0u32;
    for found in &pair.correspondence.pairs {
        let a = &pair.reference.tensors[found.reference];
        let b = &pair.candidate.tensors[found.candidate];
        let n_rows = a.shape().first().copied().unwrap_or(0);
        let is_weight = a.shape().len() >= 2 && a.dtype().is_float() && b.dtype().is_float();
        if !is_weight || !(MIN_ROWS..=MAX_ROWS).contains(&n_rows) || !read.contains(&n_rows) {
            continue;
        }
        let (mut x, mut y) = (
            Matrix::new(a.clone())?.all()?,
            Matrix::new(b.clone())?.all()?,
        );
        if x == y {
            // A fixed front-end that both were given says nothing of what was trained.
            n_equal += 1;
            continue;
        }
        for rows in [&mut x, &mut y] {
            product::centre_rows(rows);
            product::normalise_rows(rows);
        }
        let rows: Vec<Option<usize>> = (0..n_rows).map(Some).collect();
        let test = Matching::of_rows(&x, &y)?.order_test(&rows)?;
        best = Some(best.map_or(test.ln_p, |p| p.min(test.ln_p)));
        cells.push(LayerCell {
            reference_layer: None,
            candidate_layer: None,
            role: a.name().to_owned(),
            value: test.n_coincident as f64 / test.n.max(1) as f64,
            ln_p: Some(test.ln_p),
        });
    }
    let Some(best) = best else {
        return Ok(Err(match n_equal {
            0 => "no two tensors of equal shape whose outputs are exchangeable".to_owned(),
            n => format!("the {n} tensors that could be tested are bit-equal: see tensor-identity"),
        }));
    };
    Ok(Ok(Channels {
        ln_p: stats::bonferroni(best, cells.len()).min(0.0),
        cells,
        n_equal,
    }))
}

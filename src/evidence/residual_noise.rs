//! `residual-noise`: is the difference Δ = candidate − reference plain noise?
//!
//! Gaussian noise added to copied weights has no excess kurtosis, no correlation with the reference,
//! one σ in all tensors (or one multiple of each tensor's spread), and a largest singular value at
//! the Marchenko–Pastur edge σ(√m + √n). Training leaves heavy tails and spikes far above the edge.
//! Noise is correlated with the model that has it and not with the other: which of the two is the
//! noiseless one is measured both ways round.

use super::block;
use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::stats::{self, CoMoments, Moments};
use ndarray::Array2;
use std::collections::BTreeMap;

static SPEC: TestSpec = TestSpec {
    id: "residual-noise",
    title: "Residual noise",
    question: "Is what distinguishes the candidate from the reference nothing but random noise?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "casting after the noise",
    defeated_by: "training before or after the noise (reported as no plain noise), a changed basis",
    citation: "Marchenko and Pastur (1967); the noised copy of 2024 that is replayed in the docs",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Bounds of a tensor whose difference is called Gaussian. They follow from sampling theory at the
/// smallest block that is read (16 × 16) and from rounding to bf16, not from any pair of models.
const MAX_EXCESS_KURTOSIS: f64 = 0.15;
const MAX_CORRELATION: f64 = 0.02;
const MAX_EDGE_RATIO: f64 = 1.08;

/// What is read of a matrix: enough for an edge that is sharp to a percent.
const LIMIT: block::Limit = block::Limit {
    rows: 768,
    cols: 1024,
};

/// The difference of two blocks of equal role.
struct Residual {
    /// Stored tensor of the reference.
    tensor: String,
    sigma: f64,
    /// Standard deviations of the reference and of the candidate.
    spread: [f64; 2],
    excess_kurtosis: f64,
    /// Correlation of the difference with the reference and with the candidate.
    correlation: [f64; 2],
    edge_ratio: f64,
    n: f64,
}

/// Index of the model that would be the noiseless one.
const OF_REFERENCE: usize = 0;
const OF_CANDIDATE: usize = 1;

impl Residual {
    fn of(block: &block::Block, seed: u64) -> Result<Option<Self>, EvidenceError> {
        let delta = &block.candidate - &block.reference;
        let as_f32 = |x: &Array2<f64>| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let difference = as_f32(&delta);
        let mut moments = Moments::default();
        moments.add_slice(&difference);
        let sigma = moments.std();
        if sigma == 0.0 {
            return Ok(None);
        }
        let against = |side: &Array2<f64>| {
            let mut co = CoMoments::default();
            co.add_slices(&as_f32(side), &difference);
            (co.std_x(), co.centred_cosine().unwrap_or(0.0))
        };
        let (reference, candidate) = (against(&block.reference), against(&block.candidate));
        let (m, n) = delta.dim();
        let edge = sigma * ((m as f64).sqrt() + (n as f64).sqrt());
        Ok(Some(Self {
            tensor: block.tensor.clone(),
            sigma,
            spread: [reference.0, candidate.0],
            excess_kurtosis: moments.excess_kurtosis(),
            correlation: [reference.1, candidate.1],
            edge_ratio: stats::top_singular_value(delta.view(), seed) / edge,
            n: (m * n) as f64,
        }))
    }

    /// Whether it looks like noise added to `side`. Five standard errors are granted on top of each
    /// bound.
    fn is_gaussian(&self, side: usize) -> bool {
        let slack = 5.0 / self.n.sqrt();
        self.excess_kurtosis.abs() <= MAX_EXCESS_KURTOSIS + slack * 24f64.sqrt()
            && self.correlation[side].abs() <= MAX_CORRELATION + slack
            && self.edge_ratio <= MAX_EDGE_RATIO + slack
    }
}

/// σ of each stored tensor, and its ratio to the spread of `side`. Noise is added to tensors as they
/// are stored, so the roles of a fused tensor are pooled.
fn by_tensor(residuals: &[Residual], side: usize) -> (Vec<f64>, Vec<f64>) {
    // Sums of n, n·σ² and n·spread².
    let mut sums: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for r in residuals {
        let sum = sums.entry(&r.tensor).or_default();
        sum[0] += r.n;
        sum[1] += r.n * r.sigma * r.sigma;
        sum[2] += r.n * r.spread[side] * r.spread[side];
    }
    let sigmas = sums.values().map(|[n, sigma, _]| (sigma / n).sqrt());
    let ratios = sums
        .values()
        .filter(|[_, _, spread]| *spread > 0.0)
        .map(|[_, sigma, spread]| (sigma / spread).sqrt());
    (sigmas.collect(), ratios.collect())
}

fn coefficient_of_variation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    if mean > 0.0 {
        variance.sqrt() / mean
    } else {
        0.0
    }
}

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut residuals: Vec<Residual> = Vec::new();
    let mut cells = Vec::new();
    let (mut n_equal, mut n_values, mut sum_squares) = (0u32, 0f64, 0f64);
    let n_blocks = block::for_each(pair, LIMIT, settings, |block| {
        let Some(residual) = Residual::of(&block, settings.seed)? else {
            n_equal += 1;
            return Ok(());
        };
        n_values += residual.n;
        sum_squares += residual.n * residual.sigma * residual.sigma;
        cells.push(LayerCell {
            reference_layer: block.role.layer,
            candidate_layer: block.role.layer,
            role: block.role.row_name(),
            value: residual.edge_ratio,
            ln_p: None,
        });
        residuals.push(residual);
        Ok(())
    })?;
    if n_blocks == 0 {
        let reason = "no weight matrices of equal role and shape";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    if residuals.is_empty() {
        let reason = format!("the {n_blocks} matrices looked at are equal: there is no difference");
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let n = residuals.len() as f64;
    let gaussian = |side| residuals.iter().filter(|r| r.is_gaussian(side)).count() as f64 / n;
    let sigma = (sum_squares / n_values).sqrt();
    let half = 1.96 * sigma / (2.0 * n_values).sqrt();
    let mean = |f: fn(&Residual) -> f64| residuals.iter().map(f).sum::<f64>() / n;
    let (sigmas, of_reference) = by_tensor(&residuals, OF_REFERENCE);
    let (_, of_candidate) = by_tensor(&residuals, OF_CANDIDATE);
    let average = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len().max(1) as f64;
    Ok(TestRecord::measured(SPEC.id, &pair.id)
        .with_effect("fraction-tensors-gaussian", gaussian(OF_REFERENCE))
        .with_effect("fraction-tensors-gaussian-reversed", gaussian(OF_CANDIDATE))
        .with_effect_interval("sigma", sigma, Some((sigma - half, sigma + half)))
        .with_effect("sigma-variation", coefficient_of_variation(&sigmas))
        .with_effect("relative-sigma", average(&of_reference))
        .with_effect("relative-sigma-variation", coefficient_of_variation(&of_reference))
        .with_effect("relative-sigma-reversed", average(&of_candidate))
        .with_effect(
            "relative-sigma-variation-reversed",
            coefficient_of_variation(&of_candidate),
        )
        .with_effect("mean-excess-kurtosis", mean(|r| r.excess_kurtosis))
        .with_effect("mean-correlation-with-reference", mean(|r| r.correlation[OF_REFERENCE]))
        .with_effect("mean-correlation-with-candidate", mean(|r| r.correlation[OF_CANDIDATE]))
        .with_effect("mean-edge-ratio", mean(|r| r.edge_ratio))
        .with_effect("n-tensors", n)
        .with_effect("n-tensors-equal", f64::from(n_equal))
        .with_reason("independent models differ by what looks like noise too: read it only where kinship is shown")
        .with_detail(Detail::Grid(LayerGrid {
            quantity: "largest singular value of the difference / edge of pure noise".to_owned(),
            range: (0.9, 5.0),
            cells,
        })))
}

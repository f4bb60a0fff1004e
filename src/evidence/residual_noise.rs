//! `residual-noise`: is the difference Δ = candidate − reference plain noise?
//!
//! Gaussian noise added to copied weights has no excess kurtosis, no correlation with the reference,
//! one σ in all tensors (or one multiple of each tensor's spread), and a largest singular value at
//! the Marchenko–Pastur edge σ(√m + √n). Training leaves heavy tails and spikes far above the edge.

use super::block;
use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::stats::{self, CoMoments, Moments};

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

/// One tensor's difference.
struct Residual {
    sigma: f64,
    relative_sigma: f64,
    excess_kurtosis: f64,
    correlation: f64,
    edge_ratio: f64,
    n: f64,
}

impl Residual {
    /// Five standard errors are granted on top of each bound.
    fn is_gaussian(&self) -> bool {
        let slack = 5.0 / self.n.sqrt();
        self.excess_kurtosis.abs() <= MAX_EXCESS_KURTOSIS + slack * 24f64.sqrt()
            && self.correlation.abs() <= MAX_CORRELATION + slack
            && self.edge_ratio <= MAX_EDGE_RATIO + slack
    }
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
    let n_blocks = block::for_each(pair, settings, |block| {
        let delta = &block.candidate - &block.reference;
        let as_f32 = |x: &ndarray::Array2<f64>| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (reference, difference) = (as_f32(&block.reference), as_f32(&delta));
        let mut moments = Moments::default();
        moments.add_slice(&difference);
        let sigma = moments.std();
        if sigma == 0.0 {
            n_equal += 1;
            return Ok(());
        }
        let mut co = CoMoments::default();
        co.add_slices(&reference, &difference);
        let (m, n) = delta.dim();
        let edge = sigma * ((m as f64).sqrt() + (n as f64).sqrt());
        let spread = co.std_x();
        let residual = Residual {
            sigma,
            relative_sigma: if spread > 0.0 { sigma / spread } else { 0.0 },
            excess_kurtosis: moments.excess_kurtosis(),
            correlation: co.centred_cosine().unwrap_or(0.0),
            edge_ratio: stats::top_singular_value(delta.view(), settings.seed) / edge,
            n: (m * n) as f64,
        };
        n_values += residual.n;
        sum_squares += residual.n * sigma * sigma;
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
    let gaussian = residuals.iter().filter(|r| r.is_gaussian()).count() as f64;
    let sigma = (sum_squares / n_values).sqrt();
    let half = 1.96 * sigma / (2.0 * n_values).sqrt();
    let column = |f: fn(&Residual) -> f64| residuals.iter().map(f).collect::<Vec<f64>>();
    let mean = |f: fn(&Residual) -> f64| column(f).iter().sum::<f64>() / n;
    Ok(TestRecord::measured(SPEC.id, &pair.id)
        .with_effect("fraction-tensors-gaussian", gaussian / n)
        .with_effect_interval("sigma", sigma, Some((sigma - half, sigma + half)))
        .with_effect("sigma-variation", coefficient_of_variation(&column(|r| r.sigma)))
        .with_effect("relative-sigma", mean(|r| r.relative_sigma))
        .with_effect(
            "relative-sigma-variation",
            coefficient_of_variation(&column(|r| r.relative_sigma)),
        )
        .with_effect("mean-excess-kurtosis", mean(|r| r.excess_kurtosis))
        .with_effect("mean-correlation-with-reference", mean(|r| r.correlation))
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

//! `norm-vectors`: are the gains and biases alike, once what every model has in common is removed?
//!
//! Gains all lie near one another, so that a plain cosine of independent models is above 0.9:
//! vectors are centred first.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::{Part, RoleKind};
use crate::stats::CoMoments;

static SPEC: TestSpec = TestSpec {
    id: "norm-vectors",
    title: "Norm and bias vectors",
    question: "Do the norm gains and the bias vectors of both models rise and fall together?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "fine-tuning, noise, casting",
    defeated_by: "moving γ into the next matrix, re-ordering or rotating the residual stream",
    citation: "Yoon et al., Intrinsic Fingerprint of LLMs (2025) use the standard deviations of the same vectors",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

fn run(pair: &ComponentPair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut cells = Vec::new();
    let (mut gains, mut biases) = (Vec::new(), Vec::new());
    let mut n_constant = 0u32;
    for (role, a, b) in pair.common_roles() {
        let vector = a.n_cols() == 1 && (role.kind.is_norm() || role.part == Part::Bias);
        if !vector || a.n_rows() < 8 {
            continue;
        }
        let (x, y) = (a.all()?, b.all()?);
        let (Some(x), Some(y)) = (x.as_slice(), y.as_slice()) else {
            continue;
        };
        let mut moments = CoMoments::default();
        moments.add_slices(x, y);
        // Constant vectors (γ = 1 after folding, zero biases) say nothing.
        let Some(cosine) = moments.centred_cosine() else {
            n_constant += 1;
            continue;
        };
        if role.part == Part::Weight && role.kind != RoleKind::OutputHead {
            gains.push(cosine);
        } else {
            biases.push(cosine);
        }
        cells.push(LayerCell {
            reference_layer: role.layer,
            candidate_layer: role.layer,
            role: role.row_name(),
            value: cosine,
            ln_p: None,
        });
    }
    if cells.is_empty() {
        let reason = match n_constant {
            0 => "the two have no norm or bias vectors of equal role and length".to_owned(),
            n => format!("all {n} common norm and bias vectors are constant in one of the models"),
        };
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let mut record = TestRecord::measured(SPEC.id, &pair.id);
    for (name, values) in [("gain", &gains), ("bias", &biases)] {
        if !values.is_empty() {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            record = record
                .with_effect(&format!("mean-{name}-centred-cosine"), mean)
                .with_effect(&format!("n-{name}-vectors"), values.len() as f64);
        }
    }
    Ok(record.with_detail(Detail::Grid(LayerGrid {
        quantity: "centred cosine".to_owned(),
        range: (-1.0, 1.0),
        cells,
    })))
}

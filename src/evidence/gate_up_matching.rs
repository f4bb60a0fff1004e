//! `gate-up-matching`: do units matched by one side of the MLP also match by the other side?
//!
//! φ_MATCH of *Independence Tests for Language Models* (ICML 2025), in log space, for gated and plain
//! MLPs of any two sizes, all layer pairs where the diagonal does not suffice.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::TestRecord;
use super::spec::{Need, Scope, TestSpec};
use super::unit_matching;
use super::{Run, Test};

static SPEC: TestSpec = TestSpec {
    id: "gate-up-matching",
    title: "Gate-up matching",
    question: "If each hidden unit is paired with its look-alike by one of its two weight vectors, \
               does the other vector choose the same look-alike?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: Some(
        "The candidate's units were initialised independently of the reference, so that a matching \
         by gate rows says nothing about a matching by up rows: one relative to the other is a \
         uniformly random injection.",
    ),
    p_value: Some(
        "One-sided Spearman correlation of the two exact cosine assignments; below 1e-6 no smaller \
         than the exactly known tail of the number of coincident units. Fisher over layers, Šidák \
         over the layer search.",
    ),
    survives: "re-ordered units, per-unit scaling, moved γ, fine-tuning, noise, re-ordered, dropped \
               or repeated layers, pruned units",
    defeated_by: "a rotation of the residual stream (see token-lens-matching), retraining from scratch",
    citation: "Zhu et al., Independence Tests for Language Models, ICML 2025, section 3.3",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    unit_matching::record(SPEC.id, &pair.id, pair.agreement_grid(settings))
}

//! `tensor-correspondence`: which tensor is which, without trusting names; prints the renaming map.

use super::context::{EvidenceError, Settings};
use super::correspondence::Basis;
use super::name_order;
use super::pair::ComponentPair;
use super::record::{Detail, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::fingerprint::units::Mlp;

static SPEC: TestSpec = TestSpec {
    id: "tensor-correspondence",
    title: "Tensor correspondence",
    question: "Which tensor of the candidate is which tensor of the reference, going by shape, content \
               and order and not by name?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "renaming, re-ordering, re-sharding, casting, noise",
    defeated_by: "training from scratch; rotated tensors are paired by their row norms and by order",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

fn run(pair: &ComponentPair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let found = &pair.correspondence;
    if found.pairs.is_empty() {
        let reason = "no tensor of the candidate has the shape of one of the reference";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let n = found.pairs.len() as f64;
    let count = |basis| found.pairs.iter().filter(|p| p.basis == basis).count() as f64;
    let names: Vec<(String, String, &'static str)> = found
        .pairs
        .iter()
        .map(|p| {
            (
                pair.reference.tensors[p.reference].name().to_owned(),
                pair.candidate.tensors[p.candidate].name().to_owned(),
                p.basis.name(),
            )
        })
        .collect();
    let renamed = names.iter().filter(|(a, b, _)| a != b).count() as f64;
    let mut record = TestRecord::measured(SPEC.id, &pair.id);
    // Sizes, where roles are known: what was pruned or added.
    for (side, component) in [
        ("reference", &pair.reference),
        ("candidate", &pair.candidate),
    ] {
        if component.n_layers > 0 {
            let name = format!("n-layers-{side}");
            record = record.with_effect(&name, f64::from(component.n_layers));
        }
        let first = component
            .experts(0)
            .first()
            .and_then(|&e| Mlp::find(component, 0, e));
        if let Some(mlp) = first {
            record = record.with_effect(&format!("n-units-{side}"), mlp.n_units_of_whole() as f64);
        }
        let experts = (0..component.n_layers).map(|layer| component.experts(layer).len());
        // Experts that were left out are none that are missing.
        if let Some(n @ 1..) = experts.max().filter(|_| component.n_left_out == 0) {
            record = record.with_effect(&format!("n-experts-{side}"), n as f64);
        }
        if let Some(width) = component.hidden_size {
            record = record.with_effect(&format!("hidden-size-{side}"), width as f64);
        }
    }
    Ok(record
        .with_effect("n-tensors-paired", n)
        .with_effect("n-only-in-reference", found.only_reference as f64)
        .with_effect("n-only-in-candidate", found.only_candidate as f64)
        .with_effect("fraction-paired-by-content", count(Basis::Content) / n)
        .with_effect("n-paired-by-order-alone", count(Basis::Order))
        .with_effect("n-renamed", renamed)
        .with_detail(Detail::Renamings(name_order::summarise(&names))))
}

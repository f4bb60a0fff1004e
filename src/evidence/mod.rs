//! Evidence tests: one file per test, one entry in [`TESTS`].
//!
//! A test reads an immutable [`Pair`] and returns a record; it never prints and never judges. The
//! runner keeps the first invariant: exactly one record for each registered test and each subject
//! that it speaks of, measured, not applicable (with the reason) or failed (with the error).

pub mod block;
pub mod budget;
pub mod context;
pub mod correspondence;
pub mod layers;
pub mod pair;
pub mod record;
pub mod spec;
pub mod tokens;
pub mod unit_matching;

mod adapter_updates;
#[cfg(test)]
mod artefact_fixture;
mod calibration;
mod config_comparison;
mod config_keys;
mod dangling_references;
mod digests;
mod excerpt;
mod file_identity;
mod file_references;
mod gate_up_matching;
mod in_place;
mod matcher;
pub mod name_order;
mod name_pairing;
mod norm_vectors;
mod odd_tokens;
mod residual_noise;
mod rounding;
mod shared_initialisation;
mod specific_names;
mod tensor_correspondence;
mod tensor_identity;
mod token_lens_matching;
mod token_profile;
mod tokenizer_comparison;
mod unit_permutation;
mod weight_similarity;

use context::{EvidenceError, Observer, Settings};
use pair::{ComponentPair, Pair};
use record::TestRecord;
use spec::{Need, TestSpec};
use std::time::Instant;

/// What a test runs on.
#[derive(Clone, Copy)]
pub enum Run {
    /// The two models as wholes.
    Model(fn(&Pair, &Settings) -> Result<TestRecord, EvidenceError>),
    /// Each pair of components.
    Component(fn(&ComponentPair, &Settings) -> Result<TestRecord, EvidenceError>),
}

/// A registered test.
#[derive(Clone, Copy)]
pub struct Test {
    /// What it states about itself.
    pub spec: &'static TestSpec,
    /// The test.
    pub run: Run,
}

/// Every test, in the order of the report.
pub const TESTS: &[Test] = &[
    file_identity::TEST,
    config_comparison::TEST,
    tokenizer_comparison::TEST,
    dangling_references::TEST,
    tensor_correspondence::TEST,
    tensor_identity::TEST,
    weight_similarity::TEST,
    adapter_updates::TEST,
    norm_vectors::TEST,
    unit_permutation::TEST,
    gate_up_matching::TEST,
    token_lens_matching::TEST,
    residual_noise::TEST,
    shared_initialisation::TEST,
];

/// The registered test of an id.
pub fn find(id: &str) -> Option<&'static Test> {
    TESTS.iter().find(|test| test.spec.id == id)
}

/// Runs the selected tests; the others leave a `not-applicable` record that says so.
pub fn run(
    pair: &Pair,
    settings: &Settings,
    selected: &dyn Fn(&str) -> bool,
    observer: &dyn Observer,
) -> Vec<TestRecord> {
    let mut records = Vec::new();
    for test in TESTS {
        let id = test.spec.id;
        let mut keep = |component: &str, run: &dyn Fn() -> Result<TestRecord, EvidenceError>| {
            if !selected(id) {
                let reason = "not selected on the command line";
                records.push(TestRecord::not_applicable(id, component, reason));
                return;
            }
            observer.test_started(id, component);
            let started = Instant::now();
            let record = run().unwrap_or_else(|e| TestRecord::failed(id, component, e.to_string()));
            observer.test_ended(id, component);
            tracing::debug!("phase {id} · {component}: {:.2?}", started.elapsed());
            records.push(record);
        };
        match test.run {
            Run::Model(run) if missing_weights(pair, test.spec).is_none() => {
                keep("model", &|| run(pair, settings));
            }
            Run::Component(run) if !pair.components.is_empty() => {
                for component in &pair.components {
                    keep(
                        &component.id,
                        &|| match only_changes(component, test.spec) {
                            Some(reason) => {
                                Ok(TestRecord::not_applicable(id, &component.id, reason))
                            }
                            None => run(component, settings),
                        },
                    );
                }
            }
            _ => {
                let reason = missing_weights(pair, test.spec).unwrap_or_else(|| {
                    "the two models have no component of the same kind".to_owned()
                });
                keep("model", &|| {
                    Ok(TestRecord::not_applicable(id, "model", reason.clone()))
                });
            }
        }
    }
    records
}

/// Tests that say something true of what two adapters change: not of units, which have the order of the base.
const OF_CHANGES: [&str; 4] = [
    "tensor-correspondence",
    "tensor-identity",
    "weight-similarity",
    "adapter-updates",
];

/// Why a test cannot speak of components that are what an adapter changes, and no weights.
fn only_changes(pair: &ComponentPair, spec: &TestSpec) -> Option<&'static str> {
    match adapter_updates::n_adapters(pair) {
        1 if !spec.needs.contains(&Need::Adapters) => {
            Some("one of the two is an adapter, which holds changes and no weights; name its base")
        }
        2 if !OF_CHANGES.contains(&spec.id) => Some(
            "both are adapters, whose units have the order of their base's, whoever trained them",
        ),
        _ => None,
    }
}

/// Why a test that needs weights cannot run on this pair.
fn missing_weights(pair: &Pair, spec: &TestSpec) -> Option<String> {
    if !spec.needs.contains(&Need::Weights) {
        return None;
    }
    let models = [("reference", pair.reference), ("candidate", pair.candidate)];
    let absent: Vec<&str> = models
        .iter()
        .filter(|(_, m)| !m.has_weights())
        .map(|(name, _)| *name)
        .collect();
    (!absent.is_empty()).then(|| {
        format!(
            "no weights at hand for the {}; fetch the full repository",
            absent.join(" and the ")
        )
    })
}

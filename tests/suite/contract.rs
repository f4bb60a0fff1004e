//! What every registered test must keep: it finds the derived pair, it keeps its rate of false alarms
//! on independent pairs, and nothing that leaves the values alone changes what it says.

use crate::audits::{compare, compare_with, summary};
use crate::support::linear::{generator, normals};
use crate::support::model::TestModel;
use crate::support::{derive, zoo};
use modelkin::evidence::TESTS;
use modelkin::evidence::record::{Status, TestRecord};
use modelkin::evidence::spec::Need;
use modelkin::report::Report;
use std::path::Path;

const SEED: u64 = 5;

fn saved(model: &TestModel) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    model.save(folder.path());
    folder
}

/// Ids of the tests that read weights and of those that claim a p-value.
fn weight_tests() -> Vec<&'static str> {
    let needs_weights = TESTS
        .iter()
        .filter(|test| test.spec.needs.contains(&Need::Weights));
    needs_weights.map(|test| test.spec.id).collect()
}

fn p_tests() -> Vec<&'static str> {
    let with_p = TESTS.iter().filter(|test| test.spec.p_value.is_some());
    with_p.map(|test| test.spec.id).collect()
}

/// Test, status, ln p and effects of one record.
type Numbers = (&'static str, Status, Option<f64>, Vec<(String, f64)>);

/// The numbers of the tests that read weights: everything that a verdict reads.
fn numbers(report: &Report) -> Vec<Numbers> {
    let ids = weight_tests();
    let of = |r: &TestRecord| {
        let effects = r.effects.iter().map(|(name, e)| (name.clone(), e.value));
        (r.test, r.status, r.p.map(|p| p.ln_p()), effects.collect())
    };
    report
        .records
        .iter()
        .filter(|r| ids.contains(&r.test))
        .map(of)
        .collect()
}

#[test]
fn every_test_speaks_of_the_derived_pair_and_those_with_a_p_find_it() {
    let models = compare(&zoo("llama-a"), &zoo("llama-a-tuned"));
    let adapter = |name| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/adapters")
            .join(name)
    };
    let adapters = compare(&adapter("lora"), &adapter("lora-continued"));
    for test in TESTS {
        let of_adapters = test.spec.needs.contains(&Need::Adapters);
        let report = if of_adapters { &adapters } else { &models };
        let record = report
            .records
            .iter()
            .find(|r| r.test == test.spec.id)
            .expect("every registered test leaves a record");
        assert_eq!(record.status, Status::Measured, "{}", test.spec.id);
        if test.spec.p_value.is_some() {
            let p = record.p.expect("a test that states a p has one");
            assert!(p.ln_p() < 1e-6f64.ln(), "{}: {p}", test.spec.id);
        }
    }
}

#[test]
fn every_report_has_one_record_for_each_test_and_subject() {
    let report = compare(&zoo("llama-a"), &zoo("gpt2-a"));
    for test in TESTS {
        let n = report
            .records
            .iter()
            .filter(|r| r.test == test.spec.id)
            .count();
        assert_eq!(n, 1, "{}", test.spec.id);
    }
}

/// Weights drawn anew: what an independent initialisation of the same shape is.
fn redrawn(model: &TestModel, seed: u64) -> TestModel {
    let mut other = model.clone();
    let mut rng = generator(seed, 40);
    for (_, array) in &mut other.tensors {
        if array.ndim() == 2 {
            *array = normals(array.shape(), &mut rng) * 0.02;
        } else {
            array.fill(1.0);
        }
    }
    other
}

#[test]
fn false_alarms_on_independent_pairs_stay_at_their_rate() {
    const N_PAIRS: usize = 30;
    let model = TestModel::load(&zoo("qwen2-b"));
    let ids = p_tests();
    let mut below = vec![0usize; ids.len()];
    for i in 0..N_PAIRS as u64 {
        let (a, b) = (redrawn(&model, 2 * i), redrawn(&model, 2 * i + 1));
        let report = compare_with(&ids, saved(&a).path(), saved(&b).path());
        for (n, id) in below.iter_mut().zip(&ids) {
            let record = report.records.iter().find(|r| r.test == *id);
            let p = record.and_then(|r| r.p).expect("a p-value");
            *n += usize::from(p.ln_p() <= 0.05f64.ln());
        }
    }
    // Of 30 pairs 1.5 fall below 0.05; nine or more would happen once in 100,000 times.
    for (n, id) in below.iter().zip(&ids) {
        assert!(
            *n < 9,
            "{id}: {n} of {N_PAIRS} independent pairs have p ≤ 0.05"
        );
    }
}

#[test]
fn shards_order_of_tensors_and_lossless_casts_change_no_number() {
    let reference = zoo("llama-a");
    let tuned = TestModel::load(&zoo("llama-a-tuned"));
    let plain = numbers(&compare(&reference, &zoo("llama-a-tuned")));
    let sharded = tempfile::tempdir().expect("a temporary folder");
    tuned.save_sharded(sharded.path(), 4);
    let reordered = saved(&derive::reordered(&tuned, SEED));
    for (label, folder) in [("sharded", &sharded), ("reordered", &reordered)] {
        let found = numbers(&compare(&reference, folder.path()));
        assert_eq!(found, plain, "{label}");
    }
}

#[test]
fn one_audit_run_twice_gives_the_same_numbers() {
    let run = || compare(&zoo("gpt2-a"), &zoo("gpt2-a-tuned"));
    let (first, second) = (run(), run());
    assert_eq!(numbers(&first), numbers(&second));
    assert_eq!(first.records, second.records, "{}", summary(&first));
}

//! What the audit says of pairs whose kinship is known: the zoo, and mechanical derivations of it.

use crate::audits::{compare, smallest_ln_p, summary};
use crate::support::model::TestModel;
use crate::support::{derive, zoo};
use modelkin::report::Report;
use modelkin::verdict::Relation;
use safetensors::Dtype;
use serde_json::Value;
use std::path::Path;

const SEED: u64 = 11;
/// ln 1e-12: what the issue of every mechanical derivation must fall below where a p exists.
const LN_1E_12: f64 = -27.631_021_115_928_547;

fn saved(model: &TestModel) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    model.save(folder.path());
    folder
}

/// Audits both ways round and checks both reports.
fn both_ways(a: &Path, b: &Path, label: &str, check: &dyn Fn(&Report) -> Result<(), String>) {
    for (reference, candidate, way) in [(a, b, "forward"), (b, a, "backward")] {
        let report = compare(reference, candidate);
        println!("{label} {way}: {}", summary(&report));
        if let Err(problem) = check(&report) {
            panic!("{label} {way}: {problem}; {}", summary(&report));
        }
    }
}

fn is_related(report: &Report) -> Result<(), String> {
    match report.finding.overall.relation.related() {
        Some(true) => Ok(()),
        other => Err(format!("expected related, found {other:?}")),
    }
}

/// Related, and by a p below 1e-12 wherever a test with a p could run.
fn is_found(report: &Report) -> Result<(), String> {
    is_related(report)?;
    match smallest_ln_p(report) {
        Some(ln_p) if !(ln_p <= LN_1E_12) => Err(format!("ln p is only {ln_p}")),
        _ => Ok(()),
    }
}

fn has_relation(expected: Relation) -> impl Fn(&Report) -> Result<(), String> {
    move |report| {
        let found = report.finding.overall.relation;
        if found == expected {
            Ok(())
        } else {
            Err(format!(
                "expected {}, found {}",
                expected.name(),
                found.name()
            ))
        }
    }
}

/// The pairs of `tests/zoo/manifest.json` of one truth.
fn pairs(truth: &str) -> Vec<(String, String)> {
    let path = zoo("").join("manifest.json");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the manifest")).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let pairs: Vec<(String, String)> = manifest["pairs"]
        .as_array()
        .expect("pairs")
        .iter()
        .filter(|pair| pair["truth"] == truth)
        .map(|pair| (text(&pair["reference"]), text(&pair["candidate"])))
        .collect();
    assert!(!pairs.is_empty(), "no pair of the zoo is {truth}");
    pairs
}

#[test]
fn trained_descendants_are_derived() {
    for (a, b) in pairs("derived") {
        both_ways(&zoo(&a), &zoo(&b), &format!("{a} {b}"), &|report| {
            is_found(report)?;
            has_relation(Relation::FineTuned)(report)
        });
    }
}

#[test]
fn independent_models_with_equal_config_tokenizer_and_text_are_not_linked() {
    for (a, b) in pairs("independent") {
        let check = has_relation(Relation::Independent);
        both_ways(&zoo(&a), &zoo(&b), &format!("{a} {b}"), &check);
    }
}

#[test]
fn two_runs_from_one_seed_share_their_initialisation_and_are_not_related() {
    for (a, b) in pairs("shared-initialisation") {
        both_ways(&zoo(&a), &zoo(&b), &format!("{a} {b}"), &|report| {
            assert_eq!(report.finding.overall.relation.related(), Some(false));
            has_relation(Relation::SharedInitialisation)(report)
        });
    }
}

#[test]
fn the_exact_tests_do_link_the_twins_so_that_telling_them_apart_is_needed() {
    let report = compare(&zoo("llama-a"), &zoo("llama-a-same-seed-b"));
    for test in [
        "unit-permutation",
        "gate-up-matching",
        "shared-initialisation",
    ] {
        let p = crate::audits::record(&report, test).p.expect("a p-value");
        assert!(p.ln_p() < -20.0, "{test}: {p}");
    }
}

#[test]
fn a_copy_is_identical_and_repackaging_is_seen_through() {
    let original = TestModel::load(&zoo("llama-a"));
    let copy = saved(&original);
    both_ways(
        &zoo("llama-a"),
        copy.path(),
        "copy",
        &has_relation(Relation::Identical),
    );

    let sharded = tempfile::tempdir().expect("a temporary folder");
    original.save_sharded(sharded.path(), 3);
    for (label, folder) in [
        ("sharded", sharded),
        ("renamed", saved(&derive::renamed(&original))),
        (
            "renamed prefix",
            saved(&derive::renamed_prefix(&original, "llm.")),
        ),
        ("reordered", saved(&derive::reordered(&original, SEED))),
        (
            "cast to f32",
            saved(&derive::cast_to(&original, Dtype::F32)),
        ),
        (
            "cast to f64",
            saved(&derive::cast_to(&original, Dtype::F64)),
        ),
    ] {
        let check = has_relation(Relation::Repackaged);
        both_ways(&zoo("llama-a"), folder.path(), label, &check);
    }
}

#[test]
fn coarser_dtypes_are_quantized_copies() {
    // Noise gives the values the digits that a coarser dtype drops.
    let fine = derive::noised(&TestModel::load(&zoo("llama-a")), 0.5, 3);
    let reference = saved(&derive::cast_to(&fine, Dtype::F32));
    let original = TestModel::load(reference.path());
    for dtype in [Dtype::F16, Dtype::BF16] {
        let folder = saved(&derive::cast_to(&original, dtype));
        let report = compare(reference.path(), folder.path());
        println!("{dtype:?}: {}", summary(&report));
        assert_eq!(report.finding.overall.relation, Relation::Quantized);
    }
}

#[test]
fn noised_copies_are_found_and_called_so() {
    for id in ["llama-a", "qwen2-b", "gpt2-a"] {
        let original = TestModel::load(&zoo(id));
        for sigma in [0.01, 0.1, 0.5] {
            let folder = saved(&derive::noised(&original, sigma, SEED));
            both_ways(
                &zoo(id),
                folder.path(),
                &format!("{id} noise {sigma}"),
                &is_found,
            );
        }
        let folder = saved(&derive::noised(&original, 0.1, SEED));
        let report = compare(&zoo(id), folder.path());
        println!("{id}: {}", summary(&report));
        assert_eq!(report.finding.overall.relation, Relation::Noised, "{id}");
    }
}

type Derivation = fn(&TestModel, u64) -> TestModel;

#[test]
fn rewrites_that_keep_the_function_are_found() {
    let llama: &[(&str, Derivation)] = &[
        ("units permuted", derive::permuted_units),
        ("heads permuted", derive::permuted_heads),
        ("units scaled", derive::scaled_units),
        ("residual rotated", derive::rotated_residual),
        ("q and k turned", derive::rotated_rope_pairs),
        ("v and o mixed", derive::mixed_v_o),
        ("all of it", derive::turned),
        ("all of it, noised and renamed", derive::disguised),
    ];
    for (ids, derivations) in [
        (&["llama-a", "qwen2-b"][..], llama),
        (&["gpt2-a"][..], &llama[..2]),
    ] {
        for id in ids {
            let original = TestModel::load(&zoo(id));
            for (label, derivation) in derivations {
                let folder = saved(&derivation(&original, SEED));
                both_ways(&zoo(id), folder.path(), &format!("{id} {label}"), &is_found);
            }
        }
    }
}

#[test]
fn a_disguised_fine_tune_is_found_and_called_disguised() {
    let tuned = TestModel::load(&zoo("llama-a-tuned"));
    let folder = saved(&derive::disguised(&tuned, SEED));
    both_ways(
        &zoo("llama-a"),
        folder.path(),
        "disguised fine-tune",
        &|report| {
            is_found(report)?;
            has_relation(Relation::Disguised)(report)
        },
    );
}

#[test]
fn a_disguised_stranger_stays_independent() {
    for derivation in [
        derive::turned as Derivation,
        derive::disguised,
        derive::permuted_units,
    ] {
        let stranger = TestModel::load(&zoo("llama-a-other-seed"));
        let folder = saved(&derivation(&stranger, SEED));
        let check = has_relation(Relation::Independent);
        both_ways(&zoo("llama-a"), folder.path(), "disguised stranger", &check);
    }
}

#[test]
fn other_depth_and_other_width_are_found() {
    for id in ["llama-a", "qwen2-b"] {
        let original = TestModel::load(&zoo(id));
        for (label, model) in [
            (
                "scaled up in depth",
                derive::depth_up_scaled(&original, &[0, 1, 2, 1, 2, 3]),
            ),
            ("a layer dropped", derive::depth_pruned(&original, 1)),
            ("layers swapped", derive::layers_swapped(&original, 1, 2)),
            (
                "a quarter of the units dropped",
                derive::width_pruned(&original, 0.75, SEED),
            ),
        ] {
            let folder = saved(&model);
            both_ways(&zoo(id), folder.path(), &format!("{id} {label}"), &is_found);
        }
    }
}

#[test]
fn half_of_a_merge_is_found() {
    let a = TestModel::load(&zoo("llama-a"));
    let b = TestModel::load(&zoo("llama-a-other-seed"));
    let folder = saved(&derive::merged(&a, &b, 0.5));
    both_ways(&zoo("llama-a"), folder.path(), "merge", &is_found);
    both_ways(
        &zoo("llama-a-other-seed"),
        folder.path(),
        "merge",
        &is_found,
    );
}

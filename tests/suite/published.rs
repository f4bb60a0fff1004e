//! Models that none of us made, from `../shared` (or `MODELKIN_SHARED`): a published case of plagiarism,
//! training runs of convolutional nets, and a real trained Llama. Skipped aloud where they are absent.

use crate::audits::{compare, record, summary};
use crate::support::shared;
use modelkin::evidence::record::{Detail, TestRecord};
use modelkin::report::Report;
use modelkin::verdict::{Relation, Strength};
use std::path::PathBuf;

fn data(path: &str) -> Option<PathBuf> {
    let folder = shared()?.join("data").join(path);
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return None;
    }
    Some(folder)
}

/// Codes and sentences of what a record saw.
fn observations(record: &TestRecord) -> Vec<(String, String)> {
    record
        .details
        .iter()
        .filter_map(|detail| match detail {
            Detail::Observations(seen) => Some(seen),
            _ => None,
        })
        .flatten()
        .map(|o| (o.code.clone(), o.message.clone()))
        .collect()
}

fn renamings(record: &TestRecord) -> Vec<(String, String)> {
    record
        .details
        .iter()
        .filter_map(|detail| match detail {
            Detail::Renamings(lines) => Some(lines),
            _ => None,
        })
        .flatten()
        .map(|line| (line.reference.clone(), line.candidate.clone()))
        .collect()
}

#[test]
fn the_files_of_llama3_v_show_their_origin_and_are_not_enough() {
    let Some(case) = data("cases/llama3-v") else {
        return;
    };
    let report = compare(&case.join("reference"), &case.join("candidate"));
    let files = record(&report, "file-identity");
    assert_eq!(files.effect("tensor-names-equal-fraction"), Some(1.0));
    assert_eq!(files.effect("declared-total-size-equal"), Some(1.0));
    let map = renamings(files);
    for (a, b) in [("vpm.", "vison."), ("resampler.", "projection.")] {
        assert!(map.contains(&(a.to_owned(), b.to_owned())), "{map:?}");
    }
    let seen = observations(files);
    assert!(
        seen.iter()
            .any(|(_, m)| m.contains("741") && m.contains("same order")),
        "{seen:?}"
    );
    assert!(
        seen.iter().any(|(_, m)| m.contains("34148369344")),
        "{seen:?}"
    );
    let dangling = observations(record(&report, "dangling-references"));
    assert!(
        dangling
            .iter()
            .any(|(code, m)| code == "dangling-module" && m.contains("modeling_minicpmv")),
        "{dangling:?}"
    );
    let config = observations(record(&report, "config-comparison"));
    assert!(
        config
            .iter()
            .any(|(code, m)| code == "keys-removed" && m.contains("slice_config")),
        "{config:?}"
    );
    let overall = &report.finding.overall;
    assert_eq!(overall.relation, Relation::Inconclusive);
    assert!(overall.strength <= Strength::Weak);
    assert!(
        overall
            .does_not_prove
            .iter()
            .any(|s| s.contains("never show that weights were derived"))
    );
}

#[test]
fn a_real_trained_llama_is_read_by_its_names_and_found_identical_to_itself() {
    let Some(folder) = data("models/stories260k") else {
        return;
    };
    let report = compare(&folder, &folder);
    assert_eq!(
        report.finding.overall.relation,
        Relation::Identical,
        "{}",
        summary(&report)
    );
    let component = &report.reference.components[0];
    assert_eq!(
        (component.family.as_str(), component.n_layers),
        ("llama", 5)
    );
}

#[test]
fn epochs_of_one_run_are_linked_and_other_runs_are_independent() {
    let Some(nets) = data("convnets") else {
        return;
    };
    let audit = |a: &str, b: &str| -> Report {
        let file = |name: &str| nets.join(format!("{name}.pth"));
        compare(&file(a), &file(b))
    };
    for (a, b, related) in [
        ("RFB-epoch100", "RFB-epoch499", Some(true)),
        ("slim-epoch100", "slim-epoch499", Some(true)),
        // After its first epoch a net is still its initialisation: linked, and no more can be told.
        ("RFB-epoch000", "RFB-epoch100", None),
        ("RFB-epoch000", "RFB-epoch499", None),
        ("slim-epoch000", "slim-epoch499", None),
    ] {
        for (a, b) in [(a, b), (b, a)] {
            let report = audit(a, b);
            println!("{a} {b}: {}", summary(&report));
            let p = record(&report, "unit-permutation").p.expect("a p-value");
            assert!(p.ln_p() < 1e-12f64.ln(), "{a} {b}: {p}");
            let found = report.finding.overall.relation;
            assert_eq!(found.related(), related, "{a} {b}: {}", summary(&report));
        }
    }
    for (a, b) in [
        ("RFB-epoch499", "version-RFB-320"),
        ("RFB-epoch000", "version-RFB-320"),
        ("slim-epoch499", "version-slim-320"),
        ("RFB-epoch499", "slim-epoch499"),
        ("version-RFB-320", "version-slim-320"),
    ] {
        for (a, b) in [(a, b), (b, a)] {
            let report = audit(a, b);
            println!("{a} {b}: {}", summary(&report));
            let found = report.finding.overall.relation;
            assert_eq!(
                found,
                Relation::Independent,
                "{a} {b}: {}",
                summary(&report)
            );
        }
    }
}

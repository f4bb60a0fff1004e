//! Adapters and what they are added to: bases in nf4 (QLoRA, trained by peft on bitsandbytes' own layers,
//! `tests/scripts/make_adapters.py`), and both of them on a hub.

use crate::adapters::{added, bf16, copied, merged, variant};
use crate::audits::{compare, compare_added, compare_within, record, summary};
use crate::hub::options;
use crate::support::hub_server::{COMMIT, HubServer, Seen};
use crate::support::quantized::assemble;
use crate::support::zoo;
use modelkin::audit::{self, Unwatched};
use modelkin::evidence::record::Status;
use modelkin::report::Report;
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use safetensors::SafeTensors;
use serde_json::json;
use std::fs;
use std::path::Path;

/// The finding on two models, the candidate's base third.
fn relation(reference: &Path, candidate: &Path, base: &Path) -> (Relation, Report) {
    let bases = [None, Some(base.to_owned())];
    let report = compare_added(reference, candidate, &bases);
    (report.finding.overall.relation, report)
}

#[test]
fn an_adapter_on_its_nf4_base_has_the_values_that_peft_merges_into_the_dequantized_base() {
    let base = assemble("nf4-nested");
    let plain = {
        let model = crate::audits::model_ref(base.path());
        let opened = audit::open(&model, &FetchOptions::default(), &Unwatched);
        opened.unwrap().0
    };
    for name in ["qlora", "qlora-continued", "qlora-other"] {
        let model = added(&variant(name), base.path()).unwrap();
        let path = variant(name).join("merged/dequantized.safetensors");
        let bytes = fs::read(path).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(expected.len(), 6, "{name}");
        let (mut n, mut n_unchanged) = (0, 0);
        for (weight, view) in expected.tensors() {
            let find = |model: &modelkin::arch::Model| {
                let tensor = model.tensors.iter().find(|t| t.name() == weight);
                tensor.unwrap().clone()
            };
            let expected = bf16(view.data());
            let range = 0..expected.len();
            let found = find(&model).read_elements(range.clone()).unwrap();
            let before = find(&plain).read_elements(range).unwrap();
            for ((found, expected), before) in found.iter().zip(&expected).zip(&before) {
                // peft rounds the base, the change and their sum to bf16, each by half of its last place.
                let sizes = before.abs() + (expected - before).abs() + expected.abs();
                let difference = (found - expected).abs();
                let most = sizes / 256.0 + 1e-7;
                assert!(
                    difference <= most,
                    "{name} {weight}: {found}, expected {expected}"
                );
                n_unchanged += usize::from((before - expected).abs() <= most);
                n += 1;
            }
        }
        // The tolerance would not let the base alone pass.
        assert!(2 * n_unchanged < n, "{name}: {n_unchanged} of {n}");
    }
}

#[test]
fn an_adapter_on_its_nf4_base_is_the_published_merge_but_for_rounding() {
    let base = assemble("nf4-nested");
    let published = merged("qlora", "llama-a");
    let (found, report) = relation(published.path(), &variant("qlora"), base.path());
    assert_eq!(found, Relation::Quantized, "{}", summary(&report));
    let bases = [Some(base.path().to_owned()), None];
    let report = compare_added(&variant("qlora"), published.path(), &bases);
    let found = report.finding.overall.relation;
    assert_eq!(found, Relation::Quantized, "{}", summary(&report));
    // The same adapter on the base that was not quantized is that merge as well.
    let (found, report) = relation(published.path(), &variant("qlora"), &zoo("llama-a"));
    assert_eq!(found, Relation::Quantized, "{}", summary(&report));
    // Another adapter of the same base is another model, though nf4 is coarse.
    for other in ["qlora-other", "qlora-continued"] {
        let (found, report) = relation(published.path(), &variant(other), base.path());
        assert_ne!(found, Relation::Quantized, "{other}: {}", summary(&report));
        assert_eq!(found.related(), Some(true), "{other}: {}", summary(&report));
    }
}

#[test]
fn an_adapter_on_its_nf4_base_is_derived_from_the_base_that_was_not_quantized() {
    let base = assemble("nf4-nested");
    for reference in [zoo("llama-a"), base.path().to_owned()] {
        let (found, report) = relation(&reference, &variant("qlora"), base.path());
        assert_eq!(found.related(), Some(true), "{}", summary(&report));
        for other in [
            Relation::Quantized,
            Relation::Identical,
            Relation::Repackaged,
        ] {
            assert_ne!(found, other, "{}", summary(&report));
        }
    }
    let stranger = zoo("llama-a-other-seed");
    let (found, report) = relation(&stranger, &variant("qlora"), base.path());
    assert_eq!(found, Relation::Independent, "{}", summary(&report));
}

#[test]
fn adapters_of_nf4_bases_are_compared_by_their_changes() {
    let relation = |a: &str, b: &str| {
        let report = compare(&variant(a), &variant(b));
        let told = record(&report, "adapter-updates");
        assert_eq!(told.status, Status::Measured, "{a}, {b}");
        report.finding.overall.relation
    };
    assert_eq!(relation("qlora", "qlora"), Relation::Identical);
    assert_eq!(relation("qlora", "qlora-continued"), Relation::Derived);
    for other in ["qlora-other", "lora"] {
        assert_ne!(relation("qlora", other).related(), Some(true), "{other}");
    }
}

fn asked_for(seen: &[Seen], repository: &str) -> usize {
    let of = seen.iter().filter(|seen| seen.path.contains(repository));
    of.count()
}

#[test]
fn adapter_and_base_may_both_be_on_a_hub_and_are_read_in_parts_or_whole() {
    let server = HubServer::start();
    server.put_folder("zoo/llama-a", &zoo("llama-a"));
    server.put_folder("someone/lora", &variant("lora"));
    server.put_folder("someone/merged", merged("lora", "llama-a").path());
    let here = compare_added(
        &zoo("llama-a"),
        &variant("lora"),
        &[None, Some(zoo("llama-a"))],
    );
    for in_parts in [true, false] {
        let cache = tempfile::tempdir().unwrap();
        let fetch = || FetchOptions {
            in_parts,
            ..options(&server, cache.path())
        };
        let names = ["hf:zoo/llama-a", "hf:someone/lora"];
        let report = compare_within(fetch(), names, [None, Some("hf:zoo/llama-a")], None);
        let found = summary(&report);
        // What is on the hub is found to be what it is in a folder.
        assert_eq!(found, summary(&here), "in parts: {in_parts}");
        assert_eq!(report.finding.overall.relation.related(), Some(true));
        let at = format!("hf:zoo/llama-a@{COMMIT}");
        let names = ["hf:someone/merged", "hf:someone/lora"];
        let report = compare_within(fetch(), names, [None, Some(&at)], None);
        let found = summary(&report);
        assert_eq!(
            report.finding.overall.relation,
            Relation::Quantized,
            "{found}"
        );
        assert!(
            report
                .candidate
                .notes
                .iter()
                .any(|note| note.contains("as the caller names it")),
            "{:?}",
            report.candidate.notes
        );
    }
}

#[test]
fn the_base_that_an_adapter_states_is_never_asked_for() {
    let server = HubServer::start();
    // The adapter states a repository of the hub that is there, and a path that is there as well.
    server.put_folder("modelkin/llama-a", &zoo("llama-a"));
    server.put_folder("zoo/llama-a", &zoo("llama-a"));
    server.put_folder("someone/lora", &variant("lora"));
    let path = zoo("llama-a").to_string_lossy().into_owned();
    let stated = copied("lora", |config| {
        config["base_model_name_or_path"] = json!(path);
    });
    server.put_folder("someone/lora-of-a-path", stated.path());
    let cache = tempfile::tempdir().unwrap();
    let names = ["hf:zoo/llama-a", "hf:someone/lora"];
    let report = compare_within(options(&server, cache.path()), names, [None, None], None);
    let overall = &report.finding.overall;
    assert_eq!(overall.relation, Relation::Inconclusive);
    let seen = server.seen();
    assert!(asked_for(&seen, "someone/lora") > 0 && asked_for(&seen, "zoo/llama-a") > 0);
    assert_eq!(asked_for(&seen, "modelkin/llama-a"), 0, "{seen:?}");
    let stated = report
        .candidate
        .notes
        .iter()
        .any(|note| note.contains("modelkin/llama-a"));
    assert!(stated, "{:?}", report.candidate.notes);
    let names = ["hf:zoo/llama-a", "hf:someone/lora-of-a-path"];
    let report = compare_within(options(&server, cache.path()), names, [None, None], None);
    assert_eq!(report.finding.overall.relation, Relation::Inconclusive);
    // With another base than it states, that one is read and the stated one is not.
    let names = ["hf:zoo/llama-a", "hf:someone/lora"];
    server.seen();
    let fetch = options(&server, cache.path());
    let report = compare_within(fetch, names, [None, Some("hf:zoo/llama-a")], None);
    assert_eq!(report.finding.overall.relation.related(), Some(true));
    assert_eq!(asked_for(&server.seen(), "modelkin/llama-a"), 0);
}

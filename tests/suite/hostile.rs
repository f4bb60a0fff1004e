//! Broken and malicious files end in an error that names them, or in failed records: never in a panic,
//! and never in a report that looks whole.

use crate::audits::{compare, record, summary, try_compare};
use crate::support::model::TestModel;
use crate::support::{corrupt, zoo};
use modelkin::audit::AuditError;
use modelkin::evidence::record::Status;
use modelkin::report::Report;
use modelkin::verdict::Relation;
use std::fs;
use std::path::Path;

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    folder
}

/// The audits in which the folder is either side.
fn both_sides(folder: &Path) -> [Result<Report, AuditError>; 2] {
    let sound = zoo("llama-a");
    [try_compare(&sound, folder), try_compare(folder, &sound)]
}

#[test]
fn every_malformed_weight_file_is_refused_with_a_message_that_names_it() {
    for file in corrupt::weight_files().iter().filter(|f| f.malformed) {
        let folder = folder_with(&[("model.safetensors", &file.bytes)]);
        for audit in both_sides(folder.path()) {
            let message = audit
                .map(|r| summary(&r))
                .expect_err(file.label)
                .to_string();
            assert!(
                message.contains("model.safetensors"),
                "{}: {message}",
                file.label
            );
        }
    }
}

#[test]
fn every_hostile_index_is_refused_or_leaves_the_weights_unexamined() {
    let (shard, bytes) = corrupt::sound_shard();
    for file in corrupt::index_files() {
        let folder = folder_with(&[
            (shard, bytes.as_slice()),
            ("model.safetensors.index.json", &file.bytes),
        ]);
        for audit in both_sides(folder.path()) {
            match audit {
                Err(error) => {
                    let message = error.to_string();
                    assert!(
                        message.contains("model.safetensors.index.json") || message.contains(shard),
                        "{}: {message}",
                        file.label
                    );
                }
                // Shards that are not there are how an index is published alone.
                Ok(report) => {
                    assert_eq!(report.finding.overall.relation, Relation::Inconclusive);
                    let notes = [&report.reference.notes, &report.candidate.notes];
                    assert!(
                        notes
                            .iter()
                            .any(|n| n.iter().any(|n| n.contains("not there"))),
                        "{}: {notes:?}",
                        file.label
                    );
                }
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_never_give_a_measurement_of_kinship() {
    for file in corrupt::weight_files().iter().filter(|f| !f.malformed) {
        let folder = folder_with(&[("model.safetensors", &file.bytes)]);
        match try_compare(folder.path(), folder.path()) {
            Err(error) => assert!(
                error.to_string().contains("expected finite values"),
                "{}: {error}",
                file.label
            ),
            Ok(report) => {
                for record in &report.records {
                    assert!(record.p.is_none(), "{}: {}", file.label, summary(&report));
                }
            }
        }
    }
}

#[test]
fn one_nan_in_one_tensor_fails_the_tests_that_read_it_and_decides_nothing() {
    let mut model = TestModel::load(&zoo("llama-a"));
    let name = "model.layers.1.mlp.up_proj.weight";
    model.get_mut(name)[[3, 5]] = f64::NAN;
    let folder = tempfile::tempdir().expect("a temporary folder");
    model.save(folder.path());
    let report = match try_compare(&zoo("llama-a-tuned"), folder.path()) {
        Ok(report) => report,
        Err(error) => {
            assert!(error.to_string().contains(name), "{error}");
            return;
        }
    };
    for test in ["unit-permutation", "gate-up-matching", "weight-similarity"] {
        let record = record(&report, test);
        assert_eq!(record.status, Status::Failed, "{test}");
        let reason = record.reason.as_deref().unwrap_or_default();
        assert!(reason.contains(name), "{test}: {reason}");
    }
    assert_eq!(
        report.finding.overall.relation,
        Relation::Inconclusive,
        "{}",
        summary(&report)
    );
}

#[test]
fn a_config_that_is_no_json_is_said_to_be_so_and_the_weights_still_speak() {
    let model = TestModel::load(&zoo("llama-a"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    model.save(folder.path());
    fs::write(folder.path().join("config.json"), b"{\"hidden_size\": ").expect("a file");
    let report = compare(&zoo("llama-a"), folder.path());
    let config = record(&report, "config-comparison");
    assert_ne!(config.status, Status::Measured);
    let reason = config.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("config.json"), "{reason}");
    assert_eq!(report.finding.overall.relation.related(), Some(true));
}

/// A safetensors file of so many tensors without values.
fn many_tensors(n: usize) -> Vec<u8> {
    let mut header = String::from("{");
    for i in 0..n {
        let comma = if i == 0 { "" } else { "," };
        header +=
            &format!("{comma}\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    }
    header.push('}');
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

#[test]
fn a_header_of_a_million_tensors_is_answered() {
    let folder = folder_with(&[("model.safetensors", &many_tensors(1_000_000))]);
    let start = std::time::Instant::now();
    let [as_candidate, as_reference] = both_sides(folder.path());
    println!("two audits of a million tensors: {:?}", start.elapsed());
    for report in [as_candidate, as_reference] {
        let report = report.expect("an empty tensor is a tensor");
        assert_eq!(
            report.finding.overall.relation.related(),
            None,
            "{}",
            summary(&report)
        );
    }
}

#[test]
fn an_index_of_a_million_shards_is_answered() {
    let mut index = String::from("{\"weight_map\":{");
    for i in 0..1_000_000 {
        let comma = if i == 0 { "" } else { "," };
        index += &format!("{comma}\"{i}\":\"{i}.safetensors\"");
    }
    index += "}}";
    let folder = folder_with(&[("model.safetensors.index.json", index.as_bytes())]);
    let start = std::time::Instant::now();
    for report in both_sides(folder.path()) {
        let report = report.expect("shards that are not there are how an index is published alone");
        assert_eq!(report.finding.overall.relation, Relation::Inconclusive);
    }
    println!("two audits of a million shards: {:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn links_to_devices_and_pipes_are_no_files_of_a_model() {
    let folder = folder_with(&[("config.json", b"{}")]);
    let link = folder.path().join("model.safetensors");
    std::os::unix::fs::symlink("/dev/zero", link).expect("a link");
    let pipe = folder.path().join("pytorch_model.bin");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    for report in both_sides(folder.path()) {
        let report = report.expect("a folder with a config and no weights");
        assert_eq!(report.finding.overall.relation, Relation::Inconclusive);
    }
}

//! Models of a few files each, and the published case, for the tests of artefact evidence.

use super::context::{EvidenceError, Settings};
use super::pair::Pair;
use super::record::{Detail, Observation, TestRecord};
use crate::arch::Model;
use crate::arch::artefact::{Artefacts, FileEntry};
use crate::checkpoint::{self, Checkpoint, CheckpointFile, DeclaredIndex};
use crate::source::bytes::LocalFile;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn artefacts(files: Vec<(String, Vec<u8>)>) -> Artefacts {
    let mut read = Artefacts::default();
    for (path, content) in files {
        let digest: String = Sha256::digest(&content)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        read.files.push(FileEntry {
            path: path.clone(),
            size_bytes: content.len() as u64,
            sha256_is_stated: false,
            sha256: Some(digest),
            git_blob: None,
        });
        read.contents.insert(path, content);
    }
    read
}

/// A model of these files and no weights.
pub(super) fn model(files: &[(&str, &str)]) -> Model {
    labelled("organisation/some-model", files)
}

/// The same under a label of its own.
pub(super) fn labelled(label: &str, files: &[(&str, &str)]) -> Model {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    Model::new(label, Checkpoint::default(), artefacts(files)).unwrap()
}

/// A model of an index and nothing else.
pub(super) fn named(names: &[&str], total_size: Option<u64>) -> Model {
    let weight_map = names
        .iter()
        .map(|n| ((*n).to_owned(), "a.safetensors".to_owned()))
        .collect();
    let file = "model.safetensors.index.json".to_owned();
    let declared = Some(DeclaredIndex {
        file,
        weight_map,
        total_size,
    });
    let checkpoint = Checkpoint {
        declared,
        ..Checkpoint::default()
    };
    Model::new("organisation/named", checkpoint, Artefacts::default()).unwrap()
}

/// Runs a test of the whole model on a pair.
pub(super) fn compare(
    reference: &Model,
    candidate: &Model,
    run: fn(&Pair, &Settings) -> Result<TestRecord, EvidenceError>,
) -> TestRecord {
    let settings = Settings::default();
    let pair = Pair::new(reference, candidate, &settings).unwrap();
    run(&pair, &settings).unwrap()
}

/// Everything seen.
pub(super) fn observations(record: &TestRecord) -> Vec<Observation> {
    let seen = record.details.iter().filter_map(|detail| match detail {
        Detail::Observations(seen) => Some(seen.clone()),
        _ => None,
    });
    seen.flatten().collect()
}

/// The codes of everything seen.
pub(super) fn codes(record: &TestRecord) -> Vec<String> {
    observations(record).into_iter().map(|o| o.code).collect()
}

fn folder(label: &str, folder: &Path) -> Model {
    let mut files = Vec::new();
    let mut checkpoint_files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = Arc::new(LocalFile::open(&path, &name).unwrap());
        checkpoint_files.push(CheckpointFile {
            path: name.clone(),
            source,
        });
        files.push((name, std::fs::read(&path).unwrap()));
    }
    files.sort();
    let checkpoint = checkpoint::open(&checkpoint_files).unwrap();
    Model::new(label, checkpoint, artefacts(files)).unwrap()
}

/// Reference and candidate of the published Llama3-V case, where its files are at hand.
pub(super) fn llama3_v() -> Option<(Model, Model)> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("MODELKIN_SHARED").map_or(beside, PathBuf::from);
    let case = root.join("data/cases/llama3-v");
    if !case.is_dir() {
        eprintln!("skipped: {} is not there", case.display());
        return None;
    }
    let reference = folder("openbmb/MiniCPM-Llama3-V-2_5", &case.join("reference"));
    Some((
        reference,
        folder("mustafaaljadery/llama3v", &case.join("candidate")),
    ))
}

//! The engine computes of a GGUF file what transformers computes of the original: `tests/data/gguf/parity`.

use crate::audits::{compare, summary};
use crate::support::reference::{Reference, errors};
use modelkin::arch::Model;
use modelkin::arch::spec::ModelSpec;
use modelkin::audit::{self, Unwatched};
use modelkin::engine::cpu::Cpu;
use modelkin::engine::{Chunk, Decoder, Logits, Piece, Wanted};
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use std::fs;
use std::path::{Path, PathBuf};

/// As for every family: `tests/suite/parity.rs`.
const MAX_NMSE: f64 = 1e-9;
/// Greatest difference of a logit.
const MAX_DIFFERENCE: f64 = 1e-3;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/parity")
}

fn open(path: &Path) -> Model {
    let model = path.to_str().unwrap().parse().unwrap();
    audit::open(&model, &FetchOptions::default(), &Unwatched)
        .unwrap()
        .0
}

fn logits(model: &Model, ids: &[u32]) -> Result<Vec<f32>, String> {
    let spec = ModelSpec::read(model.config.as_ref().unwrap()).map_err(|e| e.to_string())?;
    let decoder = Decoder::load(model, spec, Cpu::<f32>::new(), &mut |_| {});
    let decoder = decoder.map_err(|e| e.to_string())?;
    let mut cache = decoder.cache(ids.len()).unwrap();
    let mut chunks = [Chunk {
        cache: &mut cache,
        pieces: vec![Piece::Tokens(ids)],
    }];
    let wanted = Wanted {
        logits: Logits::All,
        ..Wanted::default()
    };
    let computed = decoder.forward(&mut chunks, &wanted).unwrap();
    Ok(computed.logits.unwrap().values)
}

#[test]
fn files_of_every_architecture_that_is_read_completely_compute_what_the_original_computes() {
    let mut failed = Vec::new();
    let mut n_cases = 0;
    let mut entries: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    entries.sort();
    for path in entries {
        n_cases += 1;
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let reference = Reference::read_file(&path.with_extension("safetensors"));
        match logits(&open(&path), &reference.ids()) {
            Err(why) => failed.push(format!("{name}: {why}")),
            Ok(ours) => {
                let (nmse, greatest) = errors(&ours, reference.values("logits"));
                println!("{name}: NMSE {nmse:.1e}, greatest difference {greatest:.1e}");
                if !(nmse < MAX_NMSE && greatest < MAX_DIFFERENCE) {
                    failed.push(format!("{name}: NMSE {nmse:.1e}, greatest {greatest:.1e}"));
                }
            }
        }
    }
    assert_eq!(n_cases, 29);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_config_beside_a_file_of_gemma_is_refused_since_its_gains_would_be_off_by_one() {
    let beside = tempfile::tempdir().unwrap();
    fs::copy(folder().join("gemma.gguf"), beside.path().join("m.gguf")).unwrap();
    let config =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/models/gemma/config.json");
    fs::copy(config, beside.path().join("config.json")).unwrap();
    let error = logits(&open(beside.path()), &[3, 4]).unwrap_err();
    assert!(error.contains("move config.json away"), "{error}");
}

#[test]
fn a_file_of_every_architecture_is_its_original_in_another_package() {
    let originals = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/models");
    // Others are of models with changed keys, or hold the 1 of Gemma's gains.
    for name in [
        "llama31",
        "mixtral",
        "qwen3-moe",
        "phi3",
        "gpt2",
        "gpt-neox",
        "bloom",
        "falcon-7b",
        "stablelm",
        "stablelm-qk",
        "internlm2",
        "minicpm",
        "olmo",
        "olmo2",
        "qwen1",
        "deepseek-v3",
    ] {
        let file = folder().join(format!("{name}.gguf"));
        let report = compare(&originals.join(name), &file);
        let relation = report.finding.overall.relation;
        assert_eq!(
            relation,
            Relation::Repackaged,
            "{name}: {}",
            summary(&report)
        );
    }
}

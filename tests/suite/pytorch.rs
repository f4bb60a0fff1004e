//! PyTorch checkpoints as torch itself writes them, whole, cut and bent.
//!
//! The files and what torch reads in them come from `tests/scripts/make_pytorch_fixtures.py`.

use crate::support::shared;
use modelkin::checkpoint::{self, Checkpoint, CheckpointError, CheckpointFile};
use modelkin::source::bytes::MemoryFile;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than any reading of a small file takes, and shorter than a hang.
const SOON: Duration = Duration::from_secs(5);

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(data().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn file(name: &str, bytes: Vec<u8>) -> CheckpointFile {
    CheckpointFile {
        path: name.into(),
        source: Arc::new(MemoryFile::new(name, bytes)),
    }
}

fn open_bytes(name: &str, bytes: Vec<u8>) -> Result<Checkpoint, CheckpointError> {
    checkpoint::open(&[file(name, bytes)])
}

fn open(name: &str) -> Checkpoint {
    open_bytes(name, bytes(name)).unwrap()
}

fn refusal(name: &str) -> String {
    open_bytes(name, bytes(name)).unwrap_err().to_string()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".json"))
        .collect();
    names.sort();
    names
}

/// Reads what the first tensors hold, as a test that looks at them would.
fn look_at(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors.iter().take(64) {
        // Either is fine; neither panics.
        let n = tensor.n_elements().min(256);
        let _ = tensor.read_elements(0..n);
        let _ = tensor.read_elements(tensor.n_elements() - n..tensor.n_elements());
    }
}

fn assert_as_torch_reads_it(label: &str, checkpoint: &Checkpoint, expected: &Value) {
    let expected = expected.as_array().unwrap();
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name()).collect();
    let expected_names: Vec<&str> = expected.iter().map(|t| t[0].as_str().unwrap()).collect();
    assert_eq!(names, expected_names, "{label}");
    for (tensor, expected) in checkpoint.tensors.iter().zip(expected) {
        let label = format!("{label}: {}", tensor.name());
        assert_eq!(tensor.dtype().name(), expected[1], "{label}");
        let shape: Vec<u64> = tensor.shape().iter().map(|n| *n as u64).collect();
        assert_eq!(serde_json::json!(shape), expected[2], "{label}");
        let values = tensor.read_elements(0..tensor.n_elements()).unwrap();
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let wanted = expected[3].as_array().unwrap().iter();
        let wanted: Vec<f64> = wanted.map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(values, wanted, "{label}");
    }
}

#[test]
fn every_tensor_is_what_torch_reads() {
    let expected: BTreeMap<String, Value> =
        serde_json::from_slice(&bytes("expected.json")).unwrap();
    assert!(expected.len() > 10);
    for (name, tensors) in &expected {
        if name != "sharded" {
            let checkpoint = open(name);
            assert_eq!(checkpoint.format, "pytorch");
            assert_as_torch_reads_it(name, &checkpoint, tensors);
        }
    }
}

#[test]
fn shards_are_read_by_their_index_and_all_of_them_must_be_there() {
    let folder = data().join("sharded");
    let read = |name: &str| file(name, fs::read(folder.join(name)).unwrap());
    let index = || read("pytorch_model.bin.index.json");
    let (first, second) = (
        read("pytorch_model-00001-of-00002.bin"),
        read("pytorch_model-00002-of-00002.bin"),
    );
    let expected: Value = serde_json::from_slice(&bytes("expected.json")).unwrap();
    let both = [index(), first.clone(), second.clone()];
    let checkpoint = checkpoint::open(&both).unwrap();
    assert_as_torch_reads_it("sharded", &checkpoint, &expected["sharded"]);
    assert_eq!(checkpoint.declared.unwrap().total_size, Some(56));
    let without_index = checkpoint::open(&[first.clone(), second]).unwrap();
    assert_as_torch_reads_it("sharded", &without_index, &expected["sharded"]);
    for files in [vec![index(), first.clone()], vec![first]] {
        let error = checkpoint::open(&files).unwrap_err().to_string();
        assert!(
            error.contains("pytorch_model-00002-of-00002.bin"),
            "{error}"
        );
    }
}

#[test]
fn safetensors_beside_a_pickle_are_what_is_read() {
    let header = br#"{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}"#;
    let safe = [
        &(header.len() as u64).to_le_bytes(),
        header.as_slice(),
        b"xy",
    ]
    .concat();
    let pickle = file("pytorch_model.bin", bytes("views.pt"));
    let checkpoint = checkpoint::open(&[pickle, file("model.safetensors", safe)]).unwrap();
    assert_eq!(checkpoint.format, "safetensors");
    assert_eq!(checkpoint.tensors.len(), 1);
}

#[test]
fn a_training_checkpoint_gives_its_weights_and_tells_the_rest() {
    let checkpoint = open("training.ckpt");
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name()).collect();
    assert_eq!(names, ["weight", "bias"]);
    let notes = checkpoint.notes.join("\n");
    for words in [
        "the state of an optimiser (Adam: exp_avg, exp_avg_sq of 2 parameters), left aside",
        "epoch = 100",
        "args.arch = linear",
        "best_acc1, lr_scheduler, rng_state, left aside",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert_eq!(checkpoint.metadata["epoch"], "100");
    assert_eq!(checkpoint.metadata["args.lr"], "0.125");
    let notes = open("average.pt").notes.join("\n");
    assert!(notes.contains("model_ema, left aside"), "{notes}");
}

#[test]
fn what_holds_no_plain_tensors_is_refused_by_name() {
    for (name, words) in [
        (
            "complex.pt",
            "w: expected a dtype that is read here, found the dtype complex64",
        ),
        ("quantized.pt", "the global `torch._utils._rebuild_qtensor`"),
        (
            "sparse.pt",
            "the global `torch._utils._rebuild_sparse_tensor`",
        ),
        ("module.pt", "the global `torch.nn.modules.linear.Linear`"),
        (
            "optimizer-only.pt",
            "only the state of an optimiser (SGD with momentum",
        ),
    ] {
        let error = refusal(name);
        assert!(error.starts_with(name) && error.contains(words), "{error}");
    }
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    for name in [
        "protocol-4.pt",
        "views-legacy.pth",
        "sharded/pytorch_model-00001-of-00002.bin",
    ] {
        let whole = bytes(name);
        let start = Instant::now();
        for n in 0..whole.len() {
            let cut = open_bytes("cut.pth", whole[..n].to_vec());
            let error = cut.map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("cut.pth: "), "{name} cut at {n}: {error}");
        }
        assert!(start.elapsed() < SOON, "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn any_flipped_bit_is_an_error_or_another_file_but_never_a_crash() {
    for name in ["protocol-1.pt", "protocol-4.pt", "dtypes-legacy.pth"] {
        let whole = bytes(name);
        let start = Instant::now();
        let mut refused = 0;
        for n in 0..whole.len() * 8 {
            let mut bent = whole.clone();
            bent[n / 8] ^= 1 << (n % 8);
            match open_bytes("bent.pth", bent) {
                Ok(checkpoint) => look_at(&checkpoint),
                Err(_) => refused += 1,
            }
        }
        // Flips in padding, dates and checksums change nothing that is read.
        assert!(refused > whole.len(), "{name}: {refused}");
        assert!(start.elapsed() < 4 * SOON, "{name}: {:?}", start.elapsed());
    }
}

/// One random change of the kinds that fuzzers find most with: bytes, small numbers, blocks.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..6u8) {
        0 => bytes[at] = rng.random(),
        1 => bytes[at] = bytes[at].wrapping_add(1),
        2 => bytes.truncate(at),
        3 => {
            let n = rng.random_range(0..16).min(bytes.len() - at);
            bytes[at..at + n].fill(*[0, 0xff, 0x7f].get(n % 3).unwrap());
        }
        // A block is repeated elsewhere: opcodes in new order, headers twice.
        4 => {
            let n = rng.random_range(1..64).min(bytes.len() - at);
            let block = bytes[at..at + n].to_vec();
            let to = rng.random_range(0..bytes.len());
            bytes.splice(to..to, block);
        }
        _ => {
            let n = rng.random_range(1..16).min(bytes.len() - at);
            bytes.drain(at..at + n);
        }
    }
}

#[test]
fn thousands_of_random_mutations_are_read_or_refused_without_a_crash() {
    let seeds: Vec<(String, Vec<u8>)> = files_in(&data())
        .into_iter()
        .map(|name| (name.clone(), bytes(&name)))
        .collect();
    assert!(seeds.len() > 10);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let start = Instant::now();
    let (mut n_read, mut n_refused) = (0, 0);
    for _ in 0..2000 {
        for (name, whole) in &seeds {
            let mut bent = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                mutate(&mut bent, &mut rng);
            }
            match open_bytes(name, bent) {
                Ok(checkpoint) => {
                    look_at(&checkpoint);
                    n_read += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    n_refused += 1;
                }
            }
        }
    }
    println!(
        "{n_read} read, {n_refused} refused in {:?}",
        start.elapsed()
    );
    assert!(n_read > 100 && n_refused > 1000);
    assert!(start.elapsed() < 4 * SOON, "{:?}", start.elapsed());
}

#[test]
fn published_convolutional_checkpoints_are_read_whole() {
    let Some(folder) = shared().map(|shared| shared.join("data/convnets")) else {
        return;
    };
    if !folder.is_dir() {
        eprintln!("skipped: no {}", folder.display());
        return;
    }
    // Counted by torch.
    for (name, n_tensors, n_values) in [
        ("RFB-epoch000.pth", 244, 281_135),
        ("version-slim-320.pth", 184, 264_757),
    ] {
        let checkpoint = open_bytes(name, fs::read(folder.join(name)).unwrap()).unwrap();
        assert_eq!(checkpoint.tensors.len(), n_tensors);
        let n: usize = checkpoint.tensors.iter().map(|t| t.n_elements()).sum();
        assert_eq!(n, n_values);
        for tensor in &checkpoint.tensors {
            let values = tensor.read_elements(0..tensor.n_elements()).unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{}", tensor.name());
        }
    }
}

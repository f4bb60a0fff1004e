//! Decoding of GGUF's block types and of bf16, in GB/s of stored bytes, beside plain reads of the same file
//! from the page cache and the `gguf` Python package's `dequantize` on the same bytes, in one run.
//!
//! Variables: `MODELKIN_BENCH_DIR` (where the file goes; default `target/bench-data`), `MODELKIN_BENCH_MIB`
//! (its size, default 128), `MODELKIN_PYTHON` (an interpreter with `gguf`; without it the column is empty).

mod support;

use modelkin::source::bytes::{ByteSource, LocalFile};
use modelkin::tensor::{BlockType, DType};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{N_REPEATS, Report, mix, seconds};

/// Bytes at a time, about: as tests read them.
const CHUNK: usize = 1 << 20;

/// GB/s of stored bytes by type, as the peer's script prints them: a name and a number a line.
fn peer(path: &Path) -> BTreeMap<String, f64> {
    let Some(python) = std::env::var_os("MODELKIN_PYTHON") else {
        return BTreeMap::new();
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/gguf_decode.py");
    let output = Command::new(python).arg(script).arg(path).output();
    let output = output.expect("MODELKIN_PYTHON runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, rate)| Some((name.to_owned(), rate.parse().ok()?)))
        .collect()
}

fn main() {
    let n_mib: usize = std::env::var("MODELKIN_BENCH_MIB").map_or(128, |n| n.parse().expect("MiB"));
    let root = std::env::var("MODELKIN_BENCH_DIR")
        .map_or(PathBuf::from("target/bench-data"), PathBuf::from);
    std::fs::create_dir_all(&root).expect("the folder can be made");
    let path = root.join("decode.bin");
    let mut bytes = vec![0u8; n_mib << 20];
    bytes.par_chunks_mut(8).enumerate().for_each(|(i, out)| {
        out.copy_from_slice(&mix(1, i as u64).to_le_bytes()[..out.len()]);
    });
    std::fs::write(&path, &bytes).expect("there is room for the file");
    drop(bytes);
    let file = LocalFile::open(&path, "decode.bin").expect("the file was written");
    let peer = peer(&path);
    let mut report = Report::new("decode", "Decoding of quantized blocks");
    report.line(&format!(
        "{n_mib} MiB of random bytes in the page cache, about 1 MiB at a time, median of {N_REPEATS} repeats. \
         GB/s of stored bytes; in brackets billions of values a second. `gguf` is the Python package's \
         `dequantize` (numpy, one thread) on 16 MiB of the same bytes in memory, best of 3.\n"
    ));
    report.line(
        "| pass | one thread | all threads | gguf | one thread against gguf |\n|---|---|---|---|---|",
    );
    let mut measure = |name: &str, dtype: Option<DType>| {
        let (n_bytes, n_values) = dtype.map_or((1, 0), |d| (d.size_bytes(), d.block_elements()));
        let chunk = (CHUNK / n_bytes * n_bytes) as u64;
        let len = file.len() / chunk * chunk;
        let starts: Vec<u64> = (0..len).step_by(chunk as usize).collect();
        let pass = |start: u64| {
            let bytes = file.read(start..start + chunk).expect("the file is whole");
            if let Some(dtype) = dtype {
                let mut out = vec![0.0f32; bytes.len() / n_bytes * n_values];
                dtype.decode(&bytes, &mut out);
                black_box(&out);
            }
            black_box(&*bytes);
        };
        let alone = seconds(|| starts.iter().for_each(|&start| pass(start)));
        let all = seconds(|| starts.par_iter().for_each(|&start| pass(start)));
        let (gb, per_byte) = (len as f64 / 1e9, n_values as f64 / n_bytes as f64);
        let cell = |seconds: f64| match n_values {
            0 => format!("{:.2}", gb / seconds),
            _ => format!("{:.2} ({:.2})", gb / seconds, gb * per_byte / seconds),
        };
        let theirs = peer.get(name);
        report.line(&format!(
            "| {name} | {} | {} | {} | {} |",
            cell(alone),
            cell(all),
            theirs.map_or("–".to_owned(), |rate| format!("{rate:.3}")),
            theirs.map_or("–".to_owned(), |rate| format!(
                "{:.0}×",
                gb / alone / rate
            )),
        ));
    };
    measure("read from the page cache", None);
    measure("BF16", Some(DType::BF16));
    for block in BlockType::all() {
        measure(block.name(), Some(DType::Block(block)));
    }
    let _ = std::fs::remove_file(&path);
    report.finish();
}

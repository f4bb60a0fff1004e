//! Decoding of dtypes and streaming moments, in GB/s of stored bytes, beside plain reads of the same
//! file from the page cache: what a pass over the weights costs beyond having them.
//!
//! Variables: `MODELKIN_BENCH_DIR` (where the file goes; default `target/bench-data`),
//! `MODELKIN_BENCH_MIB` (its size, default 512).

mod support;

use modelkin::source::bytes::{ByteSource, LocalFile};
use modelkin::source::digest;
use modelkin::stats::{CoMoments, Moments};
use modelkin::tensor::DType;
use rayon::prelude::*;
use std::hint::black_box;
use std::path::PathBuf;
use support::{N_REPEATS, Normals, Report, mix, seconds};

/// Bytes at a time, as tests read them.
const BLOCK: usize = 1 << 20;

fn main() {
    let n_mib: usize = std::env::var("MODELKIN_BENCH_MIB").map_or(512, |n| n.parse().expect("MiB"));
    let root = std::env::var("MODELKIN_BENCH_DIR")
        .map_or(PathBuf::from("target/bench-data"), PathBuf::from);
    std::fs::create_dir_all(&root).expect("the folder can be made");
    let path = root.join("streaming.bin");
    // Normal bf16 values; the other dtypes read the same bytes, masked where those would be NaN.
    let normals = Normals::new();
    let n = n_mib << 20;
    let mut bytes = vec![0u8; n];
    bytes.par_chunks_mut(8).enumerate().for_each(|(i, out)| {
        for (out, draw) in out.chunks_mut(2).zip(normals.four(mix(1, i as u64))) {
            out.copy_from_slice(&half::bf16::from_f32(0.02 * draw).to_le_bytes());
        }
    });
    std::fs::write(&path, &bytes).expect("there is room for the file");
    let file = LocalFile::open(&path, "streaming.bin").expect("the file was written");
    let len = file.len();
    let blocks: Vec<u64> = (0..len).step_by(BLOCK).collect();
    let read = |start: u64| {
        file.read(start..len.min(start + BLOCK as u64))
            .expect("the file is whole")
    };
    let mut report = Report::new("streaming", "Streaming throughput");
    report.line(&format!(
        "{n_mib} MiB in the page cache, blocks of 1 MiB, median of {N_REPEATS} repeats. GB/s of stored \
         bytes.\n"
    ));
    report.line("| pass | one thread | all threads |\n|---|---|---|");
    let gb = len as f64 / 1e9;
    let mut measure = |name: &str, pass: &(dyn Fn(u64) + Sync)| {
        let alone = seconds(|| blocks.iter().for_each(|&start| pass(start)));
        let all = seconds(|| blocks.par_iter().for_each(|&start| pass(start)));
        report.line(&format!("| {name} | {:.2} | {:.2} |", gb / alone, gb / all));
    };
    measure("read from the page cache", &|start| {
        black_box(&*read(start));
    });
    for dtype in [
        DType::BF16,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I8,
    ] {
        measure(&format!("read, decode {}", dtype.name()), &|start| {
            let bytes = read(start);
            let mut out = vec![0.0f32; bytes.len() / dtype.size_bytes()];
            dtype.decode(&bytes, &mut out);
            black_box(&out);
        });
    }
    let decoded = |start: u64| {
        let bytes = read(start);
        let mut out = vec![0.0f32; bytes.len() / 2];
        DType::BF16.decode(&bytes, &mut out);
        out
    };
    measure("read, decode BF16, moments", &|start| {
        let mut moments = Moments::default();
        moments.add_slice(&decoded(start));
        black_box(moments.std());
    });
    measure("read, decode BF16, joint moments with the same", &|start| {
        let values = decoded(start);
        let mut moments = CoMoments::default();
        moments.add_slices(&values, &values);
        black_box(moments.std_x());
    });
    let sha256 = seconds(|| {
        black_box(digest::sha256_hex(&file).expect("the file is whole"));
    });
    report.line(&format!(
        "| SHA-256 of the file (one reader, one hasher) | {:.2} | – |",
        gb / sha256
    ));
    let _ = std::fs::remove_file(&path);
    report.finish();
}

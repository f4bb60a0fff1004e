//! The exact assignment, from 512 to 30,000 units: time by size and kind of similarity, beside
//! `scipy.optimize.linear_sum_assignment` on the same matrices, with equal totals checked.
//!
//! Kinds: `planted` (a copy: one similarity of 1 a row), `noisy` (a planted one of four standard
//! deviations, so that chance sometimes beats it), `random` (independent normal cosines at width
//! 4,096), `structured` (cosines of random vectors in 64 dimensions: rows compete for the same columns).
//!
//! Variables: `MODELKIN_BENCH_SIZES` (default `512,2048,8192,14336,30000`; the last needs 3.6 GB),
//! `MODELKIN_BENCH_KINDS`, `MODELKIN_PYTHON` (an interpreter with NumPy and SciPy; without one only
//! our side is measured), `MODELKIN_BENCH_SCIPY_MAX` (largest size given to SciPy, default 8192: it
//! works in f64 and alone).

mod support;

use modelkin::stats::{assign_max, sampling};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::{Normals, Report, mix};

/// Standard deviation of the cosine of two independent vectors of 4,096 values.
const SPREAD: f32 = 1.0 / 64.0;
const STRUCTURED_WIDTH: usize = 64;

const SCRIPT: &str = "
import sys, time
import numpy, scipy
from scipy.optimize import linear_sum_assignment
n, m = int(sys.argv[2]), int(sys.argv[3])
x = numpy.fromfile(sys.argv[1], dtype='<f4').reshape(n, m).astype('f8')
start = time.perf_counter()
rows, cols = linear_sum_assignment(x, maximize=True)
seconds = time.perf_counter() - start
print(seconds, repr(float(x[rows, cols].sum())), scipy.__version__)
";

fn similarity(kind: &str, n_rows: usize, n_cols: usize) -> Array2<f32> {
    let normals = Normals::new();
    let seed = mix(7, (n_rows * 1_000_003 + n_cols) as u64);
    let mut values = Array2::<f32>::zeros((n_rows, n_cols));
    if kind == "structured" {
        let vectors = |n: usize, seed: u64| {
            let mut x = Array2::from_shape_fn((n, STRUCTURED_WIDTH), |(i, j)| {
                normals.four(mix(seed, (i * STRUCTURED_WIDTH + j) as u64))[0]
            });
            for mut row in x.axis_iter_mut(Axis(0)) {
                let norm = row.dot(&row).sqrt();
                row /= norm;
            }
            x
        };
        let (a, b) = (vectors(n_rows, seed), vectors(n_cols, seed + 1));
        ndarray::linalg::general_mat_mul(1.0, &a, &b.t(), 0.0, &mut values);
        return values;
    }
    let planted = match kind {
        "planted" => 1.0,
        "noisy" => 4.0 * SPREAD,
        _ => 0.0,
    };
    let truth = sampling::permutation(n_cols, &mut sampling::rng(seed, "bench/assignment"));
    values
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(i, mut row)| {
            let stream = mix(seed, i as u64);
            for (quad, chunk) in row
                .as_slice_mut()
                .unwrap_or_default()
                .chunks_mut(4)
                .enumerate()
            {
                let draws = normals.four(mix(stream, quad as u64));
                for (value, draw) in chunk.iter_mut().zip(draws) {
                    *value = SPREAD * draw;
                }
            }
            row[truth[i]] += planted;
        });
    values
}

/// Seconds, total and version of SciPy on the same matrix.
fn scipy(python: &str, values: &Array2<f32>) -> Option<(f64, f64, String)> {
    let path = std::env::temp_dir().join(format!("modelkin-assignment-{}.f32", std::process::id()));
    write_raw(&path, values).expect("the temporary folder has room for the matrix");
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(&path)
        .args([values.nrows().to_string(), values.ncols().to_string()])
        .output();
    let _ = std::fs::remove_file(&path);
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let mut words = text.split_whitespace();
    Some((
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.to_owned(),
    ))
}

fn write_raw(path: &Path, values: &Array2<f32>) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    for value in values {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

fn main() {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let python = std::env::var("MODELKIN_PYTHON").ok();
    let scipy_max: usize = variable("MODELKIN_BENCH_SCIPY_MAX", "8192")
        .parse()
        .expect("a number");
    let kinds = variable("MODELKIN_BENCH_KINDS", "planted,noisy,random,structured");
    let sizes = variable("MODELKIN_BENCH_SIZES", "512,2048,8192,14336,30000");
    let mut shapes: Vec<(usize, usize)> = sizes
        .split(',')
        .map(|size| size.trim().parse().expect("a number"))
        .map(|n| (n, n))
        .collect();
    // What an audit asks of an MLP of 8B shape.
    shapes.push((2048, 14_336));
    let mut report = Report::new("assignment", "Exact assignment");
    report.line("| kind | rows × columns | matrix | ours | SciPy | ours on one thread | totals |");
    report.line("|---|---|---|---|---|---|---|");
    let mut version = None;
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = alone.expect("a thread can be started");
    for kind in kinds.split(',') {
        for &(n_rows, n_cols) in &shapes {
            let values = similarity(kind, n_rows, n_cols);
            let started = Instant::now();
            let found = assign_max(values.view()).expect("the values are finite");
            let seconds = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let again = alone.install(|| assign_max(values.view()).expect("the values are finite"));
            let seconds_alone = started.elapsed().as_secs_f64();
            assert_eq!(
                found, again,
                "the matching depends on the number of threads"
            );
            let theirs = python
                .as_deref()
                .filter(|_| n_rows <= scipy_max)
                .and_then(|python| scipy(python, &values));
            let (their_time, totals) = match &theirs {
                Some((seconds, total, of)) => {
                    version.get_or_insert(of.clone());
                    let difference = (found.total - total).abs() / total.abs().max(1.0);
                    assert!(
                        difference < 1e-9,
                        "{kind} {n_rows} × {n_cols}: {} against {total}",
                        found.total
                    );
                    (
                        format!("{seconds:.3} s"),
                        format!("equal to {difference:.0e}"),
                    )
                }
                None => ("not run".to_owned(), "–".to_owned()),
            };
            report.line(&format!(
                "| {kind} | {n_rows} × {n_cols} | {:.0} MB | {seconds:.3} s | {their_time} | \
                 {seconds_alone:.3} s | {totals} |",
                (n_rows * n_cols * 4) as f64 / 1e6
            ));
        }
    }
    if let Some(version) = version {
        report.line(&format!("\nSciPy {version}, in f64 as it demands."));
    }
    report.finish();
}

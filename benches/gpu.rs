//! The kernels for graphics cards: matrix products in TFLOP/s, kernels bound by memory in GB/s beside a
//! plain copy by the same device, attention in time. With every index checked, as they are by default, and
//! without.
//!
//! Variables: `MODELKIN_BENCH_DEVICE` (default `auto`), `MODELKIN_BENCH_MAX` (largest side of a product,
//! default 8192; the other sizes shrink with it).

mod support;

use cubecl::prelude::Runtime;
use modelkin::arch::spec::{Activation, NormSpec};
use modelkin::engine::EngineError;
use modelkin::engine::backend::{AttentionShape, Backend};
use modelkin::engine::gpu::{Gpu, GpuBackend, open};
use modelkin::tensor::{DType, Matrix, Tensor, TensorBytes, TensorError};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use support::Report;

/// Batches of which the median is stated.
const N_REPEATS: usize = 5;
/// A batch is repeated until it takes so long.
const BATCH_SECONDS: f64 = 0.02;

type Outcome<T> = Result<T, EngineError>;

/// bf16 values near 0.01 that differ from each other, made as they are read.
#[derive(Debug)]
struct Made;

impl TensorBytes for Made {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        let low = |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        Ok(range
            .map(|at| {
                if at % 2 == 0 {
                    low(at)
                } else {
                    0x3c ^ (low(at) & 0x80)
                }
            })
            .collect())
    }

    fn file(&self) -> &str {
        "made"
    }
}

fn matrix(n_rows: usize, n_cols: usize) -> Outcome<Matrix> {
    let tensor = Tensor::new(
        "w".into(),
        DType::BF16,
        vec![n_rows, n_cols],
        Arc::new(Made),
        0,
    )?;
    Ok(Matrix::new(tensor)?)
}

/// Median seconds of one call, the device waited for after each batch.
fn seconds<R: Runtime>(gpu: &Gpu<R>, mut call: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    call()?;
    gpu.synchronize()?;
    let mut n = 1;
    let mut times = Vec::new();
    while times.len() < N_REPEATS {
        let started = Instant::now();
        for _ in 0..n {
            call()?;
        }
        gpu.synchronize()?;
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed < BATCH_SECONDS && n < 1024 {
            n *= 2;
            continue;
        }
        times.push(elapsed / f64::from(n));
    }
    times.sort_by(f64::total_cmp);
    Ok(times[N_REPEATS / 2])
}

fn values<R: Runtime>(
    gpu: &Gpu<R>,
    rows: usize,
    cols: usize,
) -> Outcome<<Gpu<R> as Backend>::Buffer> {
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| (i.wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0)
        .collect();
    gpu.upload(&values, rows, cols)
}

fn products<R: Runtime>(gpu: &Gpu<R>, report: &mut Report, largest: usize) -> Outcome<()> {
    report.line("| Product n × n × n, W in bf16 | f32 TFLOP/s | tensor cores TFLOP/s, x in bf16 |");
    report.line("|---|---:|---:|");
    for n in [256, 1024, 2048, 4096, 8192] {
        if n > largest {
            break;
        }
        let (x, w) = (values(gpu, n, n)?, gpu.weight(&matrix(n, n)?)?);
        let rate = |s: f64| format!("{:.2}", 2.0 * (n as f64).powi(3) / s / 1e12);
        let exact = rate(seconds(gpu, || gpu.linear(&x, &w, None).map(drop))?);
        let cores = if gpu.has_tensor_cores(&w) {
            let rounded = gpu.round(&x)?;
            rate(seconds(gpu, || {
                gpu.linear_of_rounded(&rounded, &w, None).map(drop)
            })?)
        } else {
            "none".into()
        };
        report.line(&format!("| {n} | {exact} | {cores} |"));
    }
    report.line("");
    Ok(())
}

fn streams<R: Runtime>(gpu: &Gpu<R>, report: &mut Report, largest: usize) -> Outcome<()> {
    report.line("| Bound by memory | µs | GB/s |");
    report.line("|---|---:|---:|");
    // 256 MiB at the default: far more than a card's cache holds.
    let (rows, cols) = (largest, largest);
    let (x, y) = (values(gpu, rows, cols)?, values(gpu, rows, cols)?);
    let bytes = (rows * cols * 4) as f64;
    let mut line = |name: String, bytes: f64, time: f64| {
        report.line(&format!(
            "| {name} | {:.1} | {:.0} |",
            time * 1e6,
            bytes / time / 1e9
        ));
    };
    let shape = format!("[{rows}, {cols}] f32");
    let time = seconds(gpu, || gpu.stack(std::slice::from_ref(&x)).map(drop))?;
    line(
        format!("copy, 4 bytes per unit, {shape}"),
        2.0 * bytes,
        time,
    );
    let time = seconds(gpu, || gpu.scale(&mut x.clone(), 1.5))?;
    line(
        format!("scale, 16 bytes per unit, {shape}"),
        2.0 * bytes,
        time,
    );
    let time = seconds(gpu, || gpu.add(&mut x.clone(), &y, 1.0))?;
    line(format!("add {shape}"), 3.0 * bytes, time);
    let time = seconds(gpu, || gpu.gated(&mut x.clone(), &y, Activation::Silu))?;
    line(format!("silu · up {shape}"), 3.0 * bytes, time);
    let gain = values(gpu, 1, cols)?;
    let spec = NormSpec::rms(1e-5);
    let time = seconds(gpu, || {
        gpu.norm(&x, &spec, Some(&gain), None, cols).map(drop)
    })?;
    line(format!("RMSNorm {shape}"), 2.0 * bytes, time);
    let (n_out, n_in) = (largest * 7 / 4, largest / 2);
    let w = gpu.weight(&matrix(n_out, n_in)?)?;
    for rows in [1, 4, 16] {
        let x = values(gpu, rows, n_in)?;
        let time = seconds(gpu, || gpu.linear(&x, &w, None).map(drop))?;
        line(
            format!("{rows} rows × W [{n_out}, {n_in}] bf16"),
            (n_out * n_in * 2) as f64,
            time,
        );
    }
    report.line("");
    Ok(())
}

fn attention<R: Runtime>(gpu: &Gpu<R>, report: &mut Report, largest: usize) -> Outcome<()> {
    let shape = AttentionShape {
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        value_dim: 128,
        scale: 0.088,
        softcap: None,
        window: None,
        slopes: None,
        causal: true,
    };
    report
        .line("| Attention, 32 heads of 128, 8 of keys | ms | TFLOP/s | GB/s of keys and values |");
    report.line("|---|---:|---:|---:|");
    for (name, rows, context) in [
        ("prefill", largest / 16, largest / 16),
        ("prefill", largest / 4, largest / 4),
        ("one token", 1, largest / 2),
        ("one token", 1, largest * 2),
    ] {
        let (k, v) = (values(gpu, context, 1024)?, values(gpu, context, 1024)?);
        let mut cache = gpu.cache(context, 8, 128, 128)?;
        gpu.append(&mut cache, 0, &k, &v, 0..context)?;
        let q = values(gpu, rows, 4096)?;
        let time = seconds(gpu, || {
            gpu.attention(&q, 0..rows, &cache, context - rows, &shape)
                .map(drop)
        })?;
        let pairs = if rows == 1 {
            context as f64
        } else {
            (rows * rows / 2) as f64
        };
        report.line(&format!(
            "| {name}, {context} tokens | {:.3} | {:.2} | {:.0} |",
            time * 1e3,
            pairs * 4.0 * 128.0 * 32.0 / time / 1e12,
            (context * 2 * 1024 * 4) as f64 / time / 1e9
        ));
    }
    report.line("");
    Ok(())
}

fn run<R: Runtime>(gpu: &mut Gpu<R>, report: &mut Report) -> Outcome<()> {
    report.line(&format!(
        "Device: {}; {:?}.\n",
        gpu.describe(),
        gpu.limits()
    ));
    let largest = std::env::var("MODELKIN_BENCH_MAX")
        .map_or(8192, |n| n.parse().expect("MODELKIN_BENCH_MAX is a number"));
    for checked in [true, false] {
        gpu.set_checked(checked);
        let title = if checked {
            "Every index checked"
        } else {
            "Unchecked"
        };
        report.line(&format!("## {title}\n"));
        products(gpu, report, largest)?;
        streams(gpu, report, largest)?;
        attention(gpu, report, largest)?;
    }
    Ok(())
}

fn main() {
    let name = std::env::var("MODELKIN_BENCH_DEVICE").unwrap_or("auto".into());
    let mut report = Report::new("gpu", "Kernels on a graphics card");
    let outcome = match open(&name) {
        Ok(GpuBackend::Cuda(mut gpu)) => run(&mut gpu, &mut report),
        Ok(GpuBackend::Wgpu(mut gpu)) => run(&mut gpu, &mut report),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = outcome {
        report.line(&format!("\nStopped: {problem}"));
    }
    report.finish();
}

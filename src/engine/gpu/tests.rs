//! Every kernel against its plain version, on whatever device there is.

use super::backend::{Buffer, Gpu};
use super::kernels::attention::{self, Span, Split};
use super::kernels::elementwise::{self, Function};
use super::kernels::linear::{self, Version};
use super::kernels::norm::{self, Norm};
use super::kernels::rope::{self, Turn};
use super::kernels::tensor_core;
use super::weight::GpuWeight;
use super::{GpuBackend, Precision, open};
use crate::arch::spec::{Activation, NormKind, NormSpec, RopeStyle};
use crate::engine::backend::{AttentionShape, Backend, RopeTable};
use crate::tensor::{DType, Matrix, Tensor, TensorBytes, TensorError};
use cubecl::prelude::Runtime;
use std::borrow::Cow;
use std::sync::Arc;

/// A file that lies in memory.
#[derive(Debug)]
struct InMemory(Vec<u8>);

impl TensorBytes for InMemory {
    fn read(&self, range: std::ops::Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        Ok(Cow::Borrowed(
            &self.0[range.start as usize..range.end as usize],
        ))
    }

    fn file(&self) -> &str {
        "memory"
    }
}

/// A test of a device whose type is known only when it runs.
trait Check {
    fn check<R: Runtime>(gpu: &mut Gpu<R>);
}

/// Runs a check on the first device; skips it, aloud, where there is none and none is demanded.
fn on_a_device<C: Check>() {
    let opened = match std::env::var("MODELKIN_TEST_DEVICE") {
        Ok(name) => open(&name),
        Err(_) => open("auto").or_else(|_| open("vulkan")),
    };
    match opened {
        Ok(GpuBackend::Cuda(mut gpu)) => C::check(&mut gpu),
        Ok(GpuBackend::Wgpu(mut gpu)) => C::check(&mut gpu),
        Err(problem) => {
            assert!(
                std::env::var_os("MODELKIN_REQUIRE_GPU").is_none(),
                "a device is demanded: {problem}"
            );
            eprintln!("skipped: no GPU device ({problem})");
        }
    }
}

/// Values in [−1, 1) from a small generator: the same on every machine.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// Fails where a difference is above `tolerance · max(1, |right|)`; NaN and infinities must be the same.
fn assert_close(what: &str, found: &[f32], right: &[f64], tolerance: f64) {
    assert_eq!(found.len(), right.len(), "{what}: length");
    for (i, (&a, &b)) in found.iter().zip(right).enumerate() {
        let a = f64::from(a);
        if b.is_nan() || b.is_infinite() {
            assert!(
                a.is_nan() == b.is_nan() && (b.is_nan() || a == b),
                "{what}: [{i}] is {a}, right is {b}"
            );
            continue;
        }
        let difference = (a - b).abs();
        let limit = tolerance * b.abs().max(1.0);
        if !(difference <= limit) {
            panic!("{what}: [{i}] is {a}, right is {b}, beyond {limit:e}");
        }
    }
}

fn matrix(dtype: DType, n_rows: usize, n_cols: usize, values: &[f32]) -> (Matrix, Vec<f32>) {
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => values
            .iter()
            .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
            .collect(),
        DType::F16 => values
            .iter()
            .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
            .collect(),
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => values
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect(),
        other => panic!("no encoder of {}", other.name()),
    };
    let rounded = values.iter().map(|&v| dtype.round(v)).collect();
    let tensor = Tensor::new(
        "w".into(),
        dtype,
        vec![n_rows, n_cols],
        Arc::new(InMemory(bytes)),
        0,
    )
    .unwrap();
    (Matrix::new(tensor).unwrap(), rounded)
}

fn upload<R: Runtime>(gpu: &Gpu<R>, values: &[f32], n_cols: usize) -> Buffer {
    gpu.upload(values, values.len() / n_cols, n_cols).unwrap()
}

const SPECIAL: [f32; 9] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    1e-30,
    -80.0,
    95.0,
    0.24,
];

struct Elementwise;
impl Check for Elementwise {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        use Function as F;
        let functions = [
            (F::Silu, 0.0),
            (F::Gelu, 0.0),
            (F::GeluTanh, 0.0),
            (F::QuickGelu, 0.0),
            (F::Relu, 0.0),
            (F::Softcap, 30.0),
            (F::Softcap, 0.5),
            (F::Clip, 0.75),
            (F::Scale, -1.5),
        ];
        for n in [1, 3, 4, 777, 5000] {
            let mut x: Vec<f32> = values(n, 1).iter().map(|v| v * 6.0).collect();
            x.extend(SPECIAL);
            let y: Vec<f32> = values(x.len(), 2);
            let (bx, by) = (upload(gpu, &x, x.len()), upload(gpu, &y, y.len()));
            for (function, c) in functions {
                let what = format!("{function:?} of {n}");
                let right: Vec<f64> = x
                    .iter()
                    .map(|&v| elementwise::plain(v, c, function))
                    .collect();
                let found = elementwise::map(&gpu.device, &bx.words, function, c).unwrap();
                assert_close(&what, &gpu.device.download(&found).unwrap(), &right, 1e-6);
                if c == 0.0 {
                    let right: Vec<f64> = right
                        .iter()
                        .zip(&y)
                        .map(|(a, &b)| a * f64::from(b))
                        .collect();
                    let found =
                        elementwise::gated(&gpu.device, &bx.words, &by.words, function).unwrap();
                    let found = gpu.device.download(&found).unwrap();
                    assert_close(&format!("gated {what}"), &found, &right, 1e-6);
                }
            }
            let right: Vec<f64> = x
                .iter()
                .zip(&y)
                .map(|(&a, &b)| f64::from(a) + 0.7 * f64::from(b))
                .collect();
            let mut sum = bx.clone();
            gpu.add(&mut sum, &by, 0.7).unwrap();
            assert_close("add", &gpu.download(&sum).unwrap(), &right, 1e-6);
            let unchanged: Vec<u32> = gpu
                .download(&bx)
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect();
            let before: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
            assert_eq!(unchanged, before, "a clone keeps its values");
        }
        let mut x = upload(gpu, &[2.0, f32::NAN], 2);
        gpu.activate(&mut x, Activation::Relu).unwrap();
        gpu.softcap(&mut x, 1.0).unwrap();
        gpu.clip(&mut x, 0.5).unwrap();
        gpu.scale(&mut x, 4.0).unwrap();
        assert_close(
            "in a row",
            &gpu.download(&x).unwrap(),
            &[2.0, f64::NAN],
            1e-6,
        );
        assert!(gpu.add(&mut x, &upload(gpu, &[1.0], 1), 1.0).is_err());
    }
}

#[test]
fn activations_gates_and_sums_are_right_and_keep_nan() {
    on_a_device::<Elementwise>();
}

struct Norms;
impl Check for Norms {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for (n_rows, groups, width) in
            [(1, 1, 1), (3, 1, 20), (2, 3, 64), (5, 1, 777), (1, 2, 1024)]
        {
            let n_cols = groups * width;
            let mut x: Vec<f32> = values(n_rows * n_cols, 3)
                .iter()
                .map(|v| v * 3.0 + 0.5)
                .collect();
            if n_rows > 2 {
                x[n_cols] = f32::NAN;
            }
            for kind in [NormKind::Rms, NormKind::Layer] {
                for (plus_one, gain_len, bias_len) in
                    [(false, 0, 0), (true, width, 0), (false, n_cols, width)]
                {
                    let (gain, bias) = (values(gain_len, 4), values(bias_len, 5));
                    let some = |v: &[f32]| (!v.is_empty()).then(|| upload(gpu, v, v.len()));
                    let (g, b) = (some(&gain), some(&bias));
                    let spec = NormSpec {
                        kind,
                        epsilon: 1e-5,
                        plus_one,
                        gain: g.is_some(),
                        bias: b.is_some(),
                    };
                    let found = gpu
                        .norm(
                            &upload(gpu, &x, n_cols),
                            &spec,
                            g.as_ref(),
                            b.as_ref(),
                            width,
                        )
                        .unwrap();
                    let right = norm::plain(
                        &x,
                        g.as_ref().map(|_| &gain[..]),
                        b.as_ref().map(|_| &bias[..]),
                        Norm {
                            width,
                            centred: kind == NormKind::Layer,
                            epsilon: 1e-5,
                            plus_one,
                        },
                    );
                    let what = format!("{kind:?} {n_rows} × {groups} × {width} {plus_one}");
                    assert_close(&what, &gpu.download(&found).unwrap(), &right, 3e-6);
                }
            }
        }
    }
}

#[test]
fn norms_of_groups_are_right_and_nan_stays_in_its_group() {
    on_a_device::<Norms>();
}

struct Ropes;
impl Check for Ropes {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for (n_rows, n_heads, head_dim, offset, rotated) in [
            (1, 1, 2, 0, 2),
            (3, 2, 20, 0, 20),
            (5, 3, 64, 16, 24),
            (2, 1, 7, 1, 6),
        ] {
            let n_cols = n_heads * head_dim;
            let x = values(n_rows * n_cols, 6);
            let (cos, sin) = (
                values(n_rows * rotated / 2, 7),
                values(n_rows * rotated / 2, 8),
            );
            for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
                let table = RopeTable {
                    cos: upload(gpu, &cos, rotated / 2),
                    sin: upload(gpu, &sin, rotated / 2),
                    style,
                    offset,
                    rotated_dim: rotated,
                };
                let mut found = upload(gpu, &x, n_cols);
                gpu.rope(&mut found, head_dim, &table).unwrap();
                let interleaved = style == RopeStyle::Interleaved;
                let turn = Turn {
                    head_dim,
                    offset,
                    rotated,
                    interleaved,
                };
                let right = rope::plain(&x, &cos, &sin, n_cols, turn);
                assert_close(
                    &format!("{style:?} {head_dim}"),
                    &gpu.download(&found).unwrap(),
                    &right,
                    1e-6,
                );
            }
        }
    }
}

#[test]
fn positions_turn_halves_and_neighbours_whole_and_in_part() {
    on_a_device::<Ropes>();
}

struct Rows;
impl Check for Rows {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            for n_cols in [1, 7, 64] {
                let mut w = values(11 * n_cols, 9);
                w[0] = f32::NAN;
                w[5 * n_cols] = 6e-6; // Below the normal numbers of f16.
                w[6 * n_cols] = f32::NEG_INFINITY;
                let (table, rounded) = matrix(dtype, 11, n_cols, &w);
                let weight = gpu.weight(&table).unwrap();
                let ids = [10, 0, 5, 5, 6, 3];
                let found = gpu.embed(&weight, &ids, 2.0).unwrap();
                let right: Vec<f64> = ids
                    .iter()
                    .flat_map(|&id| &rounded[id as usize * n_cols..][..n_cols])
                    .map(|&v| 2.0 * f64::from(v))
                    .collect();
                assert_close(
                    &format!("{} × {n_cols}", dtype.name()),
                    &gpu.download(&found).unwrap(),
                    &right,
                    0.0,
                );
                assert!(gpu.embed(&weight, &[11], 1.0).is_err());
            }
        }
        let x = values(4 * 5, 10);
        let b = upload(gpu, &x, 5);
        let row = |r: usize| x[5 * r..][..5].iter().map(|&v| f64::from(v));
        let found = gpu.download(&gpu.gather(&b, &[3, 3, 0]).unwrap()).unwrap();
        assert_close(
            "gather",
            &found,
            &row(3).chain(row(3)).chain(row(0)).collect::<Vec<_>>(),
            0.0,
        );
        let stacked = gpu
            .stack(&[b.clone(), gpu.gather(&b, &[1]).unwrap()])
            .unwrap();
        assert_eq!(gpu.shape(&stacked), (5, 5));
        assert_eq!(gpu.download(&stacked).unwrap()[20..], x[5..10]);

        let mut sum = b.clone();
        let y = upload(gpu, &[1.0; 10], 5);
        gpu.scatter_add(&mut sum, &[2, 0], &[0.5, -1.0], &y)
            .unwrap();
        let right: Vec<f64> = (0..20)
            .map(|i| f64::from(x[i]) + [-1.0, 0.0, 0.5, 0.0][i / 5])
            .collect();
        assert_close("scatter", &gpu.download(&sum).unwrap(), &right, 1e-6);
        assert_eq!(gpu.download(&b).unwrap(), x, "a clone keeps its values");
        gpu.scatter_add(&mut sum, &[2], &[-0.5], &gpu.gather(&y, &[0]).unwrap())
            .unwrap();
        let found = gpu.download(&sum).unwrap();
        assert_close(
            "scatter in place",
            &found[10..15],
            &row(2).collect::<Vec<_>>(),
            1e-6,
        );

        let joined = gpu
            .join_heads(&upload(gpu, &x, 10), &upload(gpu, &[7.0, 8.0], 1), 2)
            .unwrap();
        assert_eq!(gpu.shape(&joined), (2, 12));
        let found = gpu.download(&joined).unwrap();
        assert_eq!(found[..6], [x[0], x[1], x[2], x[3], x[4], 7.0]);
        assert_eq!(found[18..], [x[15], x[16], x[17], x[18], x[19], 8.0]);
    }
}

#[test]
fn rows_are_looked_up_moved_and_added_exactly() {
    on_a_device::<Rows>();
}

struct Products;
impl Check for Products {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for (n_rows, n_cols, n_out) in [
            (1, 1, 1),
            (2, 7, 5),
            (3, 16, 70),
            (5, 530, 9),
            (70, 48, 131),
            (17, 1040, 66),
        ] {
            let mut x = values(n_rows * n_cols, 11);
            let mut w = values(n_out * n_cols, 12);
            let bias = values(n_out, 13);
            if n_rows > 2 {
                x[n_cols] = f32::NAN;
                w[(n_out - 1) * n_cols] = f32::INFINITY;
            }
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let (table, rounded) = matrix(dtype, n_out, n_cols, &w);
                let weight = gpu.weight(&table).unwrap();
                let with = (n_rows % 2 == 1).then(|| upload(gpu, &bias, n_out));
                let right = linear::plain(&x, &rounded, with.as_ref().map(|_| &bias[..]), n_cols);
                let bx = upload(gpu, &x, n_cols);
                let mut first: Option<Vec<u32>> = None;
                for version in [Version::Plain, Version::Tiled, Version::Vector] {
                    let found = gpu.linear_by(&bx, &weight, with.as_ref(), version).unwrap();
                    let found = gpu.download(&found).unwrap();
                    let what =
                        format!("{version:?} {} {n_rows} × {n_cols} × {n_out}", dtype.name());
                    assert_close(&what, &found, &right, 1e-5);
                    let bits: Vec<u32> = found
                        .iter()
                        .map(|v| if v.is_nan() { 0 } else { v.to_bits() })
                        .collect();
                    assert_eq!(
                        first.get_or_insert(bits.clone()),
                        &bits,
                        "{what}: other bits"
                    );
                }
                assert_rows_alone(gpu, &bx, &weight, with.as_ref());
            }
        }
    }
}

/// A row computed alone is the same bits as among the others.
fn assert_rows_alone<R: Runtime>(gpu: &Gpu<R>, x: &Buffer, w: &GpuWeight, bias: Option<&Buffer>) {
    let all = gpu.download(&gpu.linear(x, w, bias).unwrap()).unwrap();
    let last = gpu.gather(x, &[x.n_rows as u32 - 1]).unwrap();
    let alone = gpu.download(&gpu.linear(&last, w, bias).unwrap()).unwrap();
    assert_eq!(
        all[all.len() - alone.len()..]
            .iter()
            .map(|v| v.to_bits())
            .collect::<Vec<_>>(),
        alone.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
    );
}

#[test]
fn products_are_right_and_the_same_bits_in_every_version_and_company() {
    on_a_device::<Products>();
}

struct Attentions;
impl Check for Attentions {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        let base = AttentionShape {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 8,
            value_dim: 8,
            scale: 0.4,
            softcap: None,
            window: None,
            slopes: None,
            causal: true,
        };
        let shapes = [
            (base.clone(), 1),
            (
                AttentionShape {
                    n_heads: 6,
                    head_dim: 20,
                    value_dim: 12,
                    ..base.clone()
                },
                130,
            ),
            (
                AttentionShape {
                    n_heads: 4,
                    n_kv_heads: 1,
                    head_dim: 7,
                    value_dim: 130,
                    softcap: Some(2.0),
                    window: Some(9),
                    ..base.clone()
                },
                140,
            ),
            (
                AttentionShape {
                    n_kv_heads: 1,
                    head_dim: 256,
                    value_dim: 256,
                    causal: false,
                    ..base.clone()
                },
                33,
            ),
            (
                AttentionShape {
                    slopes: Some(vec![0.25, -0.01]),
                    window: Some(200),
                    ..base.clone()
                },
                300,
            ),
        ];
        for (case, (shape, n)) in shapes.iter().enumerate() {
            let (n, kw, vw) = (
                *n,
                shape.n_kv_heads * shape.head_dim,
                shape.n_kv_heads * shape.value_dim,
            );
            let q = values(n * shape.n_heads * shape.head_dim, 14);
            let (mut k, v) = (values(n * kw, 15), values(n * vw, 16));
            if n > 100 {
                k[(n / 2) * kw] = f32::NAN;
            }
            let (bq, bk, bv) = (
                upload(gpu, &q, q.len() / n),
                upload(gpu, &k, kw),
                upload(gpu, &v, vw),
            );
            let mut cache = gpu
                .cache(n + 3, shape.n_kv_heads, shape.head_dim, shape.value_dim)
                .unwrap();
            gpu.append(&mut cache, 0, &bk, &bv, 0..n / 3).unwrap();
            gpu.append(&mut cache, n / 3, &bk, &bv, n / 3..n).unwrap();
            let span = Span {
                first_row: 0,
                n_rows: n,
                at: 0,
            };
            let right = attention::plain(&q, (&k, &v), span, shape);
            let by = |rows: std::ops::Range<usize>, at, split| {
                gpu.download(
                    &gpu.attention_by(&bq, rows, &cache, at, shape, split)
                        .unwrap(),
                )
                .unwrap()
            };
            let whole = by(0..n, 0, Split::Never);
            assert_close(&format!("attention {case}"), &whole, &right, 2e-5);
            let bits = |v: &[f32]| {
                v.iter()
                    .map(|x| if x.is_nan() { 1 } else { x.to_bits() })
                    .collect::<Vec<u32>>()
            };
            assert_eq!(
                bits(&whole),
                bits(&by(0..n, 0, Split::Always)),
                "{case}: split"
            );
            if shape.causal {
                // The same rows in chunks, and one alone.
                let width = whole.len() / n;
                let (cut, mut parts) = (n / 2, Vec::new());
                if cut > 0 {
                    parts.extend(by(0..cut, 0, Split::Auto));
                }
                parts.extend(by(cut..n, cut, Split::Auto));
                assert_eq!(bits(&whole), bits(&parts), "{case}: chunks");
                assert_eq!(
                    bits(&whole[(n - 1) * width..]),
                    bits(&by(n - 1..n, n - 1, Split::Auto)),
                    "{case}: alone"
                );
            }
        }
        let cache = gpu.cache(4, 2, 8, 8).unwrap();
        let q = upload(gpu, &values(16 * 5, 1), 16);
        assert!(
            gpu.attention(&q, 0..5, &cache, 0, &base).is_err(),
            "beyond the cache"
        );
    }
}

#[test]
fn attention_is_right_and_the_same_bits_however_a_text_is_cut() {
    on_a_device::<Attentions>();
}

#[test]
fn devices_that_are_not_there_are_errors_that_say_what_to_do() {
    for (name, hint) in [
        ("cuda:99", ""),
        ("vulkan:99", ""),
        ("cuda:x", "number"),
        ("tpu", "devices are"),
    ] {
        let Err(error) = open(name) else {
            panic!("{name} opens")
        };
        let error = error.to_string();
        assert!(error.contains(hint), "{error}");
    }
}

struct Sums;
impl Check for Sums {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for n in [1, 255, 20_000] {
            let (x, y) = (values(n, 17), values(n, 18));
            let (bx, by) = (upload(gpu, &x, n), upload(gpu, &y, n));
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
            };
            let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
            let cosine = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
            let found = [
                gpu.sum(&bx).unwrap(),
                gpu.dot(&bx, &by).unwrap(),
                gpu.cosine(&bx, &by).unwrap(),
            ];
            let right = [sum, dot(&x, &y), cosine];
            for (a, b) in found.iter().zip(right) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{n}: {found:?} {right:?}");
            }
        }
        for (n, m, d) in [(1, 1, 1), (3, 20, 7), (20, 3, 300)] {
            let (mut x, y) = (values(n * d, 19), values(m * d, 20));
            if n > 1 {
                x[..d].fill(0.0);
            }
            let (bx, by) = (upload(gpu, &x, d), upload(gpu, &y, d));
            let right = linear::plain(&x, &y, None, d);
            let found = gpu.download(&gpu.products(&bx, &by).unwrap()).unwrap();
            assert_close("products", &found, &right, 1e-5);
            let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let right: Vec<f64> = right
                .iter()
                .enumerate()
                .map(|(i, p)| p / (norm(&x[i / m * d..][..d]) * norm(&y[i % m * d..][..d])))
                .collect();
            let found = gpu.download(&gpu.cosines(&bx, &by).unwrap()).unwrap();
            assert_close("cosines", &found, &right, 1e-5);
        }
    }
}

#[test]
fn sums_and_cosines_are_right_and_those_of_zero_rows_are_nan() {
    on_a_device::<Sums>();
}

struct TensorCores;
impl Check for TensorCores {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        // Rounding runs everywhere; products only where there are tensor cores.
        let mut x = values(1000, 21);
        x[3] = f32::NAN;
        x[4] = f32::INFINITY;
        x[5] = 1.0 + 1.0 / 256.0; // Halfway; goes to the even 1.0.
        let rounded = tensor_core::round(&gpu.device, &upload(gpu, &x, 1000).words).unwrap();
        let words = gpu.device.download(&rounded).unwrap();
        for (i, v) in x.iter().enumerate() {
            let bits = (words[i / 2].to_bits() >> (16 * (i % 2))) as u16;
            let (found, right) = (half::bf16::from_bits(bits), half::bf16::from_f32(*v));
            assert!(found == right || (found.is_nan() && right.is_nan()), "{v}: {found}");
        }
        for (n_rows, n_cols, n_out) in [(1, 16, 1), (3, 70, 130), (200, 256, 300), (129, 1000, 128)] {
            let (x, w) = (values(n_rows * n_cols, 22), values(n_out * n_cols, 23));
            let bias = values(n_out, 24);
            let (table, rounded) = matrix(DType::BF16, n_out, n_cols, &w);
            let weight = gpu.weight(&table).unwrap();
            if !gpu.has_tensor_cores(&weight) {
                eprintln!("skipped: no tensor cores on {}", gpu.describe());
                return;
            }
            gpu.set_precision(Precision::Bf16);
            let (bx, bb) = (upload(gpu, &x, n_cols), upload(gpu, &bias, n_out));
            let x: Vec<f32> = x.iter().map(|&v| DType::BF16.round(v)).collect();
            let right = linear::plain(&x, &rounded, Some(&bias), n_cols);
            let found = gpu.download(&gpu.linear(&bx, &weight, Some(&bb)).unwrap()).unwrap();
            assert_close("tensor cores", &found, &right, 1e-4);
            assert_rows_alone(gpu, &bx, &weight, Some(&bb));
        }
    }
}

#[test]
fn tensor_cores_multiply_what_is_rounded_to_bf16() {
    on_a_device::<TensorCores>();
}

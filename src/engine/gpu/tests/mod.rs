//! Every kernel against its plain version, on whatever device there is.

mod attentions;
mod blocks;
mod products;

use super::backend::{Buffer, Gpu};
use super::kernels::elementwise::{self, Function};
use super::kernels::norm::{self, Norm};
use super::kernels::rope::{self, Turn};
use super::{GpuBackend, open};
use crate::arch::spec::{Activation, NormKind, NormSpec, RopeStyle};
use crate::engine::backend::{Backend, RopeTable};
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

/// Runs a check on the first device, with every index checked and then without; skips it, aloud, where
/// there is no device and none is demanded.
fn on_a_device<C: Check>() {
    let opened = match std::env::var("MODELKIN_TEST_DEVICE") {
        Ok(name) => open(&name),
        Err(_) => open("auto").or_else(|_| open("vulkan")),
    };
    match opened {
        Ok(GpuBackend::Cuda(mut gpu)) => both::<C, _>(&mut gpu),
        Ok(GpuBackend::Wgpu(mut gpu)) => both::<C, _>(&mut gpu),
        Err(problem) => {
            assert!(
                std::env::var_os("MODELKIN_REQUIRE_GPU").is_none(),
                "a device is demanded: {problem}"
            );
            eprintln!("skipped: no GPU device ({problem})");
        }
    }
}

fn both<C: Check, R: Runtime>(gpu: &mut Gpu<R>) {
    C::check(gpu);
    gpu.set_checked(false);
    C::check(gpu);
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

//! Products, on tensor cores too, sums and cosines.

use super::{Check, assert_close, matrix, on_a_device, upload, values};
use crate::engine::backend::Backend;
use crate::engine::gpu::backend::{Buffer, Gpu};
use crate::engine::gpu::kernels::linear::{self, Version};
use crate::engine::gpu::kernels::{round, tensor_core};
use crate::engine::gpu::{GpuWeight, Precision};
use crate::tensor::DType;
use cubecl::prelude::Runtime;

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
            (520, 48, 530),
            (60, 64, 131),
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

struct Sums;
impl Check for Sums {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for n in [1, 255, 20_000] {
            let (x, y) = (values(n, 17), values(n, 18));
            let (bx, by) = (upload(gpu, &x, n), upload(gpu, &y, n));
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum()
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
                assert!(
                    (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                    "{n}: {found:?} {right:?}"
                );
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
            let norm = |row: &[f32]| {
                row.iter()
                    .map(|&v| f64::from(v).powi(2))
                    .sum::<f64>()
                    .sqrt()
            };
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
        let rounded = round::round(&gpu.device, &upload(gpu, &x, 1000).words).unwrap();
        let words = gpu.device.download(&rounded).unwrap();
        for (i, v) in x.iter().enumerate() {
            let bits = (words[i / 2].to_bits() >> (16 * (i % 2))) as u16;
            let (found, right) = (half::bf16::from_bits(bits), half::bf16::from_f32(*v));
            assert!(
                found == right || (found.is_nan() && right.is_nan()),
                "{v}: {found}"
            );
        }
        for (n_rows, n_cols, n_out) in [
            (1, 16, 1),
            (3, 70, 130),
            (16, 530, 70),
            (200, 256, 300),
            (129, 1000, 128),
            (300, 2100, 600),
        ] {
            let (x, w) = (values(n_rows * n_cols, 22), values(n_out * n_cols, 23));
            let bias = values(n_out, 24);
            let (table, rounded) = matrix(DType::BF16, n_out, n_cols, &w);
            let weight = gpu.weight(&table).unwrap();
            if !gpu.has_tensor_cores(&weight) {
                eprintln!("skipped: no tensor cores on {}", gpu.describe());
                return;
            }
            gpu.set_precision(Precision::Bf16).unwrap();
            let (bx, bb) = (upload(gpu, &x, n_cols), upload(gpu, &bias, n_out));
            let x: Vec<f32> = x.iter().map(|&v| DType::BF16.round(v)).collect();
            let right = linear::plain(&x, &rounded, Some(&bias), n_cols);
            let found = gpu
                .download(&gpu.linear(&bx, &weight, Some(&bb)).unwrap())
                .unwrap();
            let what = format!("tensor cores {n_rows} × {n_cols} × {n_out}");
            assert_close(&what, &found, &right, 1e-4);
            assert_rows_alone(gpu, &bx, &weight, Some(&bb));
            let bits: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
            let halves = gpu.round(&bx).unwrap();
            for tile in tensor_core::Tile::ALL {
                let found = gpu.linear_by_tile(&halves, &weight, &bb, tile).unwrap();
                let found: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
                assert_eq!(bits, found, "{what}: other bits with {tile:?}");
            }
        }
    }
}

#[test]
fn tensor_cores_multiply_what_is_rounded_to_bf16() {
    on_a_device::<TensorCores>();
}

struct Pieces;
impl Check for Pieces {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        let (n, m, width) = (37, 53, 19);
        let (mut a, b) = (values(n * width, 31), values(m * width, 32));
        a[3] = f32::NAN;
        let right = linear::plain(&a, &b, None, width);
        let whole = gpu.products_by_pieces(&a, &b, width, 1 << 20).unwrap();
        assert_close("whole", &whole, &right, 1e-5);
        for n_bytes in [1, 400, 1000, 4000] {
            let pieces = gpu.products_by_pieces(&a, &b, width, n_bytes).unwrap();
            let bits = |values: &[f32]| -> Vec<u32> {
                values
                    .iter()
                    .map(|v| if v.is_nan() { 0 } else { v.to_bits() })
                    .collect()
            };
            assert_eq!(bits(&pieces), bits(&whole), "pieces of {n_bytes} bytes");
        }
    }
}

#[test]
fn products_of_rows_are_the_same_bits_however_they_are_cut() {
    on_a_device::<Pieces>();
}

struct Grouped;
impl Check for Grouped {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for (n_cols, n_out, sizes) in [
            (7, 5, &[1usize, 1, 1][..]),
            (48, 70, &[3, 1, 6, 4]),
            (530, 9, &[16, 2]),
            (40, 33, &[17, 1]),
        ] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let matrices: Vec<_> = (0..sizes.len() as u64 + 2)
                    .map(|number| {
                        matrix(dtype, n_out, n_cols, &values(n_out * n_cols, 40 + number)).0
                    })
                    .collect();
                let weights = gpu.weights(&matrices).unwrap();
                let n_rows: usize = sizes.iter().sum();
                let mut x = values(n_rows * n_cols, 39);
                x[0] = f32::NAN;
                let x = upload(gpu, &x, n_cols);
                let mut groups = Vec::new();
                let mut at = 0;
                for (number, size) in sizes.iter().enumerate() {
                    // Not in the order in which they lie, and the first is nobody's.
                    groups.push((at..at + size, &weights[sizes.len() - number]));
                    at += size;
                }
                let bits = |buffer: &Buffer| -> Vec<u32> {
                    let values = gpu.download(buffer).unwrap();
                    values
                        .iter()
                        .map(|v| if v.is_nan() { 0 } else { v.to_bits() })
                        .collect()
                };
                let found = bits(&gpu.linear_grouped(&x, &groups).unwrap());
                let mut expected = Vec::new();
                for (rows, weight) in &groups {
                    let numbers: Vec<u32> = rows.clone().map(|row| row as u32).collect();
                    let theirs = gpu.gather(&x, &numbers).unwrap();
                    let plain = gpu
                        .linear_by(&theirs, weight, None, Version::Plain)
                        .unwrap();
                    expected.extend(bits(&plain));
                }
                assert_eq!(
                    found,
                    expected,
                    "{} {n_cols} × {n_out}, {sizes:?}",
                    dtype.name()
                );
                assert!(found.iter().skip(n_out).any(|&bits| bits != 0));
            }
        }
    }
}

#[test]
fn a_product_of_groups_has_the_bits_of_a_product_per_group() {
    on_a_device::<Grouped>();
}

//! Block-quantized weights: decoded on the device to the bits that the host decodes.

use super::{Check, InMemory, matrix, on_a_device, upload, values};
use crate::engine::backend::Backend;
use crate::engine::gpu::backend::Gpu;
use crate::engine::gpu::kernels::blocks::is_decoded;
use crate::tensor::{BlockType, DType, Matrix, Tensor};
use cubecl::prelude::Runtime;
use std::sync::Arc;

/// Where a type's f16 numbers lie in a block.
fn halves_of(block: BlockType) -> &'static [usize] {
    use BlockType::*;
    match block {
        Q4_1 | Q5_1 | Q4K | Q5K => &[0, 2],
        Q2K => &[80, 82],
        Q3K => &[108],
        Q6K => &[208],
        Mxfp4 => &[],
        _ => &[0],
    }
}

/// Random codes under scales of both signs, zero, subnormal, infinite and NaN, in turn.
fn block_bytes(block: BlockType, n_blocks: usize, special: bool) -> Vec<u8> {
    let size = block.block_bytes();
    let mut bytes: Vec<u8> = values(n_blocks * size, 7 + block as u64)
        .iter()
        .map(|v| ((v + 1.0) * 128.0) as u8)
        .collect();
    let scales = [
        0x2c12u16, 0xa777, 0x0000, 0x8000, 0x0003, 0x7bff, 0x7c00, 0x7e01,
    ];
    let n_scales = if special { scales.len() } else { 2 };
    for (number, bytes) in bytes.chunks_mut(size).enumerate() {
        for (which, &at) in halves_of(block).iter().enumerate() {
            let scale = scales[(number + which) % n_scales];
            bytes[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if block == BlockType::Mxfp4 {
            // The ends, where values are below the normal numbers or beyond the largest.
            let exponents = [127, 120, 0, 1, 2, 3, 253, 254, 255];
            bytes[0] = exponents[number % if special { 9 } else { 2 }];
        }
    }
    bytes
}

fn quantized(block: BlockType, n_rows: usize, n_cols: usize, special: bool) -> Matrix {
    let n_blocks = n_rows * n_cols / block.block_elements();
    let bytes = block_bytes(block, n_blocks, special);
    let shape = vec![n_rows, n_cols];
    let tensor = Tensor::new(
        "w".into(),
        DType::Block(block),
        shape,
        Arc::new(InMemory(bytes)),
        0,
    );
    Matrix::new(tensor.unwrap()).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    let of = |v: &f32| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() };
    values.iter().map(of).collect()
}

fn decoded(matrix: &Matrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.n_rows() * matrix.n_cols()];
    matrix.read_rows(0..matrix.n_rows(), &mut values).unwrap();
    values
}

struct Decoded;
impl Check for Decoded {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for block in BlockType::all().filter(|&block| is_decoded(block)) {
            for (n_rows, n_blocks) in [(1, 1), (19, 1), (5, 3)] {
                let n_cols = n_blocks * block.block_elements();
                let table = quantized(block, n_rows, n_cols, true);
                let right = decoded(&table);
                let weight = gpu.weight(&table).unwrap();
                let ids: Vec<u32> = (0..n_rows as u32).collect();
                let found = gpu.embed(&weight, &ids, 1.0).unwrap();
                let found = gpu.download(&found).unwrap();
                let what = format!("{} {n_rows} × {n_cols}", block.name());
                for (i, (a, b)) in bits(&found).iter().zip(bits(&right)).enumerate() {
                    assert_eq!(
                        *a, b,
                        "{what}: [{i}] is {}, right is {}",
                        found[i], right[i]
                    );
                }
            }
        }
    }
}

struct Multiplied;
impl Check for Multiplied {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        for block in BlockType::all() {
            let n_cols = 3 * block.block_elements();
            for (n_rows, n_out, special) in [(1, 1, false), (3, 37, false), (40, 5, true)] {
                let table = quantized(block, n_out, n_cols, special);
                let (plain, _) = matrix(DType::F32, n_out, n_cols, &decoded(&table));
                let x = upload(gpu, &values(n_rows * n_cols, 5), n_cols);
                let bias = upload(gpu, &values(n_out, 6), n_out);
                let mut weight = gpu.weight(&table).unwrap();
                if is_decoded(block) {
                    let n_bytes = n_out * 3 * block.block_bytes();
                    assert_eq!(weight.n_words(), n_bytes.div_ceil(4), "{}", block.name());
                }
                let right = gpu.linear(&x, &gpu.weight(&plain).unwrap(), Some(&bias));
                let right = gpu.download(&right.unwrap()).unwrap();
                for at_a_time in [n_out, 4] {
                    weight.decode_at_a_time(at_a_time);
                    let found = gpu.linear(&x, &weight, Some(&bias)).unwrap();
                    let found = gpu.download(&found).unwrap();
                    assert_eq!(bits(&found), bits(&right), "{} {n_out}", block.name());
                }
            }
        }
    }
}

struct Chosen;
impl Check for Chosen {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        let table = quantized(BlockType::Q4K, 9, 512, false);
        let order = [8, 0, 3, 3, 5];
        let chosen = table.select_rows(&order).unwrap();
        let right = decoded(&chosen);
        let weight = gpu.weight(&chosen).unwrap();
        assert_eq!(weight.n_words(), 5 * 2 * 144 / 4, "blocks, not values");
        let found = gpu.embed(&weight, &[0, 1, 2, 3, 4], 1.0).unwrap();
        assert_eq!(bits(&gpu.download(&found).unwrap()), bits(&right));
    }
}

#[test]
fn blocks_are_decoded_to_the_bits_of_the_host() {
    on_a_device::<Decoded>();
}

#[test]
fn a_product_with_blocks_is_that_with_their_values_bit_for_bit_and_holds_only_blocks() {
    on_a_device::<Multiplied>();
}

#[test]
fn chosen_rows_stay_blocks() {
    on_a_device::<Chosen>();
}

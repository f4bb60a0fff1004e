//! Values of the k-quants ([`super::super::k`]), sub-block by sub-block.

use super::super::f16_at;
use super::super::k::scale_and_minimum;
use super::{part, part_mut};

blocks!(q2_k, 84, 256, q2_k_block);
blocks!(q3_k, 110, 256, q3_k_block);
blocks!(q4_k, 144, 256, q4_k_block);
blocks!(q5_k, 176, 256, q5_k_block);
blocks!(q6_k, 210, 256, q6_k_block);

#[inline(always)]
fn q2_k_block(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    // All codes first: otherwise compilers take the four shifts of a byte for the vector, and scatter.
    let mut codes = [0u8; 256];
    for half in 0..2 {
        let packed = part::<32, 84>(block, 16 + 32 * half);
        for quarter in 0..4 {
            let codes = &mut codes[128 * half + 32 * quarter..][..32];
            for i in 0..32 {
                codes[i] = packed[i] >> (2 * quarter) & 3;
            }
        }
    }
    let codes = std::hint::black_box(&codes);
    for s in 0..16 {
        let step = d * f32::from(block[s] & 15);
        let minimum = dmin * f32::from(block[s] >> 4);
        let (codes, out) = (
            part::<16, 256>(codes, 16 * s),
            part_mut::<16, 256>(out, 16 * s),
        );
        for i in 0..16 {
            out[i] = step * f32::from(codes[i]) - minimum;
        }
    }
}

#[inline(always)]
fn q3_k_block(block: &[u8; 110], out: &mut [f32; 256]) {
    let (packed, d) = (part::<12, 110>(block, 96), f16_at(block, 108));
    for half in 0..2 {
        for quarter in 0..4 {
            let bit = 4 * half + quarter;
            for side in 0..2 {
                let s = 8 * half + 2 * quarter + side;
                let codes = part::<16, 110>(block, 32 + 32 * half + 16 * side);
                let high = part::<16, 110>(block, 16 * side);
                let low = packed[s % 8] >> (s / 8 * 4) & 15;
                let upper = packed[8 + s % 4] >> (s / 4 * 2) & 3;
                let step = d * (i32::from(low | upper << 4) - 32) as f32;
                let out = part_mut::<16, 256>(out, 16 * s);
                for i in 0..16 {
                    let low = codes[i] >> (2 * quarter) & 3;
                    let high = high[i] >> bit & 1;
                    out[i] = step * (i32::from(low | high << 2) - 4) as f32;
                }
            }
        }
    }
}

/// Steps and minima of two neighbouring sub-blocks of `Q4_K` and `Q5_K`, from the head of a block.
#[inline(always)]
fn steps(head: &[u8; 16], pair: usize) -> [(f32, f32); 2] {
    let (d, dmin) = (f16_at(head, 0), f16_at(head, 2));
    [2 * pair, 2 * pair + 1].map(|s| {
        let (scale, minimum) = scale_and_minimum(&head[4..], s);
        (d * scale, dmin * minimum)
    })
}

#[inline(always)]
fn q4_k_block(block: &[u8; 144], out: &mut [f32; 256]) {
    for pair in 0..4 {
        let codes = part::<32, 144>(block, 16 + 32 * pair);
        let out = part_mut::<64, 256>(out, 64 * pair);
        let [(step, minimum), (upper_step, upper_minimum)] = steps(part(block, 0), pair);
        for i in 0..32 {
            out[i] = step * f32::from(codes[i] & 15) - minimum;
        }
        for i in 0..32 {
            out[i + 32] = upper_step * f32::from(codes[i] >> 4) - upper_minimum;
        }
    }
}

#[inline(always)]
fn q5_k_block(block: &[u8; 176], out: &mut [f32; 256]) {
    let high = part::<32, 176>(block, 16);
    for pair in 0..4 {
        let codes = part::<32, 176>(block, 48 + 32 * pair);
        let out = part_mut::<64, 256>(out, 64 * pair);
        let [(step, minimum), (upper_step, upper_minimum)] = steps(part(block, 0), pair);
        for i in 0..32 {
            let code = codes[i] & 15 | (high[i] >> (2 * pair) & 1) << 4;
            out[i] = step * f32::from(code) - minimum;
        }
        for i in 0..32 {
            let code = codes[i] >> 4 | (high[i] >> (2 * pair + 1) & 1) << 4;
            out[i + 32] = upper_step * f32::from(code) - upper_minimum;
        }
    }
}

#[inline(always)]
fn q6_k_block(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for half in 0..2 {
        for quarter in 0..4 {
            for side in 0..2 {
                let s = 8 * half + 2 * quarter + side;
                let step = d * f32::from(block[192 + s] as i8);
                let low = part::<16, 210>(block, 64 * half + 32 * (quarter % 2) + 16 * side);
                let high = part::<16, 210>(block, 128 + 32 * half + 16 * side);
                let out = part_mut::<16, 256>(out, 16 * s);
                for i in 0..16 {
                    let lower = low[i] >> (quarter / 2 * 4) & 15;
                    let upper = high[i] >> (2 * quarter) & 3;
                    out[i] = step * (i32::from(lower | upper << 4) - 32) as f32;
                }
            }
        }
    }
}

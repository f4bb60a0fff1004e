//! f32 rounded to bf16: what tensor cores read. A unit per two values, which share a word.

use super::super::device::{Device, UNITS, Words, launch};
use crate::engine::EngineError;
use cubecl::prelude::*;

/// Rounds f32 to bf16, ties to even, two in a word; NaN stays NaN.
#[cube(launch, launch_unchecked)]
fn round_kernel(x: &Array<f32>, out: &mut Array<u32>) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let mut word = 0u32;
        #[unroll]
        for half in 0..2usize {
            let bits = u32::reinterpret(x[2usize * i + half]);
            let even = (bits >> 16u32) & 1u32;
            let rounded = (bits + 0x7fffu32 + even) >> 16u32;
            let nan = (bits >> 16u32) | 0x40u32;
            let is_nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
            word |= select(is_nan, nan, rounded) << comptime!(16 * half as u32);
        }
        out[i] = word;
    }
}

/// x, an even number of values, as bf16.
pub(in super::super) fn round<R: Runtime>(
    device: &Device<R>,
    x: &Words,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len() / 2)?;
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        round_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(&out)
    );
    Ok(out)
}

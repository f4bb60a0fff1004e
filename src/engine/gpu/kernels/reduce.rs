//! Sums over all values, for evidence from weights: of one array, or of the product of two.
//!
//! Versions: 1. (here) a workgroup per block of [`BLOCK`] values, a tree in shared memory; the host adds the
//! blocks in f64. What a block covers is fixed, so that the sum depends on the values alone.

use super::super::device::{Device, UNITS, Words, launch};
use super::number::sum_of_units;
use crate::engine::EngineError;
use cubecl::prelude::*;

/// Values of one workgroup: 32 per unit.
const BLOCK: usize = UNITS as usize * 32;

#[cube(launch, launch_unchecked)]
fn sum_kernel(x: &Array<f32>, y: &Array<f32>, out: &mut Array<f32>, #[comptime] product: bool) {
    let mut shared = SharedMemory::<f32>::new(UNITS as usize);
    let block = CUBE_POS;
    if block < out.len() {
        let end = select(
            (block + 1usize) * BLOCK < x.len(),
            (block + 1usize) * BLOCK,
            x.len(),
        );
        let mut i = block * BLOCK + UNIT_POS as usize;
        let mut sum = 0.0f32;
        while i < end {
            if comptime!(product) {
                sum = fma(x[i], y[i], sum);
            } else {
                sum += x[i];
            }
            i += UNITS as usize;
        }
        let total = sum_of_units(&mut shared, sum, UNITS as usize);
        if UNIT_POS == 0u32 {
            out[block] = total;
        }
    }
}

/// The sum of x, or of x · y: both of the same length.
pub(in super::super) fn sum<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    y: Option<&Words>,
) -> Result<f64, EngineError> {
    let out = device.empty(x.len().div_ceil(BLOCK))?;
    if x.len() == 0 {
        return Ok(0.0);
    }
    let grid = device.grid(out.len())?;
    launch!(
        device,
        sum_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(y.unwrap_or(x)),
        device.arg(&out),
        y.is_some(),
    );
    Ok(device.download(&out)?.iter().map(|&v| f64::from(v)).sum())
}

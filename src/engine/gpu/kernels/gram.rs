//! Products and cosines of all pairs of rows.
//!
//! Versions: 1. (here) the product of the linear kernel, with one set of rows in place of the weight; then
//! norms of rows by a workgroup each, and a division per pair.

use super::super::device::{Device, UNITS, Words, launch};
use super::linear::{Part, linear, pad, padded, version_for};
use super::number::{Stored, sum_of_units};
use crate::engine::EngineError;
use cubecl::prelude::*;

#[cube(launch, launch_unchecked)]
fn square_kernel(x: &Array<f32>, out: &mut Array<f32>, n_cols: usize) {
    let mut shared = SharedMemory::<f32>::new(UNITS as usize);
    let row = CUBE_POS;
    if row < out.len() {
        let mut i = UNIT_POS as usize;
        let mut sum = 0.0f32;
        while i < n_cols {
            let v = x[row * n_cols + i];
            sum = fma(v, v, sum);
            i += UNITS as usize;
        }
        let total = sum_of_units(&mut shared, sum, UNITS as usize);
        if UNIT_POS == 0u32 {
            out[row] = total;
        }
    }
}

#[cube(launch, launch_unchecked)]
fn cosine_kernel(
    products: &Array<f32>,
    x_squares: &Array<f32>,
    y_squares: &Array<f32>,
    out: &mut Array<f32>,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let n = y_squares.len();
        // The roots are taken apart: a product of squares could overflow.
        out[i] = products[i] / (f32::sqrt(x_squares[i / n]) * f32::sqrt(y_squares[i % n]));
    }
}

fn squares<R: Runtime>(device: &Device<R>, x: &Words, n_cols: usize) -> Result<Words, EngineError> {
    let out = device.empty(x.len() / n_cols)?;
    let grid = device.grid(out.len())?;
    launch!(
        device,
        square_kernel,
        grid,
        UNITS,
        device.arg(x),
        device.arg(&out),
        n_cols
    );
    Ok(out)
}

/// `[n, m]` of x `[n, n_cols]` and y `[m, n_cols]`: products of rows.
pub(in super::super) fn products<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    y: &Words,
    n_cols: usize,
) -> Result<Words, EngineError> {
    let (n, m) = (x.len() / n_cols, y.len() / n_cols);
    let out = device.empty(n * m)?;
    let (x, y) = (pad(device, x, n, n_cols)?, pad(device, y, m, n_cols)?);
    let part = Part {
        words: &y,
        stored: Stored::F32,
        first: 0,
        n_rows: m,
    };
    linear(
        device,
        &x,
        part,
        None,
        &out,
        (n, padded(n_cols), m),
        version_for(n),
    )?;
    Ok(out)
}

/// As [`products`], divided by the norms of the rows; NaN where a row is zero.
pub(in super::super) fn cosines<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    y: &Words,
    n_cols: usize,
) -> Result<Words, EngineError> {
    let products = products(device, x, y, n_cols)?;
    let (x_squares, y_squares) = (squares(device, x, n_cols)?, squares(device, y, n_cols)?);
    let out = device.empty(products.len())?;
    let grid = device.grid(out.len().div_ceil(UNITS as usize))?;
    launch!(
        device,
        cosine_kernel,
        grid,
        UNITS,
        device.arg(&products),
        device.arg(&x_squares),
        device.arg(&y_squares),
        device.arg(&out),
    );
    Ok(out)
}

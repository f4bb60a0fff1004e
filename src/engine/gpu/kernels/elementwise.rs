//! Element by element: activations, gates, sums and caps.
//!
//! Versions: 1. a unit per element. 2. (here) a unit per four elements, one load and one store of 16
//! bytes. All are bound by memory; results go to new memory, so that no one else's values change.

use super::super::device::{Device, Four, UNITS, Words, launch};
use super::number::{normal_cdf, sigmoid, tanh_of};
use crate::engine::EngineError;
use cubecl::prelude::*;

/// A function of one value and, for some, of a parameter c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) enum Function {
    /// x · σ(x).
    Silu,
    /// x · Φ(x).
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// x · σ(1.702 x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// c · tanh(x / c).
    Softcap,
    /// x cut to [−c, c].
    Clip,
    /// c · x.
    Scale,
}

#[cube]
fn apply(x: f32, parameter: f32, #[comptime] function: Function) -> f32 {
    if comptime!(function == Function::Silu) {
        x * sigmoid(x)
    } else if comptime!(function == Function::Gelu) {
        x * normal_cdf(x)
    } else if comptime!(function == Function::GeluTanh) {
        let inner = 0.797_884_6f32 * (x + 0.044_715f32 * x * x * x);
        0.5f32 * x * (1.0f32 + tanh_of(inner))
    } else if comptime!(function == Function::QuickGelu) {
        x * sigmoid(1.702f32 * x)
    } else if comptime!(function == Function::Relu) {
        // A comparison with NaN is false, and NaN stays.
        select(x < 0.0f32, 0.0f32, x)
    } else if comptime!(function == Function::Softcap) {
        parameter * tanh_of(x / parameter)
    } else if comptime!(function == Function::Clip) {
        select(
            x > parameter,
            parameter,
            select(x < -parameter, -parameter, x),
        )
    } else {
        parameter * x
    }
}

#[cube(launch, launch_unchecked)]
fn map_kernel(
    x: &Array<Vector<f32, Four>>,
    out: &mut Array<Vector<f32, Four>>,
    parameter: f32,
    #[comptime] function: Function,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let mut v = x[i];
        #[unroll]
        for k in 0..4 {
            v[k] = apply(v[k], parameter, function);
        }
        out[i] = v;
    }
}

#[cube(launch, launch_unchecked)]
fn gated_kernel(
    gate: &Array<Vector<f32, Four>>,
    up: &Array<Vector<f32, Four>>,
    out: &mut Array<Vector<f32, Four>>,
    #[comptime] function: Function,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let mut v = gate[i];
        let u = up[i];
        #[unroll]
        for k in 0..4 {
            v[k] = apply(v[k], 0.0f32, function) * u[k];
        }
        out[i] = v;
    }
}

#[cube(launch, launch_unchecked)]
fn add_kernel(
    x: &Array<Vector<f32, Four>>,
    y: &Array<Vector<f32, Four>>,
    out: &mut Array<Vector<f32, Four>>,
    scale: f32,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let mut v = x[i];
        let w = y[i];
        #[unroll]
        for k in 0..4 {
            v[k] = v[k] + scale * w[k];
        }
        out[i] = v;
    }
}

fn grid<R: Runtime>(device: &Device<R>, n: usize) -> Result<CubeCount, EngineError> {
    device.grid(n.div_ceil(4).div_ceil(UNITS as usize))
}

/// f(x) of every value.
pub(in super::super) fn map<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    function: Function,
    parameter: f32,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len())?;
    let grid = grid(device, x.len())?;
    launch!(
        device,
        map_kernel,
        grid,
        UNITS,
        device.arg4(x),
        device.arg4(&out),
        parameter,
        function
    );
    Ok(out)
}

/// f(gate) · up of every value; both have the same length.
pub(in super::super) fn gated<R: Runtime>(
    device: &Device<R>,
    gate: &Words,
    up: &Words,
    function: Function,
) -> Result<Words, EngineError> {
    let out = device.empty(gate.len())?;
    let grid = grid(device, gate.len())?;
    launch!(
        device,
        gated_kernel,
        grid,
        UNITS,
        device.arg4(gate),
        device.arg4(up),
        device.arg4(&out),
        function,
    );
    Ok(out)
}

/// x + scale · y of every value; both have the same length.
pub(in super::super) fn add<R: Runtime>(
    device: &Device<R>,
    x: &Words,
    y: &Words,
    scale: f32,
) -> Result<Words, EngineError> {
    let out = device.empty(x.len())?;
    let grid = grid(device, x.len())?;
    launch!(
        device,
        add_kernel,
        grid,
        UNITS,
        device.arg4(x),
        device.arg4(y),
        device.arg4(&out),
        scale
    );
    Ok(out)
}

/// What is right, in f64.
#[cfg(test)]
pub(in super::super) fn plain(x: f32, c: f32, function: Function) -> f64 {
    let (x, c) = (f64::from(x), f64::from(c));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match function {
        Function::Silu => x * sigmoid(x),
        Function::Gelu => x * normal_cdf_in_f64(x),
        Function::GeluTanh => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Function::QuickGelu => x * sigmoid(1.702 * x),
        Function::Relu if x < 0.0 => 0.0,
        Function::Relu => x,
        Function::Softcap => c * (x / c).tanh(),
        Function::Clip if x.is_nan() => x,
        Function::Clip => x.clamp(-c, c),
        Function::Scale => c * x,
    }
}

/// Φ by Simpson's rule over the density, good to 10⁻¹² where |x| < 8.
#[cfg(test)]
fn normal_cdf_in_f64(x: f64) -> f64 {
    if x.is_nan() || x.is_infinite() {
        return if x.is_nan() {
            x
        } else {
            f64::from(u8::from(x > 0.0))
        };
    }
    let (low, n) = (-12.0f64.max(x.abs()), 4000);
    let step = (x - low) / f64::from(n);
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let weight = |i: i32| {
        if i == 0 || i == n {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let sum: f64 = (0..=n)
        .map(|i| weight(i) * density(low + step * f64::from(i)))
        .sum();
    sum * step / 3.0
}

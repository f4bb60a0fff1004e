//! y = x Wᵀ: which version of the product runs, and how its work is spread over cores.
//!
//! A few rows read W as it is stored, and every core takes rows of W. Many rows are packed; W is packed a
//! panel at a time, so that memory does not grow with it, and every core takes rows of x, whose part of y lies
//! together. Between the two every core takes rows of W and packs them for itself. None of it changes a bit:
//! a product is a function of its two rows (`product`).

use super::product::FEW;
use super::product::tiles::{Out, Packed, Tile, packed_times};
use super::real::Real;
use super::weight::Weight;
use crate::tensor::TensorError;
use rayon::prelude::*;
use std::mem::take;
use std::sync::{Mutex, PoisonError};

/// Rows of a weight that one task multiplies or packs.
const TASK_ROWS: usize = 32;
/// Least groups of rows of x that one task multiplies with a panel: each passes it once.
const TASK_GROUPS: usize = 4;
/// Tasks per core, so that cores end at about the same time.
const TASKS_PER_CORE: usize = 2;
/// Bytes of a packed panel of W, which all cores read.
const PANEL_BYTES: usize = 8 << 20;

/// Memory that one thread uses again and again.
#[derive(Debug, Default)]
struct Scratch<T> {
    decoded: Vec<f32>,
    packed: Packed<T>,
}

/// Memory for packed rows that products use one after the other: fresh memory costs a fault per page.
#[derive(Debug, Default)]
pub(super) struct Packs<T> {
    x: Packed<T>,
    panel: Packed<T>,
}

/// x Wᵀ `[n_rows, n_out]` of x `[n_rows, n_in]`. `kept` is the memory of the product before, and of as many
/// values as the largest of them packed.
///
/// # Errors
/// When rows of the weight cannot be read.
pub(super) fn linear<T: Real>(
    x: &[T],
    weight: &Weight,
    kept: &Mutex<Packs<T>>,
) -> Result<Vec<T>, TensorError> {
    let n_x = x.len() / weight.n_in;
    if n_x <= FEW {
        return of_few(x, n_x, weight);
    }
    let kept = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    // A product that runs beside another finds none, and makes its own.
    let mut packs = take(&mut *kept());
    let tile = Tile::of::<T>();
    packs.x.par_fill_x(x, weight.n_in, tile);
    let few_tasks =
        n_x.div_ceil(TASK_GROUPS * tile.n_x()) < TASKS_PER_CORE * rayon::current_num_threads();
    let y = match few_tasks {
        true => of_some(&packs.x, n_x, tile, weight),
        false => of_many(&mut packs, n_x, tile, weight),
    };
    *kept() = packs;
    y
}

/// A few rows, W as it is stored.
fn of_few<T: Real>(x: &[T], n_x: usize, weight: &Weight) -> Result<Vec<T>, TensorError> {
    // Products lie as [n_out, n_x]: a task owns the rows of its part of W.
    let mut products = vec![T::ZERO; weight.n_out * n_x];
    products
        .par_chunks_mut((TASK_ROWS * n_x).max(1))
        .enumerate()
        .try_for_each_init(Vec::new, |decoded, (task, out)| {
            let start = task * TASK_ROWS;
            let rows = start..weight.n_out.min(start + TASK_ROWS);
            weight.times_few(rows, x, decoded, out)
        })?;
    Ok(turned(products, n_x, weight.n_out))
}

/// Too few rows to give each core some: cores share W.
fn of_some<T: Real>(
    x: &Packed<T>,
    n_x: usize,
    tile: Tile,
    weight: &Weight,
) -> Result<Vec<T>, TensorError> {
    let mut products = vec![T::ZERO; weight.n_out * n_x];
    products
        .par_chunks_mut(TASK_ROWS * n_x)
        .enumerate()
        .try_for_each_init(
            Scratch::default,
            |scratch, (task, out)| -> Result<(), TensorError> {
                let start = task * TASK_ROWS;
                let rows = start..weight.n_out.min(start + TASK_ROWS);
                scratch.packed.resize_w(rows.len(), weight.n_in, tile);
                weight.pack(rows, &mut scratch.decoded, scratch.packed.place())?;
                let mut out = Out {
                    values: out,
                    x_stride: 1,
                    w_stride: n_x,
                };
                packed_times(x.all(), scratch.packed.all(), tile, &mut out);
                Ok(())
            },
        )?;
    Ok(turned(products, n_x, weight.n_out))
}

/// Many rows: cores share x.
fn of_many<T: Real>(
    packs: &mut Packs<T>,
    n_x: usize,
    tile: Tile,
    weight: &Weight,
) -> Result<Vec<T>, TensorError> {
    let (n_in, n_out) = (weight.n_in, weight.n_out);
    let panel_rows = (PANEL_BYTES / (n_in * size_of::<T>())).next_multiple_of(TASK_ROWS);
    let panel_rows = panel_rows.max(TASK_ROWS);
    let n_tasks = TASKS_PER_CORE * rayon::current_num_threads();
    let task_groups = n_x.div_ceil(tile.n_x()).div_ceil(n_tasks).max(TASK_GROUPS);
    let task_rows = task_groups * tile.n_x();
    let mut y = vec![T::ZERO; n_x * n_out];
    let Packs { x, panel } = packs;
    for start in (0..n_out).step_by(panel_rows) {
        let rows = start..n_out.min(start + panel_rows);
        panel.resize_w(rows.len(), n_in, tile);
        panel
            .parts(TASK_ROWS / tile.n_w())
            .enumerate()
            .try_for_each_init(Vec::new, |decoded, (part, place)| {
                let first = rows.start + part * TASK_ROWS;
                let rows = first..rows.end.min(first + TASK_ROWS);
                weight.pack(rows, decoded, place)
            })?;
        y.par_chunks_mut(task_rows * n_out)
            .enumerate()
            .for_each(|(task, out)| {
                let first = task * task_rows;
                let mut out = Out {
                    values: &mut out[rows.start..],
                    x_stride: n_out,
                    w_stride: 1,
                };
                let x = x.rows(first..n_x.min(first + task_rows));
                packed_times(x, panel.all(), tile, &mut out);
            });
    }
    Ok(y)
}

/// `[n_out, n_x]` turned into `[n_x, n_out]`.
fn turned<T: Real>(products: Vec<T>, n_x: usize, n_out: usize) -> Vec<T> {
    if n_x == 1 {
        return products;
    }
    let mut turned = vec![T::ZERO; products.len()];
    turned
        .par_chunks_mut(n_out.max(1))
        .enumerate()
        .for_each(|(row, out)| {
            for (j, out) in out.iter_mut().enumerate() {
                *out = products[j * n_x + row];
            }
        });
    turned
}

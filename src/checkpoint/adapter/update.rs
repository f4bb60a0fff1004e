//! The change that a pair of factors makes: scale · B · A, row by row.

use super::super::CheckpointError;
use super::wrong;
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{Tensor, TensorError};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Factors that are kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Elements of a weight that is changed: a small file can state factors whose product fills no disk. The largest
/// weights that are published, tables of tokens, have a quarter of this.
const MAX_ELEMENTS: usize = 1 << 34;

/// Both factors of a module, laid out for rows of its weight.
#[derive(Debug)]
struct Loaded {
    /// `[n_rows, rank]`.
    left: Vec<f32>,
    /// `[rank, n_columns]`.
    right: Vec<f32>,
}

/// Factors by module with the time of their last use, and their bytes in all.
type Shelf = (HashMap<u64, (Arc<Loaded>, u64)>, usize);

/// Factors that were read, of all modules of an adapter.
#[derive(Debug, Default)]
pub(super) struct Factors {
    kept: Mutex<Shelf>,
    clock: AtomicU64,
    n_modules: AtomicU64,
}

impl Factors {
    fn get(&self, id: u64) -> Option<Arc<Loaded>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (loaded, used) = kept.0.get_mut(&id)?;
        *used = now;
        Some(Arc::clone(loaded))
    }

    /// Keeps factors and drops those that were not used for longest.
    fn put(&self, id: u64, loaded: &Arc<Loaded>) {
        let size = |loaded: &Loaded| 4 * (loaded.left.len() + loaded.right.len());
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, n_bytes) = &mut *kept;
        *n_bytes += size(loaded);
        if let Some((before, _)) = map.insert(id, (Arc::clone(loaded), now)) {
            *n_bytes -= size(&before);
        }
        while *n_bytes > CACHE_BYTES && map.len() > 1 {
            let oldest = map.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            if let Some((dropped, _)) = map.remove(&oldest) {
                *n_bytes -= size(&dropped);
            }
        }
    }
}

/// The change of one weight.
#[derive(Debug, Clone)]
pub(super) struct Update {
    /// `[rank, in]`.
    a: Tensor,
    /// `[out, rank]`.
    b: Tensor,
    magnitude: Option<Tensor>,
    scale: f64,
    /// The weight lies as `[in, out]`.
    turned: bool,
    n_in: usize,
    n_out: usize,
    rank: usize,
    id: u64,
    cache: Arc<Factors>,
    parts: Vec<Part>,
}

impl Update {
    /// Checks the factors against each other.
    ///
    /// # Errors
    /// When they are no matrices of numbers that can be multiplied, or the magnitude is of another length.
    pub(super) fn new(
        a: &Tensor,
        b: &Tensor,
        magnitude: Option<&Tensor>,
        scale: f64,
        turned: bool,
        cache: &Arc<Factors>,
    ) -> Result<Self, CheckpointError> {
        let matrix = |tensor: &Tensor| match tensor.shape() {
            &[rows, columns] if tensor.dtype().is_float() && rows > 0 && columns > 0 => {
                Ok([rows, columns])
            }
            shape => {
                let found = format!("{} {shape:?}", tensor.dtype().name());
                Err(wrong(tensor, "a factor as a matrix of floats", found))
            }
        };
        let ([rank, n_in], [n_out, other]) = (matrix(a)?, matrix(b)?);
        if rank != other {
            let expected = format!("{rank} columns, as the other factor has rows");
            return Err(wrong(b, expected, format!("{:?}", b.shape())));
        }
        if n_out
            .checked_mul(n_in)
            .is_none_or(|product| product > MAX_ELEMENTS)
        {
            let expected = format!("factors of a weight of at most {MAX_ELEMENTS} elements");
            return Err(wrong(b, expected, format!("{n_out} × {n_in}")));
        }
        if let Some(m) = magnitude
            && (m.n_elements() != n_out || !m.dtype().is_float())
        {
            let expected = format!("{n_out} magnitudes");
            return Err(wrong(m, expected, format!("{:?}", m.shape())));
        }
        let mut parts = vec![("lora_A", a), ("lora_B", b)];
        parts.extend(magnitude.map(|m| ("magnitude", m)));
        let part = |(kind, tensor): (&'static str, &Tensor)| Part {
            kind,
            tensor: tensor.clone(),
        };
        Ok(Self {
            a: a.clone(),
            b: b.clone(),
            magnitude: magnitude.cloned(),
            scale,
            turned,
            n_in,
            n_out,
            rank,
            id: cache.n_modules.fetch_add(1, Ordering::Relaxed),
            cache: Arc::clone(cache),
            parts: parts.into_iter().map(part).collect(),
        })
    }

    /// Rows and columns of the weight that it changes.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self.turned {
            true => [self.n_in, self.n_out],
            false => [self.n_out, self.n_in],
        }
    }

    /// Whether outputs are columns of the weight.
    pub(super) fn is_turned(&self) -> bool {
        self.turned
    }

    /// Lengths of the merged weight's outputs (DoRA).
    pub(super) fn magnitude(&self) -> Option<&Tensor> {
        self.magnitude.as_ref()
    }

    /// The first factor, for messages.
    pub(super) fn factor(&self) -> &Tensor {
        &self.a
    }

    /// The stored tensors.
    pub(super) fn stored(&self) -> &[Part] {
        &self.parts
    }

    /// The change as a tensor of its own.
    pub(super) fn alone(&self, name: String) -> Result<Tensor, CheckpointError> {
        let shape = self.shape().to_vec();
        Ok(Tensor::coded(name, shape, Arc::new(self.clone()))?)
    }

    fn loaded(&self) -> Result<Arc<Loaded>, TensorError> {
        if let Some(loaded) = self.cache.get(self.id) {
            return Ok(loaded);
        }
        let a = self.a.read_elements(0..self.a.n_elements())?;
        let b = self.b.read_elements(0..self.b.n_elements())?;
        let loaded = Arc::new(match self.turned {
            true => Loaded {
                left: transposed(&a, self.n_in),
                right: transposed(&b, self.rank),
            },
            false => Loaded { left: b, right: a },
        });
        self.cache.put(self.id, &loaded);
        Ok(loaded)
    }

    /// Some columns of a row of the change, and how far the order of the sums may move each of them.
    ///
    /// # Errors
    /// When the factors cannot be read.
    pub(super) fn row(
        &self,
        row: usize,
        columns: Range<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        let loaded = self.loaded()?;
        let n_columns = self.shape()[1];
        let mut values = vec![0f32; columns.len()];
        let mut sizes = vec![0f32; columns.len()];
        for k in 0..self.rank {
            let factor = loaded.left[row * self.rank + k];
            let right = &loaded.right[k * n_columns..][columns.clone()];
            for ((value, size), x) in values.iter_mut().zip(&mut sizes).zip(right) {
                let product = factor * x;
                *value += product;
                *size += product.abs();
            }
        }
        let scale = self.scale as f32;
        // Each of the sums that an order of summation may choose is off by at most so much; both sides sum.
        let noise = 2.0 * (self.rank as f32 + 2.0) * f32::EPSILON * scale.abs();
        values.iter_mut().for_each(|value| *value *= scale);
        sizes.iter_mut().for_each(|size| *size *= noise);
        Ok((values, sizes))
    }

    /// Numbers that the values depend on beside the stored tensors.
    pub(super) fn parameters(&self) -> Vec<u64> {
        vec![self.scale.to_bits(), u64::from(self.turned)]
    }
}

/// A matrix of rows of `n_columns`, turned.
fn transposed(values: &[f32], n_columns: usize) -> Vec<f32> {
    let n_rows = values.len() / n_columns.max(1);
    let mut out = Vec::with_capacity(values.len());
    for column in 0..n_columns {
        out.extend((0..n_rows).map(|row| values[row * n_columns + column]));
    }
    out
}

impl Decoder for Update {
    fn coding(&self) -> Coding {
        match self.magnitude {
            Some(_) => Coding::DORA_UPDATE,
            None => Coding::LORA_UPDATE,
        }
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn parameters(&self) -> Vec<u64> {
        self.parameters()
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let (values, noise) = self.row(row, columns)?;
        for (value, noise) in values.into_iter().zip(noise) {
            out.put(0, value, noise);
        }
        Ok(())
    }
}

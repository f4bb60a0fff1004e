//! The CPU backend: the definition of right, in f32 or f64.
//!
//! Sums have one order, fixed by the sizes of a row (`product`), so that the same bits come out for
//! every number of threads, every batch and every way to cut a text into chunks, on every machine
//! with fused multiply-add, whatever the width of its vectors.

mod attention;
mod linear;
mod memory;
mod product;
mod real;
mod rowwise;
mod weight;

pub use attention::Cache;
pub use real::Real;
pub use weight::Weight;

use super::EngineError;
use super::backend::{AttentionShape, Backend, RopeTable};
use crate::arch::spec::{Activation, NormSpec};
use crate::tensor::Matrix;
use linear::Packs;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use weight::Budget;

/// Values below which a row-wise operation is not spread over cores.
const PARALLEL_ABOVE: usize = 1 << 14;

/// The CPU, computing in T.
#[derive(Debug)]
pub struct Cpu<T> {
    budget: Budget,
    packs: Mutex<Packs<T>>,
}

impl<T: Real> Cpu<T> {
    /// Keeps weights in memory as long as most of what is available remains; leaves the others in their
    /// files.
    pub fn new() -> Self {
        Self::with_budget(memory::for_weights())
    }

    /// Keeps at most this many bytes of weights in memory.
    pub fn with_budget(n_bytes: u64) -> Self {
        Self {
            budget: Budget::new(n_bytes),
            packs: Mutex::default(),
        }
    }
}

impl<T: Real> Default for Cpu<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Activations `[n_rows, n_cols]`; clones share memory until one is changed.
#[derive(Debug, Clone)]
pub struct Buffer<T> {
    n_cols: usize,
    values: Arc<Vec<T>>,
}

impl<T: Real> Buffer<T> {
    fn new(n_cols: usize, values: Vec<T>) -> Self {
        Self {
            n_cols,
            values: Arc::new(values),
        }
    }

    fn n_rows(&self) -> usize {
        self.values.len() / self.n_cols.max(1)
    }

    fn row(&self, row: usize) -> &[T] {
        &self.values[row * self.n_cols..(row + 1) * self.n_cols]
    }

    /// Does something to every row, numbered.
    fn each_row(&mut self, f: impl Fn(usize, &mut [T]) + Sync) {
        let n_cols = self.n_cols;
        let values = Arc::make_mut(&mut self.values);
        if values.len() < PARALLEL_ABOVE {
            let rows = values.chunks_mut(n_cols).enumerate();
            rows.for_each(|(row, values)| f(row, values));
        } else {
            let rows = values.par_chunks_mut(n_cols).enumerate();
            rows.for_each(|(row, values)| f(row, values));
        }
    }

    /// Does something to every value.
    fn each(&mut self, f: impl Fn(T) -> T + Sync) {
        self.each_row(|_, row| row.iter_mut().for_each(|value| *value = f(*value)));
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Buffer = Buffer<T>;
    type Weight = Weight;
    type Cache = Cache<T>;

    fn describe(&self) -> String {
        format!("{} ({} threads)", T::NAME, rayon::current_num_threads())
    }

    fn shape(&self, x: &Buffer<T>) -> (usize, usize) {
        (x.n_rows(), x.n_cols)
    }

    fn weight(&self, matrix: &Matrix) -> Result<Weight, EngineError> {
        Ok(Weight::load(matrix, &self.budget)?)
    }

    fn upload(
        &self,
        values: &[f32],
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Buffer<T>, EngineError> {
        assert_eq!(values.len(), n_rows * n_cols, "one value per element");
        let values = values.iter().map(|&v| T::from_f32(v)).collect();
        Ok(Buffer::new(n_cols, values))
    }

    fn download(&self, x: &Buffer<T>) -> Result<Vec<f32>, EngineError> {
        Ok(x.values.iter().map(|v| v.to_f32()).collect())
    }

    fn embed(&self, table: &Weight, ids: &[u32], scale: f32) -> Result<Buffer<T>, EngineError> {
        let mut values = vec![T::ZERO; ids.len() * table.n_in];
        for (out, &id) in values.chunks_mut(table.n_in).zip(ids) {
            table.read(id as usize..id as usize + 1, out)?;
            for value in out {
                *value = *value * T::from_f32(scale);
            }
        }
        Ok(Buffer::new(table.n_in, values))
    }

    fn linear(
        &self,
        x: &Buffer<T>,
        weight: &Weight,
        bias: Option<&Buffer<T>>,
    ) -> Result<Buffer<T>, EngineError> {
        let (n_x, n_out) = (x.n_rows(), weight.n_out);
        if n_x == 0 {
            return Ok(Buffer::new(n_out, Vec::new()));
        }
        let mut y = Buffer::new(n_out, linear::linear(&x.values, weight, &self.packs)?);
        if let Some(bias) = bias {
            y.each_row(|_, row| {
                for (value, &bias) in row.iter_mut().zip(bias.row(0)) {
                    *value += bias;
                }
            });
        }
        Ok(y)
    }

    fn norm(
        &self,
        x: &Buffer<T>,
        spec: &NormSpec,
        gain: Option<&Buffer<T>>,
        bias: Option<&Buffer<T>>,
        width: usize,
    ) -> Result<Buffer<T>, EngineError> {
        fn part<T>(values: &[T], width: usize, group: usize) -> &[T] {
            let n_groups = values.len() / width;
            let start = (group % n_groups) * width;
            &values[start..start + width]
        }
        let mut y = x.clone();
        y.each_row(|_, row| {
            for (group, values) in row.chunks_mut(width).enumerate() {
                let gain = gain.map(|gain| part(gain.row(0), width, group));
                let bias = bias.map(|bias| part(bias.row(0), width, group));
                rowwise::norm(values, spec, gain, bias);
            }
        });
        Ok(y)
    }

    fn rope(
        &self,
        x: &mut Buffer<T>,
        head_dim: usize,
        table: &RopeTable<Buffer<T>>,
    ) -> Result<(), EngineError> {
        x.each_row(|row, values| {
            for head in values.chunks_mut(head_dim) {
                let turned = &mut head[table.offset..table.offset + table.rotated_dim];
                rowwise::rope(turned, table.cos.row(row), table.sin.row(row), table.style);
            }
        });
        Ok(())
    }

    fn cache(
        &self,
        capacity: usize,
        n_kv_heads: usize,
        head_dim: usize,
        value_dim: usize,
    ) -> Result<Cache<T>, EngineError> {
        let n_values = n_kv_heads
            .checked_mul(head_dim + value_dim)
            .and_then(|width| width.checked_mul(capacity));
        let n_bytes = n_values.and_then(|n| n.checked_mul(size_of::<T>()));
        if n_bytes.is_none_or(|n| n as u64 > memory::available_or_all()) {
            return Err(EngineError::Request(format!(
                "a text of {capacity} tokens: there is no memory for its keys and values"
            )));
        }
        Ok(Cache {
            capacity,
            n_kv_heads,
            keys: vec![T::ZERO; capacity * n_kv_heads * head_dim],
            values: vec![T::ZERO; capacity * n_kv_heads * value_dim],
        })
    }

    fn append(
        &self,
        cache: &mut Cache<T>,
        at: usize,
        k: &Buffer<T>,
        v: &Buffer<T>,
        rows: Range<usize>,
    ) -> Result<(), EngineError> {
        for (token, row) in (at..).zip(rows) {
            cache.write(token, k.row(row), v.row(row));
        }
        Ok(())
    }

    fn attention(
        &self,
        q: &Buffer<T>,
        rows: Range<usize>,
        cache: &Cache<T>,
        at: usize,
        shape: &AttentionShape,
    ) -> Result<Buffer<T>, EngineError> {
        let q = &q.values[rows.start * q.n_cols..rows.end * q.n_cols];
        let out = attention::attention(q, cache, at, shape);
        Ok(Buffer::new(shape.n_heads * shape.value_dim, out))
    }

    fn activate(&self, x: &mut Buffer<T>, activation: Activation) -> Result<(), EngineError> {
        x.each_row(|_, row| rowwise::activate(row, activation));
        Ok(())
    }

    fn gated(
        &self,
        gate: &mut Buffer<T>,
        up: &Buffer<T>,
        activation: Activation,
    ) -> Result<(), EngineError> {
        gate.each_row(|row, values| {
            rowwise::gated(values, up.row(row), activation);
        });
        Ok(())
    }

    fn add(&self, x: &mut Buffer<T>, y: &Buffer<T>, scale: f32) -> Result<(), EngineError> {
        let scale = T::from_f32(scale);
        x.each_row(|row, values| {
            for (value, &y) in values.iter_mut().zip(y.row(row)) {
                *value += scale * y;
            }
        });
        Ok(())
    }

    fn softcap(&self, x: &mut Buffer<T>, cap: f32) -> Result<(), EngineError> {
        let cap = T::from_f32(cap);
        x.each(|value| cap * (value / cap).tanh());
        Ok(())
    }

    fn clip(&self, x: &mut Buffer<T>, limit: f32) -> Result<(), EngineError> {
        let limit = T::from_f32(limit);
        x.each(|value| {
            if value > limit {
                limit
            } else if value < -limit {
                -limit
            } else {
                value
            }
        });
        Ok(())
    }

    fn scale(&self, x: &mut Buffer<T>, factor: f32) -> Result<(), EngineError> {
        let factor = T::from_f32(factor);
        x.each(|value| value * factor);
        Ok(())
    }

    fn gather(&self, x: &Buffer<T>, rows: &[u32]) -> Result<Buffer<T>, EngineError> {
        let mut values = Vec::with_capacity(rows.len() * x.n_cols);
        for &row in rows {
            values.extend_from_slice(x.row(row as usize));
        }
        Ok(Buffer::new(x.n_cols, values))
    }

    fn scatter_add(
        &self,
        x: &mut Buffer<T>,
        rows: &[u32],
        weights: &[f32],
        y: &Buffer<T>,
    ) -> Result<(), EngineError> {
        let n_cols = x.n_cols;
        let values = Arc::make_mut(&mut x.values);
        for (i, (&row, &weight)) in rows.iter().zip(weights).enumerate() {
            let out = &mut values[row as usize * n_cols..(row as usize + 1) * n_cols];
            for (out, &y) in out.iter_mut().zip(y.row(i)) {
                *out += T::from_f32(weight) * y;
            }
        }
        Ok(())
    }

    fn stack(&self, pieces: &[Buffer<T>]) -> Result<Buffer<T>, EngineError> {
        let [first, rest @ ..] = pieces else {
            return Ok(Buffer::new(0, Vec::new()));
        };
        if rest.is_empty() {
            return Ok(first.clone());
        }
        let values = pieces.iter().flat_map(|piece| piece.values.iter().copied());
        Ok(Buffer::new(first.n_cols, values.collect()))
    }

    fn join_heads(
        &self,
        a: &Buffer<T>,
        b: &Buffer<T>,
        n_heads: usize,
    ) -> Result<Buffer<T>, EngineError> {
        let width_a = a.n_cols / n_heads;
        let width = n_heads * (width_a + b.n_cols);
        let mut values = Vec::with_capacity(a.n_rows() * width);
        for row in 0..a.n_rows() {
            for head in a.row(row).chunks(width_a) {
                values.extend_from_slice(head);
                values.extend_from_slice(b.row(row));
            }
        }
        Ok(Buffer::new(width, values))
    }
}

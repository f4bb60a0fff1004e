//! [`Backend`] over the kernels: shapes are checked here, so that kernels can rely on them.

use super::device::{Device, Limits, Words};
use super::kernels::attention::{self, Span, Split};
use super::kernels::elementwise::{self, Function};
use super::kernels::linear::version_for;
use super::kernels::norm::{self, Norm};
use super::kernels::rope::{self, Turn};
use super::kernels::rows;
use super::kernels::tensor_core;
use super::weight::GpuWeight;
use crate::arch::spec::{Activation, NormKind, NormSpec, RopeStyle};
use crate::engine::EngineError;
use crate::engine::backend::{AttentionShape, Backend, RopeTable, one_by_one};
use crate::tensor::Matrix;
use cubecl::prelude::{ComputeClient, Runtime};
use std::ops::Range;

/// How products of matrices are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Products and sums in f32; results are those of the CPU to rounding.
    #[default]
    F32,
    /// Where weights are stored as bf16 and the device has tensor cores for it, activations are rounded to
    /// bf16 and sums are taken in f32. Several times faster, and not what the model computes exactly.
    Bf16,
}

/// A graphics card.
pub struct Gpu<R: Runtime> {
    pub(super) device: Device<R>,
    pub(super) precision: Precision,
}

/// Activations `[n_rows, n_cols]`, f32.
#[derive(Clone)]
pub struct Buffer {
    pub(super) words: Words,
    pub(super) n_rows: usize,
    pub(super) n_cols: usize,
}

/// Keys `[capacity, n_kv_heads × head_dim]` and values `[capacity, n_kv_heads × value_dim]`.
pub struct Cache {
    pub(super) keys: Words,
    pub(super) values: Words,
    capacity: usize,
    key_width: usize,
    value_width: usize,
}

fn function(activation: Activation) -> Function {
    match activation {
        Activation::Silu => Function::Silu,
        Activation::Gelu => Function::Gelu,
        Activation::GeluTanh => Function::GeluTanh,
        Activation::QuickGelu => Function::QuickGelu,
        Activation::Relu => Function::Relu,
    }
}

impl<R: Runtime> Gpu<R> {
    /// Takes a client that has been made.
    pub(super) fn new(client: ComputeClient<R>, name: String) -> Result<Self, EngineError> {
        Ok(Self {
            device: Device::new(client, name)?,
            precision: Precision::default(),
        })
    }

    /// What the device allows.
    pub fn limits(&self) -> Limits {
        self.device.limits()
    }

    /// Chooses how products of matrices are computed.
    ///
    /// # Errors
    /// When the device has no tensor cores that the kernels can use.
    pub fn set_precision(&mut self, precision: Precision) -> Result<(), EngineError> {
        let can = precision == Precision::F32 || tensor_core::is_supported(&self.device);
        self.demand(can, || {
            "it has no tensor cores for bf16 that the kernels can use (NVIDIA from compute capability 8.0 on \
             has them)"
                .to_owned()
        })?;
        self.precision = precision;
        Ok(())
    }

    /// Chooses whether kernels check every index; they do unless told otherwise.
    pub fn set_checked(&mut self, checked: bool) {
        self.device.set_checked(checked);
    }

    /// Waits until all that was asked for has been computed.
    ///
    /// # Errors
    /// When something of it has failed.
    pub fn synchronize(&self) -> Result<(), EngineError> {
        self.device.synchronize()
    }

    /// Refuses what a kernel could not be given.
    pub(super) fn demand(
        &self,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), EngineError> {
        if holds {
            Ok(())
        } else {
            Err(self.device.error(what()))
        }
    }

    pub(super) fn same_shape(&self, x: &Buffer, y: &Buffer) -> Result<(), EngineError> {
        self.demand((x.n_rows, x.n_cols) == (y.n_rows, y.n_cols), || {
            format!(
                "[{}, {}] and [{}, {}] differ in shape",
                x.n_rows, x.n_cols, y.n_rows, y.n_cols
            )
        })
    }

    fn map(&self, x: &mut Buffer, function: Function, parameter: f32) -> Result<(), EngineError> {
        if x.words.len() > 0 {
            x.words = elementwise::map(&self.device, &x.words, function, parameter)?;
        }
        Ok(())
    }

    fn buffer(&self, words: Words, n_rows: usize, n_cols: usize) -> Buffer {
        Buffer {
            words,
            n_rows,
            n_cols,
        }
    }

    pub(super) fn empty(&self, n_rows: usize, n_cols: usize) -> Result<Buffer, EngineError> {
        Ok(self.buffer(self.device.empty(n_rows * n_cols)?, n_rows, n_cols))
    }

    /// Attention with the work divided as the caller chooses.
    pub(super) fn attention_by(
        &self,
        q: &Buffer,
        rows: Range<usize>,
        cache: &Cache,
        at: usize,
        shape: &AttentionShape,
        split: Split,
    ) -> Result<Buffer, EngineError> {
        let heads = shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads);
        let fits = heads
            && q.n_cols == shape.n_heads * shape.head_dim
            && cache.key_width == shape.n_kv_heads * shape.head_dim
            && cache.value_width == shape.n_kv_heads * shape.value_dim
            && rows.start <= rows.end
            && rows.end <= q.n_rows
            && at + rows.len() <= cache.capacity
            && shape
                .slopes
                .as_ref()
                .is_none_or(|s| s.per_head.len() == shape.n_heads);
        self.demand(fits, || {
            format!(
                "attention of rows {rows:?} of {} × {} from token {at} does not fit its cache of {} \
                 tokens: {shape:?}",
                q.n_rows, q.n_cols, cache.capacity
            )
        })?;
        let width = shape.n_heads * shape.value_dim;
        if rows.is_empty() {
            return self.empty(0, width);
        }
        let span = Span {
            first_row: rows.start,
            n_rows: rows.len(),
            at,
        };
        let kv = (&cache.keys, &cache.values);
        let words = attention::attention(&self.device, &q.words, kv, span, shape, split)?;
        Ok(self.buffer(words, rows.len(), width))
    }
}

impl<R: Runtime> Backend for Gpu<R> {
    type Buffer = Buffer;
    type Weight = GpuWeight;
    type Cache = Cache;

    fn describe(&self) -> String {
        match self.precision {
            Precision::F32 => self.device.name().to_owned(),
            Precision::Bf16 => format!("{}, activations in bf16", self.device.name()),
        }
    }

    fn shape(&self, x: &Buffer) -> (usize, usize) {
        (x.n_rows, x.n_cols)
    }

    fn weight(&self, matrix: &Matrix) -> Result<GpuWeight, EngineError> {
        GpuWeight::new(&self.device, matrix)
    }

    fn weights(&self, matrices: &[Matrix]) -> Result<Vec<GpuWeight>, EngineError> {
        if let Some(stack) = GpuWeight::stack(&self.device, matrices)? {
            return Ok(stack);
        }
        matrices.iter().map(|matrix| self.weight(matrix)).collect()
    }

    fn upload(&self, values: &[f32], n_rows: usize, n_cols: usize) -> Result<Buffer, EngineError> {
        self.demand(values.len() == n_rows * n_cols, || {
            format!("{} values are not {n_rows} rows of {n_cols}", values.len())
        })?;
        Ok(self.buffer(self.device.upload(values)?, n_rows, n_cols))
    }

    fn download(&self, x: &Buffer) -> Result<Vec<f32>, EngineError> {
        self.device.download(&x.words)
    }

    fn embed(&self, table: &GpuWeight, ids: &[u32], scale: f32) -> Result<Buffer, EngineError> {
        self.demand(ids.iter().all(|&id| (id as usize) < table.n_out()), || {
            format!("a token lies beyond the table of {}", table.n_out())
        })?;
        let out = self.empty(ids.len(), table.n_in())?;
        if !ids.is_empty() {
            let ids = self.device.upload_indices(ids)?;
            table.embed(&self.device, &ids, &out.words, scale)?;
        }
        Ok(out)
    }

    fn linear(
        &self,
        x: &Buffer,
        weight: &GpuWeight,
        bias: Option<&Buffer>,
    ) -> Result<Buffer, EngineError> {
        if self.precision == Precision::Bf16 && self.has_tensor_cores(weight) {
            return self.linear_of_rounded(&self.round(x)?, weight, bias);
        }
        self.linear_by(x, weight, bias, version_for(x.n_rows))
    }

    fn linear_grouped(
        &self,
        x: &Buffer,
        groups: &[(Range<usize>, &GpuWeight)],
    ) -> Result<Buffer, EngineError> {
        match self.precision {
            Precision::F32 => self.linear_of_groups(x, groups),
            // Few rows are rounded as many are.
            Precision::Bf16 => one_by_one(self, x, groups),
        }
    }

    fn norm(
        &self,
        x: &Buffer,
        spec: &NormSpec,
        gain: Option<&Buffer>,
        bias: Option<&Buffer>,
        width: usize,
    ) -> Result<Buffer, EngineError> {
        let repeats = |b: &Buffer| b.words.len() == width || b.words.len() == x.n_cols;
        let fits = width > 0
            && x.n_cols.is_multiple_of(width)
            && gain.is_none_or(repeats)
            && bias.is_none_or(repeats);
        self.demand(fits, || {
            format!(
                "a norm over {width} of {} columns does not fit its gains",
                x.n_cols
            )
        })?;
        if x.words.len() == 0 {
            return Ok(x.clone());
        }
        let words = norm::norm(
            &self.device,
            &x.words,
            gain.map(|b| &b.words),
            bias.map(|b| &b.words),
            Norm {
                width,
                centred: spec.kind == NormKind::Layer,
                epsilon: spec.epsilon,
                plus_one: spec.plus_one,
            },
        )?;
        Ok(self.buffer(words, x.n_rows, x.n_cols))
    }

    fn rope(
        &self,
        x: &mut Buffer,
        head_dim: usize,
        table: &RopeTable<Buffer>,
    ) -> Result<(), EngineError> {
        let half = table.rotated_dim / 2;
        let covers = |b: &Buffer| (b.n_rows, b.n_cols) == (x.n_rows, half);
        let fits = head_dim > 0
            && x.n_cols.is_multiple_of(head_dim)
            && table.rotated_dim.is_multiple_of(2)
            && table.offset + table.rotated_dim <= head_dim
            && covers(&table.cos)
            && covers(&table.sin);
        self.demand(fits, || {
            format!(
                "{} positions from {} of heads of {head_dim} do not fit [{}, {}]",
                table.rotated_dim, table.offset, x.n_rows, x.n_cols
            )
        })?;
        if x.words.len() > 0 && half > 0 {
            let turn = Turn {
                head_dim,
                offset: table.offset,
                rotated: table.rotated_dim,
                interleaved: table.style == RopeStyle::Interleaved,
            };
            let (cos, sin) = (&table.cos.words, &table.sin.words);
            x.words = rope::rope(&self.device, &x.words, cos, sin, x.n_cols, turn)?;
        }
        Ok(())
    }

    fn cache(
        &self,
        capacity: usize,
        n_kv_heads: usize,
        head_dim: usize,
        value_dim: usize,
    ) -> Result<Cache, EngineError> {
        let (key_width, value_width) = (n_kv_heads * head_dim, n_kv_heads * value_dim);
        Ok(Cache {
            keys: self.device.empty(capacity.saturating_mul(key_width))?,
            values: self.device.empty(capacity.saturating_mul(value_width))?,
            capacity,
            key_width,
            value_width,
        })
    }

    fn append(
        &self,
        cache: &mut Cache,
        at: usize,
        k: &Buffer,
        v: &Buffer,
        rows: Range<usize>,
    ) -> Result<(), EngineError> {
        let n = rows.len();
        let fits = k.n_cols == cache.key_width
            && v.n_cols == cache.value_width
            && rows.start <= rows.end
            && rows.end <= k.n_rows.min(v.n_rows)
            && at + n <= cache.capacity;
        self.demand(fits, || {
            format!(
                "rows {rows:?} of {} and {} columns do not fit a cache of {} tokens from {at} on",
                k.n_cols, v.n_cols, cache.capacity
            )
        })?;
        for (from, to, width) in [
            (&k.words, &cache.keys, cache.key_width),
            (&v.words, &cache.values, cache.value_width),
        ] {
            if n * width > 0 {
                rows::copy(
                    &self.device,
                    (from, rows.start * width),
                    (to, at * width),
                    n * width,
                )?;
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        q: &Buffer,
        rows: Range<usize>,
        cache: &Cache,
        at: usize,
        shape: &AttentionShape,
    ) -> Result<Buffer, EngineError> {
        self.attention_by(q, rows, cache, at, shape, Split::Auto)
    }

    fn activate(&self, x: &mut Buffer, activation: Activation) -> Result<(), EngineError> {
        self.map(x, function(activation), 0.0)
    }

    fn gated(
        &self,
        gate: &mut Buffer,
        up: &Buffer,
        activation: Activation,
    ) -> Result<(), EngineError> {
        self.same_shape(gate, up)?;
        if gate.words.len() > 0 {
            let function = function(activation);
            gate.words = elementwise::gated(&self.device, &gate.words, &up.words, function)?;
        }
        Ok(())
    }

    fn add(&self, x: &mut Buffer, y: &Buffer, scale: f32) -> Result<(), EngineError> {
        self.same_shape(x, y)?;
        if x.words.len() > 0 {
            x.words = elementwise::add(&self.device, &x.words, &y.words, scale)?;
        }
        Ok(())
    }

    fn softcap(&self, x: &mut Buffer, cap: f32) -> Result<(), EngineError> {
        self.map(x, Function::Softcap, cap)
    }

    fn clip(&self, x: &mut Buffer, limit: f32) -> Result<(), EngineError> {
        self.map(x, Function::Clip, limit)
    }

    fn scale(&self, x: &mut Buffer, factor: f32) -> Result<(), EngineError> {
        self.map(x, Function::Scale, factor)
    }

    fn gather(&self, x: &Buffer, rows: &[u32]) -> Result<Buffer, EngineError> {
        self.demand(rows.iter().all(|&row| (row as usize) < x.n_rows), || {
            format!("a row lies beyond the {}", x.n_rows)
        })?;
        if rows.is_empty() || x.n_cols == 0 {
            return self.empty(rows.len(), x.n_cols);
        }
        let indices = self.device.upload_indices(rows)?;
        let words = rows::gather(&self.device, &x.words, &indices, x.n_cols)?;
        Ok(self.buffer(words, rows.len(), x.n_cols))
    }

    fn scatter_add(
        &self,
        x: &mut Buffer,
        rows: &[u32],
        weights: &[f32],
        y: &Buffer,
    ) -> Result<(), EngineError> {
        let fits = rows.len() == weights.len()
            && (rows.len(), x.n_cols) == (y.n_rows, y.n_cols)
            && rows.iter().all(|&row| (row as usize) < x.n_rows);
        self.demand(fits, || {
            format!(
                "{} rows of [{}, {}] cannot be added to [{}, {}]",
                rows.len(),
                y.n_rows,
                y.n_cols,
                x.n_rows,
                x.n_cols
            )
        })?;
        if y.words.len() == 0 {
            return Ok(());
        }
        if !x.words.is_unshared() {
            x.words = elementwise::map(&self.device, &x.words, Function::Scale, 1.0)?;
        }
        let indices = self.device.upload_indices(rows)?;
        let weights = self.device.upload(weights)?;
        rows::scatter_add(
            &self.device,
            &x.words,
            &indices,
            &weights,
            &y.words,
            x.n_cols,
        )
    }

    fn stack(&self, pieces: &[Buffer]) -> Result<Buffer, EngineError> {
        let n_cols = pieces.first().map_or(0, |piece| piece.n_cols);
        self.demand(pieces.iter().all(|piece| piece.n_cols == n_cols), || {
            "pieces with different numbers of columns cannot be stacked".into()
        })?;
        let out = self.empty(pieces.iter().map(|piece| piece.n_rows).sum(), n_cols)?;
        let mut at = 0;
        for piece in pieces {
            let n = piece.words.len();
            if n > 0 {
                rows::copy(&self.device, (&piece.words, 0), (&out.words, at), n)?;
            }
            at += n;
        }
        Ok(out)
    }

    fn join_heads(&self, a: &Buffer, b: &Buffer, n_heads: usize) -> Result<Buffer, EngineError> {
        let fits = n_heads > 0 && a.n_cols.is_multiple_of(n_heads) && a.n_rows == b.n_rows;
        self.demand(fits && a.n_cols > 0, || {
            format!(
                "[{}, {}] and [{}, {}] cannot be joined in {n_heads} heads",
                a.n_rows, a.n_cols, b.n_rows, b.n_cols
            )
        })?;
        let n_cols = a.n_cols + n_heads * b.n_cols;
        if a.n_rows == 0 {
            return self.empty(0, n_cols);
        }
        let width_a = a.n_cols / n_heads;
        let words = rows::join(
            &self.device,
            (&a.words, width_a),
            (&b.words, b.n_cols),
            n_heads,
        )?;
        Ok(self.buffer(words, a.n_rows, n_cols))
    }
}

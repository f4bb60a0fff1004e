//! What a device must be able to do for [`super::forward`]: one trait, in the order of a forward pass.
//!
//! Activations are matrices of f32 `[n_rows, n_cols]`, row-major, one row per token; sums are taken in
//! f32 or better. Every operation is *row-invariant*: a row of the result is a function of that row of
//! the input (and of the cache) alone, whatever other rows there are, however many threads run and
//! however a text is cut into chunks. NaN and infinity propagate. A backend reports what it cannot do
//! as an [`EngineError`]; it never panics.

use super::EngineError;
use crate::arch::spec::{Activation, NormSpec, RopeStyle};
use crate::tensor::Matrix;
use std::ops::Range;

/// A device.
pub trait Backend: Send + Sync {
    /// Activations `[n_rows, n_cols]` on the device. Cloning may share memory: no operation but those
    /// that take `&mut` changes it.
    type Buffer: Send + Sync + Clone;
    /// A weight `[n_out, n_in]` on the device, in the type in which it is stored.
    type Weight: Send + Sync;
    /// Keys and values of one layer and one text; the backend chooses their layout.
    type Cache: Send + Sync;

    /// What a person calls it: `cpu`, `cuda:0 NVIDIA H100 80GB HBM3`.
    fn describe(&self) -> String;

    /// `[n_rows, n_cols]` of a buffer.
    fn shape(&self, x: &Self::Buffer) -> (usize, usize);

    /// Brings a weight to the device. It is not checked for NaN: the model computes what it computes.
    fn weight(&self, matrix: &Matrix) -> Result<Self::Weight, EngineError>;

    /// Brings values `[n_rows, n_cols]` to the device.
    fn upload(
        &self,
        values: &[f32],
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Self::Buffer, EngineError>;

    /// Fetches all values, row-major.
    fn download(&self, x: &Self::Buffer) -> Result<Vec<f32>, EngineError>;

    /// Rows of a table times `scale`: `[ids.len(), n_in]`. Ids are valid.
    fn embed(
        &self,
        table: &Self::Weight,
        ids: &[u32],
        scale: f32,
    ) -> Result<Self::Buffer, EngineError>;

    /// x Wᵀ + bias: `[n_rows, n_out]` of x `[n_rows, n_in]`, W `[n_out, n_in]`, bias `[1, n_out]`.
    fn linear(
        &self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
    ) -> Result<Self::Buffer, EngineError>;

    /// Weights of one shape that a grouped product will read together: the experts of a layer.
    ///
    /// # Errors
    /// As [`Self::weight`].
    fn weights(&self, matrices: &[Matrix]) -> Result<Vec<Self::Weight>, EngineError> {
        matrices.iter().map(|matrix| self.weight(matrix)).collect()
    }

    /// Rows of x `[n_rows, n_in]` times the weight `[n_out, n_in]` of their group: `[n_rows, n_out]`. Groups cover
    /// the rows in order, and have at least one row.
    ///
    /// # Errors
    /// As [`Self::linear`].
    fn linear_grouped(
        &self,
        x: &Self::Buffer,
        groups: &[(Range<usize>, &Self::Weight)],
    ) -> Result<Self::Buffer, EngineError>
    where
        Self: Sized,
    {
        one_by_one(self, x, groups)
    }

    /// The norm of every group of `width` consecutive columns. Gain and bias are `[1, width]`, repeated
    /// for each group, or `[1, n_cols]`. `spec.plus_one` adds 1 to the gain.
    fn norm(
        &self,
        x: &Self::Buffer,
        spec: &NormSpec,
        gain: Option<&Self::Buffer>,
        bias: Option<&Self::Buffer>,
        width: usize,
    ) -> Result<Self::Buffer, EngineError>;

    /// Turns, in every head of x `[n_rows, n_heads × head_dim]`, the dimensions that `table` covers.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        head_dim: usize,
        table: &RopeTable<Self::Buffer>,
    ) -> Result<(), EngineError>;

    /// A cache for up to `capacity` tokens.
    fn cache(
        &self,
        capacity: usize,
        n_kv_heads: usize,
        head_dim: usize,
        value_dim: usize,
    ) -> Result<Self::Cache, EngineError>;

    /// Writes rows of k `[n_rows, n_kv_heads × head_dim]` and v `[n_rows, n_kv_heads × value_dim]` into
    /// the cache from token `at` on.
    fn append(
        &self,
        cache: &mut Self::Cache,
        at: usize,
        k: &Self::Buffer,
        v: &Self::Buffer,
        rows: Range<usize>,
    ) -> Result<(), EngineError>;

    /// Attention of `rows` of q `[n_rows, n_heads × head_dim]` over the first tokens of the cache:
    /// `[rows.len(), n_heads × value_dim]`.
    ///
    /// The token of the first row is number `at`; with `shape.causal` a row sees the tokens up to its
    /// own, within the window; otherwise all of the first `at + rows.len()`.
    fn attention(
        &self,
        q: &Self::Buffer,
        rows: Range<usize>,
        cache: &Self::Cache,
        at: usize,
        shape: &AttentionShape,
    ) -> Result<Self::Buffer, EngineError>;

    /// act(x), in place.
    fn activate(&self, x: &mut Self::Buffer, activation: Activation) -> Result<(), EngineError>;

    /// act(gate) · up, element by element, into `gate`.
    fn gated(
        &self,
        gate: &mut Self::Buffer,
        up: &Self::Buffer,
        activation: Activation,
    ) -> Result<(), EngineError>;

    /// x ← x + scale · y.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, scale: f32) -> Result<(), EngineError>;

    /// x ← c · tanh(x / c).
    fn softcap(&self, x: &mut Self::Buffer, cap: f32) -> Result<(), EngineError>;

    /// x ← x cut to [−c, c]; NaN stays.
    fn clip(&self, x: &mut Self::Buffer, limit: f32) -> Result<(), EngineError>;

    /// x ← factor · x.
    fn scale(&self, x: &mut Self::Buffer, factor: f32) -> Result<(), EngineError>;

    /// Chosen rows, in this order: `[rows.len(), n_cols]`.
    fn gather(&self, x: &Self::Buffer, rows: &[u32]) -> Result<Self::Buffer, EngineError>;

    /// Row `rows[i]` of x grows by `weights[i]` times row i of y. Rows of one call differ from each other.
    fn scatter_add(
        &self,
        x: &mut Self::Buffer,
        rows: &[u32],
        weights: &[f32],
        y: &Self::Buffer,
    ) -> Result<(), EngineError>;

    /// Puts pieces one below the other; all have the same number of columns.
    fn stack(&self, pieces: &[Self::Buffer]) -> Result<Self::Buffer, EngineError>;

    /// Per head, its columns of `a` `[n_rows, n_heads × width_a]` and then all of `b` `[n_rows, width_b]`,
    /// the same for every head: `[n_rows, n_heads × (width_a + width_b)]`.
    fn join_heads(
        &self,
        a: &Self::Buffer,
        b: &Self::Buffer,
        n_heads: usize,
    ) -> Result<Self::Buffer, EngineError>;
}

/// [`Backend::linear_grouped`] as a product per group.
///
/// # Errors
/// As [`Backend::linear`].
pub(crate) fn one_by_one<B: Backend>(
    backend: &B,
    x: &B::Buffer,
    groups: &[(Range<usize>, &B::Weight)],
) -> Result<B::Buffer, EngineError> {
    let mut pieces = Vec::with_capacity(groups.len());
    for (rows, weight) in groups {
        let numbers: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        let theirs = backend.gather(x, &numbers)?;
        pieces.push(backend.linear(&theirs, weight, None)?);
    }
    backend.stack(&pieces)
}

/// A borrowed device is a device.
macro_rules! borrowed {
    ($(fn $name:ident(&self $(, $argument:ident: $type:ty)*) $(-> $output:ty)?;)*) => {
        impl<B: Backend> Backend for &B {
            type Buffer = B::Buffer;
            type Weight = B::Weight;
            type Cache = B::Cache;

            $(fn $name(&self $(, $argument: $type)*) $(-> $output)? {
                (**self).$name($($argument),*)
            })*
        }
    };
}

borrowed! {
    fn describe(&self) -> String;
    fn shape(&self, x: &B::Buffer) -> (usize, usize);
    fn weight(&self, matrix: &Matrix) -> Result<B::Weight, EngineError>;
    fn weights(&self, matrices: &[Matrix]) -> Result<Vec<B::Weight>, EngineError>;
    fn linear_grouped(&self, x: &B::Buffer, groups: &[(Range<usize>, &B::Weight)]) -> Result<B::Buffer, EngineError>;
    fn upload(&self, values: &[f32], n_rows: usize, n_cols: usize) -> Result<B::Buffer, EngineError>;
    fn download(&self, x: &B::Buffer) -> Result<Vec<f32>, EngineError>;
    fn embed(&self, table: &B::Weight, ids: &[u32], scale: f32) -> Result<B::Buffer, EngineError>;
    fn linear(&self, x: &B::Buffer, weight: &B::Weight, bias: Option<&B::Buffer>) -> Result<B::Buffer, EngineError>;
    fn norm(&self, x: &B::Buffer, spec: &NormSpec, gain: Option<&B::Buffer>, bias: Option<&B::Buffer>, width: usize) -> Result<B::Buffer, EngineError>;
    fn rope(&self, x: &mut B::Buffer, head_dim: usize, table: &RopeTable<B::Buffer>) -> Result<(), EngineError>;
    fn cache(&self, capacity: usize, n_kv_heads: usize, head_dim: usize, value_dim: usize) -> Result<B::Cache, EngineError>;
    fn append(&self, cache: &mut B::Cache, at: usize, k: &B::Buffer, v: &B::Buffer, rows: Range<usize>) -> Result<(), EngineError>;
    fn attention(&self, q: &B::Buffer, rows: Range<usize>, cache: &B::Cache, at: usize, shape: &AttentionShape) -> Result<B::Buffer, EngineError>;
    fn activate(&self, x: &mut B::Buffer, activation: Activation) -> Result<(), EngineError>;
    fn gated(&self, gate: &mut B::Buffer, up: &B::Buffer, activation: Activation) -> Result<(), EngineError>;
    fn add(&self, x: &mut B::Buffer, y: &B::Buffer, scale: f32) -> Result<(), EngineError>;
    fn softcap(&self, x: &mut B::Buffer, cap: f32) -> Result<(), EngineError>;
    fn clip(&self, x: &mut B::Buffer, limit: f32) -> Result<(), EngineError>;
    fn scale(&self, x: &mut B::Buffer, factor: f32) -> Result<(), EngineError>;
    fn gather(&self, x: &B::Buffer, rows: &[u32]) -> Result<B::Buffer, EngineError>;
    fn scatter_add(&self, x: &mut B::Buffer, rows: &[u32], weights: &[f32], y: &B::Buffer) -> Result<(), EngineError>;
    fn stack(&self, pieces: &[B::Buffer]) -> Result<B::Buffer, EngineError>;
    fn join_heads(&self, a: &B::Buffer, b: &B::Buffer, n_heads: usize) -> Result<B::Buffer, EngineError>;
}

/// Cosines and sines for the rows of one forward pass.
#[derive(Debug, Clone)]
pub struct RopeTable<B> {
    /// `[n_rows, rotated_dim / 2]`, one row per token of the pass.
    pub cos: B,
    /// As `cos`.
    pub sin: B,
    /// Which dimensions turn together.
    pub style: RopeStyle,
    /// First dimension that turns, within the head.
    pub offset: usize,
    /// Number of dimensions that turn; even.
    pub rotated_dim: usize,
}

/// Sizes and rules of an attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head h reads head h / (n_heads / n_kv_heads).
    pub n_kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// c of c · tanh(scale · q·k / c).
    pub softcap: Option<f32>,
    /// A token sees itself and the `window − 1` tokens before it.
    pub window: Option<usize>,
    /// What is added to the scores by position of the key, after scale and softcap.
    pub slopes: Option<Slopes>,
    /// Tokens see none that come later.
    pub causal: bool,
}

/// ALiBi: factor · (slope of the head · position of the key) is added to a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Slopes {
    /// One per query head.
    pub per_head: Vec<f32>,
    /// Position and product are rounded to bfloat16 (Falcon).
    pub bfloat16: bool,
    /// The factor.
    pub factor: f32,
}

impl Slopes {
    /// What is added to the scores of a head for the key at a position.
    pub fn added(&self, head: usize, position: usize) -> f32 {
        let slope = self.per_head[head];
        if self.bfloat16 {
            let round = |x: f32| half::bf16::from_f32(x).to_f32();
            round(slope * round(position as f32)) * self.factor
        } else {
            slope * position as f32 * self.factor
        }
    }
}

//! MiniCPM-V's resampler: learned queries attend to the rows of an image, however many there are.

use super::parts::Parts;
use super::positions::sine_cosine;
use super::tower::attend;
use super::{linear, norm};
use crate::arch::Model;
use crate::arch::spec::ResamplerSpec;
use crate::engine::EngineError;
use crate::engine::backend::{AttentionShape, Backend};
use crate::engine::load::{Linear, Norm};

/// A resampler on a device.
pub(super) struct Resampler<B: Backend> {
    spec: ResamplerSpec,
    /// From the tower's width to the decoder's; none where they are equal.
    kv_proj: Option<Linear<B>>,
    ln_kv: Norm<B>,
    /// Queries as the attention multiplies them with keys `[n_queries, hidden_size]`: they are the same
    /// for every image.
    queries: B::Buffer,
    k: Linear<B>,
    v: Linear<B>,
    output: Linear<B>,
    ln_post: Norm<B>,
    /// Rows are multiplied with a plain matrix at the end: y = x P.
    proj: Linear<B>,
}

impl<B: Backend> Resampler<B> {
    /// Brings a resampler to a device.
    ///
    /// # Errors
    /// When config and checkpoint do not fit each other, or a weight cannot be read or kept.
    pub fn load(model: &Model, spec: ResamplerSpec, backend: &B) -> Result<Self, EngineError> {
        let n = spec.hidden_size;
        let mut parts = Parts::of(backend, model)?;
        let kv_proj = match spec.input_size == n {
            true => None,
            false => Some(parts.linear("kv_proj", n, spec.input_size, false)?),
        };
        let in_proj = parts.matrix("attn.in_proj_weight", 3 * n, n)?;
        let in_bias = parts.values("attn.in_proj_bias", 3 * n, 1)?;
        // Rows of the fused projection are those of q, k and v, one below the other.
        let third = |at: usize| -> Result<Linear<B>, EngineError> {
            let rows = at * n..(at + 1) * n;
            Ok(Linear {
                weight: backend.weight(&in_proj.clone().row_range(rows.clone())?)?,
                bias: Some(backend.upload(&in_bias[rows], 1, n)?),
            })
        };
        let queries = parts.values("query", spec.n_queries, n)?;
        let ln_q = parts.norm("ln_q", spec.norm, n)?;
        let queries = backend.upload(&queries, spec.n_queries, n)?;
        let mut queries = norm(backend, &queries, &ln_q)?;
        if spec.query_positions {
            let positions = parts.values("pos_embed", spec.n_queries, n)?;
            let positions = backend.upload(&positions, spec.n_queries, n)?;
            backend.add(&mut queries, &positions, 1.0)?;
        }
        let proj = parts.matrix("proj", n, n)?.transposed();
        let resampler = Self {
            spec,
            kv_proj,
            ln_kv: parts.norm("ln_kv", spec.norm, n)?,
            queries: linear(backend, &queries, &third(0)?)?,
            k: third(1)?,
            v: third(2)?,
            output: parts.linear("attn.out_proj", n, n, true)?,
            ln_post: parts.norm("ln_post", spec.norm, n)?,
            proj: Linear {
                weight: backend.weight(&proj)?,
                bias: None,
            },
        };
        parts.finish()?;
        Ok(resampler)
    }

    /// Rows of the decoder `[n_queries, hidden_size]` of the tower's rows x `[n_patches, input_size]`, whose
    /// patches lie in `grid` rows and columns.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        grid: (usize, usize),
    ) -> Result<B::Buffer, EngineError> {
        let (n, n_heads) = (self.spec.hidden_size, self.spec.n_heads);
        let n_patches = grid.0 * grid.1;
        let values = match &self.kv_proj {
            Some(kv_proj) => linear(backend, x, kv_proj)?,
            None => x.clone(),
        };
        let values = norm(backend, &values, &self.ln_kv)?; // [n_patches, hidden_size]
        // Keys know where they are; values do not.
        let positions = backend.upload(&sine_cosine(n, grid), n_patches, n)?;
        let mut keys = values.clone();
        backend.add(&mut keys, &positions, 1.0)?;
        let head_dim = n / n_heads;
        let shape = AttentionShape {
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            value_dim: head_dim,
            scale: (head_dim as f32).powf(-0.5),
            softcap: None,
            window: None,
            slopes: None,
            causal: false,
        };
        let (k, v) = (
            linear(backend, &keys, &self.k)?,
            linear(backend, &values, &self.v)?,
        );
        let attended = attend(backend, &self.queries, &k, &v, &shape)?;
        let attended = linear(backend, &attended, &self.output)?;
        let normed = norm(backend, &attended, &self.ln_post)?;
        linear(backend, &normed, &self.proj)
    }
}

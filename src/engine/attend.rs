//! Attention within the forward pass: rotary positions, projections, and each text with its cache.

use super::EngineError;
use super::backend::{AttentionShape, Backend, RopeTable, Slopes};
use super::forward::{Decoder, Placed};
use super::load::{Layer, Qkv};
use crate::arch::spec::{Alibi, AttentionSpec, Projections, QkNormScope, RopeSpec};

/// Rotary positions of the rows of a pass.
pub(super) struct Rotation<B: Backend> {
    queries: RopeTable<B::Buffer>,
    keys: RopeTable<B::Buffer>,
}

/// Rotations of a pass, by what they are of.
pub(super) type RopeTables<'a, B> = Vec<(&'a RopeSpec, Rotation<B>)>;

impl<B: Backend> Decoder<B> {
    /// Cosines and sines of every kind of rotary positions in the model, for the rows of this pass. Where
    /// queries grow with the logarithm of their position, those for queries carry the factor.
    pub(super) fn rope_tables(&self, placed: &[Placed]) -> Result<RopeTables<'_, B>, EngineError> {
        let mut tables: RopeTables<'_, B> = Vec::new();
        for layer in &self.spec.layers {
            let Some(rope) = &layer.attention.rope else {
                continue;
            };
            if tables.iter().any(|(spec, _)| *spec == rope) {
                continue;
            }
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for p in placed {
                let (c, s) = rope.table(p.at, p.rows.len(), p.length);
                cos.extend(c);
                sin.extend(s);
            }
            let half = rope.rotated_dim / 2;
            let table = |cos: &[f32], sin: &[f32]| -> Result<RopeTable<B::Buffer>, EngineError> {
                Ok(RopeTable {
                    cos: self.backend.upload(cos, cos.len() / half, half)?,
                    sin: self.backend.upload(sin, sin.len() / half, half)?,
                    style: rope.style,
                    offset: rope.offset,
                    rotated_dim: rope.rotated_dim,
                })
            };
            let keys = table(&cos, &sin)?;
            let queries = match rope.query_log_base {
                None => keys.clone(),
                Some(_) => {
                    let positions = placed.iter().flat_map(|p| p.at..p.at + p.rows.len());
                    let rows = cos.chunks_mut(half).zip(sin.chunks_mut(half));
                    for (position, (cos, sin)) in positions.zip(rows) {
                        let factor = rope.query_factor(position);
                        cos.iter_mut().chain(sin).for_each(|value| *value *= factor);
                    }
                    table(&cos, &sin)?
                }
            };
            tables.push((rope, Rotation { queries, keys }));
        }
        Ok(tables)
    }

    /// Attention of x `[n_rows, hidden_size]`: `[n_rows, hidden_size]`.
    pub(super) fn attention(
        &self,
        x: &B::Buffer,
        layer: &Layer<B>,
        caches: &mut [&mut B::Cache],
        placed: &[Placed],
        rotation: Option<&Rotation<B>>,
    ) -> Result<B::Buffer, EngineError> {
        let backend = &self.backend;
        let spec = &layer.spec.attention;
        let [q, k, v] = self.project(x, layer, rotation)?;
        let shape = attention_shape(spec);
        let mut pieces = Vec::with_capacity(placed.len());
        for (cache, p) in caches.iter_mut().zip(placed) {
            if p.rows.is_empty() {
                continue;
            }
            backend.append(cache, p.at, &k, &v, p.rows.clone())?;
            pieces.push(backend.attention(&q, p.rows.clone(), cache, p.at, &shape)?);
        }
        let attended = backend.stack(&pieces)?; // [n_rows, n_heads × value_dim]
        self.linear(&attended, &layer.output)
    }

    /// `[q, k, v]` of x, normed and rotated: q `[n_rows, n_heads × head_dim]`,
    /// k `[n_rows, n_kv_heads × head_dim]`, v `[n_rows, n_kv_heads × value_dim]`.
    fn project(
        &self,
        x: &B::Buffer,
        layer: &Layer<B>,
        rotation: Option<&Rotation<B>>,
    ) -> Result<[B::Buffer; 3], EngineError> {
        let backend = &self.backend;
        let spec = &layer.spec.attention;
        let mut qkv = match &layer.qkv {
            Qkv::Full { q, k, v } => [self.linear(x, q)?, self.linear(x, k)?, self.linear(x, v)?],
            Qkv::Latent {
                q_down,
                q,
                kv_down,
                kv_norm,
                k_rope,
                k_nope,
                v,
            } => {
                let q = match q_down {
                    None => self.linear(x, q)?,
                    Some((down, norm)) => {
                        let latent = self.norm(&self.linear(x, down)?, norm, None)?; // [n_rows, q_rank]
                        self.linear(&latent, q)?
                    }
                };
                let latent = self.norm(&self.linear(x, kv_down)?, kv_norm, None)?; // [n_rows, kv_rank]
                let mut shared = self.linear(x, k_rope)?; // [n_rows, rope_dim]
                if let Some(rotation) = rotation {
                    let table = RopeTable {
                        offset: 0,
                        ..rotation.keys.clone()
                    };
                    backend.rope(&mut shared, table.rotated_dim, &table)?;
                }
                let k =
                    backend.join_heads(&self.linear(&latent, k_nope)?, &shared, spec.n_heads)?;
                [q, k, self.linear(&latent, v)?]
            }
        };
        if let Some(limit) = spec.clip {
            for part in &mut qkv {
                backend.clip(part, limit)?;
            }
        }
        let [mut q, mut k, v] = qkv;
        // A norm over whole widths is one group; the others go head by head.
        let width = spec.qk_norm.map(|norm| match norm.scope {
            QkNormScope::Width => None,
            QkNormScope::Head | QkNormScope::EachHead => Some(spec.head_dim),
        });
        if let (Some(norm), Some(width)) = (&layer.q_norm, width) {
            q = self.norm(&q, norm, width)?;
        }
        if let (Some(norm), Some(width)) = (&layer.k_norm, width) {
            k = self.norm(&k, norm, width)?;
        }
        if let Some(rotation) = rotation {
            backend.rope(&mut q, spec.head_dim, &rotation.queries)?;
            if spec.projections == Projections::Full {
                backend.rope(&mut k, spec.head_dim, &rotation.keys)?;
            }
        }
        Ok([q, k, v])
    }
}

fn attention_shape(spec: &AttentionSpec) -> AttentionShape {
    AttentionShape {
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        value_dim: spec.value_dim,
        scale: spec.scale,
        softcap: spec.softcap,
        window: spec.window,
        slopes: spec.alibi.map(|alibi| alibi_slopes(spec.n_heads, alibi)),
        causal: true,
    }
}

/// Slopes of ALiBi (Press et al. 2021): a geometric sequence for the next lower power of two, and every
/// second one of the next sequence for the heads beyond it.
fn alibi_slopes(n_heads: usize, alibi: Alibi) -> Slopes {
    let power = 1usize << n_heads.ilog2();
    let slope = |n: usize, exponent: usize| {
        let slope = 2f32.powf(-8.0 / n as f32).powi(exponent as i32);
        if alibi.bfloat16 {
            half::bf16::from_f32(slope).to_f32()
        } else {
            slope
        }
    };
    Slopes {
        per_head: (0..n_heads)
            .map(|head| match head < power {
                true => slope(power, head + 1),
                false => slope(2 * power, 2 * (head - power) + 1),
            })
            .collect(),
        bfloat16: alibi.bfloat16,
        factor: alibi.scale,
    }
}

//! The forward pass of every decoder, in the order of the papers.
//!
//! A pass takes chunks of texts, each with its cache, and puts their tokens one below the other: there
//! is no padding, and since every operation treats each row by itself, a text computes the same alone,
//! in a batch, or cut into pieces.

use super::EngineError;
use super::attend::Rotation;
use super::backend::Backend;
use super::load::{Feed, Layer, Linear, Loader, Mlp, Norm, Weights};
use super::mixture;
use super::runnable::language_model;
use crate::arch::Model;
use crate::arch::spec::{ModelSpec, Wiring};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A decoder on a device.
pub struct Decoder<B: Backend> {
    pub(super) spec: ModelSpec,
    pub(super) backend: B,
    weights: Weights<B>,
}

/// Keys and values of one text.
pub struct TextCache<B: Backend> {
    layers: Vec<B::Cache>,
    n_tokens: usize,
    capacity: usize,
}

impl<B: Backend> TextCache<B> {
    /// Tokens that were computed.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

/// A part of a text: tokens, or vectors in place of tokens (of an image).
pub enum Piece<'a, B: Backend> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Rows of the residual stream `[n, hidden_size]`.
    Vectors(B::Buffer),
}

/// The next tokens of one text.
pub struct Chunk<'a, B: Backend> {
    /// What was computed of the text so far.
    pub cache: &'a mut TextCache<B>,
    /// What comes next.
    pub pieces: Vec<Piece<'a, B>>,
}

/// Which logits a pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Logits {
    /// None.
    None,
    /// Of each chunk's last token.
    #[default]
    Last,
    /// Of every token.
    All,
}

/// What a pass returns.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Logits.
    pub logits: Logits,
    /// Hidden states: 0 is the embedding, i the output of layer i − 1; that of the last layer is before
    /// the final norm.
    pub hidden: BTreeSet<usize>,
    /// What the head reads: the stream after the final norm, projected where the head is narrower.
    pub final_hidden: bool,
    /// Layers whose MLP activations are wanted: what the down projection reads.
    pub mlp: BTreeSet<usize>,
}

/// Values `[n_rows, n_cols]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Number of columns.
    pub n_cols: usize,
    /// The values.
    pub values: Vec<f32>,
}

impl Values {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.n_cols.max(1)
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.n_cols..(row + 1) * self.n_cols]
    }
}

/// What a pass computed, rows in the order of the chunks.
#[derive(Debug, Clone, Default)]
pub struct Computed {
    /// Logits `[n_rows, vocab_size]`.
    pub logits: Option<Values>,
    /// Hidden states by number.
    pub hidden: BTreeMap<usize, Values>,
    /// What the head reads: the stream after the final norm, projected where the head is narrower.
    pub final_hidden: Option<Values>,
    /// MLP activations by layer `[n_rows, intermediate_size]`.
    pub mlp: BTreeMap<usize, Values>,
}

/// Rows of one chunk in a pass.
pub(super) struct Placed {
    pub rows: Range<usize>,
    /// Number of the first token in its text.
    pub at: usize,
    /// Length that the text may reach.
    pub length: usize,
}

impl<B: Backend> Decoder<B> {
    /// Brings a model's decoder to a device. `watch` hears the number of every loaded layer.
    ///
    /// # Errors
    /// When config and checkpoint do not fit each other, or a weight cannot be read or kept.
    pub fn load(
        model: &Model,
        spec: ModelSpec,
        backend: B,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Self, EngineError> {
        let component = language_model(model)?;
        let weights = Loader::new(&backend, &model.label, component).decoder(&spec, watch)?;
        Ok(Self {
            spec,
            backend,
            weights,
        })
    }

    /// What the decoder is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// A cache for a text of up to `length` tokens. Rotary positions that depend on the length of a text
    /// take this one, so that they do not change while a text grows.
    ///
    /// # Errors
    /// When the device cannot hold it, or learned positions end before.
    pub fn cache(&self, length: usize) -> Result<TextCache<B>, EngineError> {
        if let Some(positions) = self.spec.embedding.positions
            && length.saturating_add(positions.offset) > positions.n_rows
        {
            return Err(EngineError::Request(format!(
                "a text of {length} tokens: the model has learned {} positions",
                positions.n_rows - positions.offset
            )));
        }
        let layers: Result<Vec<B::Cache>, EngineError> = self
            .spec
            .layers
            .iter()
            .map(|layer| {
                let attention = &layer.attention;
                self.backend.cache(
                    length,
                    attention.n_kv_heads,
                    attention.head_dim,
                    attention.value_dim,
                )
            })
            .collect();
        Ok(TextCache {
            layers: layers?,
            n_tokens: 0,
            capacity: length,
        })
    }

    /// Computes the next tokens of some texts.
    ///
    /// # Errors
    /// When a token does not exist, a cache is full, or the device fails; the caches are then spoilt.
    pub fn forward(
        &self,
        chunks: &mut [Chunk<'_, B>],
        wanted: &Wanted,
    ) -> Result<Computed, EngineError> {
        let mut computed = Computed::default();
        let placed = self.place(chunks)?;
        if placed.iter().all(|p| p.rows.is_empty()) {
            return Ok(computed);
        }
        let mut x = self.embed(chunks, &placed)?; // [n_rows, hidden_size]
        let tables = self.rope_tables(&placed)?;
        self.tap(&wanted.hidden, 0, &x, &mut computed.hidden)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let rope = layer.spec.attention.rope.as_ref();
            let table = rope.and_then(|rope| tables.iter().find(|(spec, _)| *spec == rope));
            let mut caches: Vec<&mut B::Cache> = chunks
                .iter_mut()
                .map(|chunk| &mut chunk.cache.layers[index])
                .collect();
            let mut mlp = None;
            let tapped = wanted.mlp.contains(&index).then_some(&mut mlp);
            self.layer(
                &mut x,
                layer,
                &mut caches,
                &placed,
                table.map(|(_, rotation)| rotation),
                tapped,
            )?;
            if let Some(values) = mlp {
                computed.mlp.insert(index, values);
            }
            self.tap(&wanted.hidden, index + 1, &x, &mut computed.hidden)?;
        }
        for (chunk, placed) in chunks.iter_mut().zip(&placed) {
            chunk.cache.n_tokens += placed.rows.len();
        }
        let rows: Vec<u32> = match wanted.logits {
            Logits::All => (0..self.backend.shape(&x).0 as u32).collect(),
            Logits::Last => placed
                .iter()
                .filter(|p| !p.rows.is_empty())
                .map(|p| p.rows.end as u32 - 1)
                .collect(),
            Logits::None => Vec::new(),
        };
        if wanted.final_hidden {
            computed.final_hidden = Some(self.fetch(&self.read_by_head(&x)?)?);
        }
        if !rows.is_empty() {
            if wanted.logits == Logits::Last {
                x = self.backend.gather(&x, &rows)?;
            }
            computed.logits = Some(self.fetch(&self.head(&x)?)?);
        }
        Ok(computed)
    }

    /// Gives the chunks their rows, and checks that they can be computed.
    fn place(&self, chunks: &[Chunk<'_, B>]) -> Result<Vec<Placed>, EngineError> {
        let mut placed = Vec::with_capacity(chunks.len());
        let mut start = 0;
        for chunk in chunks {
            let mut n_rows = 0;
            for piece in &chunk.pieces {
                match piece {
                    Piece::Tokens(ids) => {
                        if let Some(id) =
                            ids.iter().find(|&&id| id as usize >= self.spec.vocab_size)
                        {
                            return Err(EngineError::Request(format!(
                                "token {id}: the model knows {} tokens",
                                self.spec.vocab_size
                            )));
                        }
                        n_rows += ids.len();
                    }
                    Piece::Vectors(vectors) => {
                        let (n, width) = self.backend.shape(vectors);
                        if width != self.spec.hidden_size {
                            return Err(EngineError::Request(format!(
                                "vectors of {width} numbers: the stream is {} wide",
                                self.spec.hidden_size
                            )));
                        }
                        n_rows += n;
                    }
                }
            }
            let at = chunk.cache.n_tokens;
            if at + n_rows > chunk.cache.capacity {
                return Err(EngineError::Request(format!(
                    "a text of {} tokens in a cache for {}",
                    at + n_rows,
                    chunk.cache.capacity
                )));
            }
            placed.push(Placed {
                rows: start..start + n_rows,
                at,
                length: chunk.cache.capacity,
            });
            start += n_rows;
        }
        Ok(placed)
    }

    fn embed(&self, chunks: &[Chunk<'_, B>], placed: &[Placed]) -> Result<B::Buffer, EngineError> {
        let backend = &self.backend;
        let scale = self.spec.embedding.scale;
        let mut pieces = Vec::new();
        for piece in chunks.iter().flat_map(|chunk| &chunk.pieces) {
            match piece {
                Piece::Tokens([]) => {}
                Piece::Tokens(ids) => {
                    let mut x = backend.embed(&self.weights.embedding, ids, scale)?; // [n, width]
                    if let Some(projection) = &self.weights.embedding_in {
                        x = self.linear(&x, projection)?; // [n, hidden_size]
                    }
                    pieces.push(x);
                }
                Piece::Vectors(vectors) => pieces.push(vectors.clone()),
            }
        }
        let mut x = backend.stack(&pieces)?; // [n_rows, hidden_size]
        if let (Some(table), Some(learned)) =
            (&self.weights.positions, self.spec.embedding.positions)
        {
            let positions: Vec<u32> = placed
                .iter()
                .flat_map(|p| (p.at..p.at + p.rows.len()).map(|at| (at + learned.offset) as u32))
                .collect();
            let positions = backend.embed(table, &positions, 1.0)?;
            backend.add(&mut x, &positions, 1.0)?;
        }
        self.optional_norm(&x, self.weights.embedding_norm.as_ref())
    }

    /// One layer: attention and MLP, each added to the stream x.
    fn layer(
        &self,
        x: &mut B::Buffer,
        layer: &Layer<B>,
        caches: &mut [&mut B::Cache],
        placed: &[Placed],
        rotation: Option<&Rotation<B>>,
        tapped: Option<&mut Option<Values>>,
    ) -> Result<(), EngineError> {
        let backend = &self.backend;
        let scale = layer.spec.residual_scale;
        let after_sum = layer.spec.wiring == Wiring::NormAfterSum;
        let before = |norm| if after_sum { None } else { norm };
        let after = |norm| if after_sum { norm } else { None };

        let normed = self.optional_norm(x, before(layer.attention_norm.as_ref()))?;
        let attended = self.attention(&normed, layer, caches, placed, rotation)?;
        let attended = self.optional_norm(&attended, layer.attention_post_norm.as_ref())?;

        if layer.spec.wiring == Wiring::Parallel {
            let read = match &layer.mlp_norm {
                Some(norm) => self.norm(x, norm, None)?,
                None => normed,
            };
            let fed = self.feed(&read, layer, tapped)?;
            backend.add(x, &attended, scale)?;
            return backend.add(x, &fed, scale);
        }
        if layer.spec.wiring == Wiring::NormedResidual {
            *x = normed;
        }
        backend.add(x, &attended, scale)?;
        *x = self.optional_norm(x, after(layer.attention_norm.as_ref()))?;

        let normed = self.optional_norm(x, before(layer.mlp_norm.as_ref()))?;
        let fed = self.feed(&normed, layer, tapped)?;
        let fed = self.optional_norm(&fed, layer.mlp_post_norm.as_ref())?;
        if layer.spec.wiring == Wiring::NormedResidual {
            *x = normed;
        }
        backend.add(x, &fed, scale)?;
        *x = self.optional_norm(x, after(layer.mlp_norm.as_ref()))?;
        Ok(())
    }

    fn feed(
        &self,
        x: &B::Buffer,
        layer: &Layer<B>,
        tapped: Option<&mut Option<Values>>,
    ) -> Result<B::Buffer, EngineError> {
        match &layer.feed {
            Feed::Dense(mlp) => {
                let inner = self.mlp_activations(x, mlp)?; // [n_rows, intermediate_size]
                if let Some(tapped) = tapped {
                    *tapped = Some(self.fetch(&inner)?);
                }
                self.linear(&inner, &mlp.down)
            }
            Feed::Mixture(mixture) => {
                if tapped.is_some() {
                    return Err(EngineError::Request(
                        "MLP activations of a mixture of experts: each token passes others"
                            .to_owned(),
                    ));
                }
                mixture::forward(self, x, mixture)
            }
        }
    }

    /// What the down projection reads.
    pub(super) fn mlp_activations(
        &self,
        x: &B::Buffer,
        mlp: &Mlp<B>,
    ) -> Result<B::Buffer, EngineError> {
        let activation = mlp.spec.activation;
        let mut up = self.linear(x, &mlp.up)?;
        match &mlp.gate {
            Some(gate) => {
                let mut gate = self.linear(x, gate)?;
                self.backend.gated(&mut gate, &up, activation)?;
                Ok(gate)
            }
            None => {
                self.backend.activate(&mut up, activation)?;
                Ok(up)
            }
        }
    }

    /// What the head reads of x `[n_rows, hidden_size]`: `[n_rows, width]`.
    fn read_by_head(&self, x: &B::Buffer) -> Result<B::Buffer, EngineError> {
        let normed = self.optional_norm(x, self.weights.final_norm.as_ref())?;
        match &self.weights.embedding_out {
            Some(projection) => self.linear(&normed, projection),
            None => Ok(normed),
        }
    }

    /// Logits of x `[n_rows, hidden_size]`: `[n_rows, vocab_size]`.
    fn head(&self, x: &B::Buffer) -> Result<B::Buffer, EngineError> {
        let backend = &self.backend;
        let x = self.read_by_head(x)?;
        let weight = match &self.weights.head {
            Some(head) => &head.weight,
            None => &self.weights.embedding,
        };
        let mut logits = backend.linear(&x, weight, self.weights.head_bias.as_ref())?;
        if self.spec.head.scale != 1.0 {
            backend.scale(&mut logits, self.spec.head.scale)?;
        }
        if let Some(cap) = self.spec.head.softcap {
            backend.softcap(&mut logits, cap)?;
        }
        Ok(logits)
    }

    pub(super) fn linear(
        &self,
        x: &B::Buffer,
        linear: &Linear<B>,
    ) -> Result<B::Buffer, EngineError> {
        self.backend.linear(x, &linear.weight, linear.bias.as_ref())
    }

    /// A norm of groups of `width` columns, or of whole rows.
    pub(super) fn norm(
        &self,
        x: &B::Buffer,
        norm: &Norm<B>,
        width: Option<usize>,
    ) -> Result<B::Buffer, EngineError> {
        let width = width.unwrap_or(self.backend.shape(x).1);
        self.backend
            .norm(x, &norm.spec, norm.gain.as_ref(), norm.bias.as_ref(), width)
    }

    fn optional_norm(
        &self,
        x: &B::Buffer,
        norm: Option<&Norm<B>>,
    ) -> Result<B::Buffer, EngineError> {
        norm.map_or_else(|| Ok(x.clone()), |norm| self.norm(x, norm, None))
    }

    fn fetch(&self, x: &B::Buffer) -> Result<Values, EngineError> {
        Ok(Values {
            n_cols: self.backend.shape(x).1,
            values: self.backend.download(x)?,
        })
    }

    fn tap(
        &self,
        wanted: &BTreeSet<usize>,
        number: usize,
        x: &B::Buffer,
        into: &mut BTreeMap<usize, Values>,
    ) -> Result<(), EngineError> {
        if wanted.contains(&number) {
            into.insert(number, self.fetch(x)?);
        }
        Ok(())
    }
}

//! [`ModelSpec`] and roles → weights on a device, strictly: what the config promises must be there, in
//! the promised shape, and what it does not promise must not.

use super::EngineError;
use super::backend::Backend;
use crate::arch::spec::{
    AttentionSpec, DenseSpec, LayerSpec, MixtureSpec, MlpSpec, ModelSpec, NormSpec, Projections,
    QkNorm, QkNormScope,
};
use crate::arch::split::without_role;
use crate::arch::{Component, Part, Role, RoleKind};
use crate::tensor::Matrix;
use std::collections::BTreeSet;

/// A weight and its bias.
pub(super) struct Linear<B: Backend> {
    pub weight: B::Weight,
    pub bias: Option<B::Buffer>,
}

/// Gains and bias of a norm.
pub(super) struct Norm<B: Backend> {
    pub spec: NormSpec,
    pub gain: Option<B::Buffer>,
    pub bias: Option<B::Buffer>,
}

/// How q, k and v come from the stream.
pub(super) enum Qkv<B: Backend> {
    Full {
        q: Linear<B>,
        k: Linear<B>,
        v: Linear<B>,
    },
    Latent {
        /// To the latent of the queries and its norm, where there is one.
        q_down: Option<(Linear<B>, Norm<B>)>,
        q: Linear<B>,
        /// To the latent of keys and values.
        kv_down: Linear<B>,
        kv_norm: Norm<B>,
        /// To the rotated key that all heads share.
        k_rope: Linear<B>,
        /// To the parts of keys without positions.
        k_nope: Linear<B>,
        v: Linear<B>,
    },
}

/// An MLP.
pub(super) struct Mlp<B: Backend> {
    pub gate: Option<Linear<B>>,
    pub up: Linear<B>,
    pub down: Linear<B>,
    pub spec: DenseSpec,
}

/// A mixture of experts.
pub(super) struct Mixture<B: Backend> {
    pub router: Linear<B>,
    pub correction: Option<Vec<f32>>,
    pub experts: Experts<B>,
    pub shared: Option<(Mlp<B>, Option<Linear<B>>)>,
    pub spec: MixtureSpec,
}

/// Weights of all experts of a layer, by their numbers; none has a bias.
pub(super) struct Experts<B: Backend> {
    pub gate: Option<Vec<B::Weight>>,
    pub up: Vec<B::Weight>,
    pub down: Vec<B::Weight>,
}

/// What a layer does after attention.
pub(super) enum Feed<B: Backend> {
    Dense(Mlp<B>),
    Mixture(Mixture<B>),
}

/// One layer.
pub(super) struct Layer<B: Backend> {
    pub spec: LayerSpec,
    pub attention_norm: Option<Norm<B>>,
    pub qkv: Qkv<B>,
    pub q_norm: Option<Norm<B>>,
    pub k_norm: Option<Norm<B>>,
    pub output: Linear<B>,
    pub attention_post_norm: Option<Norm<B>>,
    pub mlp_norm: Option<Norm<B>>,
    pub feed: Feed<B>,
    pub mlp_post_norm: Option<Norm<B>>,
}

/// All weights of a decoder.
pub(super) struct Weights<B: Backend> {
    pub embedding: B::Weight,
    pub embedding_in: Option<Linear<B>>,
    pub positions: Option<B::Weight>,
    pub embedding_norm: Option<Norm<B>>,
    pub layers: Vec<Layer<B>>,
    pub final_norm: Option<Norm<B>>,
    pub embedding_out: Option<Linear<B>>,
    /// `None`: the embedding serves.
    pub head: Option<Linear<B>>,
    pub head_bias: Option<B::Buffer>,
}

/// Takes weights from a component and remembers which.
pub(super) struct Loader<'a, B: Backend> {
    pub backend: &'a B,
    pub model: &'a str,
    pub component: &'a Component,
    taken: BTreeSet<Role>,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// Loads from this component.
    pub fn new(backend: &'a B, model: &'a str, component: &'a Component) -> Self {
        Self {
            backend,
            model,
            component,
            taken: BTreeSet::new(),
        }
    }

    fn wrong(
        &self,
        role: Role,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> EngineError {
        EngineError::Weight {
            model: self.model.to_owned(),
            role: role.to_string(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The matrix of a role, of this shape.
    pub fn matrix(
        &mut self,
        role: Role,
        n_out: usize,
        n_in: usize,
    ) -> Result<&'a Matrix, EngineError> {
        let expected = || format!("a matrix of {n_out} × {n_in}");
        let Some(matrix) = self.component.role(role) else {
            return Err(self.wrong(role, expected(), "nothing"));
        };
        let found = (matrix.n_rows(), matrix.n_cols());
        if found != (n_out, n_in) {
            let name = matrix.tensor().name();
            return Err(self.wrong(
                role,
                expected(),
                format!("{name} of {} × {}", found.0, found.1),
            ));
        }
        self.taken.insert(role);
        Ok(matrix)
    }

    /// The values of a role that is a vector.
    pub fn values(&mut self, role: Role, n: usize) -> Result<Vec<f32>, EngineError> {
        let matrix = self.matrix(role, n, 1)?;
        let mut values = vec![0.0; n];
        matrix.read_rows(0..n, &mut values)?;
        Ok(values)
    }

    /// The values of a role that is a vector, on the device `[1, n]`.
    pub fn vector(&mut self, role: Role, n: usize) -> Result<B::Buffer, EngineError> {
        let values = self.values(role, n)?;
        self.backend.upload(&values, 1, n)
    }

    fn bias(&mut self, role: Role, n: usize, has: bool) -> Result<Option<B::Buffer>, EngineError> {
        has.then(|| self.vector(role.bias(), n)).transpose()
    }

    /// A weight and its bias.
    pub fn linear(
        &mut self,
        role: Role,
        n_out: usize,
        n_in: usize,
        bias: bool,
    ) -> Result<Linear<B>, EngineError> {
        let matrix = self.matrix(role, n_out, n_in)?;
        Ok(Linear {
            weight: self.backend.weight(matrix)?,
            bias: self.bias(role, n_out, bias)?,
        })
    }

    /// The weights of a role of every expert.
    fn experts(
        &mut self,
        role: Role,
        n_experts: usize,
        n_out: usize,
        n_in: usize,
    ) -> Result<Vec<B::Weight>, EngineError> {
        let matrices: Result<Vec<Matrix>, EngineError> = (0..n_experts as u32)
            .map(|e| Ok(self.matrix(role.of_expert(Some(e)), n_out, n_in)?.clone()))
            .collect();
        self.backend.weights(&matrices?)
    }

    /// Some rows of a weight, as a weight of their own.
    fn rows(&self, matrix: &Matrix, rows: &[usize]) -> Result<Linear<B>, EngineError> {
        let part = matrix.clone().select_rows(rows)?;
        Ok(Linear {
            weight: self.backend.weight(&part)?,
            bias: None,
        })
    }

    /// A norm over `n` columns.
    pub fn norm(&mut self, role: Role, spec: NormSpec, n: usize) -> Result<Norm<B>, EngineError> {
        Ok(Norm {
            spec,
            gain: spec.gain.then(|| self.vector(role, n)).transpose()?,
            bias: self.bias(role, n, spec.bias)?,
        })
    }

    /// A norm, where there is one.
    pub fn optional_norm(
        &mut self,
        role: Role,
        spec: Option<NormSpec>,
        n: usize,
    ) -> Result<Option<Norm<B>>, EngineError> {
        spec.map(|spec| self.norm(role, spec, n)).transpose()
    }

    fn qk_norm(
        &mut self,
        role: Role,
        norm: Option<QkNorm>,
        head_dim: usize,
        n_heads: usize,
    ) -> Result<Option<Norm<B>>, EngineError> {
        let Some(norm) = norm else { return Ok(None) };
        match norm.scope {
            QkNormScope::Head => self.norm(role, norm.norm, head_dim).map(Some),
            QkNormScope::Width => self.norm(role, norm.norm, n_heads * head_dim).map(Some),
            QkNormScope::EachHead => {
                let mut of_heads = |role: Role| -> Result<B::Buffer, EngineError> {
                    let mut values = Vec::with_capacity(n_heads * head_dim);
                    for head in 0..n_heads as u32 {
                        values.extend(self.values(role.of_expert(Some(head)), head_dim)?);
                    }
                    self.backend.upload(&values, 1, values.len())
                };
                Ok(Some(Norm {
                    spec: norm.norm,
                    gain: norm.norm.gain.then(|| of_heads(role)).transpose()?,
                    bias: norm.norm.bias.then(|| of_heads(role.bias())).transpose()?,
                }))
            }
        }
    }

    fn qkv(
        &mut self,
        layer: u32,
        spec: &AttentionSpec,
        hidden: usize,
    ) -> Result<Qkv<B>, EngineError> {
        let role = |kind| Role::in_layer(kind, layer);
        let q_width = spec.n_heads * spec.head_dim;
        match spec.projections {
            Projections::Full => {
                let (k, v) = (
                    spec.n_kv_heads * spec.head_dim,
                    spec.n_kv_heads * spec.value_dim,
                );
                Ok(Qkv::Full {
                    q: self.linear(role(RoleKind::Query), q_width, hidden, spec.qkv_bias)?,
                    k: self.linear(role(RoleKind::Key), k, hidden, spec.qkv_bias)?,
                    v: self.linear(role(RoleKind::Value), v, hidden, spec.qkv_bias)?,
                })
            }
            Projections::Latent {
                q_rank,
                kv_rank,
                nope_dim,
                norm,
            } => {
                let (q_down, q) = match q_rank {
                    None => (
                        None,
                        self.linear(role(RoleKind::Query), q_width, hidden, spec.qkv_bias)?,
                    ),
                    Some(rank) => {
                        let down =
                            self.linear(role(RoleKind::QueryDown), rank, hidden, spec.qkv_bias)?;
                        let norm = self.norm(role(RoleKind::QueryDownNorm), norm, rank)?;
                        let up = self.linear(role(RoleKind::QueryUp), q_width, rank, false)?;
                        (Some((down, norm)), up)
                    }
                };
                let rope_dim = spec.head_dim - nope_dim;
                let down_role = role(RoleKind::KvDown);
                let down = self.matrix(down_role, kv_rank + rope_dim, hidden)?;
                let per_head = nope_dim + spec.value_dim;
                let up = self.matrix(role(RoleKind::KvUp), spec.n_heads * per_head, kv_rank)?;
                // Rows of one head are its keys, then its values.
                let rows_of = |from: usize, to: usize| -> Vec<usize> {
                    (0..spec.n_heads)
                        .flat_map(|head| head * per_head + from..head * per_head + to)
                        .collect()
                };
                let mut kv_down = self.rows(down, &(0..kv_rank).collect::<Vec<_>>())?;
                let mut k_rope =
                    self.rows(down, &(kv_rank..kv_rank + rope_dim).collect::<Vec<_>>())?;
                if spec.qkv_bias {
                    let bias = self.values(down_role.bias(), kv_rank + rope_dim)?;
                    kv_down.bias = Some(self.backend.upload(&bias[..kv_rank], 1, kv_rank)?);
                    k_rope.bias = Some(self.backend.upload(&bias[kv_rank..], 1, rope_dim)?);
                }
                Ok(Qkv::Latent {
                    q_down,
                    q,
                    kv_down,
                    kv_norm: self.norm(role(RoleKind::KvDownNorm), norm, kv_rank)?,
                    k_rope,
                    k_nope: self.rows(up, &rows_of(0, nope_dim))?,
                    v: self.rows(up, &rows_of(nope_dim, per_head))?,
                })
            }
        }
    }

    fn mlp(
        &mut self,
        roles: [Role; 3],
        spec: DenseSpec,
        hidden: usize,
    ) -> Result<Mlp<B>, EngineError> {
        let [gate, up, down] = roles;
        let n = spec.intermediate_size;
        Ok(Mlp {
            gate: spec
                .gated
                .then(|| self.linear(gate, n, hidden, spec.up_bias))
                .transpose()?,
            up: self.linear(up, n, hidden, spec.up_bias)?,
            down: self.linear(down, hidden, n, spec.down_bias)?,
            spec,
        })
    }

    fn feed(&mut self, layer: u32, spec: &MlpSpec, hidden: usize) -> Result<Feed<B>, EngineError> {
        let role = |kind| Role::in_layer(kind, layer);
        let own = [RoleKind::Gate, RoleKind::Up, RoleKind::Down].map(role);
        let shared = [
            RoleKind::SharedGate,
            RoleKind::SharedUp,
            RoleKind::SharedDown,
        ]
        .map(role);
        let spec = match spec {
            MlpSpec::Dense(spec) => return Ok(Feed::Dense(self.mlp(own, *spec, hidden)?)),
            MlpSpec::Mixture(spec) => spec,
        };
        let [gate, up, down] = own;
        let n = spec.expert.intermediate_size;
        let experts = Experts {
            gate: spec
                .expert
                .gated
                .then(|| self.experts(gate, spec.n_experts, n, hidden))
                .transpose()?,
            up: self.experts(up, spec.n_experts, n, hidden)?,
            down: self.experts(down, spec.n_experts, hidden, n)?,
        };
        let shared = match &spec.shared {
            None => None,
            Some(expert) => {
                let mlp = self.mlp(shared, expert.mlp, hidden)?;
                let gate = expert
                    .gated_output
                    .then(|| self.linear(role(RoleKind::SharedRouter), 1, hidden, false))
                    .transpose()?;
                Some((mlp, gate))
            }
        };
        Ok(Feed::Mixture(Mixture {
            router: self.linear(role(RoleKind::Router), spec.n_experts, hidden, false)?,
            correction: spec
                .router
                .correction_bias
                .then(|| self.values(role(RoleKind::RouterBias), spec.n_experts))
                .transpose()?,
            experts,
            shared,
            spec: spec.clone(),
        }))
    }

    /// A layer.
    ///
    /// # Errors
    /// As [`Self::decoder`].
    pub fn layer(
        &mut self,
        layer: u32,
        spec: &LayerSpec,
        hidden: usize,
    ) -> Result<Layer<B>, EngineError> {
        let role = |kind| Role::in_layer(kind, layer);
        let attention = &spec.attention;
        let (n_heads, n_kv, dim) = (attention.n_heads, attention.n_kv_heads, attention.head_dim);
        Ok(Layer {
            attention_norm: self.optional_norm(
                role(RoleKind::AttentionNorm),
                spec.attention_norm,
                hidden,
            )?,
            qkv: self.qkv(layer, attention, hidden)?,
            q_norm: self.qk_norm(role(RoleKind::QueryNorm), attention.qk_norm, dim, n_heads)?,
            k_norm: self.qk_norm(role(RoleKind::KeyNorm), attention.qk_norm, dim, n_kv)?,
            output: self.linear(
                role(RoleKind::AttentionOutput),
                hidden,
                n_heads * attention.value_dim,
                attention.output_bias,
            )?,
            attention_post_norm: self.optional_norm(
                role(RoleKind::AttentionPostNorm),
                spec.attention_post_norm,
                hidden,
            )?,
            mlp_norm: self.optional_norm(role(RoleKind::MlpNorm), spec.mlp_norm, hidden)?,
            feed: self.feed(layer, &spec.mlp, hidden)?,
            mlp_post_norm: self.optional_norm(
                role(RoleKind::MlpPostNorm),
                spec.mlp_post_norm,
                hidden,
            )?,
            spec: spec.clone(),
        })
    }

    /// Checks the number of layers; up to `n_unused` more may be stored, and are left aside.
    ///
    /// # Errors
    /// When the checkpoint has another.
    pub fn expect_layers(&mut self, n_layers: usize, n_unused: usize) -> Result<(), EngineError> {
        let n_found = self.component.n_layers as usize;
        if (n_layers..=n_layers + n_unused).contains(&n_found) {
            let roles = self.component.roles.keys().copied();
            let beyond = |role: &Role| role.layer.is_some_and(|layer| layer as usize >= n_layers);
            self.taken.extend(roles.filter(beyond));
            return Ok(());
        }
        Err(EngineError::NotAModel(format!(
            "{}: config.json states {n_layers} layers, the checkpoint has {}",
            self.model, self.component.n_layers
        )))
    }

    /// All weights of a decoder.
    ///
    /// # Errors
    /// When one is missing, has another shape, is not in the spec, or cannot be read.
    pub fn decoder(
        &mut self,
        spec: &ModelSpec,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Weights<B>, EngineError> {
        let hidden = spec.hidden_size;
        let width = spec.embedding.width;
        let outside = Role::outside;
        self.expect_layers(spec.layers.len(), spec.n_unused_layers)?;
        let table = self.matrix(outside(RoleKind::TokenEmbedding), spec.vocab_size, width)?;
        let embedding = self.backend.weight(table)?;
        let projected = width != hidden;
        let embedding_in = projected
            .then(|| self.linear(outside(RoleKind::EmbeddingIn), hidden, width, false))
            .transpose()?;
        let positions = match spec.embedding.positions {
            None => None,
            Some(positions) => {
                let role = outside(RoleKind::PositionEmbedding);
                let matrix = self.matrix(role, positions.n_rows, hidden)?;
                Some(self.backend.weight(matrix)?)
            }
        };
        let embedding_norm = self.optional_norm(
            outside(RoleKind::EmbeddingNorm),
            spec.embedding.norm,
            hidden,
        )?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(self.layer(index as u32, layer, hidden)?);
            watch(index);
        }
        let final_norm =
            self.optional_norm(outside(RoleKind::FinalNorm), spec.final_norm, hidden)?;
        let embedding_out = projected
            .then(|| self.linear(outside(RoleKind::EmbeddingOut), width, hidden, false))
            .transpose()?;
        let head_role = outside(RoleKind::OutputHead);
        let head_bias = self.bias(head_role, spec.vocab_size, spec.head.bias)?;
        let head = if spec.head.tied {
            // A stored copy is what implementations ignore.
            self.taken.insert(head_role);
            None
        } else {
            Some(self.linear(head_role, spec.vocab_size, width, false)?)
        };
        self.refuse_the_rest()?;
        if let Some(tensor) = without_role(self.component, spec.layers.len() as u32).first() {
            return Err(EngineError::NotAModel(format!(
                "{}: the tensor {} has no place in a {} model that the engine knows",
                self.model,
                tensor.name(),
                spec.model_type
            )));
        }
        Ok(Weights {
            embedding,
            embedding_in,
            positions,
            embedding_norm,
            layers,
            final_norm,
            embedding_out,
            head,
            head_bias,
        })
    }

    /// A weight that the config does not promise would be left out of the computation.
    ///
    /// # Errors
    /// When there is one.
    pub fn refuse_the_rest(&self) -> Result<(), EngineError> {
        match self
            .component
            .roles
            .iter()
            .find(|(role, _)| !self.taken.contains(role))
        {
            None => Ok(()),
            Some((role, matrix)) => Err(self.wrong(
                *role,
                "nothing, by config.json",
                format!(
                    "{}{}",
                    matrix.tensor().name(),
                    if role.part == Part::Bias {
                        ", a bias"
                    } else {
                        ""
                    }
                ),
            )),
        }
    }
}

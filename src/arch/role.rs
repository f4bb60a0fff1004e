//! What a tensor is for, whatever it is called.
//!
//! Evidence code addresses tensors by [`Role`], never by a name such as `model.layers.0…`.

use std::fmt;

/// The function of a tensor in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// Token embeddings `[vocab_size, hidden_size]`.
    TokenEmbedding,
    /// What maps embeddings narrower than the stream into it `[hidden_size, width]` (OPT-350m).
    EmbeddingIn,
    /// What maps the stream back to that width `[width, hidden_size]`.
    EmbeddingOut,
    /// Norm of the embeddings (BLOOM).
    EmbeddingNorm,
    /// Learned positions `[n_positions, hidden_size]`.
    PositionEmbedding,
    /// Patch embedding of a vision tower `[hidden_size, channels × height × width]`.
    PatchEmbedding,
    /// What stands before the patches of a vision tower `[hidden_size]` (CLIP).
    ClassEmbedding,
    /// Norm before attention (gain or bias).
    AttentionNorm,
    /// Query projection `[n_heads × head_dim, hidden_size]`.
    Query,
    /// Key projection `[n_kv_heads × head_dim, hidden_size]`.
    Key,
    /// Value projection `[n_kv_heads × head_dim, hidden_size]`.
    Value,
    /// Queries to their latent `[q_rank, hidden_size]` (latent attention).
    QueryDown,
    /// Norm of the latent of the queries.
    QueryDownNorm,
    /// Queries out of their latent `[n_heads × head_dim, q_rank]`.
    QueryUp,
    /// Keys and values to their latent, then the part of the keys that turns, which all heads share
    /// `[kv_rank + rotated_dim, hidden_size]`.
    KvDown,
    /// Norm of the latent of keys and values.
    KvDownNorm,
    /// Keys and values out of their latent: per head, the part of the keys without positions, then
    /// the values `[n_heads × (nope_dim + value_dim), kv_rank]`.
    KvUp,
    /// Norm of the queries, per head or over their whole width. Where every head has gains in a tensor
    /// of its own (StableLM 2 12B), [`Role::expert`] counts the heads.
    QueryNorm,
    /// Norm of the keys, as that of the queries.
    KeyNorm,
    /// Attention output `[hidden_size, n_heads × head_dim]`.
    AttentionOutput,
    /// Norm of what attention writes, before it is added to the stream.
    AttentionPostNorm,
    /// Norm before the MLP (gain or bias).
    MlpNorm,
    /// Mixture-of-experts router `[n_experts, hidden_size]`.
    Router,
    /// What is added to the scores for choosing experts, and not for weighting them `[n_experts]`
    /// (DeepSeek-V3). A weight whatever its name, with no matrix that it would be the bias of.
    RouterBias,
    /// Gate of a gated MLP `[intermediate_size, hidden_size]`.
    Gate,
    /// Up projection `[intermediate_size, hidden_size]`.
    Up,
    /// Down projection `[hidden_size, intermediate_size]`.
    Down,
    /// What weights the shared expert `[1, hidden_size]` (Qwen2-MoE).
    SharedRouter,
    /// Gate of the experts that every token passes; several are stored as one wide MLP.
    SharedGate,
    /// Up projection of the shared experts.
    SharedUp,
    /// Down projection of the shared experts.
    SharedDown,
    /// Norm of what the MLP writes, before it is added to the stream.
    MlpPostNorm,
    /// Norm after the last layer (gain or bias).
    FinalNorm,
    /// Output head `[vocab_size, hidden_size]`.
    OutputHead,
}

impl RoleKind {
    /// The field's usual name.
    pub fn name(self) -> &'static str {
        match self {
            RoleKind::TokenEmbedding => "embed_tokens",
            RoleKind::EmbeddingIn => "embed_in_proj",
            RoleKind::EmbeddingOut => "embed_out_proj",
            RoleKind::EmbeddingNorm => "embed_norm",
            RoleKind::PositionEmbedding => "embed_positions",
            RoleKind::PatchEmbedding => "patch_embedding",
            RoleKind::ClassEmbedding => "class_embedding",
            RoleKind::AttentionNorm => "attention_norm",
            RoleKind::Query => "q_proj",
            RoleKind::Key => "k_proj",
            RoleKind::Value => "v_proj",
            RoleKind::QueryDown => "q_down_proj",
            RoleKind::QueryDownNorm => "q_down_norm",
            RoleKind::QueryUp => "q_up_proj",
            RoleKind::KvDown => "kv_down_proj",
            RoleKind::KvDownNorm => "kv_down_norm",
            RoleKind::KvUp => "kv_up_proj",
            RoleKind::QueryNorm => "q_norm",
            RoleKind::KeyNorm => "k_norm",
            RoleKind::AttentionOutput => "o_proj",
            RoleKind::AttentionPostNorm => "attention_post_norm",
            RoleKind::MlpNorm => "mlp_norm",
            RoleKind::Router => "router",
            RoleKind::RouterBias => "router_bias",
            RoleKind::Gate => "gate_proj",
            RoleKind::Up => "up_proj",
            RoleKind::Down => "down_proj",
            RoleKind::SharedRouter => "shared_router",
            RoleKind::SharedGate => "shared_gate_proj",
            RoleKind::SharedUp => "shared_up_proj",
            RoleKind::SharedDown => "shared_down_proj",
            RoleKind::MlpPostNorm => "mlp_post_norm",
            RoleKind::FinalNorm => "final_norm",
            RoleKind::OutputHead => "lm_head",
        }
    }

    /// Whether the weight is a vector of gains.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            RoleKind::AttentionNorm
                | RoleKind::QueryNorm
                | RoleKind::KeyNorm
                | RoleKind::MlpNorm
                | RoleKind::FinalNorm
                | RoleKind::EmbeddingNorm
                | RoleKind::QueryDownNorm
                | RoleKind::KvDownNorm
                | RoleKind::AttentionPostNorm
                | RoleKind::MlpPostNorm
        )
    }

    /// Whether the weight is a vector: gains, or what a router adds.
    pub fn is_vector(self) -> bool {
        self.is_norm() || self == RoleKind::RouterBias
    }

    /// Whether the weight is a projection of an MLP.
    pub fn is_mlp(self) -> bool {
        matches!(self, RoleKind::Gate | RoleKind::Up | RoleKind::Down)
    }

    /// The norm whose output the matrix reads, if it reads the normed residual stream.
    pub fn reads_norm(self) -> Option<RoleKind> {
        match self {
            RoleKind::Query
            | RoleKind::Key
            | RoleKind::Value
            | RoleKind::QueryDown
            | RoleKind::KvDown => Some(RoleKind::AttentionNorm),
            RoleKind::Gate
            | RoleKind::Up
            | RoleKind::Router
            | RoleKind::SharedRouter
            | RoleKind::SharedGate
            | RoleKind::SharedUp => Some(RoleKind::MlpNorm),
            RoleKind::OutputHead => Some(RoleKind::FinalNorm),
            _ => None,
        }
    }
}

/// Weight or bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The matrix, or the gains of a norm.
    Weight,
    /// The additive vector.
    Bias,
}

/// A role: what for, in which layer, for which expert, weight or bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role {
    /// Layer, counted from 0; `None` outside the stack.
    pub layer: Option<u32>,
    /// The function.
    pub kind: RoleKind,
    /// Expert, counted from 0; `None` in dense layers. Of a norm of q or k: the head, where each has a
    /// tensor of its own.
    pub expert: Option<u32>,
    /// Weight or bias.
    pub part: Part,
}

impl Role {
    /// A weight outside the stack.
    pub fn outside(kind: RoleKind) -> Self {
        Self {
            layer: None,
            kind,
            expert: None,
            part: Part::Weight,
        }
    }

    /// A weight in a layer.
    pub fn in_layer(kind: RoleKind, layer: u32) -> Self {
        Self {
            layer: Some(layer),
            kind,
            expert: None,
            part: Part::Weight,
        }
    }

    /// The same role for an expert.
    pub fn of_expert(self, expert: Option<u32>) -> Self {
        Self { expert, ..self }
    }

    /// The bias that belongs to the weight.
    pub fn bias(self) -> Self {
        Self {
            part: Part::Bias,
            ..self
        }
    }

    /// Name without the layer, for rows of a picture: `up_proj`, `experts.3.up_proj`, `q_proj.bias`.
    pub fn row_name(&self) -> String {
        let mut name = String::new();
        if let Some(number) = self.expert {
            let of = match self.kind {
                RoleKind::QueryNorm | RoleKind::KeyNorm => "heads",
                _ => "experts",
            };
            name.push_str(&format!("{of}.{number}."));
        }
        name.push_str(self.kind.name());
        if self.part == Part::Bias {
            name.push_str(".bias");
        }
        name
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.layer {
            write!(f, "layers.{layer}.")?;
        }
        f.write_str(&self.row_name())
    }
}

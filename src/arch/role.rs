//! What a tensor is for, whatever it is called.
//!
//! Evidence code addresses tensors by [`Role`], never by a name such as `model.layers.0…`.

use std::fmt;

/// The function of a tensor in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// Token embeddings `[vocab_size, hidden_size]`.
    TokenEmbedding,
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
    /// Norm of the queries, per head.
    QueryNorm,
    /// Norm of the keys, per head.
    KeyNorm,
    /// Attention output `[hidden_size, n_heads × head_dim]`.
    AttentionOutput,
    /// Norm before the MLP (gain or bias).
    MlpNorm,
    /// Mixture-of-experts router `[n_experts, hidden_size]`.
    Router,
    /// Gate of a gated MLP `[intermediate_size, hidden_size]`.
    Gate,
    /// Up projection `[intermediate_size, hidden_size]`.
    Up,
    /// Down projection `[hidden_size, intermediate_size]`.
    Down,
    /// Norm of what attention writes (Gemma 2 and 3, OLMo 2).
    AttentionPostNorm,
    /// Norm of what the MLP writes.
    MlpPostNorm,
    /// From the stream to the latent of the queries (MLA) `[q_rank, hidden_size]`.
    QueryDown,
    /// Norm of that latent.
    QueryDownNorm,
    /// From the latent to the queries `[n_heads × head_dim, q_rank]`.
    QueryUp,
    /// From the stream to the latent of keys and values and the rotated key that heads share
    /// `[kv_rank + rope_dim, hidden_size]`.
    KvDown,
    /// Norm of that latent.
    KvDownNorm,
    /// From the latent to keys and values, head by head `[n_heads × (nope_dim + value_dim), kv_rank]`.
    KvUp,
    /// Gate of the MLP beside the experts.
    SharedGate,
    /// Up projection of the MLP beside the experts.
    SharedUp,
    /// Down projection of the MLP beside the experts.
    SharedDown,
    /// Gate of the output of the MLP beside the experts `[1, hidden_size]`.
    SharedRouter,
    /// What is added to the scores for choosing experts `[n_experts]`.
    RouterBias,
    /// Norm of the embeddings (BLOOM).
    EmbeddingNorm,
    /// From the embeddings to the stream (OPT-350m) `[hidden_size, width]`.
    EmbeddingIn,
    /// From the stream to the embeddings (OPT-350m) `[width, hidden_size]`.
    EmbeddingOut,
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
            RoleKind::PositionEmbedding => "embed_positions",
            RoleKind::PatchEmbedding => "patch_embedding",
            RoleKind::ClassEmbedding => "class_embedding",
            RoleKind::AttentionNorm => "attention_norm",
            RoleKind::Query => "q_proj",
            RoleKind::Key => "k_proj",
            RoleKind::Value => "v_proj",
            RoleKind::QueryNorm => "q_norm",
            RoleKind::KeyNorm => "k_norm",
            RoleKind::AttentionOutput => "o_proj",
            RoleKind::MlpNorm => "mlp_norm",
            RoleKind::Router => "router",
            RoleKind::Gate => "gate_proj",
            RoleKind::Up => "up_proj",
            RoleKind::Down => "down_proj",
            RoleKind::AttentionPostNorm => "attention_post_norm",
            RoleKind::MlpPostNorm => "mlp_post_norm",
            RoleKind::QueryDown => "q_down_proj",
            RoleKind::QueryDownNorm => "q_down_norm",
            RoleKind::QueryUp => "q_up_proj",
            RoleKind::KvDown => "kv_down_proj",
            RoleKind::KvDownNorm => "kv_down_norm",
            RoleKind::KvUp => "kv_up_proj",
            RoleKind::SharedGate => "shared_expert.gate_proj",
            RoleKind::SharedUp => "shared_expert.up_proj",
            RoleKind::SharedDown => "shared_expert.down_proj",
            RoleKind::SharedRouter => "shared_expert.router",
            RoleKind::RouterBias => "router_bias",
            RoleKind::EmbeddingNorm => "embedding_norm",
            RoleKind::EmbeddingIn => "embedding_in",
            RoleKind::EmbeddingOut => "embedding_out",
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
                | RoleKind::AttentionPostNorm
                | RoleKind::MlpPostNorm
                | RoleKind::QueryDownNorm
                | RoleKind::KvDownNorm
                | RoleKind::EmbeddingNorm
                | RoleKind::FinalNorm
        )
    }

    /// Whether the weight is a projection of an MLP.
    pub fn is_mlp(self) -> bool {
        matches!(self, RoleKind::Gate | RoleKind::Up | RoleKind::Down)
    }

    /// The norm whose output the matrix reads, if it reads the normed residual stream.
    pub fn reads_norm(self) -> Option<RoleKind> {
        match self {
            RoleKind::Query | RoleKind::Key | RoleKind::Value => Some(RoleKind::AttentionNorm),
            RoleKind::Gate | RoleKind::Up | RoleKind::Router => Some(RoleKind::MlpNorm),
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
    /// Expert, counted from 0; `None` in dense layers.
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
        if let Some(expert) = self.expert {
            name.push_str(&format!("experts.{expert}."));
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

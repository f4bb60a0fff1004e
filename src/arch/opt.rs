//! OPT: LayerNorm, biases, plain MLP, learned positions.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them. `final_layer_norm` is the norm of the MLP within a layer, and
/// that before the head outside.
pub const OPT: Family = Family {
    id: "opt",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("self_attn_layer_norm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.out_proj", Rule::One(K::AttentionOutput)),
        ("final_layer_norm", Rule::One(K::MlpNorm)),
        ("fc1", Rule::One(K::Up)),
        ("fc2", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("embed_positions", K::PositionEmbedding),
        ("project_in", K::EmbeddingIn),
        ("project_out", K::EmbeddingOut),
        ("final_layer_norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

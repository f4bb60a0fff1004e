//! Llama as Meta's own release names it (`layers.N.attention.wq`, `feed_forward.w1`).

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names of the original release.
pub const META_LLAMA: Family = Family {
    id: "meta-llama",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("attention_norm", Rule::One(K::AttentionNorm)),
        ("attention.wq", Rule::One(K::Query)),
        ("attention.wk", Rule::One(K::Key)),
        ("attention.wv", Rule::One(K::Value)),
        ("attention.wo", Rule::One(K::AttentionOutput)),
        ("ffn_norm", Rule::One(K::MlpNorm)),
        ("feed_forward.w1", Rule::One(K::Gate)),
        ("feed_forward.w3", Rule::One(K::Up)),
        ("feed_forward.w2", Rule::One(K::Down)),
    ],
    outside: &[
        ("tok_embeddings", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("output", K::OutputHead),
    ],
};

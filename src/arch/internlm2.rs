//! InternLM2: `wqkv` fused group by group, `w1`/`w3`/`w2` as gate/up/down.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as the authors publish them.
pub const INTERNLM2: Family = Family {
    id: "internlm2",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("attention_norm", Rule::One(K::AttentionNorm)),
        ("attention.wqkv", Rule::QkvPerGroup),
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

//! Qwen 1: names like GPT-2's around RMSNorm and a gated MLP.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as the authors publish them. `w2` is the gate: the code computes `c_proj(w1(x) · silu(w2(x)))`.
pub const QWEN: Family = Family {
    id: "qwen",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("ln_1", Rule::One(K::AttentionNorm)),
        ("attn.c_attn", Rule::QkvBlocks),
        ("attn.c_proj", Rule::One(K::AttentionOutput)),
        ("attn.rotary_emb.inv_freq", Rule::Ignored),
        ("ln_2", Rule::One(K::MlpNorm)),
        ("mlp.w2", Rule::One(K::Gate)),
        ("mlp.w1", Rule::One(K::Up)),
        ("mlp.c_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("wte", K::TokenEmbedding),
        ("ln_f", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

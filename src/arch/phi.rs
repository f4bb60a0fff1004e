//! Phi-1, 1.5 and 2: LayerNorm, one norm for both blocks, plain MLP.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const PHI: Family = Family {
    id: "phi",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.q_layernorm", Rule::One(K::QueryNorm)),
        ("self_attn.k_layernorm", Rule::One(K::KeyNorm)),
        ("self_attn.dense", Rule::One(K::AttentionOutput)),
        ("self_attn.rotary_emb.inv_freq", Rule::Ignored),
        ("mlp.fc1", Rule::One(K::Up)),
        ("mlp.fc2", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("final_layernorm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

//! Mixtral: Llama attention, `block_sparse_moe` experts named `w1`/`w3`/`w2`.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const MIXTRAL: Family = Family {
    id: "mixtral",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("block_sparse_moe.gate", Rule::One(K::Router)),
        ("block_sparse_moe.experts.{}.w1", Rule::One(K::Gate)),
        ("block_sparse_moe.experts.{}.w3", Rule::One(K::Up)),
        ("block_sparse_moe.experts.{}.w2", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

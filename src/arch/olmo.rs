//! OLMo 1: the Llama shape, LayerNorms without weights.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them: those of Llama but for the norms, so that a model with
/// norms counts as Llama, which knows more of its names.
pub const OLMO: Family = Family {
    id: "olmo",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("self_attn.rotary_emb.inv_freq", Rule::Ignored),
        ("mlp.gate_proj", Rule::One(K::Gate)),
        ("mlp.up_proj", Rule::One(K::Up)),
        ("mlp.down_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("lm_head", K::OutputHead),
    ],
};

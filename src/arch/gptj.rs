//! GPT-J: LayerNorm, one norm for both blocks, separate q, k, v without biases.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const GPTJ: Family = Family {
    id: "gpt-j",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("ln_1", Rule::One(K::AttentionNorm)),
        ("attn.q_proj", Rule::One(K::Query)),
        ("attn.k_proj", Rule::One(K::Key)),
        ("attn.v_proj", Rule::One(K::Value)),
        ("attn.out_proj", Rule::One(K::AttentionOutput)),
        // The causal mask was published as a buffer.
        ("attn.bias", Rule::Ignored),
        ("attn.masked_bias", Rule::Ignored),
        ("mlp.fc_in", Rule::One(K::Up)),
        ("mlp.fc_out", Rule::One(K::Down)),
    ],
    outside: &[
        ("wte", K::TokenEmbedding),
        ("ln_f", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

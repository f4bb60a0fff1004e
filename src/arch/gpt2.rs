//! GPT-2: LayerNorm, biases, plain MLP, linear weights stored `[in, out]` (Conv1D).

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const GPT2: Family = Family {
    id: "gpt2",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: true,
    in_layer: &[
        ("ln_1", Rule::One(K::AttentionNorm)),
        ("attn.c_attn", Rule::QkvBlocks),
        ("attn.c_proj", Rule::One(K::AttentionOutput)),
        // The causal mask was published as a buffer.
        ("attn.bias", Rule::Ignored),
        ("attn.masked_bias", Rule::Ignored),
        ("ln_2", Rule::One(K::MlpNorm)),
        ("mlp.c_fc", Rule::One(K::Up)),
        ("mlp.c_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("wte", K::TokenEmbedding),
        ("wpe", K::PositionEmbedding),
        ("ln_f", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

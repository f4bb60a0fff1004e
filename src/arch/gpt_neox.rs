//! GPT-NeoX and Pythia: LayerNorm, biases, plain MLP, qkv fused head by head.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const GPT_NEOX: Family = Family {
    id: "gpt-neox",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("attention.query_key_value", Rule::QkvPerHead),
        ("attention.dense", Rule::One(K::AttentionOutput)),
        ("attention.bias", Rule::Ignored),
        ("attention.masked_bias", Rule::Ignored),
        ("attention.rotary_emb.inv_freq", Rule::Ignored),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("mlp.dense_h_to_4h", Rule::One(K::Up)),
        ("mlp.dense_4h_to_h", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_in", K::TokenEmbedding),
        ("final_layer_norm", K::FinalNorm),
        ("embed_out", K::OutputHead),
        // As transformers 5 holds it, and saves it where asked not to restore the names.
        ("lm_head", K::OutputHead),
    ],
};

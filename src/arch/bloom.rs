//! BLOOM, and Falcon, which kept its names: LayerNorm, plain MLP, fused q, k, v.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them. Rows of q, k, v are head by head in BLOOM and the first
/// Falcon, all queries and one k and v in Falcon 7B, group by group in 40B: groups of one head, one group
/// of all heads, and groups, which the config tells apart.
pub const BLOOM: Family = Family {
    id: "bloom",
    vision: false,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        // Falcon 40B has a norm for each of its parallel blocks.
        ("ln_attn", Rule::One(K::AttentionNorm)),
        ("ln_mlp", Rule::One(K::MlpNorm)),
        ("self_attention.query_key_value", Rule::QkvPerGroup),
        ("self_attention.dense", Rule::One(K::AttentionOutput)),
        ("self_attention.rotary_emb.inv_freq", Rule::Ignored),
        ("self_attention.maybe_rotary.inv_freq", Rule::Ignored),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("mlp.dense_h_to_4h", Rule::One(K::Up)),
        ("mlp.dense_4h_to_h", Rule::One(K::Down)),
    ],
    outside: &[
        ("word_embeddings", K::TokenEmbedding),
        ("word_embeddings_layernorm", K::EmbeddingNorm),
        ("ln_f", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

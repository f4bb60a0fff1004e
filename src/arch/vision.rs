//! Vision towers: CLIP and SigLIP as `transformers` names them, and Qwen2-VL's blocks.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// CLIP, SigLIP, Idefics2 and MiniCPM-V's `vpm`.
pub const CLIP: Family = Family {
    id: "clip-vision",
    vision: true,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("layer_norm1", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.out_proj", Rule::One(K::AttentionOutput)),
        ("layer_norm2", Rule::One(K::MlpNorm)),
        ("mlp.fc1", Rule::One(K::Up)),
        ("mlp.fc2", Rule::One(K::Down)),
    ],
    outside: &[
        ("embeddings.class_embedding", K::ClassEmbedding),
        ("embeddings.patch_embedding", K::PatchEmbedding),
        ("embeddings.position_embedding", K::PositionEmbedding),
        // Spelt as published.
        ("pre_layrnorm", K::EmbeddingNorm),
        ("post_layernorm", K::FinalNorm),
    ],
};

/// Qwen2-VL's tower and timm-like blocks (MiniCPM-V 2.0).
pub const VIT_BLOCKS: Family = Family {
    id: "vit-blocks",
    vision: true,
    norm: Norm::Layer,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("norm1", Rule::One(K::AttentionNorm)),
        ("attn.qkv", Rule::QkvBlocks),
        ("attn.proj", Rule::One(K::AttentionOutput)),
        ("norm2", Rule::One(K::MlpNorm)),
        ("mlp.fc1", Rule::One(K::Up)),
        ("mlp.fc2", Rule::One(K::Down)),
        ("mlp.gate_proj", Rule::One(K::Gate)),
        ("mlp.up_proj", Rule::One(K::Up)),
        ("mlp.down_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("patch_embed.proj", K::PatchEmbedding),
        ("pos_embed", K::PositionEmbedding),
        ("norm", K::FinalNorm),
    ],
};

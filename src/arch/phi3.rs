//! Phi-3 and 4: the Llama shape with fused `qkv_proj` and `gate_up_proj`.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const PHI3: Family = Family {
    id: "phi3",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.qkv_proj", Rule::QkvBlocks),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("self_attn.rotary_emb.inv_freq", Rule::Ignored),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("mlp.gate_up_proj", Rule::GateUpBlocks),
        ("mlp.down_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

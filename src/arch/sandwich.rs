//! Llama's names with norms after attention and MLP as well (Gemma 2 and 3), or only there (OLMo 2).

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them. `post_attention_layernorm` is what Llama calls the norm
/// before the MLP; here it norms what attention writes, and nothing reads the stream through it.
pub const SANDWICH: Family = Family {
    id: "llama-sandwich-norms",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &["gemma2", "gemma3", "gemma3_text"],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.q_norm", Rule::One(K::QueryNorm)),
        ("self_attn.k_norm", Rule::One(K::KeyNorm)),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("post_attention_layernorm", Rule::One(K::AttentionPostNorm)),
        ("pre_feedforward_layernorm", Rule::One(K::MlpNorm)),
        ("post_feedforward_layernorm", Rule::One(K::MlpPostNorm)),
        ("mlp.gate_proj", Rule::One(K::Gate)),
        ("mlp.up_proj", Rule::One(K::Up)),
        ("mlp.down_proj", Rule::One(K::Down)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

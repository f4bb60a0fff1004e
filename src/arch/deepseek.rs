//! Multi-head latent attention in the Llama shape: DeepSeek-V2 and V3, MiniCPM3, Kimi K2.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them. Layers that predict further tokens (V3) are stored after the
/// last one under its names and some of their own.
pub const DEEPSEEK: Family = Family {
    id: "deepseek",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.q_a_proj", Rule::One(K::QueryDown)),
        ("self_attn.q_a_layernorm", Rule::One(K::QueryDownNorm)),
        ("self_attn.q_b_proj", Rule::One(K::QueryUp)),
        ("self_attn.kv_a_proj_with_mqa", Rule::One(K::KvDown)),
        ("self_attn.kv_a_layernorm", Rule::One(K::KvDownNorm)),
        ("self_attn.kv_b_proj", Rule::One(K::KvUp)),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("self_attn.rotary_emb.inv_freq", Rule::Ignored),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("mlp.gate_proj", Rule::One(K::Gate)),
        ("mlp.up_proj", Rule::One(K::Up)),
        ("mlp.down_proj", Rule::One(K::Down)),
        ("mlp.gate", Rule::One(K::Router)),
        ("mlp.gate.e_score_correction_bias", Rule::One(K::RouterBias)),
        ("mlp.experts.{}.gate_proj", Rule::One(K::Gate)),
        ("mlp.experts.{}.up_proj", Rule::One(K::Up)),
        ("mlp.experts.{}.down_proj", Rule::One(K::Down)),
        // As transformers 5 holds experts, and saves them where asked not to restore the names.
        ("mlp.experts.gate_up_proj", Rule::ExpertsGateUp),
        ("mlp.experts.down_proj", Rule::Experts(K::Down)),
        ("mlp.shared_experts.gate_proj", Rule::One(K::SharedGate)),
        ("mlp.shared_experts.up_proj", Rule::One(K::SharedUp)),
        ("mlp.shared_experts.down_proj", Rule::One(K::SharedDown)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

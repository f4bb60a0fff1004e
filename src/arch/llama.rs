//! The Llama shape: Llama 1–3, Mistral, Qwen2/2.5/3, MiniCPM, Yi, Gemma, StableLM and whoever kept the
//! names.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `transformers` publishes them.
pub const LLAMA: Family = Family {
    id: "llama",
    vision: false,
    norm: Norm::Rms,
    plus_one_model_types: &["gemma"],
    transposed: false,
    in_layer: &[
        ("input_layernorm", Rule::One(K::AttentionNorm)),
        ("self_attn.q_proj", Rule::One(K::Query)),
        ("self_attn.k_proj", Rule::One(K::Key)),
        ("self_attn.v_proj", Rule::One(K::Value)),
        ("self_attn.q_norm", Rule::One(K::QueryNorm)),
        ("self_attn.k_norm", Rule::One(K::KeyNorm)),
        // StableLM 2 12B: a norm for each head.
        ("self_attn.q_layernorm.norms.{}", Rule::One(K::QueryNorm)),
        ("self_attn.k_layernorm.norms.{}", Rule::One(K::KeyNorm)),
        ("self_attn.o_proj", Rule::One(K::AttentionOutput)),
        ("self_attn.rotary_emb.inv_freq", Rule::Ignored),
        ("post_attention_layernorm", Rule::One(K::MlpNorm)),
        ("mlp.gate_proj", Rule::One(K::Gate)),
        ("mlp.up_proj", Rule::One(K::Up)),
        ("mlp.down_proj", Rule::One(K::Down)),
        // Qwen2-MoE, Qwen3-MoE and OLMoE keep Llama's names around their experts.
        ("mlp.gate", Rule::One(K::Router)),
        // gpt-oss.
        ("mlp.router", Rule::One(K::Router)),
        ("mlp.experts.{}.gate_proj", Rule::One(K::Gate)),
        ("mlp.experts.{}.up_proj", Rule::One(K::Up)),
        ("mlp.experts.{}.down_proj", Rule::One(K::Down)),
        // As transformers 5 holds experts, and saves them where asked not to restore the names.
        ("mlp.experts.gate_up_proj", Rule::ExpertsGateUp),
        ("mlp.experts.down_proj", Rule::Experts(K::Down)),
        ("mlp.experts.gate_up_proj_bias", Rule::ExpertsGateUpBias),
        ("mlp.experts.down_proj_bias", Rule::ExpertsBias(K::Down)),
        ("mlp.shared_expert.gate_proj", Rule::One(K::SharedGate)),
        ("mlp.shared_expert.up_proj", Rule::One(K::SharedUp)),
        ("mlp.shared_expert.down_proj", Rule::One(K::SharedDown)),
        ("mlp.shared_expert_gate", Rule::One(K::SharedRouter)),
    ],
    outside: &[
        ("embed_tokens", K::TokenEmbedding),
        ("norm", K::FinalNorm),
        ("lm_head", K::OutputHead),
    ],
};

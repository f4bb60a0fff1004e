//! The names that llama.cpp gives tensors, whatever the architecture: Llama, Qwen, Gemma, Phi-3, GPT-2,
//! GPT-NeoX, Mixtral and whoever else was converted to GGUF.
//!
//! The converter unifies what families do differently: linear weights are `[out, in]` for GPT-2 as well,
//! fused q, k, v are three blocks for GPT-NeoX as well, gains of Gemma's norms have their 1 added. The
//! checkpoint reader puts rows of q and k back into the order of the original.

use super::component::Norm;
use super::family::{Family, Rule};
use super::role::RoleKind as K;

/// Names as `convert_hf_to_gguf.py` writes them.
pub const GGUF: Family = Family {
    id: "gguf",
    vision: false,
    // With a bias it is a LayerNorm, which the tensors say themselves.
    norm: Norm::Rms,
    plus_one_model_types: &[],
    transposed: false,
    in_layer: &[
        ("attn_norm", Rule::AttentionOrMlpNorm),
        ("attn_norm_2", Rule::One(K::AttentionNorm)),
        ("attn_q", Rule::One(K::Query)),
        ("attn_k", Rule::One(K::Key)),
        ("attn_v", Rule::One(K::Value)),
        ("attn_qkv", Rule::QkvBlocks),
        ("attn_q_a", Rule::One(K::QueryDown)),
        ("attn_q_a_norm", Rule::One(K::QueryDownNorm)),
        ("attn_q_b", Rule::One(K::QueryUp)),
        ("attn_kv_a_mqa", Rule::One(K::KvDown)),
        ("attn_kv_a_norm", Rule::One(K::KvDownNorm)),
        ("attn_kv_b", Rule::One(K::KvUp)),
        ("attn_q_norm", Rule::OneOrEachHead(K::QueryNorm)),
        ("attn_k_norm", Rule::OneOrEachHead(K::KeyNorm)),
        ("attn_output", Rule::One(K::AttentionOutput)),
        ("attn_rot_embd", Rule::Ignored),
        // Divisors of rotary frequencies, which the config takes over.
        ("rope_freqs", Rule::Ignored),
        ("rope_factors_short", Rule::Ignored),
        ("rope_factors_long", Rule::Ignored),
        ("post_attention_norm", Rule::One(K::AttentionPostNorm)),
        ("ffn_norm", Rule::One(K::MlpNorm)),
        ("ffn_gate", Rule::One(K::Gate)),
        // Phi-3 keeps gate and up fused under this name.
        ("ffn_up", Rule::UpOrGateUp),
        ("ffn_down", Rule::One(K::Down)),
        ("ffn_gate_inp", Rule::One(K::Router)),
        ("ffn_gate_exps", Rule::Experts(K::Gate)),
        ("ffn_up_exps", Rule::Experts(K::Up)),
        ("ffn_down_exps", Rule::Experts(K::Down)),
        ("ffn_gate_inp_shexp", Rule::One(K::SharedRouter)),
        ("ffn_gate_shexp", Rule::One(K::SharedGate)),
        ("ffn_up_shexp", Rule::One(K::SharedUp)),
        ("ffn_down_shexp", Rule::One(K::SharedDown)),
        ("exp_probs_b", Rule::One(K::RouterBias)),
        ("post_ffw_norm", Rule::One(K::MlpPostNorm)),
        // Experts one by one, in files of 2023 and early 2024.
        ("ffn_gate.{}", Rule::One(K::Gate)),
        ("ffn_up.{}", Rule::One(K::Up)),
        ("ffn_down.{}", Rule::One(K::Down)),
    ],
    outside: &[
        ("token_embd", K::TokenEmbedding),
        ("token_embd_norm", K::EmbeddingNorm),
        ("position_embd", K::PositionEmbedding),
        ("output_norm", K::FinalNorm),
        ("output", K::OutputHead),
    ],
};

//! Multi-head latent attention as configs state it: DeepSeek-V2 and V3, MiniCPM3.

use super::config::{Config, SpecError};
use super::rope::{RopeSpec, RopeStyle, yarn_mscale};
use super::rope_config::RopeKeys;
use super::{AttentionSpec, NormSpec, Projections};
use serde_json::Value;

/// Sizes that a config class supplies where a config does not state them.
pub(super) struct Defaults {
    pub q_rank: usize,
    pub kv_rank: usize,
    pub nope_dim: usize,
    pub rope_dim: usize,
    /// `None`: hidden_size / n_heads.
    pub value_dim: Option<usize>,
}

/// Norms of the latents take no ε from the config: their ε is the default of the norm's own class.
const LATENT_EPSILON: f32 = 1e-6;

/// YaRN's factor of the scores: both q and k are longer by it. All three implementations apply it.
fn yarn_score_factor(config: &mut Config) -> f64 {
    let key = ["rope_parameters", "rope_scaling"]
        .into_iter()
        .find(|key| config.has(key));
    let Some(section) = key.and_then(|key| config.value(key)) else {
        return 1.0;
    };
    let number = |key: &str| section.get(key).and_then(Value::as_f64);
    let kind = section
        .get("rope_type")
        .or(section.get("type"))
        .and_then(Value::as_str);
    match (kind, number("factor"), number("mscale_all_dim")) {
        (Some("yarn"), Some(factor), Some(all)) if all != 0.0 => yarn_mscale(factor, all).powi(2),
        _ => 1.0,
    }
}

/// Reads latent attention.
pub(super) fn attention(
    config: &mut Config,
    hidden_size: usize,
    style: RopeStyle,
    max_positions: usize,
    defaults: &Defaults,
) -> Result<AttentionSpec, SpecError> {
    let n_heads = config.size("num_attention_heads")?;
    // Every head has keys of its own once they are taken out of the latent.
    config.demand("num_key_value_heads", &n_heads.into())?;
    let nope_dim = config.size_or("qk_nope_head_dim", defaults.nope_dim)?;
    let rope_dim = config.size_or("qk_rope_head_dim", defaults.rope_dim)?;
    // Derived by the config class, and written by it.
    config.demand("qk_head_dim", &(nope_dim + rope_dim).into())?;
    config.demand("head_dim", &rope_dim.into())?;
    let q_rank = if config.is_null("q_lora_rank") {
        None
    } else {
        Some(config.size_or("q_lora_rank", defaults.q_rank)?)
    };
    let kv_rank = config.size_or("kv_lora_rank", defaults.kv_rank)?;
    let value_dim = match defaults.value_dim {
        Some(default) => config.size_or("v_head_dim", default)?,
        None => config
            .optional_size("v_head_dim")?
            .unwrap_or(hidden_size / n_heads),
    };
    let bias = config.flag_or("attention_bias", false)?;
    if bias {
        // q_a_proj and kv_a_proj_with_mqa would have biases, q_b_proj and kv_b_proj none.
        return Err(config.wrong("attention_bias", "false (the engine computes no other)"));
    }
    let head_dim = nope_dim + rope_dim;
    let scale = (head_dim as f64).powf(-0.5) * yarn_score_factor(config);
    let keys = RopeKeys {
        style,
        ..RopeKeys::LLAMA
    };
    let mut rope = RopeSpec::read_with(config, rope_dim, keys, max_positions)?;
    rope.offset = nope_dim;
    Ok(AttentionSpec {
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        value_dim,
        scale: scale as f32,
        projections: Projections::Latent {
            q_rank,
            kv_rank,
            nope_dim,
            norm: NormSpec::rms(LATENT_EPSILON),
        },
        qkv_bias: false,
        output_bias: false,
        clip: None,
        qk_norm: None,
        rope: Some(rope),
        alibi: None,
        window: None,
        softcap: None,
    })
}

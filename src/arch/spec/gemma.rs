//! Gemma 1 to 3 (text): gains 1 + γ, embeddings times √hidden_size, norms around the blocks since 2.

use super::config::{Config, SpecError};
use super::llama::{Shape, activation, gated, pre_norm_layer, rope};
use super::rope::RopeSpec;
use super::rope_config::RopeKeys;
use super::{
    Activation, AttentionSpec, MlpSpec, ModelSpec, NormSpec, QkNorm, QkNormScope, SpecReader,
    windows,
};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "gemma",
        read: gemma,
    },
    SpecReader {
        model_type: "gemma2",
        read: gemma2,
    },
    SpecReader {
        model_type: "gemma3_text",
        read: gemma3,
    },
];

/// √hidden_size. Implementations that run in bfloat16 round it to that type (Gemma 2B: 45.25 instead of
/// 45.2548); the engine computes in f32, as they do when they run in f32.
fn embedding_scale(hidden_size: usize) -> f32 {
    (hidden_size as f64).sqrt() as f32
}

fn norm(config: &mut Config) -> Result<NormSpec, SpecError> {
    let epsilon = config.number_or("rms_norm_eps", 1e-6)? as f32;
    // GGUF files store 1 + γ.
    if config.has("norm_gains_include_one") && config.flag_or("norm_gains_include_one", false)? {
        return Ok(NormSpec::rms(epsilon));
    }
    Ok(NormSpec::rms_plus_one(epsilon))
}

/// Sizes. A head has 256 dimensions, whatever the width of the model.
fn shape(config: &mut Config, max_positions: usize) -> Result<Shape, SpecError> {
    let stated = config.has("head_dim");
    let mut shape = Shape::read(config, max_positions)?;
    if !stated {
        config.assume("head_dim", 256);
        shape.head_dim = 256;
    }
    Ok(shape)
}

fn biases(config: &mut Config, attention: &mut AttentionSpec) -> Result<(), SpecError> {
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    Ok(())
}

fn gemma(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = shape(config, 8192)?;
    let norm = norm(config)?;
    let mut attention = shape.attention(rope(config, &shape, 10000.0)?);
    biases(config, &mut attention)?;
    config.demand("use_bidirectional_attention", &false.into())?;
    // Early configs say "gelu" and mean the tanh form that the models were trained with; later ones
    // say what they mean under a second key.
    let act = if config.has("hidden_activation") {
        config.harmless(&["hidden_act"]);
        activation(config, "hidden_activation", "gelu_pytorch_tanh")?
    } else {
        match activation(config, "hidden_act", "gelu_pytorch_tanh")? {
            Activation::Gelu => Activation::GeluTanh,
            other => other,
        }
    };
    let mlp = gated(config.size("intermediate_size")?, act);
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    let mut spec = shape.model(config, norm, true, vec![layer; shape.n_layers])?;
    spec.embedding.scale = embedding_scale(shape.hidden_size);
    Ok(spec)
}

/// The window, where a null means none and an absent key the published one.
fn window(config: &mut Config) -> Result<Option<usize>, SpecError> {
    if config.is_null("sliding_window") {
        return Ok(None);
    }
    config.size_or("sliding_window", 4096).map(Some)
}

/// c of c · tanh(x / c), where a null means none and an absent key the published one.
fn softcap(config: &mut Config, key: &str, default: Option<f64>) -> Result<Option<f32>, SpecError> {
    let cap = match default {
        _ if config.is_null(key) => None,
        Some(default) => Some(config.number_or(key, default)?),
        None => config.optional_number(key)?,
    };
    match cap {
        Some(cap) if !(cap > 0.0) => Err(config.wrong(key, "a positive number")),
        cap => Ok(cap.map(|cap| cap as f32)),
    }
}

/// What Gemma 2 and 3 share: layers with norms around both blocks, each with its own attention.
fn sandwiched(
    config: &mut Config,
    shape: &Shape,
    norm: NormSpec,
    attentions: Vec<AttentionSpec>,
    head_cap: Option<f64>,
) -> Result<ModelSpec, SpecError> {
    config.demand("use_bidirectional_attention", &false.into())?;
    // Gemma 2 and 3 read `hidden_activation`; `hidden_act` stayed behind in published configs.
    config.harmless(&["hidden_act", "cache_implementation", "sliding_window_size"]);
    let act = activation(config, "hidden_activation", "gelu_pytorch_tanh")?;
    let mlp = MlpSpec::Dense(gated(config.size("intermediate_size")?, act));
    let layers = attentions
        .into_iter()
        .map(|attention| {
            let mut layer = pre_norm_layer(norm, attention, mlp.clone());
            layer.attention_post_norm = Some(norm);
            layer.mlp_post_norm = Some(norm);
            layer
        })
        .collect();
    let mut spec = shape.model(config, norm, true, layers)?;
    spec.embedding.scale = embedding_scale(shape.hidden_size);
    spec.head.softcap = softcap(config, "final_logit_softcapping", head_cap)?;
    Ok(spec)
}

/// Attention but for positions and windows.
fn attention(
    config: &mut Config,
    shape: &Shape,
    rope: RopeSpec,
    cap: Option<f64>,
) -> Result<AttentionSpec, SpecError> {
    let mut attention = shape.attention(rope);
    biases(config, &mut attention)?;
    let scalar = config.number_or("query_pre_attn_scalar", 256.0)?;
    if !(scalar > 0.0) {
        return Err(config.wrong("query_pre_attn_scalar", "a positive number"));
    }
    attention.scale = scalar.powf(-0.5) as f32;
    attention.softcap = softcap(config, "attn_logit_softcapping", cap)?;
    Ok(attention)
}

fn gemma2(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = shape(config, 8192)?;
    let norm = norm(config)?;
    let rope = rope(config, &shape, 10000.0)?;
    let attention = attention(config, &shape, rope, Some(50.0))?;
    let window = window(config)?;
    // Every second layer sees everything, the first one does not.
    let slides = windows::stated(config, shape.n_layers)?
        .unwrap_or_else(|| (0..shape.n_layers).map(|i| i.is_multiple_of(2)).collect());
    let attentions = slides
        .into_iter()
        .map(|slides| AttentionSpec {
            window: window.filter(|_| slides),
            ..attention.clone()
        })
        .collect();
    sandwiched(config, &shape, norm, attentions, Some(30.0))
}

/// Rotary positions of layers that see everything and of those that slide.
fn gemma3_ropes(config: &mut Config, shape: &Shape) -> Result<(RopeSpec, RopeSpec), SpecError> {
    let keys = |theta: f64| RopeKeys {
        theta,
        ..RopeKeys::LLAMA
    };
    let (dim, max) = (shape.head_dim, shape.max_positions);
    let nested = config
        .value("rope_parameters")
        .is_some_and(|v| v.get("full_attention").is_some());
    if nested {
        config.harmless(&["rope_theta", "rope_local_base_freq", "rope_scaling"]);
        return config.section("rope_parameters", |section| {
            let full = section.section("full_attention", |s| {
                RopeSpec::read_section(s, dim, keys(1e6), max)
            })?;
            let local = section.section("sliding_attention", |s| {
                RopeSpec::read_section(s, dim, keys(1e4), max)
            })?;
            Ok((full, local))
        });
    }
    // The old keys scale the layers that see everything, and no others.
    let full = RopeSpec::read_with(config, dim, keys(1e6), max)?;
    let theta = config.number_or("rope_local_base_freq", 1e4)?;
    if !(theta > 1.0) {
        return Err(config.wrong("rope_local_base_freq", "a number above 1"));
    }
    Ok((full, RopeSpec::plain(dim, theta)))
}

/// Sizes of Gemma 3. Published composites state of them only what differs from the config class.
fn gemma3_shape(config: &mut Config) -> Result<Shape, SpecError> {
    let n_heads = config.size_or("num_attention_heads", 8)?;
    let n_kv_heads = config.size_or("num_key_value_heads", 4)?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("a divisor of {n_heads} heads");
        return Err(config.wrong("num_key_value_heads", expected));
    }
    Ok(Shape {
        vocab_size: config.size_or("vocab_size", 262_208)?,
        hidden_size: config.size("hidden_size")?,
        n_layers: config.n_layers(&["num_hidden_layers"])?,
        n_heads,
        n_kv_heads,
        head_dim: config.size_or("head_dim", 256)?,
        max_positions: config.size_or("max_position_embeddings", 131_072)?,
    })
}

fn gemma3(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = gemma3_shape(config)?;
    let norm = norm(config)?;
    let (full, local) = gemma3_ropes(config, &shape)?;
    let mut attention = attention(config, &shape, full, None)?;
    attention.qk_norm = Some(QkNorm {
        norm,
        scope: QkNormScope::Head,
    });
    let window = window(config)?;
    let stated = windows::stated(config, shape.n_layers)?;
    let pattern =
        config.optional_size_of(&["sliding_window_pattern", "_sliding_window_pattern"])?;
    let slides = stated.unwrap_or_else(|| {
        let pattern = pattern.unwrap_or_else(|| {
            config.assume("sliding_window_pattern", 6);
            6
        });
        (0..shape.n_layers)
            .map(|i| !(i + 1).is_multiple_of(pattern))
            .collect()
    });
    let attentions = slides
        .into_iter()
        .map(|slides| {
            let mut attention = attention.clone();
            if slides {
                attention.window = window;
                attention.rope = Some(local.clone());
            }
            attention
        })
        .collect();
    sandwiched(config, &shape, norm, attentions, None)
}

#[cfg(test)]
#[path = "gemma_tests.rs"]
mod tests;

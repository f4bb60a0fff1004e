//! Llama 1–3.x, and those that compute the same: Mistral.

use super::config::{Config, SpecError};
use super::rope::{RopeSpec, RopeStyle};
use super::{
    Activation, AttentionSpec, DenseSpec, EmbeddingSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec,
    NormSpec, Projections, SpecReader, Wiring,
};

/// Model types read here.
pub(super) const READERS: &[SpecReader] = &[
    SpecReader {
        model_type: "llama",
        read: llama,
    },
    SpecReader {
        model_type: "mistral",
        read: mistral,
    },
];

/// The non-linearity that a key names.
///
/// # Errors
/// When it is none that the engine computes.
pub(super) fn activation(
    config: &mut Config,
    key: &str,
    default: &str,
) -> Result<Activation, SpecError> {
    match config.text_or(key, default)?.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        // These are one function, written in different orders.
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        _ => Err(config.wrong(
            key,
            "silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu or relu",
        )),
    }
}

/// Sizes that all descendants of Llama state under the same names.
pub(super) struct Shape {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub max_positions: usize,
}

impl Shape {
    /// Reads them; `max_positions` is the default of `max_position_embeddings`.
    pub fn read(config: &mut Config, max_positions: usize) -> Result<Self, SpecError> {
        let hidden_size = config.size("hidden_size")?;
        let n_heads = config.size("num_attention_heads")?;
        let n_kv_heads = match config.optional_size("num_key_value_heads")? {
            Some(n) => n,
            None => {
                config.assume("num_key_value_heads", n_heads);
                n_heads
            }
        };
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(config.wrong(
                "num_key_value_heads",
                format!("a divisor of {n_heads} heads"),
            ));
        }
        let head_dim = match config.optional_size("head_dim")? {
            Some(n) => n,
            None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
            None => {
                return Err(config.wrong("hidden_size", format!("a multiple of {n_heads} heads")));
            }
        };
        Ok(Self {
            vocab_size: config.size("vocab_size")?,
            hidden_size,
            n_layers: config.n_layers(&["num_hidden_layers"])?,
            n_heads,
            n_kv_heads,
            head_dim,
            max_positions: config.size_or("max_position_embeddings", max_positions)?,
        })
    }

    /// Attention as Llama's: full projections, no biases, no norms, rotary positions.
    pub fn attention(&self, rope: RopeSpec) -> AttentionSpec {
        AttentionSpec {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            value_dim: self.head_dim,
            scale: (self.head_dim as f32).powf(-0.5),
            projections: Projections::Full,
            qkv_bias: false,
            output_bias: false,
            clip: None,
            qk_norm: None,
            rope: Some(rope),
            alibi: None,
            window: None,
            softcap: None,
        }
    }

    /// A spec around layers that are Llama's: one norm before attention, one before the MLP.
    pub fn model(
        &self,
        config: &mut Config,
        norm: NormSpec,
        tied_by_default: bool,
        layers: Vec<LayerSpec>,
    ) -> Result<ModelSpec, SpecError> {
        Ok(ModelSpec {
            model_type: config.text("model_type")?,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_positions: self.max_positions,
            embedding: EmbeddingSpec {
                width: self.hidden_size,
                scale: 1.0,
                positions: None,
                norm: None,
            },
            layers,
            final_norm: Some(norm),
            head: HeadSpec {
                tied: config.flag_or("tie_word_embeddings", tied_by_default)?,
                bias: false,
                scale: 1.0,
                softcap: None,
            },
            n_unused_layers: 0,
            assumptions: Vec::new(),
        })
    }
}

/// A layer with a norm before attention and one before the MLP.
pub(super) fn pre_norm_layer(norm: NormSpec, attention: AttentionSpec, mlp: MlpSpec) -> LayerSpec {
    LayerSpec {
        wiring: Wiring::Sequential,
        attention_norm: Some(norm),
        attention,
        attention_post_norm: None,
        mlp_norm: Some(norm),
        mlp,
        mlp_post_norm: None,
        residual_scale: 1.0,
    }
}

/// A gated MLP without biases.
pub(super) fn gated(intermediate_size: usize, activation: Activation) -> DenseSpec {
    DenseSpec {
        intermediate_size,
        gated: true,
        activation,
        up_bias: false,
        down_bias: false,
    }
}

/// ε of an RMSNorm.
pub(super) fn rms(config: &mut Config, key: &str, default: f64) -> Result<NormSpec, SpecError> {
    Ok(NormSpec::rms(config.number_or(key, default)? as f32))
}

/// Rotary positions over whole heads.
pub(super) fn rope(config: &mut Config, shape: &Shape, theta: f64) -> Result<RopeSpec, SpecError> {
    RopeSpec::read(
        config,
        shape.head_dim,
        RopeStyle::Halves,
        theta,
        shape.max_positions,
    )
}

fn llama(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 2048)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let rope = rope(config, &shape, 10000.0)?;
    let mut attention = shape.attention(rope);
    attention.qkv_bias = config.flag_or("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    let mut mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    mlp.up_bias = config.flag_or("mlp_bias", false)?;
    mlp.down_bias = mlp.up_bias;
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

fn mistral(config: &mut Config) -> Result<ModelSpec, SpecError> {
    let shape = Shape::read(config, 4096 * 32)?;
    let norm = rms(config, "rms_norm_eps", 1e-6)?;
    let rope = rope(config, &shape, 10000.0)?;
    let mut attention = shape.attention(rope);
    attention.window = config.optional_size("sliding_window")?;
    let mlp = gated(
        config.size("intermediate_size")?,
        activation(config, "hidden_act", "silu")?,
    );
    let layer = pre_norm_layer(norm, attention, MlpSpec::Dense(mlp));
    shape.model(config, norm, false, vec![layer; shape.n_layers])
}

//! Configs of vision towers → [`VisionSpec`]: CLIP, SigLIP, Idefics2's SigLIP for any aspect ratio, and
//! timm's SigLIP of MiniCPM-V 2.0.

use super::config::{Config, SpecError};
use super::llama::activation;
use super::{
    Activation, AttentionSpec, DenseSpec, LayerSpec, MlpSpec, NormSpec, Projections, Wiring,
};
use serde_json::Value;

/// A transformer over image patches, described completely.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionSpec {
    /// `model_type` of the config.
    pub model_type: String,
    /// Width and height of the images that the positions were learned for, in pixels.
    pub image_size: usize,
    /// Width and height of a patch in pixels.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The patch embedding has a bias.
    pub patch_bias: bool,
    /// A learned vector comes before the patches (CLIP).
    pub class_token: bool,
    /// Which learned position a patch gets.
    pub positions: PatchPositions,
    /// Norm of the embeddings (CLIP).
    pub pre_norm: Option<NormSpec>,
    /// The layers in the checkpoint, first to last.
    pub layers: Vec<LayerSpec>,
    /// Norm that the checkpoint holds for after the last layer.
    pub post_norm: NormSpec,
    /// What the tower's reader takes.
    pub output: TowerOutput,
    /// What the config leaves unsaid and the published implementation supplies, in sentences.
    pub assumptions: Vec<String>,
}

/// Which learned position a patch gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchPositions {
    /// Its own: images have the size that the positions were learned for.
    Fixed,
    /// That of the cell into which its corner falls when the image is stretched over the learned square
    /// (Idefics2).
    Buckets,
    /// As `Buckets`, of an image one patch high in which all patches lie side by side, row after row:
    /// MiniCPM-Llama3-V 2.5 hands its images to the tower as such strips.
    Strip {
        /// Images of a batch are filled up to the longest strip with patches of zeros, which the tower
        /// does not tell from others: its mask marks all as seen.
        padded: bool,
    },
    /// The learned square, resized to the image by an antialiased bicubic filter (timm).
    Resized,
}

/// What the reader of a tower takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TowerOutput {
    /// Number of layers that are computed.
    pub n_layers: usize,
    /// The norm after the last layer is applied.
    pub normed: bool,
    /// The class token is among the rows.
    pub with_class_token: bool,
}

impl VisionSpec {
    /// Reads the config of a tower on its own; the output is that of the whole tower.
    ///
    /// # Errors
    /// When the model type is unknown, a key is missing, impossible or unknown.
    pub fn read(config: &Value) -> Result<Self, SpecError> {
        let mut config = Config::new(config)?;
        let mut spec = Self::read_section(&mut config)?;
        spec.assumptions = config.finish()?;
        Ok(spec)
    }

    /// Reads the config of a tower that is a section of another; leaves unknown keys.
    ///
    /// # Errors
    /// As [`Self::read`], but for unknown keys.
    pub(super) fn read_section(config: &mut Config) -> Result<Self, SpecError> {
        let model_type = config.text("model_type")?;
        config.demand("num_channels", &Value::from(3))?;
        config.harmless(&["initializer_factor", "vision_use_head"]);
        match model_type.as_str() {
            "clip_vision_model" => {
                // The projection into the space that images share with texts is another module, and
                // so is the vocabulary, which some configs state here too.
                config.harmless(&["projection_dim", "vocab_size", "logit_scale_init_value"]);
                let mut spec = Self::shape(config, "quick_gelu", 1e-5)?;
                spec.patch_bias = false;
                spec.class_token = true;
                spec.pre_norm = Some(spec.post_norm);
                spec.output.with_class_token = true;
                // `last_hidden_state` is before the norm, which only the pooled vector passes.
                spec.output.normed = false;
                Ok(spec)
            }
            "siglip_vision_model" => Self::shape(config, "gelu_pytorch_tanh", 1e-6),
            "idefics2" | "idefics2_vision" => {
                let mut spec = Self::shape(config, "gelu_pytorch_tanh", 1e-6)?;
                spec.positions = PatchPositions::Buckets;
                Ok(spec)
            }
            _ => Err(SpecError::UnknownModelType {
                found: model_type,
                known: "clip_vision_model, siglip_vision_model, idefics2, idefics2_vision"
                    .to_owned(),
            }),
        }
    }

    fn shape(config: &mut Config, default_act: &str, epsilon: f64) -> Result<Self, SpecError> {
        let hidden_size = config.size("hidden_size")?;
        let n_heads = config.size("num_attention_heads")?;
        if !hidden_size.is_multiple_of(n_heads) {
            return Err(config.wrong("hidden_size", format!("a multiple of {n_heads} heads")));
        }
        let patch_size = config.size("patch_size")?;
        let image_size = config.size("image_size")?;
        if image_size < patch_size {
            return Err(config.wrong("image_size", format!("at least a patch of {patch_size}")));
        }
        let n_layers = config.n_layers(&["num_hidden_layers"])?;
        let norm = NormSpec::layer(config.number_or("layer_norm_eps", epsilon)? as f32);
        let activation = activation(config, "hidden_act", default_act)?;
        let layer = layer(
            hidden_size,
            n_heads,
            config.size("intermediate_size")?,
            activation,
            norm,
        );
        Ok(Self {
            model_type: config.text("model_type")?,
            image_size,
            patch_size,
            hidden_size,
            patch_bias: true,
            class_token: false,
            positions: PatchPositions::Fixed,
            pre_norm: None,
            layers: vec![layer; n_layers],
            post_norm: norm,
            output: TowerOutput {
                n_layers,
                normed: true,
                with_class_token: false,
            },
            assumptions: Vec::new(),
        })
    }

    /// timm's `vit_so400m_patch14_siglip_384` without its pooling head, as MiniCPM-V 2.0 builds it.
    pub(super) fn timm_so400m() -> Self {
        let norm = NormSpec::layer(1e-6);
        let n_layers = 27;
        Self {
            model_type: "vit_so400m_patch14_siglip_384".to_owned(),
            image_size: 384,
            patch_size: 14,
            hidden_size: 1152,
            patch_bias: true,
            class_token: false,
            positions: PatchPositions::Resized,
            pre_norm: None,
            layers: vec![layer(1152, 16, 4304, Activation::Gelu, norm); n_layers],
            post_norm: norm,
            output: TowerOutput {
                n_layers,
                normed: true,
                with_class_token: false,
            },
            assumptions: Vec::new(),
        }
    }

    /// Takes the last layer away, as `drop_vision_last_layer` does before the weights are read.
    pub(super) fn drop_last_layer(&mut self) {
        self.layers.pop();
        self.output.n_layers = self.layers.len();
    }

    /// Learned positions of patches are a square of this many rows and columns.
    pub fn n_side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Learned positions, that of the class token included.
    pub fn n_positions(&self) -> usize {
        self.n_side() * self.n_side() + usize::from(self.class_token)
    }
}

/// A layer of a vision transformer: LayerNorms, full attention, an MLP, biases everywhere.
fn layer(
    hidden_size: usize,
    n_heads: usize,
    intermediate_size: usize,
    activation: Activation,
    norm: NormSpec,
) -> LayerSpec {
    let head_dim = hidden_size / n_heads;
    LayerSpec {
        wiring: Wiring::Sequential,
        attention_norm: Some(norm),
        attention: AttentionSpec {
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            value_dim: head_dim,
            scale: (head_dim as f32).powf(-0.5),
            projections: Projections::Full,
            qkv_bias: true,
            output_bias: true,
            clip: None,
            qk_norm: None,
            rope: None,
            alibi: None,
            window: None,
            softcap: None,
        },
        attention_post_norm: None,
        mlp_norm: Some(norm),
        mlp: MlpSpec::Dense(DenseSpec {
            intermediate_size,
            gated: false,
            activation,
            up_bias: true,
            down_bias: true,
        }),
        mlp_post_norm: None,
        residual_scale: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn clip() -> Value {
        json!({"model_type": "clip_vision_model", "hidden_size": 8, "num_attention_heads": 2,
               "num_hidden_layers": 3, "intermediate_size": 9, "patch_size": 5, "image_size": 20,
               "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 4})
    }

    #[test]
    fn a_clip_tower_has_one_position_more_than_patches() {
        let spec = VisionSpec::read(&clip()).unwrap();
        assert_eq!((spec.n_side(), spec.n_positions()), (4, 17));
        assert!(spec.class_token && spec.pre_norm.is_some() && !spec.patch_bias);
        assert!(!spec.output.normed);
        assert!(spec.assumptions.is_empty(), "{:?}", spec.assumptions);
    }

    #[test]
    fn what_no_reader_knows_is_refused() {
        for (key, value) in [
            ("rope_theta", json!(100.0)),
            ("num_channels", json!(4)),
            ("hidden_size", json!(9)),
            ("image_size", json!(4)),
            ("num_hidden_layers", json!(1 << 30)),
            ("model_type", json!("dinov2")),
        ] {
            let mut config = clip();
            config[key] = value;
            assert!(VisionSpec::read(&config).is_err(), "{key}");
        }
    }
}

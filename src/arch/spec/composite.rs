//! Configs of vision-language models → [`VisionLanguageSpec`]: a tower, what connects it, a decoder,
//! and how images are cut for it.
//!
//! The decoder's own reader gets a config of its own: the section that describes it, or, where its keys
//! lie beside those of the tower, all that this reader does not know.

use super::config::{Config, SpecError};
use super::llama::activation;
use super::vision::{PatchPositions, VisionSpec};
use super::{Activation, ModelSpec, NormSpec};
use serde_json::{Map, Value, json};

/// A vision-language model, described completely.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionLanguageSpec {
    /// `model_type` of config.json.
    pub model_type: String,
    /// The decoder.
    pub language: ModelSpec,
    /// The tower.
    pub vision: VisionSpec,
    /// From the tower's rows to the decoder's.
    pub connector: ConnectorSpec,
    /// How images are prepared.
    pub images: ImageSpec,
    /// What the configs leave unsaid and the published implementations supply, in sentences.
    pub assumptions: Vec<String>,
}

/// From the tower's rows to the decoder's.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectorSpec {
    /// MiniCPM-V's.
    Resampler(ResamplerSpec),
    /// LLaVA's.
    Projector(ProjectorSpec),
}

/// Learned queries that attend to the tower's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResamplerSpec {
    /// Learned queries: rows that an image becomes.
    pub n_queries: usize,
    /// Heads of the attention.
    pub n_heads: usize,
    /// Width of the tower's rows.
    pub input_size: usize,
    /// Width of the decoder's rows.
    pub hidden_size: usize,
    /// Norms of queries, keys and values, and what comes out.
    pub norm: NormSpec,
    /// Positions that the checkpoint stores are added to the queries (MiniCPM-V 2.0).
    pub query_positions: bool,
}

/// Two layers, row by row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProjectorSpec {
    /// Width of the tower's rows.
    pub input_size: usize,
    /// Width of the decoder's rows.
    pub hidden_size: usize,
    /// Between the layers.
    pub activation: Activation,
    /// The layers have biases.
    pub bias: bool,
}

/// How images are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSpec {
    /// The whole, and slices of it, each near a square of one size.
    Sliced(SliceSpec),
    /// A square of this side, cut from the middle.
    Square {
        /// Side in pixels.
        size: usize,
        /// Token that stands for one row of an image.
        token: u32,
    },
}

/// How MiniCPM-V cuts images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSpec {
    /// An image is cut into at most this many slices; 1: never cut.
    pub max_slices: usize,
    /// Slices have about the area of a square of this side, in pixels.
    pub resolution: usize,
    /// Sides are multiples of this, in pixels.
    pub patch_size: usize,
}

/// Width of a resampler's head in the published models.
const RESAMPLER_HEAD_DIM: usize = 128;
/// ε of the resampler's norms, which no config states.
const RESAMPLER_EPSILON: f32 = 1e-6;

impl VisionLanguageSpec {
    /// Reads the config of a vision-language model.
    ///
    /// # Errors
    /// When the model type is unknown, a key is missing, impossible or unknown, to this reader or to that
    /// of the decoder.
    pub fn read(config: &Value) -> Result<Self, SpecError> {
        let object = config.as_object().ok_or(SpecError::NotAnObject)?;
        match object.get("model_type").and_then(Value::as_str) {
            Some("minicpmv") if object.contains_key("vision_encoder") => minicpm_v(object),
            // Llama3-V is MiniCPM-Llama3-V 2.5 under other names.
            Some("minicpmv" | "llama3v") => minicpm_llama3_v(object),
            Some("llava") => llava(object),
            found => Err(SpecError::UnknownModelType {
                found: found.unwrap_or_default().to_owned(),
                known: "llava, llama3v, minicpmv".to_owned(),
            }),
        }
    }
}

/// Cuts a flat config in two: keys of the tower and connector, and those of a decoder of this type.
fn cut(
    object: &Map<String, Value>,
    own: &[&str],
    model_type: &str,
) -> (Map<String, Value>, Map<String, Value>) {
    let (mut ours, mut decoder) = (Map::new(), Map::new());
    for (key, value) in object {
        let side = match own.contains(&key.as_str()) {
            true => &mut ours,
            false => &mut decoder,
        };
        side.insert(key.clone(), value.clone());
    }
    ours.insert("model_type".to_owned(), object["model_type"].clone());
    decoder.insert("model_type".to_owned(), Value::from(model_type));
    (ours, decoder)
}

/// Keys of MiniCPM-V that are not its decoder's.
const MINICPM_V_KEYS: &[&str] = &[
    "batch_vision_input",
    "drop_vision_last_layer",
    "image_size",
    "max_slice_nums",
    "mm_use_im_start_end",
    "patch_size",
    "query_num",
    "resampler_n_heads",
    "scale_resolution",
    "slice_config",
    "slice_mode",
    "vision_config",
    "vision_encoder",
];

/// Most slices and greatest side that a config may ask for; published models ask for 9 and 448.
const MAX_SLICES: usize = 64;
const MAX_RESOLUTION: usize = 4096;

/// How images are cut, by the keys at this place.
fn slices(config: &mut Config) -> Result<SliceSpec, SpecError> {
    config.harmless(&["model_type"]);
    let spec = SliceSpec {
        max_slices: config.size_or("max_slice_nums", 9)?,
        resolution: config.size_or("scale_resolution", 448)?,
        patch_size: config.size_or("patch_size", 14)?,
    };
    if spec.max_slices > MAX_SLICES {
        return Err(config.wrong("max_slice_nums", format!("at most {MAX_SLICES}")));
    }
    if spec.resolution > MAX_RESOLUTION || spec.resolution < spec.patch_size {
        return Err(config.wrong(
            "scale_resolution",
            format!("at least a patch and at most {MAX_RESOLUTION}"),
        ));
    }
    Ok(spec)
}

/// What both versions state alike.
struct MiniCpmV {
    resampler: ResamplerSpec,
    vision: VisionSpec,
    slices: SliceSpec,
    assumptions: Vec<String>,
}

impl MiniCpmV {
    fn read(
        mut config: Config,
        language: &ModelSpec,
        mut vision: VisionSpec,
        drops_last_layer: bool,
        query_positions: bool,
    ) -> Result<Self, SpecError> {
        config.demand("mm_use_im_start_end", &Value::Bool(true))?;
        config.harmless(&["batch_vision_input", "image_size"]);
        if config.flag_or("drop_vision_last_layer", drops_last_layer)? {
            vision.drop_last_layer();
        }
        let mut slices = match config.has("slice_config") {
            true => config.section("slice_config", slices)?,
            false => slices(&mut config)?,
        };
        // Beside a slice_config the same keys may stand outside it: they are read nowhere.
        config.harmless(&["max_slice_nums", "scale_resolution", "patch_size"]);
        if !config.flag_or("slice_mode", true)? {
            slices.max_slices = 1;
        }
        if slices.patch_size != vision.patch_size {
            return Err(config.wrong(
                "patch_size",
                format!("{}, as in the tower", vision.patch_size),
            ));
        }
        let hidden_size = language.hidden_size;
        let n_heads = match config.optional_size("resampler_n_heads")? {
            Some(n) => n,
            None => hidden_size / RESAMPLER_HEAD_DIM,
        };
        if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) || !hidden_size.is_multiple_of(4) {
            return Err(config.wrong(
                "hidden_size",
                format!("a multiple of {RESAMPLER_HEAD_DIM} and of 4, for the resampler"),
            ));
        }
        let resampler = ResamplerSpec {
            n_queries: config.size("query_num")?,
            n_heads,
            input_size: vision.hidden_size,
            hidden_size,
            norm: NormSpec::layer(RESAMPLER_EPSILON),
            query_positions,
        };
        Ok(Self {
            resampler,
            vision,
            slices,
            assumptions: config.finish()?,
        })
    }

    fn with(mut self, model_type: &str, language: ModelSpec) -> VisionLanguageSpec {
        let mut assumptions = language.assumptions.clone();
        assumptions.append(&mut self.vision.assumptions.clone());
        assumptions.append(&mut self.assumptions);
        VisionLanguageSpec {
            model_type: model_type.to_owned(),
            language,
            vision: self.vision,
            connector: ConnectorSpec::Resampler(self.resampler),
            images: ImageSpec::Sliced(self.slices),
            assumptions,
        }
    }
}

/// MiniCPM-Llama3-V 2.5 and its copies: Idefics2's tower, a resampler, Llama 3.
fn minicpm_llama3_v(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
    let (ours, decoder) = cut(object, MINICPM_V_KEYS, "llama");
    let language = ModelSpec::read(&Value::Object(decoder))?;
    let ours = Value::Object(ours);
    let mut config = Config::new(&ours)?;
    let mut vision = if config.has("vision_config") {
        config.section("vision_config", VisionSpec::read_section)?
    } else {
        config.assume("vision_config", "SigLIP so400m for images of 980");
        VisionSpec::read(&json!({
            "model_type": "idefics2", "hidden_size": 1152, "image_size": 980, "patch_size": 14,
            "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        }))?
    };
    if vision.positions != PatchPositions::Buckets {
        return Err(config.wrong("vision_config", "a tower of model_type idefics2"));
    }
    vision.positions = PatchPositions::Strip {
        padded: config.flag_or("batch_vision_input", true)?,
    };
    let model_type = config.text("model_type")?;
    Ok(MiniCpmV::read(config, &language, vision, false, false)?.with(&model_type, language))
}

/// MiniCPM-V 2.0: timm's SigLIP, a resampler, MiniCPM.
fn minicpm_v(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
    let (ours, decoder) = cut(object, MINICPM_V_KEYS, "minicpm");
    let language = ModelSpec::read(&Value::Object(decoder))?;
    let ours = Value::Object(ours);
    let mut config = Config::new(&ours)?;
    let encoder = config.text("vision_encoder")?;
    if encoder.split('.').next() != Some("vit_so400m_patch14_siglip_384") {
        return Err(config.wrong("vision_encoder", "vit_so400m_patch14_siglip_384"));
    }
    let vision = VisionSpec::timm_so400m();
    let model_type = config.text("model_type")?;
    Ok(MiniCpmV::read(config, &language, vision, true, true)?.with(&model_type, language))
}

/// LLaVA 1.5: a CLIP or SigLIP tower, two layers, a decoder.
fn llava(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
    let whole = Value::Object(object.clone());
    let mut config = Config::new(&whole)?;
    let mut text = config
        .value("text_config")
        .and_then(Value::as_object)
        .ok_or_else(|| config.wrong("text_config", "an object"))?
        .clone();
    // As the published implementation does, the outer key reaches the decoder.
    if let Some(tied) = config.value("tie_word_embeddings") {
        text.entry("tie_word_embeddings").or_insert(tied.clone());
    }
    let language = ModelSpec::read(&Value::Object(text))?;
    let mut vision = config.section("vision_config", VisionSpec::read_section)?;
    if vision.positions != PatchPositions::Fixed {
        return Err(config.wrong("vision_config", "a CLIP or SigLIP tower"));
    }
    let n_layers = vision.layers.len() as i64;
    let layer = config.number_or("vision_feature_layer", -2.0)? as i64;
    // Of n + 1 states the first is what enters the layers; negative numbers count from the end.
    let state = if layer < 0 {
        n_layers + 1 + layer
    } else {
        layer
    };
    if !(0..=n_layers).contains(&state) {
        return Err(config.wrong(
            "vision_feature_layer",
            format!("a state of {n_layers} layers"),
        ));
    }
    vision.output.n_layers = state as usize;
    vision.output.normed = false;
    vision.output.with_class_token = match config
        .text_or("vision_feature_select_strategy", "default")?
        .as_str()
    {
        "default" if vision.class_token => false,
        "full" => vision.class_token,
        _ => {
            return Err(config.wrong(
                "vision_feature_select_strategy",
                "default, for a tower with a class token, or full",
            ));
        }
    };
    let projector = ProjectorSpec {
        input_size: vision.hidden_size,
        hidden_size: language.hidden_size,
        activation: activation(&mut config, "projector_hidden_act", "gelu")?,
        bias: config.flag_or("multimodal_projector_bias", true)?,
    };
    let token = match config.optional_size("image_token_id")? {
        Some(token) => token,
        None => config.size_or("image_token_index", 32000)?,
    };
    config.harmless(&[
        "image_token_index",
        "ignore_index",
        "image_seq_length",
        // Older configs repeat the decoder's.
        "vocab_size",
    ]);
    let images = ImageSpec::Square {
        size: vision.image_size,
        token: token as u32,
    };
    let model_type = config.text("model_type")?;
    let mut assumptions = language.assumptions.clone();
    assumptions.append(&mut config.finish()?);
    Ok(VisionLanguageSpec {
        model_type,
        language,
        vision,
        connector: ConnectorSpec::Projector(projector),
        images,
        assumptions,
    })
}

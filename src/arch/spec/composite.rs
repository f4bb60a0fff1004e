//! Configs of vision-language models → [`VisionLanguageSpec`]: a tower, what connects it, a decoder,
//! and how images are cut for it.
//!
//! The decoder's own reader gets a config of its own: the section that describes it, or, where its keys
//! lie beside those of the tower, all that the composite's reader does not know.

use super::config::SpecError;
use super::vision::VisionSpec;
use super::{Activation, ModelSpec, NormSpec, llava, llava_authors, minicpm_v};
use serde_json::{Map, Value};

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
    /// A square of this side.
    Square {
        /// Side in pixels.
        size: usize,
        /// How a picture of another shape becomes one.
        fit: SquareFit,
        /// Token that stands for one row of an image; without one the text is cut where an image stands.
        token: Option<u32>,
    },
}

/// How a picture of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SquareFit {
    /// Its middle (CLIP's preprocessing).
    Middle,
    /// It is stretched (SigLIP's).
    Stretched,
    /// Edges of the mean colour are added to the shorter sides (LLaVA 1.5).
    Padded,
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

impl VisionLanguageSpec {
    /// Reads the config of a vision-language model.
    ///
    /// # Errors
    /// When the model type is unknown, a key is missing, impossible or unknown, to this reader or to that
    /// of the decoder.
    pub fn read(config: &Value) -> Result<Self, SpecError> {
        Self::read_with(config, None)
    }

    /// As [`Self::read`], with the config of a tower that is published elsewhere.
    ///
    /// # Errors
    /// As [`Self::read`], and when the tower's config cannot be read.
    pub fn read_with(config: &Value, tower: Option<&Value>) -> Result<Self, SpecError> {
        let object = config.as_object().ok_or(SpecError::NotAnObject)?;
        match object.get("model_type").and_then(Value::as_str) {
            Some("minicpmv") if object.contains_key("vision_encoder") => {
                minicpm_v::version_2(object)
            }
            // Llama3-V is MiniCPM-Llama3-V 2.5 under other names.
            Some("minicpmv" | "llama3v") => minicpm_v::version_2_5(object),
            Some("llava" | "llava_llama" | "llava_mistral") if llava_authors::is_one(object) => {
                llava_authors::read(object, tower)
            }
            Some("llava") => llava::read(object),
            found => Err(SpecError::UnknownModelType {
                found: found.unwrap_or_default().to_owned(),
                known: "llava, llava_llama, llava_mistral, llama3v, minicpmv".to_owned(),
            }),
        }
    }
}

/// Cuts a flat config in two: keys of the tower and connector, and those of a decoder of this type.
pub(super) fn cut(
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

//! MiniCPM-V 2.0, MiniCPM-Llama3-V 2.5 and their copies: keys of tower, resampler and decoder lie side by
//! side at the top of the config.

use super::composite::{
    ConnectorSpec, ImageSpec, ResamplerSpec, SliceSpec, VisionLanguageSpec, cut,
};
use super::config::{Config, SpecError};
use super::vision::{PatchPositions, VisionSpec};
use super::{ModelSpec, NormSpec};
use serde_json::{Map, Value, json};

/// Width of a resampler's head in the published models.
const RESAMPLER_HEAD_DIM: usize = 128;
/// ε of the resampler's norms, which no config states.
const RESAMPLER_EPSILON: f32 = 1e-6;

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
pub(super) fn version_2_5(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
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
pub(super) fn version_2(object: &Map<String, Value>) -> Result<VisionLanguageSpec, SpecError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// config.json of MiniCPM-V 2.0 as published, without the keys that change nothing.
    fn published() -> Value {
        json!({
            "architectures": ["MiniCPMV"], "attention_bias": false, "bos_token_id": 1,
            "dim_model_base": 256, "drop_vision_last_layer": true, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 2304, "image_size": 448,
            "intermediate_size": 5760, "max_position_embeddings": 4096, "max_slice_nums": 9,
            "mm_use_im_start_end": true, "model_type": "minicpmv", "num_attention_heads": 36,
            "num_hidden_layers": 40, "num_key_value_heads": 36, "patch_size": 14,
            "query_num": 64, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
            "scale_depth": 1.4, "scale_emb": 12, "scale_resolution": 448, "slice_mode": true,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 122753,
            "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
        })
    }

    #[test]
    fn version_2_is_read_as_published() {
        let spec = VisionLanguageSpec::read(&published()).unwrap();
        assert!(spec.assumptions.is_empty(), "{:?}", spec.assumptions);
        assert_eq!(spec.language.model_type, "minicpm");
        assert_eq!(spec.language.embedding.scale, 12.0);
        assert_eq!(spec.vision.layers.len(), 26);
        assert_eq!(spec.vision.output.n_layers, 26);
        assert_eq!(spec.vision.n_positions(), 27 * 27);
        let ConnectorSpec::Resampler(resampler) = spec.connector else {
            panic!("MiniCPM-V has a resampler");
        };
        assert_eq!((resampler.n_queries, resampler.n_heads), (64, 18));
        assert!(resampler.query_positions);
        let slices = SliceSpec {
            max_slices: 9,
            resolution: 448,
            patch_size: 14,
        };
        assert_eq!(spec.images, ImageSpec::Sliced(slices));
    }

    #[test]
    fn other_towers_and_strangers_are_refused() {
        for (key, value) in [
            ("vision_encoder", json!("vit_base_patch16_siglip_224")),
            ("patch_size", json!(16)),
            ("max_slice_nums", json!(1000)),
            ("sliding_slices", json!(true)),
            ("query_num", Value::Null),
        ] {
            let mut config = published();
            config[key] = value;
            assert!(VisionLanguageSpec::read(&config).is_err(), "{key}");
        }
        let mut whole = published();
        whole["slice_mode"] = json!(false);
        let spec = VisionLanguageSpec::read(&whole).unwrap();
        let ImageSpec::Sliced(slices) = spec.images else {
            panic!("MiniCPM-V cuts images");
        };
        assert_eq!(slices.max_slices, 1);
    }
}

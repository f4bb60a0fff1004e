//! LLaVA as its authors publish it: a decoder's config with keys of tower and projector among its own, and the name
//! of a tower that is published elsewhere.
//!
//! Keys and meanings are those of <https://github.com/haotian-liu/LLaVA> (`llava/model`, `llava/mm_utils.py`).

use super::composite::{SquareFit, VisionLanguageSpec, cut};
use super::config::{Config, SpecError};
use super::llava::{Llava, state};
use super::vision::{PatchPositions, VisionSpec};
use super::{Activation, ModelSpec};
use serde_json::{Map, Value, json};

/// Keys that are not the decoder's.
const OWN: &[&str] = &[
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "image_aspect_ratio",
    "image_crop_resolution",
    "image_grid_pinpoints",
    "image_split_resolution",
    "mm_hidden_size",
    "mm_patch_merge_type",
    "mm_projector_lr",
    "mm_projector_type",
    "mm_resampler_type",
    "mm_use_im_patch_token",
    "mm_use_im_start_end",
    "mm_vision_select_feature",
    "mm_vision_select_layer",
    "mm_vision_tower",
    "mm_vision_tower_lr",
    "pretrain_mm_mlp_adapter",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower",
    "use_mm_proj",
];

/// Whether a config is one of these.
pub(super) fn is_one(object: &Map<String, Value>) -> bool {
    object.get("mm_vision_tower").is_some_and(Value::is_string)
}

/// The config of a tower by the name that it is published under.
fn published(name: &str) -> Option<Value> {
    let image_size = match name.trim_end_matches('/').rsplit('/').next()? {
        "clip-vit-large-patch14-336" => 336,
        "clip-vit-large-patch14" => 224,
        _ => return None,
    };
    Some(json!({
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "image_size": image_size,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }))
}

/// The tower: as its own config describes it, or by its name.
fn tower(config: &mut Config<'_>, described: Option<&Value>) -> Result<VisionSpec, SpecError> {
    let name = config.text("mm_vision_tower")?;
    let by_name = published(&name);
    // CLIP's repositories describe the tower beside the encoder of texts.
    let described = described.map(|whole| whole.get("vision_config").unwrap_or(whole));
    let Some(found) = described.or(by_name.as_ref()) else {
        let known =
            "a tower that is known by its name, or --tower MODEL with one that has a config.json";
        return Err(config.wrong("mm_vision_tower", known));
    };
    let mut found = found.clone();
    // The section of a composite need not say what it is.
    if let Some(object) = found.as_object_mut() {
        let kind = object.entry("model_type").or_insert(Value::Null);
        if kind.is_null() || kind == "clip" {
            *kind = json!("clip_vision_model");
        }
    }
    let vision = VisionSpec::read(&found)?;
    if vision.positions != PatchPositions::Fixed || !vision.class_token {
        return Err(config.wrong("mm_vision_tower", "a CLIP tower"));
    }
    Ok(vision)
}

/// Reads such a config. `described`: config.json of the tower, where it is published elsewhere.
pub(super) fn read(
    object: &Map<String, Value>,
    described: Option<&Value>,
) -> Result<VisionLanguageSpec, SpecError> {
    let model_type = object.get("model_type").and_then(Value::as_str);
    let decoder = match model_type {
        Some("llava_mistral") => "mistral",
        _ => "llama",
    };
    let (own, decoder) = cut(object, OWN, decoder);
    let language = ModelSpec::read(&Value::Object(decoder))?;
    let own = Value::Object(own);
    let mut config = Config::new(&own)?;
    let vision = tower(&mut config, described)?;
    config.demand("mm_hidden_size", &vision.hidden_size.into())?;
    config.demand("mm_patch_merge_type", &"flat".into())?;
    // Without the key it is one layer.
    if config.text_or("mm_projector_type", "linear")? != "mlp2x_gelu" {
        return Err(config.wrong("mm_projector_type", "mlp2x_gelu"));
    }
    if config.has("mm_resampler_type") {
        return Err(config.wrong("mm_resampler_type", "null"));
    }
    config.demand("mm_use_im_patch_token", &false.into())?;
    config.demand("mm_use_im_start_end", &false.into())?;
    config.harmless(OWN);
    let fit = match config.text_or("image_aspect_ratio", "square")?.as_str() {
        "pad" => SquareFit::Padded,
        "square" => SquareFit::Middle,
        _ => return Err(config.wrong("image_aspect_ratio", "pad or square")),
    };
    let layer = config.number("mm_vision_select_layer")?;
    let n_layers = state(&config, "mm_vision_select_layer", layer, &vision)?;
    let with_class_token = match config
        .text_or("mm_vision_select_feature", "patch")?
        .as_str()
    {
        "patch" => false,
        "cls_patch" => true,
        _ => return Err(config.wrong("mm_vision_select_feature", "patch or cls_patch")),
    };
    config.harmless(&["model_type"]);
    let parts = Llava {
        n_layers,
        with_class_token,
        activation: Activation::Gelu,
        bias: true,
        fit,
        token: None,
    };
    let model_type = model_type.unwrap_or_default().to_owned();
    Ok(parts.with(model_type, language, vision, config.finish()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::spec::ImageSpec;

    /// config.json of liuhaotian/llava-v1.5-7b.
    fn published_7b() -> Value {
        json!({
            "_name_or_path": "llava-v1.5-7b", "architectures": ["LlavaLlamaForCausalLM"], "bos_token_id": 1,
            "eos_token_id": 2, "freeze_mm_mlp_adapter": false, "freeze_mm_vision_resampler": false,
            "hidden_act": "silu", "hidden_size": 4096, "image_aspect_ratio": "pad",
            "initializer_range": 0.02, "intermediate_size": 11008, "max_length": 4096,
            "max_position_embeddings": 4096, "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu",
            "mm_resampler_type": null, "mm_use_im_patch_token": false, "mm_use_im_start_end": false,
            "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336", "model_type": "llava",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
            "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.31.0",
            "tune_mm_mlp_adapter": false, "tune_mm_vision_resampler": false,
            "unfreeze_mm_vision_tower": false, "use_cache": true, "use_mm_proj": true,
            "vocab_size": 32000,
        })
    }

    fn with(key: &str, value: Value) -> Result<VisionLanguageSpec, String> {
        let mut config = published_7b();
        config[key] = value;
        VisionLanguageSpec::read(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_published_config_names_its_tower() {
        let spec = VisionLanguageSpec::read(&published_7b()).unwrap();
        assert_eq!(spec.language.layers.len(), 32);
        assert_eq!(
            (spec.vision.image_size, spec.vision.hidden_size),
            (336, 1024)
        );
        assert_eq!(spec.vision.output.n_layers, 23);
        assert!(!spec.vision.output.normed && !spec.vision.output.with_class_token);
        let images = ImageSpec::Square {
            size: 336,
            fit: SquareFit::Padded,
            token: None,
        };
        assert_eq!((spec.images, spec.n_rows()), (images, 576));
        let other = with("model_type", json!("llava_llama")).unwrap();
        assert_eq!(other.language, spec.language);
        let cropped = with("image_aspect_ratio", Value::Null).unwrap();
        assert!(matches!(
            cropped.images,
            ImageSpec::Square {
                fit: SquareFit::Middle,
                ..
            }
        ));
    }

    #[test]
    fn what_would_compute_something_else_is_named() {
        for (key, value) in [
            ("image_aspect_ratio", json!("anyres")),
            ("mm_hidden_size", json!(1152)),
            ("mm_patch_merge_type", json!("spatial_unpad")),
            ("mm_projector_type", json!("linear")),
            ("mm_projector_type", Value::Null),
            ("mm_resampler_type", json!("spatial_pool")),
            ("mm_use_im_start_end", json!(true)),
            ("mm_vision_select_feature", json!("cls")),
            ("mm_vision_select_layer", json!(25)),
            ("mm_vision_select_layer", json!(-1.5)),
            ("mm_vision_select_layer", json!(-1e300)),
            ("mm_vision_tower", json!("google/siglip-so400m-patch14-384")),
            ("mm_of_tomorrow", json!(1)),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn a_tower_of_another_name_is_read_from_its_own_config() {
        let mut config = published_7b();
        config["mm_vision_tower"] = json!("somewhere/tower");
        config["mm_hidden_size"] = json!(24);
        let section = json!({
            "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2,
            "patch_size": 5, "image_size": 20,
        });
        let whole = json!({"model_type": "clip", "text_config": {}, "vision_config": section});
        let read = |tower: &Value| VisionLanguageSpec::read_with(&config, Some(tower)).unwrap();
        assert_eq!(read(&whole).vision.image_size, 20);
        assert_eq!(read(&section).vision.layers.len(), 2);
    }
}

//! Quantized zoo models, put together from what `tests/scripts/make_quantized.py` packed and what the zoo has.

use super::zoo;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Folder of a variant.
pub fn variant(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantized");
    let folder = root.join(name);
    assert!(folder.is_dir(), "no variant {name}");
    folder
}

/// Every variant of a zoo model.
pub fn variants() -> Vec<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantized");
    let mut names: Vec<String> = fs::read_dir(root)
        .expect("the folder is committed")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().join("quantization.json").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a variant states: the model that was quantized, and its `quantization_config`.
pub fn stated(name: &str) -> (String, Value) {
    let text = fs::read_to_string(variant(name).join("quantization.json")).expect("committed");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    let model = value["of"].as_str().expect("a model").to_owned();
    (model, value["quantization_config"].take())
}

/// Dequantized values that the script wrote down, by the weight's name.
pub fn reference(name: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(variant(name).join("reference.safetensors")).expect("committed");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().as_chunks::<4>().0.iter();
            let values = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
            (name, (view.shape().to_vec(), values))
        })
        .collect()
}

/// A folder with the quantized model: two shards, the zoo's tokenizer, and its config with the quantization.
pub fn assemble(name: &str) -> TempDir {
    let (model, quantization) = stated(name);
    let parts = fs::read(variant(name).join("parts.safetensors")).expect("committed");
    with_parts(&model, &parts, &quantization)
}

/// The model of the zoo with parts in the place of the weights of the same modules.
pub fn with_parts(model: &str, parts: &[u8], quantization: &Value) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let source = zoo(model);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(file), folder.path().join(file)).expect("a copy");
    }
    let config = fs::read_to_string(source.join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["quantization_config"] = quantization.clone();
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let replaced = SafeTensors::deserialize(parts).expect("a safetensors file");
    let stems: Vec<String> = replaced
        .names()
        .iter()
        .filter_map(|name| Some(name.split_once("_proj.")?.0.to_owned()))
        .collect();
    let bytes = fs::read(source.join("model.safetensors")).expect("the zoo's weights");
    let whole = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let rest = whole.tensors().into_iter().filter(|(name, _)| {
        let stem = name.split_once("_proj.").map_or("", |(stem, _)| stem);
        !stems.iter().any(|replaced| replaced == stem)
    });
    let path = |number: usize| -> PathBuf {
        Path::new(folder.path()).join(format!("model-{number:05}-of-00002.safetensors"))
    };
    let rest = safetensors::serialize(rest, None).expect("serialized");
    fs::write(path(1), rest).expect("written");
    fs::write(path(2), parts).expect("written");
    folder
}

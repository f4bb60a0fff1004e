//! Quantized checkpoints: several stored tensors become the one weight that they stand for.
//!
//! ```text
//! safetensors or PyTorch → stored tensors → scheme (what config.json names) → weights
//! ```
//!
//! One file per scheme, one entry in [`SCHEMES`]. What a config says and what the tensors' shapes say must
//! agree, and a part that is missing is an error. No value is read here: decoders read rows when they
//! are asked for. A checkpoint whose scheme is not stated, or not known, stays as it is stored, and a note
//! says so.

mod awq;
mod bits;
mod bitsandbytes;
mod compressed;
mod float8;
mod fp4;
mod gptq;
mod hqq;
mod mxfp4;
mod stored;
mod turned;

use super::{Checkpoint, CheckpointError, CheckpointFile};
use serde_json::{Map, Value};
use stored::Stored;

/// Files that may state the scheme, in the order in which loaders look; the first that does decides.
const CONFIG_FILES: &[&str] = &["config.json", "quantize_config.json", "quant_config.json"];
/// Keys of config.json that hold the scheme.
const CONFIG_KEYS: &[&str] = &["quantization_config", "compression_config"];
/// A config above this size is not one.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Names of parts that no weight has by itself.
const TELLING: &[&str] = &[
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".SCB",
    ".absmax",
    "_blocks",
    ".W_q",
];

/// A quantization scheme as published.
trait Scheme: Sync {
    /// Values of `quant_method` that name it.
    fn methods(&self) -> &'static [&'static str];

    /// Replaces the parts by the weights that they stand for.
    ///
    /// # Errors
    /// When the config asks for what is not read here, or parts are missing or contradict each other.
    fn assemble(&self, config: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError>;
}

/// Every scheme.
const SCHEMES: &[&dyn Scheme] = &[
    &gptq::Gptq,
    &awq::Awq,
    &bitsandbytes::BitsAndBytes,
    &float8::Float8,
    &hqq::Hqq,
    &mxfp4::Mxfp4,
    &compressed::CompressedTensors,
];

/// Whether a value says nothing.
fn says_nothing(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.is_null()
}

/// What a file states of the quantization.
struct Config<'a> {
    file: &'a str,
    object: &'a Map<String, Value>,
}

impl Config<'_> {
    /// The value of the first of some keys that is there and not null.
    fn get(&self, keys: &[&str]) -> Option<&Value> {
        let mut values = keys.iter().filter_map(|key| self.object.get(*key));
        values.find(|value| !value.is_null())
    }

    /// A whole number.
    fn whole(&self, keys: &[&str]) -> Result<Option<i64>, CheckpointError> {
        match self.get(keys) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(keys[0], "a whole number")),
            },
        }
    }

    /// A truth value; absent is false.
    fn flag(&self, keys: &[&str]) -> Result<bool, CheckpointError> {
        match self.get(keys) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(keys[0], "true or false")),
        }
    }

    /// A word, lower-case; absent is empty.
    fn word(&self, keys: &[&str]) -> Result<String, CheckpointError> {
        match self.get(keys) {
            None => Ok(String::new()),
            Some(value) => match value.as_str() {
                Some(text) => Ok(text.to_ascii_lowercase()),
                None => Err(self.wrong(keys[0], "a word")),
            },
        }
    }

    /// An error about a key's value.
    fn wrong(&self, key: &str, expected: impl std::fmt::Display) -> CheckpointError {
        let found = match self.object.get(key) {
            Some(value) => super::error::short(&value.to_string()),
            None => "nothing".to_owned(),
        };
        CheckpointError::File {
            file: self.file.to_owned(),
            expected: format!("{expected} for {key} of the quantization"),
            found,
        }
    }
}

/// Whether weights come out of a checkpoint dequantized whose config states this quantization.
pub fn reads(section: &Value) -> bool {
    let Value::Object(object) = section else {
        return false;
    };
    let config = Config {
        file: CONFIG_FILES[0],
        object,
    };
    let method = config.word(&["quant_method"]).unwrap_or_default();
    method_of(&config, method).is_some()
}

/// The scheme of a method; files beside the config, and the first configs of bitsandbytes, name none.
fn method_of(config: &Config<'_>, method: String) -> Option<&'static dyn Scheme> {
    let method = if method.is_empty() {
        implied(config)
    } else {
        method
    };
    let mut schemes = SCHEMES.iter().copied();
    schemes.find(|scheme| scheme.methods().contains(&method.as_str()))
}

/// Makes weights of the parts of a quantized checkpoint.
///
/// # Errors
/// When the quantization is one that is not read here, or the parts do not make weights.
pub(super) fn assemble(
    files: &[CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<(), CheckpointError> {
    // GGUF states its types itself; a config beside it is that of the model it was made of.
    // An adapter is added to whatever its base is stored as.
    let is_adapter = checkpoint.adapter.is_some();
    if checkpoint.tensors.is_empty() || checkpoint.format == "gguf" || is_adapter {
        return Ok(());
    }
    let mut found = None;
    for name in CONFIG_FILES {
        if let Some(file) = files.iter().find(|file| file.path == *name)
            && let Some(object) = read(file, *name == "config.json")?
        {
            found = Some((file.path.as_str(), object));
            break;
        }
    }
    let first = checkpoint.tensors.first().map(|t| t.file().to_owned());
    let found = match (found, first) {
        (None, Some(first)) if hqq::states_itself(&checkpoint.tensors) => {
            let method = ("quant_method".to_owned(), Value::from("hqq"));
            Some((first, Map::from_iter([method])))
        }
        (found, _) => found.map(|(file, object)| (file.to_owned(), object)),
    };
    let Some((file, object)) = found else {
        note_unexplained(checkpoint);
        return Ok(());
    };
    let file = file.as_str();
    let config = Config {
        file,
        object: &object,
    };
    let method = config.word(&["quant_method"])?;
    let scheme = method_of(&config, method.clone());
    let Some(scheme) = scheme else {
        checkpoint.notes.push(format!(
            "{file} states the quantization {}, which is not read here: its tensors are examined as they are \
             stored, codes as codes",
            super::error::short(&method)
        ));
        return Ok(());
    };
    let tensors = std::mem::take(&mut checkpoint.tensors);
    let mut stored = Stored::new(tensors, file);
    scheme.assemble(&config, &mut stored)?;
    checkpoint.tensors = stored.finish(&mut checkpoint.notes);
    Ok(())
}

/// The quantization in a config file, if there is one.
fn read(
    file: &CheckpointFile,
    nested: bool,
) -> Result<Option<Map<String, Value>>, CheckpointError> {
    let size = file.source.len();
    if size > MAX_CONFIG_BYTES {
        return Ok(None);
    }
    let bytes = file
        .source
        .read(0..size)
        .map_err(|error| CheckpointError::Io {
            file: file.path.clone(),
            error,
        })?;
    // A config that is no JSON is told as such where it is read for itself.
    let Ok(Value::Object(mut object)) = serde_json::from_slice(&bytes) else {
        return Ok(None);
    };
    if !nested {
        return Ok(Some(object));
    }
    let mut sections = CONFIG_KEYS.iter().filter_map(|key| object.remove(*key));
    Ok(sections.find_map(|section| match section {
        Value::Object(section) if !section.is_empty() => Some(section),
        _ => None,
    }))
}

/// The method that a config without a name for it means.
fn implied(config: &Config<'_>) -> String {
    let has = |key: &str| config.object.contains_key(key);
    let method = if has("load_in_4bit") || has("load_in_8bit") {
        "bitsandbytes"
    } else if has("w_bit") || has("zero_point") || has("q_group_size") {
        "awq"
    } else if has("bits") {
        "gptq"
    } else {
        ""
    };
    method.to_owned()
}

/// Says that tensors look like parts of a scheme that nothing states.
fn note_unexplained(checkpoint: &mut Checkpoint) {
    let is_part =
        |name: &str| TELLING.iter().any(|end| name.ends_with(end)) || name.contains("quant_state");
    let mut parts = checkpoint.tensors.iter().filter(|t| is_part(t.name()));
    if let Some(first) = parts.next() {
        let n = 1 + parts.count();
        let first = super::error::short(first.name());
        checkpoint.notes.push(format!(
            "{n} tensors look like parts of quantized weights ({first}), and no config states how; they \
             are examined as they are stored"
        ));
    }
}

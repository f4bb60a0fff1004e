//! `adapter_config.json`, read strictly: every key that would change a weight is understood, or is an error.

use super::super::error::short;
use super::super::{CheckpointError, CheckpointFile};
use super::wrong;
use crate::tensor::Tensor;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// A config above this size is not one.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Patterns of modules that are accepted, and the size of a compiled one.
const MAX_PATTERNS: usize = 4096;
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Keys that say what was trained, or how, and change no weight beyond the tensors that are stored.
const NEUTRAL: &[&str] = &[
    "auto_mapping",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];
/// Keys that are read.
const READ: &[&str] = &[
    "alpha_pattern",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
];
/// Ways to initialise the factors that leave the base as it is; others take the factors out of the base's weights,
/// so that the base that they are added to is not the published one.
const INITIALISATIONS: &[&str] = &["gaussian", "eva", "orthogonal", "mica", "lora_ga"];

/// What the config says of the changes.
#[derive(Debug)]
pub(super) struct Config {
    file: String,
    /// The base that it states.
    pub base: Option<String>,
    /// Magnitudes beside the factors.
    pub dora: bool,
    /// Weights lie as `[in, out]`.
    pub fan_in_fan_out: bool,
    rank_stabilised: bool,
    rank: u64,
    alpha: f64,
    ranks: Vec<(Regex, Value)>,
    alphas: Vec<(Regex, Value)>,
}

/// Reads a config; the inner error is the name of a method that is not LoRA.
///
/// # Errors
/// When it is no config, or says something that is not understood.
pub(super) fn read(file: &CheckpointFile) -> Result<Result<Config, String>, CheckpointError> {
    let size = file.source.len();
    let wrong = |expected: &str, found: String| CheckpointError::File {
        file: file.path.clone(),
        expected: expected.to_owned(),
        found,
    };
    if size > MAX_CONFIG_BYTES {
        return Err(wrong("a config of at most 1 MiB", format!("{size} bytes")));
    }
    let bytes = file
        .source
        .read(0..size)
        .map_err(|error| CheckpointError::Io {
            file: file.path.clone(),
            error,
        })?;
    let object: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| wrong("a JSON object", error.to_string()))?;
    let reader = Reader {
        file: &file.path,
        object: &object,
    };
    match object.get("peft_type") {
        Some(Value::String(method)) if method == "LORA" => reader.config().map(Ok),
        Some(Value::String(method)) => Ok(Err(method.clone())),
        _ => Err(reader.wrong("peft_type", "a method by name")),
    }
}

/// A config while it is read.
struct Reader<'a> {
    file: &'a str,
    object: &'a Map<String, Value>,
}

/// Whether a value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

impl Reader<'_> {
    fn config(&self) -> Result<Config, CheckpointError> {
        for (key, value) in self.object {
            let known = READ.contains(&key.as_str()) || NEUTRAL.contains(&key.as_str());
            if !known && !is_empty(value) {
                return Err(self.wrong(key, "nothing (it is not known here what it changes)"));
            }
        }
        match self.object.get("init_lora_weights") {
            None | Some(Value::Bool(_) | Value::Null) => {}
            Some(Value::String(how)) if INITIALISATIONS.contains(&how.as_str()) => {}
            Some(_) => {
                let expected = "an initialisation that leaves the base as it is published";
                return Err(self.wrong("init_lora_weights", expected));
            }
        }
        let base = match self.object.get("base_model_name_or_path") {
            None | Some(Value::Null) => None,
            Some(Value::String(base)) if base.is_empty() => None,
            Some(Value::String(base)) => Some(base.clone()),
            Some(_) => return Err(self.wrong("base_model_name_or_path", "a name")),
        };
        let rank = match self.object.get("r").map(Value::as_u64) {
            Some(Some(rank @ 1..=0xffff_ffff)) => rank,
            _ => return Err(self.wrong("r", "a rank from 1 on")),
        };
        let alpha = self.object.get("lora_alpha").and_then(Value::as_f64);
        let Some(alpha) = alpha.filter(|alpha| alpha.is_finite()) else {
            return Err(self.wrong("lora_alpha", "a number"));
        };
        Ok(Config {
            file: self.file.to_owned(),
            base,
            dora: self.flag("use_dora")?,
            fan_in_fan_out: self.flag("fan_in_fan_out")?,
            rank_stabilised: self.flag("use_rslora")?,
            rank,
            alpha,
            ranks: self.patterns("rank_pattern")?,
            alphas: self.patterns("alpha_pattern")?,
        })
    }

    fn flag(&self, key: &str) -> Result<bool, CheckpointError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// Values for modules whose names end in what a pattern matches, after a dot or from the beginning.
    fn patterns(&self, key: &str) -> Result<Vec<(Regex, Value)>, CheckpointError> {
        let entries = match self.object.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(entries)) if entries.len() <= MAX_PATTERNS => entries,
            Some(_) => return Err(self.wrong(key, "patterns and their values")),
        };
        let compiled = entries.iter().map(|(pattern, value)| {
            let regex = RegexBuilder::new(&format!(r"\A(?:.*\.)?(?:{pattern})\z"))
                .size_limit(MAX_PATTERN_BYTES)
                .build();
            let regex = regex.map_err(|_| {
                let expected = format!("a pattern that is understood, not {}", short(pattern));
                self.wrong(key, expected)
            })?;
            Ok((regex, value.clone()))
        });
        compiled.collect()
    }

    fn wrong(&self, key: &str, expected: impl std::fmt::Display) -> CheckpointError {
        let found = match self.object.get(key) {
            Some(value) => short(&value.to_string()),
            None => "nothing".to_owned(),
        };
        CheckpointError::File {
            file: self.file.to_owned(),
            expected: format!("{expected} for {}", short(key)),
            found,
        }
    }
}

impl Config {
    /// The factor before B · A of a module whose A is `[rank, in]`.
    ///
    /// # Errors
    /// When the config gives the module another rank, or no number.
    pub(super) fn scale(&self, module: &str, a: &Tensor) -> Result<f64, CheckpointError> {
        let first = |patterns: &[(Regex, Value)]| {
            let mut patterns = patterns.iter();
            let found = patterns.find(|(pattern, _)| pattern.is_match(module));
            found.map(|(_, value)| value.clone())
        };
        let stated = match first(&self.ranks) {
            None => Some(self.rank),
            Some(value) => value.as_u64(),
        };
        let rank = a.shape().first().copied().unwrap_or(0) as u64;
        if stated != Some(rank) || rank == 0 {
            let expected = match stated {
                Some(stated) => format!("rank {stated}, as the config gives it"),
                None => "a rank in the config".to_owned(),
            };
            return Err(wrong(a, expected, format!("{:?}", a.shape())));
        }
        let alpha = match first(&self.alphas) {
            None => Some(self.alpha),
            Some(value) => value.as_f64().filter(|alpha| alpha.is_finite()),
        };
        let Some(alpha) = alpha else {
            return Err(wrong(a, "a number as alpha in the config", "none"));
        };
        let rank = rank as f64;
        Ok(alpha
            / if self.rank_stabilised {
                rank.sqrt()
            } else {
                rank
            })
    }

    /// An error about the config.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> CheckpointError {
        CheckpointError::File {
            file: self.file.clone(),
            expected: format!("{expected} for {key}"),
            found: "none".to_owned(),
        }
    }
}

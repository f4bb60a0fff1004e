//! Where models come from: a [`ModelRef`] becomes a [`Snapshot`] of files on this machine.
//!
//! The only module that talks to a network. Each kind of source is one file (or folder) and one entry
//! in [`SOURCES`]; it decides which files an audit needs ([`is_needed`]) and hands them over complete and
//! verified, or not at all. It does not look into them. Folders and files of this machine are `local`.

#[doc(hidden)]
pub mod answers;
mod buckets;
pub mod bytes;
pub mod digest;
mod error;
mod hub;
mod lfs;
mod local;
mod model_ref;
mod modelscope;
mod registry;
mod remote;
mod settings;
mod url;

pub use buckets::{BucketOptions, Keys, Secret};
pub use error::SourceError;
pub use model_ref::{ModelRef, ModelRefError};
pub use settings::FetchOptions;

use bytes::{ByteSource, LocalFile};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// One file of a snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    /// Path relative to the model's root, with `/`.
    pub path: String,
    /// Where it lies on this machine, or would lie once it is downloaded.
    pub local: PathBuf,
    /// Its bytes where it lies elsewhere and is read in parts.
    pub remote: Option<Arc<dyn ByteSource>>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the content, lower-case hexadecimal: where it was verified in this run, or, of a file
    /// that is read in parts, as its source states it.
    pub sha256: Option<String>,
    /// Git blob id where it was verified in this run, lower-case hexadecimal.
    pub git_blob: Option<String>,
}

impl SnapshotFile {
    /// The file's bytes, wherever they lie.
    ///
    /// # Errors
    /// When a file on this machine cannot be opened.
    pub fn open(&self) -> std::io::Result<Arc<dyn ByteSource>> {
        match &self.remote {
            Some(remote) => Ok(Arc::clone(remote)),
            None => Ok(Arc::new(LocalFile::open(&self.local, &self.path)?)),
        }
    }
}

/// All files of one model that an audit needs, at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What people call the model: `org/name@revision`, or the folder's name.
    pub label: String,
    /// Commit hash, where the source has revisions.
    pub revision: Option<String>,
    /// Folder or file on this machine.
    pub root: PathBuf,
    /// The files, sorted by path.
    pub files: Vec<SnapshotFile>,
}

/// Receives the progress of downloads; called from many threads.
pub trait Progress: Sync {
    /// A file of `n_bytes` is being fetched; `n_present` of them were here already.
    fn fetch_started(&self, file: &str, n_bytes: u64, n_present: u64);
    /// Further bytes of it arrived.
    fn fetched(&self, file: &str, n_bytes: u64);
    /// It is complete and verified, or was given up.
    fn fetch_ended(&self, file: &str);
    /// Something worth telling happened, e.g. a retry after a server's error.
    fn notice(&self, message: &str);
}

/// A progress that nobody watches.
pub struct Unwatched;

impl Progress for Unwatched {
    fn fetch_started(&self, _: &str, _: u64, _: u64) {}
    fn fetched(&self, _: &str, _: u64) {}
    fn fetch_ended(&self, _: &str) {}
    fn notice(&self, _: &str) {}
}

/// A kind of place that models come from.
pub(crate) trait Source: Sync {
    /// Names the source in a [`ModelRef`].
    fn id(&self) -> &'static str;

    /// What the names of its models begin with.
    fn prefixes(&self) -> &'static [&'static str];

    /// The name of a model in the form that the source takes, from what was written.
    ///
    /// # Errors
    /// When it names no model.
    fn parse(&self, text: &str) -> Result<String, ModelRefError>;

    /// The name as reports print it: whole, except for what opens a door.
    fn shown(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Brings a model here.
    ///
    /// # Errors
    /// When it cannot be had; the message says what to do next.
    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError>;
}

/// All kinds of places but this machine. The first one is also meant by a name without a prefix.
pub(crate) static SOURCES: &[&dyn Source] = &[
    &hub::HubSource,
    &url::UrlSource,
    &registry::RegistrySource,
    &modelscope::ModelScopeSource,
    &buckets::BucketSource,
];

/// The source with an id.
fn source_of(id: &str) -> Option<&'static dyn Source> {
    SOURCES.iter().find(|source| source.id() == id).copied()
}

/// Brings a model here, or finds it.
///
/// # Errors
/// When it cannot be had; the message says what to do next.
pub fn resolve(
    model: &ModelRef,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Snapshot, SourceError> {
    match model {
        ModelRef::Folder(path) => lfs::resolved(local::folder(path)?, options, progress),
        ModelRef::File(path) => lfs::resolved(local::file(path)?, options, progress),
        ModelRef::Published { source, name } => match source_of(source) {
            Some(source) => source.snapshot(name, options, progress),
            None => Err(SourceError::Protocol {
                url: name.clone(),
                expected: "a source of the registry".to_owned(),
                found: (*source).to_owned(),
            }),
        },
    }
}

/// Extensions of weight files that a checkpoint format can read.
const WEIGHT_EXTENSIONS: &[&str] = &[
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "npz",
    "npy",
    "onnx",
    // External data of ONNX: `model.onnx_data`, `model.onnx.data`.
    "onnx_data",
    "data",
];
/// Beginnings of the names of files that a training run leaves in PyTorch's format beside the weights.
const TRAINING_STATE: &[&str] = &[
    "optimizer",
    "rng_state",
    "scaler",
    "scheduler",
    "training_args",
];
/// Extensions of the other files that evidence reads.
const ARTEFACT_EXTENSIONS: &[&str] = &["json", "txt", "jinja", "py", "md", "model", "yaml", "yml"];

/// Whether a needed file holds weights: what is large, and read in parts where it can be.
fn is_weights(path: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, extension)| WEIGHT_EXTENSIONS.contains(&extension))
}

/// Whether an audit reads this file of a published repository: weights in a format that is read here,
/// configuration, tokenizer, code and model card. Optimiser states, images and formats that are not
/// read are left where they are. Of several formats of the same weights [`needed`] chooses one.
pub fn is_needed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((_, extension)) = name.rsplit_once('.') else {
        return name == "LICENSE";
    };
    // Consolidated copies and exports beside the main checkpoint repeat the same weights.
    let nested = path.contains('/');
    if WEIGHT_EXTENSIONS.contains(&extension) {
        return !nested && !TRAINING_STATE.iter().any(|start| name.starts_with(start));
    }
    ARTEFACT_EXTENSIONS.contains(&extension)
}

/// Names of the GGUF models among paths, parts of one series counted once: a repository often holds
/// one model at a dozen precisions. Towers for pictures (`mmproj`) and adapters beside a model are no
/// models.
fn gguf_models<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let models = paths.into_iter().filter_map(|path| {
        let stem = path.strip_suffix(".gguf")?;
        let series = stem
            .rsplit_once("-of-")
            .and_then(|(rest, _)| rest.rsplit_once('-'));
        Some(series.map_or(stem, |(name, _)| name))
    });
    let is_addition = |name: &str| name.starts_with("mmproj") || name.starts_with("adapter");
    models.filter(|name| !is_addition(name)).collect()
}

/// The files of a model that an audit reads, of all its `paths`, in their order: those that are
/// needed ([`is_needed`]), without repetitions of the weights in another format. safetensors files
/// are preferred to PyTorch's and these to GGUF; of PyTorch's, `pytorch_model.bin` and its shards to
/// others.
pub fn needed<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut chosen: Vec<&str> = paths.into_iter().filter(|path| is_needed(path)).collect();
    // Rank of a file's format; `None` for what is no weights.
    let rank = |path: &str| {
        let (_, extension) = path.rsplit_once('.')?;
        if !WEIGHT_EXTENSIONS.contains(&extension) {
            return None;
        }
        Some(match extension {
            // Adapters change a model and are none: they outrank nothing.
            "safetensors" if !path.starts_with("adapter_") => 0,
            "bin" if path == "pytorch_model.bin" || path.starts_with("pytorch_model-") => 1,
            // Re-quantizations lose what the others still hold.
            "gguf" => 3,
            "npz" | "npy" => 4,
            "onnx" | "onnx_data" | "data" => 5,
            _ => 2,
        })
    };
    let best = chosen.iter().filter_map(|path| rank(path)).min();
    chosen.retain(|path| {
        let beside = best == Some(0) && path.ends_with(".safetensors");
        beside || rank(path).is_none_or(|rank| Some(rank) == best)
    });
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_configuration_tokenizer_code_and_card_are_needed() {
        for path in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-Q8_0.gguf",
            "model.safetensors.index.json",
            "tokenizer.model",
            "merges.txt",
            "modeling_minicpmv.py",
            "README.md",
            "LICENSE",
            "chat_template.jinja",
        ] {
            assert!(is_needed(path), "{path}");
        }
    }

    #[test]
    fn a_series_is_one_gguf_model_and_a_tower_or_an_adapter_is_none() {
        let models = gguf_models([
            "m-Q8_0.gguf",
            "m-F16-00001-of-00002.gguf",
            "m-F16-00002-of-00002.gguf",
            "mmproj-m.gguf",
            "adapter.gguf",
            "config.json",
        ]);
        assert_eq!(models, BTreeSet::from(["m-F16", "m-Q8_0"]));
    }

    #[test]
    fn other_formats_optimiser_states_and_pictures_are_left() {
        for path in [
            "optimizer.pt",
            "optimizer.bin",
            "scheduler.pt",
            "scaler.pt",
            "rng_state.pth",
            "rng_state_7.pth",
            "training_args.bin",
            "original/consolidated.00.pth",
            "figures/plot.png",
            "onnx/model.onnx",
            "original/model.safetensors",
            ".gitattributes",
        ] {
            assert!(!is_needed(path), "{path}");
        }
    }

    #[test]
    fn weights_are_read_in_one_format_and_safetensors_are_preferred() {
        let both = [
            "config.json",
            "model.safetensors",
            "old.pth",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ];
        assert_eq!(
            needed(both),
            [
                "config.json",
                "model.safetensors",
                "pytorch_model.bin.index.json"
            ]
        );
        let shards = [
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
            "adapter_model.safetensors",
            "ema.pt",
        ];
        assert_eq!(needed(shards), shards[..2]);
        assert_eq!(
            needed(["a.pth", "optimizer.pt", "README.md"]),
            ["a.pth", "README.md"]
        );
        assert_eq!(needed(["x.png"]), [""; 0]);
    }
}

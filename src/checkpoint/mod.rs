//! Checkpoints: hostile bytes to named tensors, lazily.
//!
//! One file per format, one entry in [`FORMATS`]. A format sees byte ranges and nothing of where they
//! come from; it checks every length before use, executes nothing, and reads no weight until a test
//! asks for it.

mod adapter;
mod error;
mod gguf;
mod index;
mod npz;
mod onnx;
mod pytorch;
mod quantized;
mod safetensors;
mod shards;
mod tokenizer;
mod zip;

pub use adapter::Adapter;
pub use error::CheckpointError;
pub use quantized::reads as reads_quantization;
pub use tokenizer::{EmbeddedToken, EmbeddedTokenizer};

use crate::source::bytes::ByteSource;
use crate::tensor::{Tensor, TensorBytes, TensorError};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Dimensions of a tensor that are accepted.
const MAX_DIMENSIONS: usize = 32;

/// A file that may belong to a checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointFile {
    /// Path relative to the model's root, with `/`.
    pub path: String,
    /// Its bytes.
    pub source: Arc<dyn ByteSource>,
}

/// The shard index as published. Kept even where the shards are absent: names, their order and the
/// declared size are evidence of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredIndex {
    /// Path of the index.
    pub file: String,
    /// Tensor name and shard, in the order of the file.
    pub weight_map: Vec<(String, String)>,
    /// `metadata.total_size` in bytes, if it is there.
    pub total_size: Option<u64>,
}

/// An opened checkpoint.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// Id of the format, `none` where there are no weights.
    pub format: &'static str,
    /// All tensors, in the order of the files and, within a file, of their bytes (safetensors) or of
    /// the mapping that names them (PyTorch).
    pub tensors: Vec<Tensor>,
    /// The shard index, if there is one.
    pub declared: Option<DeclaredIndex>,
    /// Free-form metadata of the files' headers.
    pub metadata: BTreeMap<String, String>,
    /// What the files themselves state of the architecture, in the keys of a `config.json`.
    pub config: Option<serde_json::Value>,
    /// The tokenizer that the files carry, if they do.
    pub tokenizer: Option<EmbeddedTokenizer>,
    /// Shards that the index names, if none of them is there.
    pub missing_shards: Vec<String>,
    /// The adapter that the files are, if they are one: the tensors are then its changes.
    pub adapter: Option<Adapter>,
    /// What was seen and left aside, in sentences.
    pub notes: Vec<String>,
}

/// A checkpoint format.
pub trait Format: Sync {
    /// Stable id, e.g. `safetensors`.
    fn id(&self) -> &'static str;

    /// Whether these files hold a checkpoint of this format.
    fn claims(&self, files: &[CheckpointFile]) -> bool;

    /// Opens it.
    ///
    /// # Errors
    /// When a file is not what the format demands, or a part of the checkpoint is missing.
    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError>;
}

/// Every format, in the order in which they are tried: safetensors first, since a `.bin` beside it
/// repeats the same weights.
pub const FORMATS: &[&dyn Format] = &[
    &safetensors::Safetensors,
    &pytorch::PyTorch,
    &gguf::Gguf,
    &npz::Npz,
    &onnx::Onnx,
];

/// Opens the checkpoint among the files of a model. Files without weights are no error: names,
/// config and tokenizer can still be compared.
///
/// # Errors
/// When there are weights and they cannot be read whole, or two tensors share a name.
pub fn open(files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
    let Some(format) = FORMATS.iter().find(|format| format.claims(files)) else {
        return Ok(Checkpoint {
            format: "none",
            ..Checkpoint::default()
        });
    };
    let mut checkpoint = format.open(files)?;
    for other in FORMATS {
        if other.id() != format.id() && other.claims(files) {
            checkpoint.notes.push(format!(
                "files in the format {} beside the checkpoint were digested and not examined",
                other.id()
            ));
        }
    }
    adapter::assemble(files, &mut checkpoint)?;
    quantized::assemble(files, &mut checkpoint)?;
    let mut seen: HashMap<&str, &str> = HashMap::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        if let Some(first) = seen.insert(tensor.name(), tensor.file()) {
            return Err(CheckpointError::DuplicateTensor {
                tensor: tensor.name().to_owned(),
                first: first.to_owned(),
                second: tensor.file().to_owned(),
            });
        }
    }
    Ok(checkpoint)
}

/// The bytes of one checkpoint file, as tensors read them.
#[derive(Debug)]
struct FileBytes(Arc<dyn ByteSource>);

impl TensorBytes for FileBytes {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        self.0.read(range).map_err(|error| TensorError::Io {
            file: self.file().to_owned(),
            error,
        })
    }

    fn file(&self) -> &str {
        self.0.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bytes::MemoryFile;

    #[test]
    fn files_without_weights_are_a_model_without_weights() {
        let files = [CheckpointFile {
            path: "config.json".into(),
            source: Arc::new(MemoryFile::new("config.json", b"{}".to_vec())),
        }];
        let checkpoint = open(&files).unwrap();
        assert_eq!(checkpoint.format, "none");
        assert!(checkpoint.tensors.is_empty());
    }

    #[test]
    fn ids_of_formats_are_unique() {
        for (i, a) in FORMATS.iter().enumerate() {
            assert!(FORMATS[..i].iter().all(|b| a.id() != b.id()));
        }
    }
}

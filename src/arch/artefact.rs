//! The files of a published model that are not weights, held in memory, and the digests of all files.
//!
//! Evidence reads artefacts through this type; where the files came from is `source`'s business.

pub use crate::checkpoint::{EmbeddedToken, EmbeddedTokenizer};
use serde_json::Value;
use std::collections::BTreeMap;

/// One file of the repository or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Path relative to the model's root, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the content, lower-case hexadecimal; `None` when the file was not read whole.
    pub sha256: Option<String>,
    /// Whether the SHA-256 is what the source states of a file that was not read whole, and not what
    /// was computed.
    pub sha256_is_stated: bool,
    /// Git blob id (SHA-1) of the content, where it was computed or published.
    pub git_blob: Option<String>,
}

/// An artefact that is there but cannot be read as what it should be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ArtefactError {
    /// Path relative to the model's root.
    pub file: String,
    /// What is wrong: expected and found.
    pub problem: String,
}

/// Files of one model: all entries, and the content of the small text files.
#[derive(Debug, Clone, Default)]
pub struct Artefacts {
    /// Every file, sorted by path.
    pub files: Vec<FileEntry>,
    /// Content of text files (JSON, Jinja, Python, Markdown) up to a size cap.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// The tokenizer that the weights' own files carry, if they do.
    pub embedded_tokenizer: Option<EmbeddedTokenizer>,
}

impl Artefacts {
    /// Content of a file as UTF-8 text.
    ///
    /// # Errors
    /// When the file is there and is not UTF-8.
    pub fn text(&self, path: &str) -> Result<Option<&str>, ArtefactError> {
        let Some(bytes) = self.contents.get(path) else {
            return Ok(None);
        };
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|e| ArtefactError {
                file: path.to_owned(),
                problem: format!(
                    "expected UTF-8 text, found an invalid byte at {}",
                    e.valid_up_to()
                ),
            })
    }

    /// Content of a file as JSON.
    ///
    /// # Errors
    /// When the file is there and is not JSON.
    pub fn json(&self, path: &str) -> Result<Option<Value>, ArtefactError> {
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|e| ArtefactError {
                file: path.to_owned(),
                problem: format!("expected JSON, found an error: {e}"),
            })
    }

    /// The entry of a file.
    pub fn entry(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|f| f.path == path)
    }
}

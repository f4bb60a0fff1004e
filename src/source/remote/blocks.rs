//! Blocks of files that are read in parts, kept on disk: `<key>/<number / 1024>/<number>`, one file for
//! each block of [`BLOCK_BYTES`] and the SHA-256 of what it holds.
//!
//! The key names the content (what the hub states as its digest) and the server that stated it, so that
//! one server's bytes are never taken for another's. A block gets its name only when it is written
//! whole, and one that was damaged on disk is fetched again. Nothing is ever removed here.

use super::super::SourceError;
use super::{Id, RemoteFile};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a block; the last one of a file may be shorter.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Blocks of one folder.
const N_IN_FOLDER: u64 = 1024;
/// Bytes of a SHA-256.
const N_DIGEST: usize = 32;

/// The kept blocks of one file.
#[derive(Debug)]
pub(super) struct Blocks {
    folder: PathBuf,
    len: u64,
}

impl Blocks {
    /// The blocks of a file of the server at `endpoint`, below the folder `root`.
    pub(super) fn new(root: &Path, endpoint: &str, place: &str, file: &RemoteFile) -> Self {
        let mut digest = Sha256::new();
        for part in [endpoint, file.id.as_str()] {
            digest.update(part);
            digest.update([0]);
        }
        digest.update(file.size_bytes.to_le_bytes());
        if !matches!(file.id, Id::Sha256(_)) {
            // An etag that is no digest of the content alone may name other content in another place.
            digest.update(place);
            digest.update([0]);
            digest.update(&file.path);
        }
        let key = super::super::digest::hex(&digest.finalize());
        Self {
            folder: root.join(key),
            len: file.size_bytes,
        }
    }

    /// Bytes of a block of the file.
    pub(super) fn size_of(&self, number: u64) -> u64 {
        let start = number.saturating_mul(BLOCK_BYTES);
        self.len.saturating_sub(start).min(BLOCK_BYTES)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder
            .join((number / N_IN_FOLDER).to_string())
            .join(number.to_string())
    }

    /// A block, if it is here and whole.
    pub(super) fn get(&self, number: u64) -> Option<Vec<u8>> {
        let path = self.path(number);
        let expected = self.size_of(number) + N_DIGEST as u64;
        // Looked at first: what lies there may be of any size.
        if fs::metadata(&path).ok()?.len() != expected {
            return None;
        }
        let mut bytes = fs::read(&path).ok()?;
        let content = bytes.len().checked_sub(N_DIGEST)?;
        let is_whole = bytes.len() as u64 == expected
            && Sha256::digest(&bytes[..content])[..] == bytes[content..];
        bytes.truncate(content);
        is_whole.then_some(bytes)
    }

    /// Keeps a block.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn put(&self, number: u64, content: &[u8]) -> Result<(), SourceError> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let path = self.path(number);
        let n = N_MADE.fetch_add(1, Ordering::Relaxed);
        let partial = self
            .folder
            .join(format!(".{}-{n}.partial", std::process::id()));
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&partial, [content, &Sha256::digest(content)].concat()))
            .and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.map_err(|error| SourceError::io(path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str, is_sha256: bool) -> RemoteFile {
        let kind = if is_sha256 { Id::Sha256 } else { Id::Named };
        RemoteFile {
            path: "model.safetensors".to_owned(),
            id: kind(id.to_owned()),
            size_bytes: BLOCK_BYTES + 3,
            validator: None,
        }
    }

    #[test]
    fn a_block_is_given_back_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let blocks = Blocks::new(root.path(), "http://hub", "org/name", &file("ab", true));
        assert_eq!(blocks.get(1), None);
        blocks.put(1, b"abc").unwrap();
        assert_eq!(blocks.get(1).as_deref(), Some(b"abc".as_slice()));
        let path = blocks.path(1);
        let mut damaged = fs::read(&path).unwrap();
        damaged[0] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(blocks.get(1), None);
        fs::write(&path, &damaged[..4]).unwrap();
        assert_eq!(blocks.get(1), None);
    }

    #[test]
    fn blocks_of_one_hub_or_content_are_not_those_of_another() {
        let root = tempfile::tempdir().unwrap();
        let of = |endpoint: &str, place: &str, file: &RemoteFile| {
            Blocks::new(root.path(), endpoint, place, file).folder
        };
        let first = of("http://a", "x", &file("ab", true));
        assert_eq!(first, of("http://a", "y", &file("ab", true)));
        assert_ne!(first, of("http://b", "x", &file("ab", true)));
        assert_ne!(first, of("http://a", "x", &file("cd", true)));
        let own = file("v1", false);
        assert_ne!(of("http://a", "x", &own), of("http://a", "y", &own));
    }
}

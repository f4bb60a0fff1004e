//! The store that Ollama keeps on this machine: what is in it need not be fetched.
//!
//! `manifests/<host>/<repository>/<tag>` names layers, `blobs/sha256-<digest>` holds them. Every file is
//! held against its digest. Nothing is written here.

use super::super::bytes::LocalFile;
use super::super::remote::RemoteFile;
use super::super::{FetchOptions, Snapshot, SnapshotFile, SourceError, digest};
use super::manifest::{MAX_MANIFEST_BYTES, files_of};
use super::name::{Reference, is_segment};
use reqwest::Url;
use std::fs;
use std::path::Path;

/// The model in Ollama's own store, if all of it is there.
///
/// # Errors
/// When it is there and is not what its manifest says.
pub(super) fn stored(
    name: &str,
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Option<Snapshot>, SourceError> {
    let host = match &reference.host {
        Some(host) => host.clone(),
        None => Url::parse(&options.ollama_registry)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_default(),
    };
    // A digest is no file's name there, and a port no folder's.
    if !is_segment(&host) || !is_segment(&reference.tag) {
        return Ok(None);
    }
    let root = &options.ollama_models;
    let folder = root.join("manifests").join(host);
    let manifest = folder.join(&reference.repository).join(&reference.tag);
    let is_one = |m: &fs::Metadata| m.is_file() && m.len() <= MAX_MANIFEST_BYTES;
    if !fs::metadata(&manifest).is_ok_and(|m| is_one(&m)) {
        return Ok(None);
    }
    let text = fs::read(&manifest).map_err(|e| SourceError::io(&manifest, e))?;
    let mut files = files_of(&text).map_err(|found| SourceError::Protocol {
        url: manifest.display().to_string(),
        expected: "a manifest of a model".to_owned(),
        found,
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let blob = |file: &RemoteFile| {
        root.join("blobs")
            .join(format!("sha256-{}", file.id.as_str()))
    };
    let is_here = |file: &RemoteFile| {
        fs::metadata(blob(file)).is_ok_and(|m| m.is_file() && m.len() == file.size_bytes)
    };
    if !files.iter().all(is_here) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for file in files {
        let path = blob(&file);
        hold_against(&path, file.id.as_str())?;
        found.push(SnapshotFile {
            path: file.path,
            local: path,
            remote: None,
            size_bytes: file.size_bytes,
            sha256: Some(file.id.as_str().to_owned()),
            git_blob: None,
        });
    }
    Ok(Some(Snapshot {
        label: name.to_owned(),
        revision: Some(super::commit(&text)),
        root: root.clone(),
        files: found,
    }))
}

/// A stored file must be what its name says.
fn hold_against(path: &Path, expected: &str) -> Result<(), SourceError> {
    let failed = |error| SourceError::io(path, error);
    let file = LocalFile::open(path, &path.display().to_string()).map_err(failed)?;
    let found = digest::sha256_hex(&file).map_err(failed)?;
    match found == expected {
        true => Ok(()),
        false => Err(SourceError::Damaged {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found,
        }),
    }
}

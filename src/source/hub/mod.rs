//! Repositories in the hub's protocol, kept in its standard cache.
//!
//! [`settings`] says where, [`client`] asks, [`download`] fetches whole files, [`parts`] reads weights
//! without downloading them, [`cache`] and [`blocks`] keep. What is complete in
//! the cache is not fetched again, and without a network it is used as it is.

mod blocks;
mod cache;
mod client;
mod download;
mod parts;
mod settings;

pub use settings::FetchOptions;

use super::{Progress, Snapshot, SnapshotFile, SourceError};
use super::{gguf_models, is_needed, is_weights, needed};
use cache::RepoCache;
use client::{Hub, RemoteFile};
use download::Attempts;
use parts::{Parts, Session};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The revision that a name without one means.
const MAIN: &str = "main";

/// The needed files of a repository, fetched where they are not in the cache.
///
/// # Errors
/// When the repository cannot be had; the message says what to do next.
pub(super) fn snapshot(
    repository: &str,
    revision: Option<&str>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Snapshot, SourceError> {
    let revision = revision.unwrap_or(MAIN);
    let cache = RepoCache::new(&options.cache, repository);
    let label = |commit: &str| format!("{repository}@{}", commit.get(..12).unwrap_or(commit));
    if options.offline {
        let Some(commit) = cache.commit_of(revision) else {
            return Err(SourceError::Offline {
                what: format!("{repository}@{revision}"),
                cache: options.cache.clone(),
            });
        };
        // A link whose blob is gone, an empty folder: the cache does not hold the model.
        return cache
            .snapshot(label(&commit), &commit)
            .map_err(|error| match error {
                SourceError::Io { path, error } if error.kind() == ErrorKind::NotFound => {
                    SourceError::Offline {
                        what: path.display().to_string(),
                        cache: options.cache.clone(),
                    }
                }
                SourceError::EmptyFolder(_) => SourceError::Offline {
                    what: format!("{repository}@{revision}"),
                    cache: options.cache.clone(),
                },
                other => other,
            });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| SourceError::io(&options.cache, e))?;
    let hub = Hub::new(options, repository)?;
    let mut attempts = Attempts::new(options, format!("{}/{repository}", options.endpoint));
    let listing = runtime.block_on(async {
        loop {
            match hub.listing(revision, &is_needed).await {
                Ok(listing) => return Ok(listing),
                Err(failure) => attempts.after(failure, progress).await?,
            }
        }
    });
    let mut listing = match listing {
        Ok(listing) => listing,
        // What was fetched before is better than nothing, as long as it is said.
        Err(error @ (SourceError::Unreachable { .. } | SourceError::RateLimited { .. })) => {
            let Some(commit) = cache.commit_of(revision) else {
                return Err(error);
            };
            let Ok(cached) = cache.snapshot(label(&commit), &commit) else {
                return Err(error);
            };
            progress.notice(&format!(
                "{error}; going on with the cached commit {commit}"
            ));
            return Ok(cached);
        }
        Err(error) => return Err(error),
    };
    let paths: Vec<String> = listing.files.iter().map(|file| file.path.clone()).collect();
    let chosen: BTreeSet<&str> = needed(paths.iter().map(String::as_str))
        .into_iter()
        .collect();
    listing
        .files
        .retain(|file| chosen.contains(file.path.as_str()));
    let models = gguf_models(listing.files.iter().map(|file| file.path.as_str()));
    if models.len() > 1 {
        return Err(SourceError::SeveralModels {
            repository: repository.to_owned(),
            models: models.into_iter().map(str::to_owned).collect(),
        });
    }
    if listing.files.is_empty() {
        return Err(SourceError::EmptyFolder(repository.into()));
    }
    let commit = listing.commit;
    let (left, fetched): (Vec<RemoteFile>, Vec<RemoteFile>) = listing
        .files
        .into_iter()
        .partition(|file| options.in_parts && is_weights(&file.path) && !cache.has(&commit, file));
    let mut files = download::all(
        &hub,
        &cache,
        &commit,
        &fetched,
        options,
        runtime.handle(),
        left.is_empty(),
        progress,
    )?;
    if left.is_empty() {
        cache.set_ref(revision, &commit)?;
        return Ok(cache.snapshot_of(label(&commit), &commit, files));
    }
    let session = Arc::new(Session {
        runtime,
        hub,
        commit: commit.clone(),
        options: options.clone(),
        requests: Semaphore::new(options.n_parallel.clamp(1, 32)),
    });
    files.extend(left.into_iter().map(|file| SnapshotFile {
        path: file.path.clone(),
        local: cache.blob(&file.etag),
        size_bytes: file.size_bytes,
        sha256: file.in_lfs.then(|| file.etag.clone()),
        git_blob: None,
        remote: Some(Arc::new(Parts::new(Arc::clone(&session), repository, file))),
    }));
    Ok(cache.snapshot_of(label(&commit), &commit, files))
}

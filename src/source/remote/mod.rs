//! Models on servers, whatever the server speaks: what to download, what to leave there and read in
//! parts, and the cache.
//!
//! A source that speaks over HTTP implements [`Remote`]: it lists the files and says where each is. The
//! rest is here: [`http`] asks, [`attempts`] retries, [`download`] fetches whole files, [`parts`] reads
//! weights without downloading them, [`cache`] and [`blocks`] keep. What is complete in the cache is not
//! fetched again, and without a network it is used as it is.

mod attempts;
mod blocks;
pub(super) mod cache;
mod download;
pub(super) mod http;
mod parts;

use super::{FetchOptions, Progress, Snapshot, SnapshotFile, SourceError};
use super::{gguf_models, is_weights, needed};
use attempts::Attempts;
use cache::RepoCache;
use http::{Address, Failure, Http, shown};
use parts::{Parts, Session};
use reqwest::{Response, Url};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// An answer that takes a request.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// What names a file's content, and so its blob; safe as a file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Id {
    /// SHA-256 of the content, lower-case hexadecimal.
    Sha256(String),
    /// Git's id of the content, lower-case hexadecimal.
    GitBlob(String),
    /// A name that the content cannot be held against.
    Named(String),
}

impl Id {
    /// The name itself.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(id) | Self::GitBlob(id) | Self::Named(id) => id,
        }
    }

    fn sha256(&self) -> Option<&str> {
        match self {
            Self::Sha256(id) => Some(id),
            _ => None,
        }
    }

    fn git_blob(&self) -> Option<&str> {
        match self {
            Self::GitBlob(id) => Some(id),
            _ => None,
        }
    }
}

/// A file on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path in the repository; safe to append to a folder.
    pub(super) path: String,
    /// What names its content.
    pub(super) id: Id,
    /// Size in bytes.
    pub(super) size_bytes: u64,
    /// The strong etag that its host gave when it was listed, after the host's origin.
    pub(super) validator: Option<(String, String)>,
}

impl RemoteFile {
    /// Whether two requests can be known to be answered with the same content: by its digest at the
    /// end, or by an etag each time.
    fn is_resumable(&self) -> bool {
        self.validator.is_some() || !matches!(self.id, Id::Named(_))
    }
}

/// The etag of an answer must be the one of the list, where the same host gave both.
fn held_against(file: &RemoteFile, url: &Url, etag: Option<&str>) -> Result<(), Failure> {
    match (&file.validator, etag) {
        (Some((origin, known)), Some(etag))
            if *origin == url.origin().ascii_serialization() && known != etag =>
        {
            Err(Failure::Final(SourceError::Protocol {
                url: file.path.clone(),
                expected: format!("the content with the etag {known}, as it was listed"),
                found: format!("{etag} at {}: the file has changed", shown(url)),
            }))
        }
        _ => Ok(()),
    }
}

/// What a repository holds at one moment.
#[derive(Debug)]
pub(super) struct Listing {
    /// Names this state of it, in 40 hexadecimal digits: a commit, or a digest of the list.
    pub(super) commit: String,
    /// Files that an audit needs.
    pub(super) files: Vec<RemoteFile>,
}

impl Listing {
    /// A listing of a server without commits: named after what it lists.
    pub(super) fn of(files: Vec<RemoteFile>) -> Self {
        let mut texts = Vec::new();
        for file in &files {
            texts.extend([file.path.as_str(), file.id.as_str()]);
        }
        let mut commit = super::digest::of_text(&texts);
        commit.truncate(40);
        Self { commit, files }
    }
}

/// A server that publishes models, as one session sees it.
pub(super) trait Remote: Send + Sync + Debug {
    /// The session's client.
    fn http(&self) -> &Http;

    /// Names the server where blocks of files are kept.
    fn endpoint(&self) -> &str;

    /// The needed files.
    fn listing(&self) -> Later<'_, Listing>;

    /// Where a file's bytes are.
    fn address<'a>(&'a self, commit: &'a str, file: &'a RemoteFile) -> Later<'a, Address>;

    /// What an answer means that is no file.
    fn refused(&self, response: &Response, commit: &str) -> Failure;
}

/// A model on a server, as it was asked for.
pub(super) struct Published<'a> {
    /// What people call it, without a revision.
    pub(super) name: &'a str,
    /// The revision that is asked for, as a path below `refs`.
    pub(super) revision: &'a str,
    /// What people call it at a commit.
    pub(super) label: &'a dyn Fn(&str) -> String,
    /// Where it is kept.
    pub(super) cache: RepoCache,
    /// The folder of that cache, for messages.
    pub(super) kept_in: &'a std::path::Path,
    /// Reaches the server.
    pub(super) connect: &'a dyn Fn() -> Result<Arc<dyn Remote>, SourceError>,
}

impl Published<'_> {
    /// The model as it lies in the cache, where no server may be asked.
    fn offline(&self) -> Result<Snapshot, SourceError> {
        let not_here = |what: String| SourceError::Offline {
            what,
            cache: self.kept_in.to_owned(),
        };
        let Some(commit) = self.cache.commit_of(self.revision) else {
            return Err(not_here(format!("{}@{}", self.name, self.revision)));
        };
        // A link whose blob is gone, an empty folder: the cache does not hold the model.
        let cached = self.cache.snapshot((self.label)(&commit), &commit);
        cached.map_err(|error| match error {
            SourceError::Io { path, error } if error.kind() == ErrorKind::NotFound => {
                not_here(path.display().to_string())
            }
            SourceError::EmptyFolder(_) => not_here(format!("{}@{}", self.name, self.revision)),
            other => other,
        })
    }

    /// The needed files, fetched where they are not in the cache; weights stay where they are if
    /// [`FetchOptions::in_parts`] says so and the server can send parts that belong together.
    ///
    /// # Errors
    /// When the model cannot be had; the message says what to do next.
    pub(super) fn snapshot(
        &self,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        if options.offline {
            return self.offline();
        }
        let (cache, label) = (&self.cache, self.label);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| SourceError::io(self.kept_in, e))?;
        let remote = (self.connect)()?;
        let what = match self.name.contains("://") {
            // An address says itself where it is.
            true => self.name.to_owned(),
            false => format!("{}/{}", remote.endpoint(), self.name),
        };
        let mut attempts = Attempts::new(options, what);
        let listing = runtime.block_on(async {
            loop {
                match remote.listing().await {
                    Ok(listing) => return Ok(listing),
                    Err(failure) => attempts.after(failure, progress).await?,
                }
            }
        });
        let listing = match listing {
            Ok(listing) => listing,
            // What was fetched before is better than nothing, as long as it is said.
            Err(error @ (SourceError::Unreachable { .. } | SourceError::RateLimited { .. })) => {
                let Some(commit) = cache.commit_of(self.revision) else {
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
        let listing = self.chosen(listing)?;
        let commit = listing.commit;
        let stays = |file: &RemoteFile| {
            options.in_parts
                && is_weights(&file.path)
                && file.is_resumable()
                && !cache.has(&commit, file)
        };
        let (left, fetched): (Vec<RemoteFile>, Vec<RemoteFile>) =
            listing.files.into_iter().partition(stays);
        let mut files = download::all(
            remote.as_ref(),
            cache,
            &commit,
            &fetched,
            options,
            runtime.handle(),
            left.is_empty(),
            progress,
        )?;
        if left.is_empty() {
            cache.set_ref(self.revision, &commit)?;
            return Ok(cache.snapshot_of(label(&commit), &commit, files));
        }
        let session = Arc::new(Session {
            runtime,
            remote,
            commit: commit.clone(),
            options: options.clone(),
            requests: Semaphore::new(options.n_parallel.clamp(1, 32)),
        });
        files.extend(left.into_iter().map(|file| SnapshotFile {
            path: file.path.clone(),
            local: cache.blob(file.id.as_str()),
            size_bytes: file.size_bytes,
            sha256: file.id.sha256().map(str::to_owned),
            git_blob: None,
            remote: Some(Arc::new(Parts::new(Arc::clone(&session), self.name, file))),
        }));
        Ok(cache.snapshot_of(label(&commit), &commit, files))
    }

    /// One model of one format among the files of a listing.
    fn chosen(&self, mut listing: Listing) -> Result<Listing, SourceError> {
        let paths: Vec<String> = listing.files.iter().map(|f| f.path.clone()).collect();
        let chosen: BTreeSet<&str> = needed(paths.iter().map(String::as_str))
            .into_iter()
            .collect();
        listing
            .files
            .retain(|file| chosen.contains(file.path.as_str()));
        let models = gguf_models(listing.files.iter().map(|file| file.path.as_str()));
        if models.len() > 1 {
            return Err(SourceError::SeveralModels {
                repository: self.name.to_owned(),
                models: models.into_iter().map(str::to_owned).collect(),
            });
        }
        if listing.files.is_empty() {
            return Err(SourceError::EmptyFolder(self.name.into()));
        }
        Ok(listing)
    }
}

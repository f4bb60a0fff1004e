//! Why a model cannot be had, and what to do next.

use std::path::PathBuf;
use std::time::Duration;

/// A model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused to read or write.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A folder without files.
    #[error("{}: the folder holds no file that an audit could read (weights, config, tokenizer)", .0.display())]
    EmptyFolder(PathBuf),
    /// A folder with more files than any model has.
    #[error("{}: expected a model's folder, found more than {limit} files; name the model's own folder", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// Files that a folder may hold.
        limit: usize,
    },
    /// The repository, or the revision, is not there or not visible without a token.
    #[error(
        "{repository}: no such repository or revision {revision} on {endpoint}; check the spelling, or set HF_TOKEN if it is private"
    )]
    NotFound {
        /// `org/name`.
        repository: String,
        /// What was asked for.
        revision: String,
        /// The hub.
        endpoint: String,
    },
    /// The repository is there but its owner must grant access.
    #[error(
        "{repository}: access is gated; accept the conditions on {endpoint}/{repository} and set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// `org/name`.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// A repository of several models in one format, which no reference can choose among.
    #[error(
        "{repository}: expected one GGUF model, found {}: {}; download the one that is meant and name its file",
        models.len(), models[..models.len().min(8)].join(", ")
    )]
    SeveralModels {
        /// `org/name`.
        repository: String,
        /// Names of the models.
        models: Vec<String>,
    },
    /// The token was refused.
    #[error(
        "{endpoint} refused the token ({status}); set HF_TOKEN to a valid one, or unset it for public models"
    )]
    Unauthorized {
        /// The hub.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// A server that is no hub does not give the file.
    #[error("{url}: the server answers with status {status}; {advice}")]
    Refused {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// What to do next.
        advice: String,
    },
    /// Pointers of git LFS in the place of files, and no way to the files.
    #[error(
        "{}: {} files are pointers of git LFS and not the content ({why}): {}; run `git lfs pull` there",
        folder.display(), files.len(), files[..files.len().min(8)].join(", ")
    )]
    Pointers {
        /// The checkout.
        folder: PathBuf,
        /// The files.
        files: Vec<String>,
        /// Why the content cannot be had.
        why: String,
    },
    /// A file of another program's store is not what its name says.
    #[error(
        "{}: expected content with the SHA-256 {expected}, found {found}; the store that holds it is damaged, fetch the model there again", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest in its name.
        expected: String,
        /// That of its content.
        found: String,
    },
    /// The server asked to slow down, again and again.
    #[error(
        "{url}: the server still limits the rate after {attempts} attempts over {waited:?}; try again later, or, on the hub, set HF_TOKEN for a higher limit"
    )]
    RateLimited {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// Over how long.
        waited: Duration,
    },
    /// The server kept failing.
    #[error(
        "{url}: failed {attempts} times, last with: {last}; what was fetched is kept, run the command again to go on"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// The last failure, in words.
        last: String,
    },
    /// The server answered something that its protocol does not have.
    #[error("{url}: expected {expected}, found {found}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What the protocol says.
        expected: String,
        /// What came.
        found: String,
    },
    /// A file is not what the server said it would be.
    #[error(
        "{file}: expected the digest {expected}, found {found}; the download was thrown away, run the command again"
    )]
    Digest {
        /// Path in the repository.
        file: String,
        /// The published digest.
        expected: String,
        /// That of what arrived.
        found: String,
    },
    /// Offline, and not in the cache.
    #[error("{what} is not in the cache {} and HF_HUB_OFFLINE is set; unset it to download", cache.display())]
    Offline {
        /// The repository, or a file of it.
        what: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The cache's disk is full.
    #[error("{}: the disk is full; what was fetched is kept, free some space and run the command again, or set HF_HUB_CACHE (for sources other than the hub MODELKIN_DOWNLOADS) to a larger disk", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// A setting from the environment cannot be used.
    #[error("{variable}={value}: {problem}")]
    Setting {
        /// Name of the environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl SourceError {
    /// Wraps what the system said of a path; a full disk gets its own message.
    pub(super) fn io(path: impl Into<PathBuf>, error: std::io::Error) -> Self {
        let path = path.into();
        if error.kind() == std::io::ErrorKind::StorageFull {
            Self::DiskFull { path }
        } else {
            Self::Io { path, error }
        }
    }
}

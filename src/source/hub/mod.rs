//! Repositories in the hub's protocol.

use super::{Progress, Snapshot, SourceError};
use std::path::PathBuf;

/// How to reach the hub and where to keep what it sends.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// The cache's folder.
    pub cache: Option<PathBuf>,
}

pub(super) fn snapshot(
    repository: &str,
    _: Option<&str>,
    options: &FetchOptions,
    _: &dyn Progress,
) -> Result<Snapshot, SourceError> {
    let cache = options.cache.clone().unwrap_or_default();
    Err(SourceError::Offline {
        what: repository.to_owned(),
        cache,
    })
}

//! Files of a listing into the cache: several at a time, each resumed where it was cut off, verified
//! before it gets its name.

use super::super::bytes::LocalFile;
use super::super::{FetchOptions, Progress, SnapshotFile, SourceError, digest};
use super::attempts::Attempts;
use super::cache::RepoCache;
use super::http::{Asked, Failure, header, is_too_slow, passing};
use super::{Id, Remote, RemoteFile, held_against};
use reqwest::header::{CONTENT_RANGE, ETAG};
use reqwest::{Method, Response, StatusCode};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Fetches what is not in the cache yet. The snapshot shows its files only when all of them are there,
/// so that what an interrupted run leaves is not taken for the whole model. The first file that cannot
/// be had stops the others where they are. Files that are not the whole of what is needed (`is_whole`)
/// are kept as blobs, and no snapshot shows them.
pub(super) fn all(
    remote: &dyn Remote,
    cache: &RepoCache,
    commit: &str,
    files: &[RemoteFile],
    options: &FetchOptions,
    runtime: &Handle,
    is_whole: bool,
    progress: &dyn Progress,
) -> Result<Vec<SnapshotFile>, SourceError> {
    let next = AtomicUsize::new(0);
    let (stop, stopped) = watch::channel(false);
    let done: Mutex<Vec<Result<(&RemoteFile, bool), SourceError>>> = Mutex::new(Vec::new());
    let fetch = Fetch {
        remote,
        cache,
        commit,
        options,
        progress,
    };
    std::thread::scope(|scope| {
        for _ in 0..options.n_parallel.clamp(1, 32).min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut stopped = stopped.clone();
                    let result = runtime.block_on(async {
                        tokio::select! {
                            biased;
                            _ = stopped.wait_for(|stopped| *stopped) => None,
                            result = fetch.one(file) => Some(result),
                        }
                    });
                    let Some(result) = result else { return };
                    if result.is_err() {
                        stop.send_replace(true);
                    }
                    done.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push(result.map(|verified| (file, verified)));
                }
            });
        }
    });
    let done: Result<Vec<(&RemoteFile, bool)>, SourceError> = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .into_iter()
        .collect();
    let shown = |(file, verified): (&RemoteFile, bool)| {
        Ok(SnapshotFile {
            path: file.path.clone(),
            local: match is_whole {
                true => cache.link(commit, file)?,
                false => cache.lies_at(commit, file),
            },
            remote: None,
            size_bytes: file.size_bytes,
            sha256: file.id.sha256().filter(|_| verified).map(str::to_owned),
            git_blob: file.id.git_blob().filter(|_| verified).map(str::to_owned),
        })
    };
    done?.into_iter().map(shown).collect()
}

/// A file whose progress is shown until this value ends, on whichever way.
struct Shown<'a> {
    progress: &'a dyn Progress,
    path: &'a str,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.progress.fetch_ended(self.path);
    }
}

/// What every download needs.
struct Fetch<'a> {
    remote: &'a dyn Remote,
    cache: &'a RepoCache,
    commit: &'a str,
    options: &'a FetchOptions,
    progress: &'a dyn Progress,
}

impl Fetch<'_> {
    /// Whether it was fetched, and verified, by this call; otherwise it was there.
    async fn one(&self, file: &RemoteFile) -> Result<bool, SourceError> {
        if self.cache.has(self.commit, file) {
            return Ok(false);
        }
        self.cache.prepare()?;
        let on_wait = || {
            let path = &file.path;
            self.progress.notice(&format!(
                "{path}: waiting for another process that fetches it"
            ));
        };
        let _lock = self.cache.lock(file.id.as_str(), &on_wait).await?;
        // Another process may have fetched it while this one waited.
        if self.cache.has(self.commit, file) {
            return Ok(false);
        }
        let incomplete = self.cache.incomplete(file.id.as_str());
        if !file.is_resumable() {
            // Nothing says that the rest would be the rest of the same file.
            let _ = fs::remove_file(&incomplete);
        }
        let present = fs::metadata(&incomplete).map_or(0, |m| m.len());
        let present = present.min(file.size_bytes);
        self.progress
            .fetch_started(&file.path, file.size_bytes, present);
        let _shown = Shown {
            progress: self.progress,
            path: &file.path,
        };
        self.fill(file, &incomplete).await?;
        self.finish(file, &incomplete)?;
        Ok(true)
    }

    /// Brings the incomplete file to its full length.
    async fn fill(&self, file: &RemoteFile, incomplete: &Path) -> Result<(), SourceError> {
        let failed = |error| SourceError::io(incomplete, error);
        let mut out = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(incomplete)
            .map_err(failed)?;
        let mut have = out.metadata().map_err(failed)?.len();
        if have > file.size_bytes {
            out.set_len(0).map_err(failed)?;
            have = 0;
        }
        let mut furthest = have;
        let mut attempts = Attempts::new(self.options, &file.path);
        while have < file.size_bytes {
            out.seek(SeekFrom::Start(have)).map_err(failed)?;
            let (before, began) = (have, Instant::now());
            match self.stream(file, &mut out, &mut have, incomplete).await {
                Ok(()) => {}
                Err(failure) => {
                    // Further than ever: who starts again and again makes no progress.
                    if have > furthest && !is_too_slow(have.saturating_sub(before), began) {
                        attempts.progressed();
                    }
                    furthest = furthest.max(have);
                    attempts.after(failure, self.progress).await?;
                    if !file.is_resumable() {
                        out.set_len(0).map_err(failed)?;
                        have = 0;
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks for the bytes of a file from an offset on.
    async fn bytes(&self, file: &RemoteFile, from: u64) -> Result<Response, Failure> {
        let address = self.remote.address(self.commit, file).await?;
        let asked = Asked {
            range: (from > 0).then(|| format!("bytes={from}-")),
            if_match: file.validator.clone(),
        };
        let http = self.remote.http();
        let response = http.send(Method::GET, &address, &asked).await?;
        match response.status() {
            status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            // A signed address that has expired: the source gives a new one.
            StatusCode::FORBIDDEN if address.expires || address.was_left(response.url()) => Err(
                Failure::Passing("status 403 of the file's own host".to_owned()),
            ),
            StatusCode::PRECONDITION_FAILED => Err(Failure::Final(SourceError::Protocol {
                url: file.path.clone(),
                expected: "the content that was listed".to_owned(),
                found: "other content: the file has changed on the server".to_owned(),
            })),
            _ => Err(self.remote.refused(&response, self.commit)),
        }
    }

    /// One request, written as it comes. `have` counts what is in the file.
    async fn stream(
        &self,
        file: &RemoteFile,
        out: &mut File,
        have: &mut u64,
        incomplete: &Path,
    ) -> Result<(), Failure> {
        let disk = |error| Failure::Final(SourceError::io(incomplete, error));
        let protocol = |expected: String, found: String| {
            Failure::Final(SourceError::Protocol {
                url: file.path.clone(),
                expected,
                found,
            })
        };
        let began = Instant::now();
        let mut response = self.bytes(file, *have).await?;
        held_against(
            file,
            response.url(),
            header(response.headers(), ETAG.as_str()),
        )?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let expected = format!("bytes {have}-{}/{}", file.size_bytes - 1, file.size_bytes);
                let found = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|v| v.to_str().ok());
                if found != Some(expected.as_str()) {
                    return Err(protocol(expected, found.unwrap_or("no range").to_owned()));
                }
            }
            // The server knows no ranges, or not this one: from the start.
            _ => {
                if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && *have == 0 {
                    return Err(protocol(
                        format!("{} bytes", file.size_bytes),
                        "no such range".to_owned(),
                    ));
                }
                if *have > 0 {
                    out.set_len(0).map_err(disk)?;
                    out.seek(SeekFrom::Start(0)).map_err(disk)?;
                    *have = 0;
                }
                if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                    return Err(Failure::Passing("the range was refused".to_owned()));
                }
            }
        }
        let mut n_came = 0;
        loop {
            let chunk = response.chunk().await.map_err(|e| passing(&e))?;
            let Some(chunk) = chunk else { break };
            let n = chunk.len() as u64;
            if *have + n > file.size_bytes {
                // Nothing of it can be trusted.
                out.set_len(0).map_err(disk)?;
                *have = 0;
                return Err(protocol(
                    format!("{} bytes", file.size_bytes),
                    "more".to_owned(),
                ));
            }
            out.write_all(&chunk).map_err(disk)?;
            *have += n;
            n_came += n;
            self.progress.fetched(&file.path, n);
            if began.elapsed() > self.options.stall && is_too_slow(n_came, began) {
                return Err(Failure::Passing("the transfer is too slow".to_owned()));
            }
        }
        match *have == file.size_bytes {
            true => Ok(()),
            false => Err(Failure::Passing("the transfer was cut off".to_owned())),
        }
    }

    /// Verifies the complete file and gives it its name.
    fn finish(&self, file: &RemoteFile, incomplete: &Path) -> Result<(), SourceError> {
        let failed = |error| SourceError::io(incomplete, error);
        let content = LocalFile::open(incomplete, &file.path).map_err(failed)?;
        let found = match &file.id {
            Id::Sha256(_) => Some(digest::sha256_hex(&content).map_err(failed)?),
            Id::GitBlob(_) => Some(digest::git_blob_hex(&content).map_err(failed)?),
            // A server's own etag: nothing to verify the content by.
            Id::Named(_) => None,
        };
        if let Some(found) = found
            && !found.eq_ignore_ascii_case(file.id.as_str())
        {
            fs::remove_file(incomplete).map_err(failed)?;
            return Err(SourceError::Digest {
                file: file.path.clone(),
                expected: file.id.as_str().to_owned(),
                found,
            });
        }
        let file_ = File::open(incomplete).map_err(failed)?;
        file_.sync_all().map_err(failed)?;
        fs::rename(incomplete, self.cache.blob(file.id.as_str())).map_err(failed)
    }
}

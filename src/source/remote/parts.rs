//! Files elsewhere that are read in parts: a [`ByteSource`] over range requests.
//!
//! A read is rounded to blocks; those that are not kept on disk (`blocks.rs`) are fetched, neighbours in
//! one request, a few requests at a time. An answer is taken only if it is exactly the range that was
//! asked for, of a file of the stated size, and with the etag that the host gave before. A part cannot
//! be held against the digest of the whole: what is read so is what the server sends.

use super::super::bytes::{ByteSource, beyond_the_end};
use super::super::{FetchOptions, Progress, SourceError};
use super::attempts::Attempts;
use super::blocks::{BLOCK_BYTES, Blocks};
use super::http::{Address, Asked, Failure, SLOWEST_BYTES_PER_SECOND, header, passing, shown};
use super::{Remote, RemoteFile};
use reqwest::header::{CONTENT_RANGE, ETAG};
use reqwest::{Method, StatusCode, Url};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Blocks of one request.
const N_IN_REQUEST: u64 = 64;
/// Blocks that are asked for before any of them is used.
const N_IN_WINDOW: u64 = 8 * N_IN_REQUEST;
/// Blocks kept in memory: readers of headers ask for a few bytes at a time.
const N_IN_MEMORY: usize = 16;
/// A signed address is used again for so long.
const ADDRESS_LIFE: Duration = Duration::from_secs(240);

/// A block's number and content.
type Numbered = (u64, Arc<[u8]>);

/// What the files of one repository share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) runtime: Runtime,
    pub(super) remote: Arc<dyn Remote>,
    pub(super) commit: String,
    pub(super) options: FetchOptions,
    pub(super) requests: Semaphore,
}

/// One file of a repository.
#[derive(Debug)]
pub(super) struct Parts {
    session: Arc<Session>,
    file: RemoteFile,
    blocks: Blocks,
    /// Where the file was found last, and when.
    address: Mutex<Option<(Address, Instant)>>,
    /// The etag of the host that sent the file.
    validator: Mutex<Option<(String, String)>>,
    /// Blocks that a thread is fetching.
    claimed: Mutex<HashSet<u64>>,
    released: Condvar,
    recent: Mutex<VecDeque<Numbered>>,
    /// Blocks that were asked for, from wherever they came.
    seen: Mutex<BTreeSet<u64>>,
}

/// Retries go to the log: reads come from tests, which know no progress.
struct Logged;

impl Progress for Logged {
    fn fetch_started(&self, _: &str, _: u64, _: u64) {}
    fn fetched(&self, _: &str, _: u64) {}
    fn fetch_ended(&self, _: &str) {}
    fn notice(&self, message: &str) {
        tracing::warn!("{message}");
    }
}

/// A poisoned lock means that another thread panicked; what it guarded is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `bytes 0-9/100` → (0..10, 100).
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((first.parse().ok()?..end, len.parse().ok()?))
}

/// Blocks that this thread fetches; released on whichever way it ends.
struct Claim<'a> {
    file: &'a Parts,
    blocks: Vec<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = lock(&self.file.claimed);
        for number in &self.blocks {
            claimed.remove(number);
        }
        drop(claimed);
        self.file.released.notify_all();
    }
}

impl Parts {
    pub(super) fn new(session: Arc<Session>, repository: &str, file: RemoteFile) -> Self {
        let place = format!("{repository}@{}", session.commit);
        let endpoint = session.remote.endpoint();
        let blocks = Blocks::new(&session.options.blocks, endpoint, &place, &file);
        Self {
            session,
            blocks,
            address: Mutex::default(),
            validator: Mutex::new(file.validator.clone()),
            file,
            claimed: Mutex::default(),
            released: Condvar::new(),
            recent: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn recent(&self, number: u64) -> Option<Arc<[u8]>> {
        let recent = lock(&self.recent);
        let found = recent.iter().find(|(n, _)| *n == number);
        found.map(|(_, bytes)| Arc::clone(bytes))
    }

    /// The blocks of a range of numbers, in order.
    fn window(&self, numbers: Range<u64>) -> Result<Vec<Arc<[u8]>>, SourceError> {
        let mut found: Vec<Option<Arc<[u8]>>> = numbers.clone().map(|n| self.recent(n)).collect();
        loop {
            let mut claim = Claim {
                file: self,
                blocks: Vec::new(),
            };
            let mut claimed = lock(&self.claimed);
            for (number, block) in numbers.clone().zip(&found) {
                if block.is_none() && claimed.insert(number) {
                    claim.blocks.push(number);
                }
            }
            drop(claimed);
            let mut missing = Vec::new();
            for &number in &claim.blocks {
                match self.blocks.get(number) {
                    Some(bytes) => found[(number - numbers.start) as usize] = Some(bytes.into()),
                    None => missing.push(number),
                }
            }
            for (number, bytes) in self.fetch(&missing)? {
                found[(number - numbers.start) as usize] = Some(bytes);
            }
            drop(claim);
            let blocks: Option<Vec<Arc<[u8]>>> = found.iter().cloned().collect();
            if let Some(blocks) = blocks {
                return Ok(blocks);
            }
            // The rest is being fetched by others; if they fail, the next turn of the loop tries.
            let mut claimed = lock(&self.claimed);
            while numbers
                .clone()
                .zip(&found)
                .any(|(n, block)| block.is_none() && claimed.contains(&n))
            {
                claimed = self
                    .released
                    .wait(claimed)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Fetches and keeps blocks, neighbours together.
    fn fetch(&self, missing: &[u64]) -> Result<Vec<Numbered>, SourceError> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for &number in missing {
            match runs.last_mut() {
                Some(run) if run.end == number && run.end - run.start < N_IN_REQUEST => {
                    run.end += 1;
                }
                _ => runs.push(number..number + 1),
            }
        }
        let one = |run: &Range<u64>| self.session.runtime.block_on(self.run(run.clone()));
        let fetched: Vec<Result<Vec<u8>, SourceError>> = match runs.as_slice() {
            [] => Vec::new(),
            [run] => vec![one(run)],
            runs => self.together(runs, &one),
        };
        let mut blocks = Vec::with_capacity(missing.len());
        for (run, bytes) in runs.into_iter().zip(fetched) {
            for (number, block) in run.zip(bytes?.chunks(BLOCK_BYTES as usize)) {
                self.blocks.put(number, block)?;
                blocks.push((number, block.into()));
            }
        }
        Ok(blocks)
    }

    /// Several requests at a time; the results in the order of the runs.
    fn together<T: Send>(
        &self,
        runs: &[Range<u64>],
        one: &(dyn Fn(&Range<u64>) -> T + Sync),
    ) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, T)>> = Mutex::default();
        let n_threads = self.session.options.n_parallel.clamp(1, 32).min(runs.len());
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(run) = runs.get(i) else { return };
                        let result = one(run);
                        lock(&done).push((i, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// The bytes of neighbouring blocks, with the retries of a download.
    async fn run(&self, run: Range<u64>) -> Result<Vec<u8>, SourceError> {
        // The semaphore is never closed.
        let _permit = self.session.requests.acquire().await.ok();
        let start = run.start * BLOCK_BYTES;
        let end = self.file.size_bytes.min(run.end * BLOCK_BYTES);
        let seconds = (end - start) / SLOWEST_BYTES_PER_SECOND;
        let longest = self.session.options.stall + Duration::from_secs(seconds);
        let mut attempts = Attempts::new(&self.session.options, &self.file.path);
        loop {
            let part = tokio::time::timeout(longest, self.part(start..end)).await;
            let failure = match part {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Passing(format!("no whole answer within {longest:?}")),
            };
            // The address may have been the reason.
            *lock(&self.address) = None;
            attempts.after(failure, &Logged).await?;
        }
    }

    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> Failure {
        Failure::Final(SourceError::Protocol {
            url: self.file.path.clone(),
            expected: expected.into(),
            found: found.into(),
        })
    }

    /// One request for a range.
    async fn part(&self, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let remote = self.session.remote.as_ref();
        let known = lock(&self.address).clone();
        let (address, is_known) = match known {
            Some((address, when)) if when.elapsed() < ADDRESS_LIFE => (address, true),
            _ => {
                let asked = remote.address(&self.session.commit, &self.file);
                (asked.await?, false)
            }
        };
        let asked = Asked {
            range: Some(format!("bytes={}-{}", range.start, range.end - 1)),
            if_match: lock(&self.validator).clone(),
        };
        let mut response = remote.http().send(Method::GET, &address, &asked).await?;
        let url = response.url().clone();
        let words = format!("bytes {}..{}", range.start, range.end);
        let is_whole = range == (0..self.file.size_bytes);
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let stated = header(response.headers(), CONTENT_RANGE.as_str());
                if stated.and_then(content_range) != Some((range.clone(), self.file.size_bytes)) {
                    let expected = format!("{words} of {}", self.file.size_bytes);
                    return Err(self.wrong(expected, format!("Content-Range {stated:?}")));
                }
            }
            StatusCode::OK if is_whole => {}
            StatusCode::OK => {
                let found = "the whole file; the server sends no parts, use --full to download it";
                return Err(self.wrong(words, found));
            }
            StatusCode::PRECONDITION_FAILED => {
                let found = "other content than a moment ago: the file has changed on the server";
                return Err(self.wrong(words, found));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.wrong(words, "no such range"));
            }
            StatusCode::FORBIDDEN if is_known || address.expires || address.was_left(&url) => {
                *lock(&self.address) = None;
                return Err(Failure::Passing(
                    "status 403 of the file's own host".to_owned(),
                ));
            }
            _ => return Err(remote.refused(&response, &self.session.commit)),
        }
        if let Some(etag) = header(response.headers(), ETAG.as_str()) {
            // A weak etag says nothing of single bytes.
            if !etag.starts_with("W/") {
                self.hold_against(&url, etag)?;
            }
        }
        let n_bytes = (range.end - range.start) as usize;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| passing(&e))? {
            if bytes.len() + chunk.len() > n_bytes {
                return Err(self.wrong(format!("{n_bytes} bytes"), "more"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != n_bytes {
            return Err(Failure::Passing("the transfer was cut off".to_owned()));
        }
        if !is_known && (address.expires || address.was_left(&url)) {
            let found = match address.was_left(&url) {
                true => Address::open(url),
                false => address,
            };
            *lock(&self.address) = Some((found, Instant::now()));
        }
        Ok(bytes)
    }

    /// An etag must be the one that the same host gave before.
    fn hold_against(&self, url: &Url, etag: &str) -> Result<(), Failure> {
        let origin = url.origin().ascii_serialization();
        let mut validator = lock(&self.validator);
        match validator.as_ref() {
            Some((host, known)) if *host == origin && known != etag => Err(self.wrong(
                format!("the content with the etag {known}, as before"),
                format!("{etag} at {}: the file has changed", shown(url)),
            )),
            Some((host, _)) if *host == origin => Ok(()),
            _ => {
                *validator = Some((origin, etag.to_owned()));
                Ok(())
            }
        }
    }
}

impl ByteSource for Parts {
    fn name(&self) -> &str {
        &self.file.path
    }

    fn len(&self) -> u64 {
        self.file.size_bytes
    }

    fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>> {
        let n_bytes = range
            .end
            .checked_sub(range.start)
            .filter(|_| range.end <= self.len())
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| beyond_the_end(&range, self.len()))?;
        // Grown as bytes come: the stated size is a stranger's.
        let mut bytes = Vec::with_capacity(n_bytes.min((N_IN_WINDOW * BLOCK_BYTES) as usize));
        if n_bytes == 0 {
            return Ok(Cow::Owned(bytes));
        }
        let numbers = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let mut first = numbers.start;
        while first < numbers.end {
            let window = first..numbers.end.min(first + N_IN_WINDOW);
            let blocks = self.window(window.clone()).map_err(io::Error::other)?;
            for (number, block) in window.clone().zip(&blocks) {
                let start = number * BLOCK_BYTES;
                let from = range.start.saturating_sub(start) as usize;
                let to = (range.end - start).min(block.len() as u64) as usize;
                bytes.extend_from_slice(block.get(from..to).unwrap_or_default());
            }
            lock(&self.seen).extend(window.clone());
            let mut recent = lock(&self.recent);
            let first_kept = window.end.saturating_sub(N_IN_MEMORY as u64);
            for (number, block) in window.clone().zip(blocks) {
                if number >= first_kept && recent.iter().all(|(n, _)| *n != number) {
                    recent.push_front((number, block));
                }
            }
            recent.truncate(N_IN_MEMORY);
            drop(recent);
            first = window.end;
        }
        Ok(Cow::Owned(bytes))
    }

    fn n_bytes_seen(&self) -> Option<u64> {
        let seen = lock(&self.seen);
        Some(seen.iter().map(|&n| self.blocks.size_of(n)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_strictly() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, 100)));
        for text in [
            "bytes 0-9/*",
            "bytes */100",
            "0-9/100",
            "bytes 0-18446744073709551615/1",
            "bytes a-b/c",
            "",
        ] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}

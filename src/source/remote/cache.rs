//! The cache on disk of one repository, in the standard layout of the hub:
//! `models--org--name/{blobs/<etag>, snapshots/<commit>/<path> → ../../blobs/<etag>, refs/<revision>}`.
//!
//! A blob has its final name only when it is complete and verified; until then it is `<etag>.incomplete`.

use super::super::{Snapshot, SnapshotFile, SourceError};
use super::RemoteFile;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Between two looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The cache of one repository.
#[derive(Debug, Clone)]
pub(in crate::source) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// Whether this is a whole commit hash.
pub(in crate::source) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a name can be a blob's: it becomes a file name.
pub(in crate::source) fn is_etag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Whether a path of a repository stays within the snapshot's folder on any system.
pub(in crate::source) fn is_safe(path: &str) -> bool {
    let good = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.len() <= 255
    };
    path.len() <= 1024
        && !path.contains(['\\', ':', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(good)
}

impl RepoCache {
    pub(in crate::source) fn new(cache: &Path, repository: &str) -> Self {
        let name = format!("models--{}", repository.replace('/', "--"));
        Self {
            root: cache.join(&name),
            locks: cache.join(".locks").join(&name),
        }
    }

    /// The cache of what is at an address, below a folder of our own.
    pub(in crate::source) fn of_address(downloads: &Path, kind: &str, address: &str) -> Self {
        let key = super::super::digest::of_text(&[address]);
        let name = format!("{kind}--{}", key.get(..40).unwrap_or(&key));
        Self {
            root: downloads.join(&name),
            locks: downloads.join(".locks").join(&name),
        }
    }

    /// The complete blob.
    pub(in crate::source) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The blob while it is being fetched.
    pub(in crate::source) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where the snapshot shows a file.
    fn shown_at(&self, commit: &str, path: &str) -> PathBuf {
        self.snapshot_folder(commit).join(path)
    }

    /// Whether the snapshot holds the file itself, not a link: what clients do where links fail.
    fn is_copied(&self, commit: &str, file: &RemoteFile) -> bool {
        fs::symlink_metadata(self.shown_at(commit, &file.path))
            .is_ok_and(|m| m.is_file() && m.len() == file.size_bytes)
    }

    /// Whether the content is there, whoever fetched it.
    pub(in crate::source) fn has(&self, commit: &str, file: &RemoteFile) -> bool {
        let blob = fs::metadata(self.blob(file.id.as_str()));
        blob.is_ok_and(|m| m.is_file() && m.len() == file.size_bytes)
            || self.is_copied(commit, file)
    }

    /// Where the content is, if it is there.
    pub(in crate::source) fn lies_at(&self, commit: &str, file: &RemoteFile) -> PathBuf {
        match self.is_copied(commit, file) {
            true => self.shown_at(commit, &file.path),
            false => self.blob(file.id.as_str()),
        }
    }

    /// Makes an entry beside its place and moves it there: never absent, never half there, and no two
    /// processes use the same name.
    fn place(&self, target: &Path, make: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        let n = N_MADE.fetch_add(1, Ordering::Relaxed);
        let partial = self
            .root
            .join(format!(".{}-{n}.partial", std::process::id()));
        // Left by a killed process that had the same number.
        let _ = fs::remove_file(&partial);
        let placed = make(&partial).and_then(|()| fs::rename(&partial, target));
        if placed.is_err() {
            let _ = fs::remove_file(&partial);
        }
        placed
    }

    /// Makes the folders.
    pub(in crate::source) fn prepare(&self) -> Result<(), SourceError> {
        for folder in [
            self.root.join("blobs"),
            self.root.join("snapshots"),
            self.locks.clone(),
        ] {
            fs::create_dir_all(&folder).map_err(|e| SourceError::io(&folder, e))?;
        }
        Ok(())
    }

    /// Waits until no other process fetches this blob, and says once that it waits. The lock ends with
    /// the file.
    pub(in crate::source) async fn lock(
        &self,
        etag: &str,
        on_wait: &(dyn Fn() + Sync),
    ) -> Result<File, SourceError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| SourceError::io(&path, e))?;
        let mut n_tries = 0u32;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                // Some network file systems know no locks; two processes may then fetch twice.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(file);
                }
                Err(TryLockError::Error(error)) => return Err(SourceError::io(&path, error)),
            }
            n_tries = n_tries.saturating_add(1);
            if n_tries == 10 {
                on_wait();
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// Remembers which commit a revision is.
    pub(in crate::source) fn set_ref(
        &self,
        revision: &str,
        commit: &str,
    ) -> Result<(), SourceError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        self.place(&path, &|partial| fs::write(partial, commit))
            .map_err(|e| SourceError::io(&path, e))
    }

    /// The commit that a revision was when it was last asked for.
    pub(in crate::source) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) && self.snapshot_folder(revision).is_dir() {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (is_commit(commit) && self.snapshot_folder(commit).is_dir()).then(|| commit.to_owned())
    }

    /// Lets the snapshot's path show the blob.
    pub(in crate::source) fn link(
        &self,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<PathBuf, SourceError> {
        let target = self.shown_at(commit, &file.path);
        let mut relative = PathBuf::from("../..");
        for _ in file.path.split('/').skip(1) {
            relative.push("..");
        }
        let relative = relative.join("blobs").join(file.id.as_str());
        let is_linked = fs::read_link(&target).is_ok_and(|known| known == relative);
        if !is_linked && !self.is_copied(commit, file) {
            self.place(&target, &|partial| {
                symlink(&relative, partial)
                    .or_else(|_| fs::copy(self.blob(file.id.as_str()), partial).map(|_| ()))
            })
            .map_err(|e| SourceError::io(&target, e))?;
        }
        Ok(target)
    }

    /// The snapshot as it lies in the cache, whoever put it there; its needed files only.
    pub(in crate::source) fn snapshot(
        &self,
        label: String,
        commit: &str,
    ) -> Result<Snapshot, SourceError> {
        let root = self.snapshot_folder(commit);
        let mut snapshot: Snapshot = super::super::local::folder(&root)?;
        snapshot.label = label;
        snapshot.revision = Some(commit.to_owned());
        Ok(snapshot)
    }

    /// A snapshot of files that were just fetched or found.
    pub(in crate::source) fn snapshot_of(
        &self,
        label: String,
        commit: &str,
        mut files: Vec<SnapshotFile>,
    ) -> Snapshot {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Snapshot {
            label,
            revision: Some(commit.to_owned()),
            root: self.snapshot_folder(commit),
            files,
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    // Links need a privilege on Windows; the reference client copies there too.
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::super::Id;
    use super::*;

    #[test]
    fn no_path_of_a_repository_leaves_the_snapshot() {
        for path in [
            "config.json",
            "a/b/c.json",
            "モデル.json",
            "..model",
            "a..b/c",
        ] {
            assert!(is_safe(path), "{path}");
        }
        for path in [
            "../x",
            "a/../x",
            "/etc/passwd",
            "a//b",
            "",
            ".",
            "a\\..\\x",
            "C:x",
            "a\0b",
            "a/",
            "x\ny",
        ] {
            assert!(!is_safe(path), "{path:?}");
        }
    }

    fn remote(path: &str, size_bytes: u64) -> RemoteFile {
        RemoteFile {
            path: path.to_owned(),
            id: Id::Named("abc".to_owned()),
            size_bytes,
            validator: None,
        }
    }

    #[test]
    fn entries_that_are_made_at_the_same_time_do_not_fail_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        cache.prepare().unwrap();
        fs::write(cache.blob("abc"), b"content").unwrap();
        let made = || {
            for n in 0..200 {
                let commit = format!("{n:040}");
                let link = cache.link(&commit, &remote("config.json", 7)).unwrap();
                assert_eq!(fs::read(link).unwrap(), b"content");
                cache.set_ref(&format!("v1.{n}"), &commit).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(made);
            }
        });
        for n in 0..200 {
            let commit = cache.commit_of(&format!("v1.{n}"));
            assert_eq!(commit, Some(format!("{n:040}")));
        }
    }

    #[test]
    fn a_file_in_the_place_of_its_link_counts_if_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        let commit = "0".repeat(40);
        let target = cache.shown_at(&commit, "config.json");
        fs::create_dir_all(cache.snapshot_folder(&commit)).unwrap();
        fs::write(&target, b"content").unwrap();
        assert!(cache.has(&commit, &remote("config.json", 7)));
        assert!(!cache.has(&commit, &remote("config.json", 8)));
        cache.link(&commit, &remote("config.json", 7)).unwrap();
        assert!(fs::symlink_metadata(target).unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_reach_their_blob_from_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        cache.prepare().unwrap();
        fs::write(cache.blob("abc"), b"content").unwrap();
        let commit = "0".repeat(40);
        for path in ["config.json", "a/b/config.json"] {
            let link = cache.link(&commit, &remote(path, 7)).unwrap();
            assert_eq!(fs::read(&link).unwrap(), b"content");
            assert!(fs::read_link(&link).unwrap().starts_with("../.."));
        }
    }

    #[test]
    fn a_revision_is_known_by_its_ref_or_as_a_whole_commit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        let commit = "a".repeat(40);
        assert_eq!(cache.commit_of("main"), None);
        cache.set_ref("refs/pr/1", &commit).unwrap();
        assert_eq!(cache.commit_of("refs/pr/1"), None, "without a snapshot");
        fs::create_dir_all(cache.snapshot_folder(&commit)).unwrap();
        assert_eq!(
            cache.commit_of("refs/pr/1").as_deref(),
            Some(commit.as_str())
        );
        assert_eq!(cache.commit_of(&commit).as_deref(), Some(commit.as_str()));
    }
}

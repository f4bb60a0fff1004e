//! The hub's cache on disk, in its standard layout:
//! `models--org--name/{blobs/<etag>, snapshots/<commit>/<path> → ../../blobs/<etag>, refs/<revision>}`.
//!
//! A blob has its final name only when it is complete and verified; until then it is `<etag>.incomplete`.

use super::super::{Snapshot, SnapshotFile, SourceError};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The cache of one repository.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// Whether this is a whole commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a name can be a blob's: it becomes a file name.
pub(super) fn is_etag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Whether a path of a repository stays within the snapshot's folder on any system.
pub(super) fn is_safe(path: &str) -> bool {
    let good = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.len() <= 255
    };
    path.len() <= 1024
        && !path.contains(['\\', ':', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(good)
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        let name = format!("models--{}", repository.replace('/', "--"));
        Self {
            root: cache.join(&name),
            locks: cache.join(".locks").join(&name),
        }
    }

    /// The complete blob.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The blob while it is being fetched.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Makes the folders.
    pub(super) fn prepare(&self) -> Result<(), SourceError> {
        for folder in [
            self.root.join("blobs"),
            self.root.join("snapshots"),
            self.locks.clone(),
        ] {
            fs::create_dir_all(&folder).map_err(|e| SourceError::io(&folder, e))?;
        }
        Ok(())
    }

    /// Waits until no other process fetches this blob. The lock ends with the file.
    pub(super) fn lock(&self, etag: &str) -> Result<File, SourceError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| SourceError::io(&path, e))?;
        match file.lock() {
            Ok(()) => {}
            // Some network file systems know no locks; two processes may then fetch twice.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(SourceError::io(&path, error)),
        }
        Ok(file)
    }

    /// Remembers which commit a revision is.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), SourceError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let partial = path.with_extension("partial");
            fs::write(&partial, commit)?;
            fs::rename(&partial, &path)
        };
        write().map_err(|e| SourceError::io(&path, e))
    }

    /// The commit that a revision was when it was last asked for.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) && self.snapshot_folder(revision).is_dir() {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        (is_commit(commit) && self.snapshot_folder(commit).is_dir()).then(|| commit.to_owned())
    }

    /// Lets the snapshot's path show the blob.
    pub(super) fn link(
        &self,
        commit: &str,
        path: &str,
        etag: &str,
    ) -> Result<PathBuf, SourceError> {
        let target = self.snapshot_folder(commit).join(path);
        let make = || -> io::Result<()> {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut relative = PathBuf::from("../..");
            for _ in path.split('/').skip(1) {
                relative.push("..");
            }
            let relative = relative.join("blobs").join(etag);
            if fs::read_link(&target).is_ok_and(|known| known == relative) {
                return Ok(());
            }
            // Made beside it and renamed: the path is never absent and never half there.
            let mut partial = target.clone().into_os_string();
            partial.push(".partial");
            let partial = PathBuf::from(partial);
            let _ = fs::remove_file(&partial);
            if symlink(&relative, &partial).is_err() {
                fs::copy(self.blob(etag), &partial)?;
            }
            fs::rename(&partial, &target)
        };
        make().map_err(|e| SourceError::io(&target, e))?;
        Ok(target)
    }

    /// The snapshot as it lies in the cache, whoever put it there; its needed files only.
    pub(super) fn snapshot(&self, label: String, commit: &str) -> Result<Snapshot, SourceError> {
        let root = self.snapshot_folder(commit);
        let mut snapshot: Snapshot = super::super::local::folder(&root)?;
        snapshot.label = label;
        snapshot.revision = Some(commit.to_owned());
        Ok(snapshot)
    }

    /// A snapshot of files that were just fetched or found.
    pub(super) fn snapshot_of(
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

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_reach_their_blob_from_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "org/name");
        cache.prepare().unwrap();
        fs::write(cache.blob("abc"), b"content").unwrap();
        let commit = "0".repeat(40);
        for path in ["config.json", "a/b/config.json"] {
            let link = cache.link(&commit, path, "abc").unwrap();
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

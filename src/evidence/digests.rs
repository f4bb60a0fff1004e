//! Which files of two models are equal, going by digests alone.
//!
//! A file without a digest of the same kind as the other's is neither equal nor different.

use crate::arch::artefact::{Artefacts, FileEntry};
use std::collections::HashMap;

/// How a file stands to the other model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match<'a> {
    /// An equal file, at the same path where there is one.
    Equal(&'a FileEntry),
    /// No file is equal.
    Differs,
    /// A file of the same size has no digest of the same kind.
    Unknown,
}

/// Digests of one side, for look-up.
#[derive(Default)]
pub(super) struct Digests<'a> {
    by_path: HashMap<&'a str, &'a FileEntry>,
    by_sha256: HashMap<&'a str, &'a FileEntry>,
    by_git_blob: HashMap<&'a str, &'a FileEntry>,
    /// For each size the combinations of digests (SHA-256, git blob) that its files have.
    by_size: HashMap<u64, Vec<(bool, bool)>>,
}

fn equal(a: &FileEntry, b: &FileEntry) -> bool {
    match (&a.sha256, &b.sha256) {
        (Some(x), Some(y)) => x == y,
        _ => a.size_bytes == b.size_bytes && a.git_blob.is_some() && a.git_blob == b.git_blob,
    }
}

impl<'a> Digests<'a> {
    /// Takes up the digests of one side.
    pub(super) fn new(artefacts: &'a Artefacts) -> Self {
        let mut digests = Self::default();
        for file in &artefacts.files {
            digests.by_path.entry(&file.path).or_insert(file);
            if let Some(sha256) = &file.sha256 {
                digests.by_sha256.entry(sha256).or_insert(file);
            }
            if let Some(blob) = &file.git_blob {
                digests.by_git_blob.entry(blob).or_insert(file);
            }
            let kinds = digests.by_size.entry(file.size_bytes).or_default();
            let kind = (file.sha256.is_some(), file.git_blob.is_some());
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        digests
    }

    /// Looks a file of the other side up.
    pub(super) fn find(&self, file: &FileEntry) -> Match<'a> {
        let here = self.by_path.get(file.path.as_str());
        let sha256 = file.sha256.as_deref().and_then(|d| self.by_sha256.get(d));
        let blob = file
            .git_blob
            .as_deref()
            .and_then(|d| self.by_git_blob.get(d));
        let found = [here, sha256, blob]
            .into_iter()
            .flatten()
            .find(|other| equal(file, other));
        if let Some(found) = found {
            return Match::Equal(found);
        }
        let comparable = |&(sha256, blob): &(bool, bool)| {
            (sha256 && file.sha256.is_some()) || (blob && file.git_blob.is_some())
        };
        match self.by_size.get(&file.size_bytes) {
            Some(kinds) if !kinds.iter().all(comparable) => Match::Unknown,
            _ => Match::Differs,
        }
    }
}

/// Counts over the files of both sides.
#[derive(Default)]
pub(super) struct Count {
    pub(super) n_equal: usize,
    pub(super) n_files: usize,
    pub(super) n_unknown: usize,
}

impl Count {
    /// Counts one file.
    pub(super) fn add(&mut self, found: Match) {
        self.n_files += 1;
        self.n_equal += usize::from(matches!(found, Match::Equal(_)));
        self.n_unknown += usize::from(found == Match::Unknown);
    }

    /// Share of the files of both sides with an equal on the other; `None` where a digest is missing.
    pub(super) fn fraction(&self) -> Option<f64> {
        (self.n_files > 0 && self.n_unknown == 0).then(|| self.n_equal as f64 / self.n_files as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size_bytes: u64, sha256: Option<&str>, blob: Option<&str>) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            size_bytes,
            sha256_is_stated: false,
            sha256: sha256.map(str::to_owned),
            git_blob: blob.map(str::to_owned),
        }
    }

    fn side(files: Vec<FileEntry>) -> Artefacts {
        Artefacts {
            files,
            ..Artefacts::default()
        }
    }

    #[test]
    fn an_equal_file_at_the_same_path_is_preferred() {
        let files = side(vec![
            file("a", 1, Some("d"), None),
            file("b", 1, Some("d"), None),
        ]);
        let digests = Digests::new(&files);
        let found = digests.find(&file("b", 1, Some("d"), None));
        assert_eq!(found, Match::Equal(&files.files[1]));
    }

    #[test]
    fn digests_of_different_kinds_leave_it_open() {
        let files = side(vec![file("a", 1, Some("d"), None)]);
        let digests = Digests::new(&files);
        assert_eq!(digests.find(&file("a", 1, None, Some("e"))), Match::Unknown);
        assert_eq!(digests.find(&file("a", 2, None, Some("e"))), Match::Differs);
        assert_eq!(digests.find(&file("a", 1, Some("f"), None)), Match::Differs);
    }

    #[test]
    fn unequal_sha256_outweighs_an_equal_git_blob() {
        let files = side(vec![file("a", 1, Some("d"), Some("e"))]);
        let digests = Digests::new(&files);
        assert_eq!(
            digests.find(&file("a", 1, Some("f"), Some("e"))),
            Match::Differs
        );
    }
}

//! The name of a model anywhere, as people write it.
//!
//! Parsing looks at the file system once: what exists here is a folder or a file, and only what does
//! not and looks like `org/name` is taken for a repository. `hf:` says so without a doubt.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Names a model: a folder, a single file, or a repository on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A folder that holds a checkpoint.
    Folder(PathBuf),
    /// A single checkpoint file.
    File(PathBuf),
    /// A repository in the hub's protocol.
    Hub {
        /// `org/name`, or `name` for the hub's oldest models.
        repository: String,
        /// Branch, tag or commit; the main branch if absent.
        revision: Option<String>,
    },
}

/// What was written names no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelRefError {
    /// A path that is not there.
    #[error("{0}: no such file or folder; a repository on the hub is written hf:org/name@revision")]
    NoSuchPath(String),
    /// Not a repository's name.
    #[error("hf:{0}: expected org/name@revision, with letters, digits, `-`, `_` and `.`")]
    BadRepository(String),
    /// Not a revision.
    #[error(
        "{0}: a revision is a branch, a tag or a commit, and cannot be empty, hold `..` or begin with `/`"
    )]
    BadRevision(String),
}

/// The hub's own rule: letters, digits, `-`, `_`, `.`; no `--`, no `..`; 96 characters in all.
fn is_repository(name: &str) -> bool {
    let segments: Vec<&str> = name.split('/').collect();
    let good = |segment: &&str| {
        !segment.is_empty()
            && !segment.starts_with(['.', '-'])
            && !segment.ends_with(['.', '-'])
            && !segment.contains("--")
            && !segment.contains("..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    name.len() <= 96 && segments.len() <= 2 && segments.iter().all(good)
}

/// A git reference name that cannot leave the cache's folder or smuggle in a query.
fn is_revision(revision: &str) -> bool {
    !revision.is_empty()
        && revision.len() <= 255
        && !revision.contains("..")
        && !revision.starts_with(['/', '-'])
        && !revision.ends_with('/')
        && revision
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./+".contains(&b))
}

fn hub(text: &str) -> Result<ModelRef, ModelRefError> {
    let (repository, revision) = match text.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (text, None),
    };
    if !is_repository(repository) {
        return Err(ModelRefError::BadRepository(text.to_owned()));
    }
    if revision.is_some_and(|revision| !is_revision(revision)) {
        return Err(ModelRefError::BadRevision(text.to_owned()));
    }
    Ok(ModelRef::Hub {
        repository: repository.to_owned(),
        revision: revision.map(str::to_owned),
    })
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub(rest);
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.exists() {
            return Ok(Self::File(path.to_owned()));
        }
        // A bare name without an organisation is more often a mistyped path than a repository.
        match hub(text) {
            Ok(found) if text.contains('/') => Ok(found),
            _ => Err(ModelRefError::NoSuchPath(text.to_owned())),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Hub {
                repository,
                revision: None,
            } => write!(f, "hf:{repository}"),
            Self::Hub {
                repository,
                revision: Some(revision),
            } => {
                write!(f, "hf:{repository}@{revision}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_understood_with_and_without_revision() {
        let expected = |revision: Option<&str>| ModelRef::Hub {
            repository: "org/na.me-1_b".into(),
            revision: revision.map(str::to_owned),
        };
        assert_eq!("hf:org/na.me-1_b".parse(), Ok(expected(None)));
        assert_eq!("org/na.me-1_b".parse(), Ok(expected(None)));
        assert_eq!(
            "org/na.me-1_b@refs/pr/2".parse(),
            Ok(expected(Some("refs/pr/2")))
        );
        assert_eq!(
            "hf:gpt2".parse(),
            Ok(ModelRef::Hub {
                repository: "gpt2".into(),
                revision: None
            })
        );
    }

    #[test]
    fn what_could_leave_the_cache_is_refused() {
        for text in [
            "hf:../x",
            "hf:a/..",
            "hf:a/b/c",
            "hf:a/b@../../etc",
            "hf:a/b@",
            "hf:a/b@x?y",
            "hf:a--b/c",
            "hf:",
            "hf:a/b@/x",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistyped_path_is_not_taken_for_a_repository() {
        for text in ["nosuchfolder", "./no/such", "/no/such", "no/such/folder"] {
            let error = text.parse::<ModelRef>().unwrap_err();
            assert!(
                matches!(error, ModelRefError::NoSuchPath(_)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_is_printed_names_the_same_model() {
        for text in ["hf:org/name", "hf:org/name@main", "."] {
            let parsed: ModelRef = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }
}

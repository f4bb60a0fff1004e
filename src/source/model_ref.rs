//! The name of a model anywhere, as people write it.
//!
//! Parsing looks at the file system once: what exists here is a folder or a file, and only what does
//! not and looks like `org/name` is taken for a repository. A prefix (`hf:`, `https://`) says without a
//! doubt which source is meant, and that source reads the rest.

use super::{SOURCES, source_of};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Names a model: a folder, a single file, or a model that a source publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A folder that holds a checkpoint.
    Folder(PathBuf),
    /// A single checkpoint file.
    File(PathBuf),
    /// A model elsewhere.
    Published {
        /// Which source has it.
        source: &'static str,
        /// Its name there, with the source's prefix.
        name: String,
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
    /// Not the address of a model.
    #[error("{address}: {problem}")]
    BadAddress {
        /// What was written, without its query.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not a revision.
    #[error(
        "{0}: a revision is a branch, a tag or a commit, and cannot be empty, hold `..` or begin with `/`"
    )]
    BadRevision(String),
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let by_prefix = SOURCES
            .iter()
            .find(|source| source.prefixes().iter().any(|p| text.starts_with(p)));
        let published = |source: &dyn super::Source| {
            Ok(Self::Published {
                source: source.id(),
                name: source.parse(text)?,
            })
        };
        if let Some(source) = by_prefix {
            return published(*source);
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.exists() {
            return Ok(Self::File(path.to_owned()));
        }
        // A bare name without an organisation is more often a mistyped path than a repository.
        match SOURCES.first().map(|source| published(*source)) {
            Some(Ok(found)) if text.contains('/') => Ok(found),
            _ => Err(ModelRefError::NoSuchPath(text.to_owned())),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Published { source, name } => match source_of(source) {
                Some(source) => write!(f, "{}", source.shown(name)),
                None => write!(f, "{name}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_understood_with_and_without_revision() {
        let expected = |name: &str| {
            Ok(ModelRef::Published {
                source: "hub",
                name: name.to_owned(),
            })
        };
        for text in ["hf:org/na.me-1_b", "org/na.me-1_b"] {
            assert_eq!(text.parse(), expected("hf:org/na.me-1_b"));
        }
        assert_eq!(
            "org/na.me-1_b@refs/pr/2".parse(),
            expected("hf:org/na.me-1_b@refs/pr/2")
        );
        assert_eq!("hf:gpt2".parse(), expected("hf:gpt2"));
    }

    #[test]
    fn every_source_has_an_id_and_prefixes_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for source in SOURCES {
            assert!(seen.insert(source.id()), "{}", source.id());
            assert!(!source.prefixes().is_empty(), "{}", source.id());
            for prefix in source.prefixes() {
                assert!(
                    prefix.ends_with([':', '/']) && seen.insert(prefix),
                    "{prefix}"
                );
                let mistyped = format!("{prefix}\u{1}");
                assert!(mistyped.parse::<ModelRef>().is_err(), "{prefix}");
            }
        }
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
        for text in [
            "hf:org/name",
            "hf:org/name@main",
            ".",
            "https://host/a/m.gguf",
        ] {
            let parsed: ModelRef = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }
}

//! Folders and single files on this machine: listed, not copied.
//!
//! Symbolic links to files are followed (the hub's cache is made of them), links to folders are not:
//! a folder from a stranger could otherwise lead anywhere, or in a circle.

use super::{Snapshot, SnapshotFile, SourceError, is_needed, needed};
use std::collections::HashSet;
use std::path::Path;

/// Files that a model's folder may hold.
const MAX_FILES: usize = 20_000;
/// Folders below the model's folder that are looked into.
const MAX_DEPTH: usize = 4;

/// The model in a folder.
///
/// # Errors
/// When the folder cannot be listed, or holds nothing that an audit reads.
pub(super) fn folder(root: &Path) -> Result<Snapshot, SourceError> {
    let mut files = Vec::new();
    let mut n_seen = 0;
    list(root, root, 0, &mut n_seen, &mut files)?;
    if files.is_empty() {
        return Err(SourceError::EmptyFolder(root.to_owned()));
    }
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let chosen: HashSet<&str> = needed(paths.iter().map(String::as_str))
        .into_iter()
        .collect();
    files.retain(|file| chosen.contains(file.path.as_str()));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Snapshot {
        label: label(root),
        revision: None,
        root: root.to_owned(),
        files,
    })
}

/// The model in a single file; a config beside it is not looked for, since it may be another's.
///
/// # Errors
/// When the file cannot be looked at.
pub(super) fn file(path: &Path) -> Result<Snapshot, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|e| SourceError::io(path, e))?;
    let name = label(path);
    let file = SnapshotFile {
        path: name.clone(),
        local: path.to_owned(),
        size_bytes: metadata.len(),
        remote: None,
        sha256: None,
        git_blob: None,
    };
    Ok(Snapshot {
        label: name,
        revision: None,
        root: path.to_owned(),
        files: vec![file],
    })
}

/// The last part of the path as people see it; `.` and `..` are resolved first.
fn label(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // A link is called by its own name, not by that of the blob behind it.
    let named = if path.file_name().is_some() {
        path
    } else {
        &whole
    };
    named.file_name().map_or_else(
        || ".".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn list(
    root: &Path,
    folder: &Path,
    depth: usize,
    n_seen: &mut usize,
    files: &mut Vec<SnapshotFile>,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::io(folder, error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        *n_seen += 1;
        if *n_seen > MAX_FILES {
            return Err(SourceError::TooManyFiles {
                path: root.to_owned(),
                limit: MAX_FILES,
            });
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        // `.git`, `.cache` and the like are no part of the model.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                list(root, &path, depth + 1, n_seen, files)?;
            }
            continue;
        }
        let Ok(relative) = path.strip_prefix(root) else {
            continue;
        };
        let relative = relative
            .to_string_lossy()
            .replace(std::path::MAIN_SEPARATOR, "/");
        if !is_needed(&relative) {
            continue;
        }
        let metadata = std::fs::metadata(&path).map_err(|e| SourceError::io(&path, e))?;
        if metadata.is_file() {
            files.push(SnapshotFile {
                path: relative,
                local: path,
                size_bytes: metadata.len(),
                remote: None,
                sha256: None,
                git_blob: None,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_is_listed_in_order_and_without_what_is_hidden() {
        let folder_ = tempfile::tempdir().unwrap();
        let root = folder_.path();
        for path in [
            "model.safetensors",
            "config.json",
            "a/b.json",
            ".git/config.json",
            "x.png",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"{}").unwrap();
        }
        let snapshot = folder(root).unwrap();
        let paths: Vec<&str> = snapshot.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a/b.json", "config.json", "model.safetensors"]);
    }

    #[test]
    fn a_folder_with_the_weights_in_two_formats_is_read_in_one() {
        let root = tempfile::tempdir().unwrap();
        let paths = |root: &Path| -> Vec<String> {
            let files = folder(root).unwrap().files;
            files.into_iter().map(|file| file.path).collect()
        };
        fs::write(root.path().join("pytorch_model.bin"), b"x").unwrap();
        assert_eq!(paths(root.path()), ["pytorch_model.bin"]);
        fs::write(root.path().join("model.safetensors"), b"x").unwrap();
        assert_eq!(paths(root.path()), ["model.safetensors"]);
    }

    #[test]
    fn an_empty_folder_is_an_error_that_says_what_was_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let error = folder(root.path()).unwrap_err().to_string();
        assert!(error.contains("weights, config, tokenizer"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_links_to_folders_are_not() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("blob"), b"{}").unwrap();
        let root = tempfile::tempdir().unwrap();
        use std::os::unix::fs::symlink;
        symlink(outside.path().join("blob"), root.path().join("config.json")).unwrap();
        symlink(root.path(), root.path().join("circle")).unwrap();
        let snapshot = folder(root.path()).unwrap();
        assert_eq!(snapshot.files.len(), 1);
        assert_eq!(snapshot.files[0].path, "config.json");
    }
}

//! Which of a model's files are its checkpoint: a single file, the shards of an index, or a numbered
//! series. The rules are the same for every format that is published in shards; only names differ.

use super::error::short;
use super::{Checkpoint, CheckpointError, CheckpointFile, index};
use crate::tensor::Tensor;
use std::collections::{BTreeSet, HashSet};

/// How a format's files are called.
pub(super) struct Naming {
    /// Whether a file holds weights of the format.
    pub is_weights: fn(&CheckpointFile) -> bool,
    /// Ending of the names of shard indexes.
    pub index_suffix: &'static str,
    /// The index of the main checkpoint.
    pub index: &'static str,
    /// The main checkpoint where it is one file.
    pub single: &'static str,
}

impl Naming {
    /// Whether any file belongs to the format.
    pub(super) fn claims(&self, files: &[CheckpointFile]) -> bool {
        files
            .iter()
            .any(|file| file.path.ends_with(self.index_suffix) || (self.is_weights)(file))
    }
}

/// Opens a checkpoint of a format in shards: `read` adds the tensors of one file.
///
/// # Errors
/// As [`select`] and `read`, and where the index names a tensor that no shard has.
pub(super) fn open(
    format: &'static str,
    naming: &Naming,
    files: &[CheckpointFile],
    read: fn(&CheckpointFile, &mut Checkpoint) -> Result<(), CheckpointError>,
) -> Result<Checkpoint, CheckpointError> {
    let mut checkpoint = Checkpoint {
        format,
        ..Checkpoint::default()
    };
    for file in select(naming, files, &mut checkpoint)? {
        read(file, &mut checkpoint)?;
    }
    check_against_index(&checkpoint)?;
    Ok(checkpoint)
}

/// The files to read, in order. What is left aside and what is missing is told to the checkpoint.
///
/// # Errors
/// When the index is none, or some shards are there and some are not.
fn select<'a>(
    naming: &Naming,
    files: &'a [CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<Vec<&'a CheckpointFile>, CheckpointError> {
    let weights: Vec<&CheckpointFile> = files.iter().filter(|f| (naming.is_weights)(f)).collect();
    let shards = match main_index(naming, files) {
        Some(file) => by_index(naming, file, &weights, checkpoint)?,
        None => without_index(naming, &weights, checkpoint)?,
    };
    if shards.is_empty() {
        checkpoint.format = "none";
    }
    let left: Vec<&str> = weights
        .iter()
        .filter(|file| shards.iter().all(|shard| shard.path != file.path))
        .map(|file| file.path.as_str())
        .collect();
    if !left.is_empty() {
        checkpoint.notes.push(format!(
            "weight files beside the checkpoint were digested and not examined: {}",
            left.join(", ")
        ));
    }
    Ok(shards)
}

/// The index of the main checkpoint; adapters and variants may have one of their own beside it.
fn main_index<'a>(naming: &Naming, files: &'a [CheckpointFile]) -> Option<&'a CheckpointFile> {
    let mut found: Vec<&CheckpointFile> = files
        .iter()
        .filter(|file| file.path.ends_with(naming.index_suffix))
        .collect();
    found.sort_by_key(|file| {
        (
            file.path != naming.index,
            file.path.contains('/'),
            &file.path,
        )
    });
    found.first().copied()
}

/// The shards that an index names; none if none of them is there.
fn by_index<'a>(
    naming: &Naming,
    file: &CheckpointFile,
    weights: &[&'a CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<Vec<&'a CheckpointFile>, CheckpointError> {
    let declared = index::read(file)?;
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let names: BTreeSet<&str> = declared
        .weight_map
        .iter()
        .map(|(_, s)| s.as_str())
        .collect();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &names {
        let path = if folder.is_empty() {
            (*name).to_owned()
        } else {
            format!("{folder}/{name}")
        };
        match weights.iter().find(|file| file.path == path) {
            Some(file) => found.push(*file),
            None => missing.push(path),
        }
    }
    let n_expected = names.len();
    checkpoint.declared = Some(declared);
    if found.is_empty() {
        // A single file may stand beside a stale index; loaders take the file.
        if let Some(single) = weights.iter().find(|file| file.path == naming.single) {
            checkpoint.notes.push(format!(
                "{} names {n_expected} shards that are not there; {} was examined",
                file.path, naming.single
            ));
            return Ok(vec![single]);
        }
        checkpoint.missing_shards = missing;
    } else if !missing.is_empty() {
        missing.truncate(5);
        return Err(CheckpointError::MissingShards {
            n_expected,
            n_found: found.len(),
            missing,
        });
    }
    Ok(found)
}

/// `model-00002-of-00003.safetensors` → (`model`, 2, 3).
fn shard_number(path: &str) -> Option<(&str, usize, usize)> {
    let (stem, _) = path.rsplit_once('.')?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    Some((prefix, number.parse().ok()?, total.parse().ok()?))
}

/// The files of a checkpoint without an index: the single file, else a numbered series that must
/// be complete, else everything that is there.
fn without_index<'a>(
    naming: &Naming,
    weights: &[&'a CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<Vec<&'a CheckpointFile>, CheckpointError> {
    if let Some(single) = weights.iter().find(|file| file.path == naming.single) {
        return Ok(vec![single]);
    }
    let numbered: Vec<(&CheckpointFile, &str, usize, usize)> = weights
        .iter()
        .filter_map(|file| shard_number(&file.path).map(|(p, i, n)| (*file, p, i, n)))
        .collect();
    let Some(&(first, prefix, _, total)) = numbered.first() else {
        return Ok(weights.to_vec());
    };
    let extension = first.path.rsplit_once('.').map_or("", |(_, e)| e);
    let series: Vec<_> = numbered
        .into_iter()
        .filter(|(_, p, _, n)| *p == prefix && *n == total)
        .collect();
    // Counted through the files, since `total` is a stranger's number.
    let present: BTreeSet<usize> = series.iter().map(|(_, _, i, _)| *i).collect();
    if present.len() < total {
        let missing = (1..=total)
            .filter(|i| !present.contains(i))
            .take(5)
            .map(|i| format!("{prefix}-{i:05}-of-{total:05}.{extension}"))
            .collect();
        let n_found = present.len();
        return Err(CheckpointError::MissingShards {
            n_expected: total,
            n_found,
            missing,
        });
    }
    checkpoint
        .notes
        .push("the shards have no index; their own headers were used".to_owned());
    Ok(series.into_iter().map(|(file, ..)| file).collect())
}

/// Every tensor must lie in the shard that the index names. Tensors that no index names are kept.
///
/// # Errors
/// When a tensor that the index names is in none of the shards.
fn check_against_index(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let Some(declared) = &checkpoint.declared else {
        return Ok(());
    };
    if checkpoint.tensors.is_empty() || !checkpoint.missing_shards.is_empty() {
        return Ok(());
    }
    let found: HashSet<&str> = checkpoint.tensors.iter().map(Tensor::name).collect();
    match declared
        .weight_map
        .iter()
        .find(|(tensor, _)| !found.contains(tensor.as_str()))
    {
        None => Ok(()),
        Some((tensor, shard)) => Err(CheckpointError::Tensor {
            file: shard.clone(),
            tensor: short(tensor),
            expected: format!("the tensor that {} places here", declared.file),
            found: "no such tensor".to_owned(),
        }),
    }
}

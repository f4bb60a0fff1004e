//! GGUF, versions 2 and 3, little-endian: metadata with the tokenizer, tensor entries, aligned data.
//!
//! One file, or a series that `llama-gguf-split` cut. Dimensions are given out slowest first, q and k in the rows
//! of the original (see [`heads`]), latent keys and values joined as there (see [`latent`]); everything else is as
//! stored, so that norms of Gemma, to
//! which the converter adds 1, are plain gains here. The metadata also serves as config and tokenizer.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod architectures;
mod config;
mod cursor;
mod heads;
mod latent;
mod metadata;
mod tensors;
mod tokenizer;
mod unsaid;

use super::error::short;
use super::{Checkpoint, CheckpointError, CheckpointFile, Format};
use cursor::Cursor;
use metadata::Metadata;
use std::collections::{BTreeMap, BTreeSet};

/// Tensors that are accepted; the largest mixtures have tens of thousands.
const MAX_TENSORS: u64 = 1 << 20;

/// The GGUF format.
#[derive(Debug)]
pub(super) struct Gguf;

fn is_weights(file: &CheckpointFile) -> bool {
    file.path.ends_with(".gguf")
}

impl Format for Gguf {
    fn id(&self) -> &'static str {
        "gguf"
    }

    fn claims(&self, files: &[CheckpointFile]) -> bool {
        files.iter().any(is_weights)
    }

    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Checkpoint {
            format: self.id(),
            ..Checkpoint::default()
        };
        let parts = choose(files, &mut checkpoint)?;
        let mut first: Option<Metadata> = None;
        let mut n_expected = None;
        for (number, file) in (0..).zip(&parts) {
            let (metadata, tensors) = read_file(file, first.as_ref(), &mut checkpoint.notes)?;
            check_split(file, &metadata, number, parts.len())?;
            n_expected = n_expected.or(metadata.whole("split.tensors.count"));
            checkpoint.tensors.extend(tensors);
            first.get_or_insert(metadata);
        }
        let n_found = checkpoint.tensors.len() as i128;
        if let (Some(n), Some(file)) = (n_expected.filter(|n| *n != n_found), parts.first()) {
            return Err(CheckpointError::File {
                file: file.path.clone(),
                expected: format!("{n} tensors in all parts (split.tensors.count)"),
                found: n_found.to_string(),
            });
        }
        checkpoint.tensors = latent::join(
            std::mem::take(&mut checkpoint.tensors),
            &mut checkpoint.notes,
        )?;
        if let (Some(mut metadata), Some(file)) = (first, parts.first()) {
            checkpoint.config = config::config(&metadata, &|name| {
                checkpoint.tensors.iter().find(|t| t.name() == name)
            });
            checkpoint.tokenizer =
                tokenizer::take(&mut metadata, &file.path, &mut checkpoint.notes);
            checkpoint.metadata = metadata
                .entries
                .iter()
                .map(|(key, value)| (key.clone(), config::shown(value)))
                .collect();
        }
        if checkpoint.tensors.is_empty() {
            checkpoint
                .notes
                .push("the file holds metadata and no tensors".to_owned());
        }
        Ok(checkpoint)
    }
}

/// `model-00002-of-00003.gguf` → (`model`, 2, 3).
fn part_number(path: &str) -> Option<(&str, usize, usize)> {
    let (rest, total) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    Some((prefix, number.parse().ok()?, total.parse().ok()?))
}

/// The files of the model, in order. Several models in one folder are an error: which one is meant is
/// not ours to guess.
fn choose<'a>(
    files: &'a [CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<Vec<&'a CheckpointFile>, CheckpointError> {
    let mut models: BTreeMap<(&str, usize), BTreeMap<usize, &CheckpointFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_weights(file)) {
        let (name, number, total) = part_number(&file.path).unwrap_or((&file.path, 1, 1));
        models
            .entry((name, total))
            .or_default()
            .insert(number, file);
    }
    // A tower for pictures is published beside the language model that it serves, and an adapter beside
    // the model that it changes.
    let begins = |name: &str, with: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.starts_with(with)
    };
    let is_addition = |name: &str| begins(name, "mmproj") || begins(name, "adapter");
    if models.keys().any(|(name, _)| !is_addition(name)) {
        models.retain(|(name, _), _| {
            let keep = !is_addition(name);
            if !keep {
                let what = match begins(name, "adapter") {
                    true => " (an adapter, which changes the model when it runs)",
                    false => "",
                };
                checkpoint.notes.push(format!(
                    "{}{what} was digested and not examined; name it alone to examine it",
                    short(name)
                ));
            }
            keep
        });
    }
    let mut found = models.into_iter();
    let Some(((name, total), parts)) = found.next() else {
        return Ok(Vec::new());
    };
    let others: Vec<String> = found.map(|((name, _), _)| short(name)).collect();
    if !others.is_empty() {
        return Err(CheckpointError::File {
            file: short(name),
            expected: "one GGUF model in the folder; name the file that is meant".to_owned(),
            found: format!(
                "{} more: {}",
                others.len(),
                others[..others.len().min(5)].join(", ")
            ),
        });
    }
    // Counted through the files, since `total` is a stranger's number.
    let present: BTreeSet<usize> = parts.keys().copied().collect();
    if !(1..=total)
        .take(parts.len() + 1)
        .eq(present.iter().copied())
    {
        let missing: Vec<String> = (1..=total)
            .filter(|number| !present.contains(number))
            .take(5)
            .map(|number| format!("{name}-{number:05}-of-{total:05}.gguf"))
            .collect();
        return Err(CheckpointError::MissingShards {
            n_expected: total,
            n_found: present.len(),
            missing,
        });
    }
    Ok(parts.into_values().collect())
}

/// What a part says of its place must be its place.
fn check_split(
    file: &CheckpointFile,
    metadata: &Metadata,
    number: i128,
    n_parts: usize,
) -> Result<(), CheckpointError> {
    let stated = |key: &str, actual: i128| match metadata.whole(key) {
        Some(stated) if stated != actual => Err(CheckpointError::File {
            file: file.path.clone(),
            expected: format!("{key} {actual}, as the name of the file says"),
            found: stated.to_string(),
        }),
        _ => Ok(()),
    };
    // A file that was never split may state 0.
    if metadata.whole("split.count") != Some(0) {
        stated("split.count", n_parts as i128)?;
    }
    stated("split.no", number)
}

/// Reads one file. Parts after the first take architecture and heads from the first.
fn read_file(
    file: &CheckpointFile,
    first: Option<&Metadata>,
    notes: &mut Vec<String>,
) -> Result<(Metadata, Vec<crate::tensor::Tensor>), CheckpointError> {
    let mut cursor = Cursor::new(file);
    check_version(&mut cursor)?;
    let n_tensors = cursor.count("number of tensors", 24, MAX_TENSORS)?;
    let n_entries = cursor.count("number of metadata entries", 13, u64::MAX)?;
    let metadata = metadata::read(&mut cursor, n_entries)?;
    let entries = tensors::read(&mut cursor, n_tensors)?;
    let speaks = first.unwrap_or(&metadata);
    let tensors = tensors::place(file, &entries, cursor.at(), speaks, notes)?;
    notes.extend(metadata.notes.iter().cloned());
    Ok((metadata, tensors))
}

/// Magic and version.
fn check_version(cursor: &mut Cursor<'_>) -> Result<(), CheckpointError> {
    let expected = "a GGUF file (version 2 or 3, little-endian)";
    let magic: [u8; 4] = cursor.array("GGUF's magic")?;
    if &magic != b"GGUF" {
        let found = match &magic {
            b"lmgg" | b"fmgg" | b"tjgg" => {
                "a GGML file from before GGUF; convert it anew".to_owned()
            }
            other => format!("a file that begins with {}", other.escape_ascii()),
        };
        return Err(cursor.wrong(expected, found));
    }
    let version = cursor.u32("GGUF's version")?;
    let found = match version {
        2 | 3 => return Ok(()),
        1 => "version 1; convert it anew".to_owned(),
        _ if version & 0xffff == 0 => {
            format!("a big-endian file of version {}", version.swap_bytes())
        }
        other => format!("version {other}"),
    };
    Err(cursor.wrong(expected, found))
}

#[cfg(test)]
mod tests;

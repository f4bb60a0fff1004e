//! PyTorch checkpoints (`.bin`, `.pt`, `.pth`, `.ckpt`): a pickle that describes tensors, and their bytes.
//!
//! ```text
//! zip (torch ≥ 1.6) or legacy file → pickle → contents → layout → tensors
//! ```
//!
//! A pickle is a program. It is read by a machine that executes nothing (`pickle`, `rebuild`), and
//! what it says of names (`contents`) and of bytes (`layout`) is checked like any stranger's header.
//! Whole modules, TorchScript, sparse and quantised tensors are refused, each by name.

mod contents;
mod layout;
mod legacy;
mod pickle;
mod rebuild;
#[cfg(test)]
mod tests;
mod training;
mod value;

use super::error::short;
use super::shards::{self, Naming};
use super::zip::{self, Entry, ZipError};
use super::{Checkpoint, CheckpointError, CheckpointFile, FileBytes, Format};
use crate::tensor::TensorBytes;
use layout::{Places, Stored};
use legacy::LegacyError;
use pickle::{MAX_PICKLE_BYTES, Refusal, Unpickled};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// How often the bytes of a file may be shared out to tensors: tied weights share, and an expanded
/// view repeats, but a few bytes must not become a tensor that no machine holds.
const MAX_SHARING: u64 = 16;
/// Sharing that small files may have in any case.
const MAX_SHARED_BYTES: u64 = 64 << 20;

/// The formats of `torch.save`, in one file or sharded by an index.
#[derive(Debug)]
pub(super) struct PyTorch;

/// How its files are called.
const NAMING: Naming = Naming {
    is_weights,
    index_suffix: ".bin.index.json",
    index: "pytorch_model.bin.index.json",
    single: "pytorch_model.bin",
};

/// `.bin` is anybody's ending: such a file counts where its name or its beginning is torch's.
fn is_weights(file: &CheckpointFile) -> bool {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    match name.rsplit_once('.') {
        Some((_, "pt" | "pth" | "ckpt")) => true,
        Some((stem, "bin")) => {
            let start = file.source.read(0..file.source.len().min(4));
            let is_torch = start.is_ok_and(|start| {
                start.starts_with(b"PK") || matches!(*start, [0x80, 2..=5, 0x8a, 10])
            });
            stem.starts_with("pytorch_model") || is_torch
        }
        _ => false,
    }
}

impl Format for PyTorch {
    fn id(&self) -> &'static str {
        "pytorch"
    }

    fn claims(&self, files: &[CheckpointFile]) -> bool {
        NAMING.claims(files)
    }

    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        shards::open(self.id(), &NAMING, files, read_file)
    }
}

/// A file's pickle, and where its storages lie.
struct Read {
    pickle: Unpickled,
    stored: Stored,
}

/// Reads a file's pickle and adds its tensors.
fn read_file(file: &CheckpointFile, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
    let start = read(file, 0..file.source.len().min(512))?;
    let read = if start.starts_with(b"PK") {
        read_zip(file)?
    } else if start.get(257..262) == Some(b"ustar") {
        return Err(malformed(
            file,
            "a file of torch 0.2 or later (load and save it again)",
            "a tar archive, as torch 0.1 wrote them",
        ));
    } else {
        read_legacy(file, checkpoint)?
    };
    drop(start);
    let values = &read.pickle.values;
    let found = contents::find(values, read.pickle.root)
        .map_err(|(expected, found)| malformed(file, expected, found))?;
    if found.tensors.is_empty() {
        let kind = values.get(read.pickle.root).kind();
        let found = match found.aside.first_optimiser() {
            Some(words) => format!("only the state of an optimiser ({words})"),
            None => format!("{kind} without any"),
        };
        return Err(malformed(file, "tensors by name", found));
    }
    found
        .aside
        .tell(&file.path, &mut checkpoint.notes, &mut checkpoint.metadata);
    let bytes: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&file.source)));
    let places = Places {
        file: &file.path,
        values,
        stored: &read.stored,
        bytes: &bytes,
    };
    let limit = file
        .source
        .len()
        .saturating_mul(MAX_SHARING)
        .saturating_add(MAX_SHARED_BYTES);
    let mut total = 0u64;
    for (name, parts) in &found.tensors {
        let tensor = places.tensor(name, parts)?;
        total = total.saturating_add(tensor.size_bytes());
        if total > limit {
            return Err(CheckpointError::Tensor {
                file: file.path.clone(),
                tensor: short(name),
                expected: format!("tensors that share at most {limit} bytes of this file"),
                found: format!("{total} bytes up to this one"),
            });
        }
        checkpoint.tensors.push(tensor);
    }
    Ok(())
}

/// An archive of torch 1.6 or later: `<any>/data.pkl`, `<any>/data/<key>`, `<any>/byteorder`.
fn read_zip(file: &CheckpointFile) -> Result<Read, CheckpointError> {
    let entries = zip::entries(file.source.as_ref()).map_err(|error| match error {
        ZipError::Io(error) => io(file, error),
        ZipError::Malformed(expected, found) => malformed(file, expected, found),
    })?;
    let pickles: Vec<(&str, &Entry)> = entries
        .iter()
        .filter_map(|entry| {
            let folder = entry.name.strip_suffix("/data.pkl")?;
            (!folder.contains('/')).then_some((folder, entry))
        })
        .collect();
    let &[(folder, pickle)] = pickles.as_slice() else {
        return Err(malformed(
            file,
            "an archive of torch.save, with one data.pkl",
            format!("{} of them", pickles.len()),
        ));
    };
    let named = |name: &str| {
        let path = format!("{folder}/{name}");
        entries.iter().find(|entry| entry.name == path)
    };
    if named("constants.pkl").is_some() {
        return Err(malformed(
            file,
            "tensors by name (save the state dict)",
            "a TorchScript program",
        ));
    }
    if let Some(entry) = named("byteorder") {
        let order = read(
            file,
            entry.data.start..entry.data.end.min(entry.data.start + 16),
        )?;
        if *order != *b"little" {
            let found = short(&String::from_utf8_lossy(&order));
            return Err(malformed(file, "the byte order little", found));
        }
    }
    let n_bytes = pickle.data.end - pickle.data.start;
    if n_bytes > MAX_PICKLE_BYTES {
        let expected = format!("a pickle of at most {MAX_PICKLE_BYTES} bytes");
        return Err(malformed(file, expected, format!("{n_bytes} bytes")));
    }
    let stream = read(file, pickle.data.clone())?;
    let within = format!(" of {}", short(&pickle.name));
    let unpickled = pickle::read(&stream, 0).map_err(|e| refused(file, &within, e))?;
    let declared = layout::storages(&unpickled.values)
        .map_err(|(expected, found)| malformed(file, expected, found))?;
    let prefix = format!("{folder}/data/");
    let data: HashMap<&str, &Range<u64>> = entries
        .iter()
        .filter_map(|entry| Some((entry.name.strip_prefix(&prefix)?, &entry.data)))
        .collect();
    let mut stored = Stored::with_capacity(declared.len());
    for (key, storage) in declared {
        let place = data.get(&*key).copied().cloned();
        let Some(place) = place else {
            let found = format!("no entry {}", short(&format!("{prefix}{key}")));
            return Err(malformed(file, "the bytes of every storage", found));
        };
        if storage.size_bytes() != Some(place.end - place.start) {
            return Err(malformed(
                file,
                format!("{} elements in storage {}", storage.n_elements, short(&key)),
                format!("{} bytes of {:?}", place.end - place.start, storage.element),
            ));
        }
        stored.insert(key, place);
    }
    Ok(Read {
        pickle: unpickled,
        stored,
    })
}

/// A file of torch before 1.6.
fn read_legacy(
    file: &CheckpointFile,
    checkpoint: &mut Checkpoint,
) -> Result<Read, CheckpointError> {
    let failed = |error| match error {
        LegacyError::Io(error) => io(file, error),
        LegacyError::Pickle(refusal) => refused(file, "", refusal),
        LegacyError::Malformed(expected, found) => malformed(file, expected, found),
    };
    let head = read(file, 0..file.source.len().min(MAX_PICKLE_BYTES))?;
    let header = legacy::header(&head).map_err(failed)?;
    let declared = layout::storages(&header.object.values)
        .map_err(|(expected, found)| malformed(file, expected, found))?;
    let (stored, end) =
        legacy::storages(&header, &declared, file.source.as_ref()).map_err(failed)?;
    let rest = file.source.len() - end;
    if rest > 0 {
        checkpoint.notes.push(format!(
            "{} goes on for {rest} bytes after its last storage, which were not read",
            file.path
        ));
    }
    Ok(Read {
        pickle: header.object,
        stored,
    })
}

fn read(
    file: &CheckpointFile,
    range: Range<u64>,
) -> Result<std::borrow::Cow<'_, [u8]>, CheckpointError> {
    file.source.read(range).map_err(|error| io(file, error))
}

fn io(file: &CheckpointFile, error: std::io::Error) -> CheckpointError {
    CheckpointError::Io {
        file: file.path.clone(),
        error,
    }
}

fn malformed(
    file: &CheckpointFile,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> CheckpointError {
    CheckpointError::File {
        file: file.path.clone(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn refused(file: &CheckpointFile, within: &str, refusal: Refusal) -> CheckpointError {
    match refusal {
        Refusal::Asks(asked, at) => CheckpointError::Pickle {
            file: file.path.clone(),
            asked,
            at: format!("{at}{within}"),
        },
        Refusal::Malformed(expected, found, at) => {
            malformed(file, expected, format!("{found} at byte {at}{within}"))
        }
    }
}

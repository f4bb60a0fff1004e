//! The tensor entries of a GGUF file, checked against one another and the file's size.

use super::super::error::short;
use super::super::index::MAX_NAME_BYTES;
use super::super::{CheckpointError, CheckpointFile, FileBytes};
use super::cursor::Cursor;
use super::heads::{self, Deinterleaved};
use super::metadata::Metadata;
use crate::tensor::{BlockType, DType, Tensor, TensorBytes};
use std::collections::HashSet;
use std::sync::Arc;

/// Dimensions that ggml knows.
const MAX_DIMENSIONS: u32 = 4;
/// Largest alignment that is accepted; published files use 32.
const MAX_ALIGNMENT: i128 = 1 << 20;

/// An entry as the file has it, its numbers unchecked.
pub(super) struct Entry {
    name: String,
    /// Row length first.
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// The type of a number in a tensor's entry (`ggml_type`).
fn dtype(kind: u32) -> Option<DType> {
    use BlockType as B;
    Some(match kind {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => DType::Block(match kind {
            2 => B::Q4_0,
            3 => B::Q4_1,
            6 => B::Q5_0,
            7 => B::Q5_1,
            8 => B::Q8_0,
            9 => B::Q8_1,
            10 => B::Q2K,
            11 => B::Q3K,
            12 => B::Q4K,
            13 => B::Q5K,
            14 => B::Q6K,
            15 => B::Q8K,
            16 => B::Iq2Xxs,
            17 => B::Iq2Xs,
            18 => B::Iq3Xxs,
            19 => B::Iq1S,
            20 => B::Iq4Nl,
            21 => B::Iq3S,
            22 => B::Iq2S,
            23 => B::Iq4Xs,
            29 => B::Iq1M,
            34 => B::Tq1_0,
            35 => B::Tq2_0,
            39 => B::Mxfp4,
            40 => B::Nvfp4,
            _ => return None,
        }),
    })
}

/// Reads all entries, unchecked but for their counts.
pub(super) fn read(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Entry>, CheckpointError> {
    let mut entries: Vec<Entry> = Vec::new();
    for index in 0..n {
        let what = format!("the name of tensor {index}");
        let bytes = cursor.string(&what, MAX_NAME_BYTES as u64)?.to_vec();
        let Ok(name) = String::from_utf8(bytes) else {
            return Err(cursor.wrong(format!("{what} in UTF-8"), "other bytes"));
        };
        let shown = short(&name);
        let n_dimensions = cursor.u32(&format!("the number of dimensions of {shown}"))?;
        if n_dimensions > MAX_DIMENSIONS {
            let expected = format!("at most {MAX_DIMENSIONS} dimensions of {shown}");
            return Err(cursor.wrong(expected, n_dimensions.to_string()));
        }
        let mut dimensions = Vec::new();
        for _ in 0..n_dimensions {
            dimensions.push(cursor.u64(&format!("a dimension of {shown}"))?);
        }
        let kind = cursor.u32(&format!("the type of {shown}"))?;
        let offset = cursor.u64(&format!("the offset of {shown}"))?;
        entries.push(Entry {
            name,
            dimensions,
            kind,
            offset,
        });
    }
    Ok(entries)
}

/// An entry whose place in the file is known to exist.
struct Placed<'a> {
    name: &'a str,
    dtype: DType,
    shape: Vec<usize>,
    /// Bytes from the beginning of the file.
    start: u64,
    end: u64,
}

/// Makes tensors of the entries. `head_end` is where the entries end; notes collect what was seen.
pub(super) fn place(
    file: &CheckpointFile,
    entries: &[Entry],
    head_end: u64,
    metadata: &Metadata,
    notes: &mut Vec<String>,
) -> Result<Vec<Tensor>, CheckpointError> {
    let alignment = alignment(file, metadata)?;
    let Some(data_start) = head_end.checked_next_multiple_of(alignment) else {
        return Ok(Vec::new());
    };
    let mut placed = Vec::new();
    let mut seen = HashSet::new();
    for entry in entries {
        if !seen.insert(entry.name.as_str()) {
            return Err(wrong(file, entry, "one entry", "the name twice"));
        }
        placed.push(place_one(file, entry, data_start, alignment)?);
    }
    placed.sort_by_key(|tensor| (tensor.start, tensor.end));
    for pair in placed.windows(2) {
        if let [before, tensor] = pair
            && tensor.start < before.end
        {
            return Err(CheckpointError::Tensor {
                file: file.path.clone(),
                tensor: short(tensor.name),
                expected: format!("data that begin where {} ends", short(before.name)),
                found: format!("{} bytes of both", before.end - tensor.start),
            });
        }
    }
    note_unused(file, &placed, data_start, alignment, notes);
    let bytes: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&file.source)));
    placed
        .into_iter()
        .map(|tensor| make(tensor, &bytes, metadata, notes))
        .collect()
}

fn alignment(file: &CheckpointFile, metadata: &Metadata) -> Result<u64, CheckpointError> {
    let key = "general.alignment";
    if !metadata.entries.contains_key(key) {
        return Ok(32);
    }
    let stated = metadata.whole(key);
    stated
        .filter(|n| (1..=MAX_ALIGNMENT).contains(n) && n.count_ones() == 1)
        .map(|n| n as u64)
        .ok_or_else(|| CheckpointError::File {
            file: file.path.clone(),
            expected: format!("a power of two up to {MAX_ALIGNMENT} for {key}"),
            found: stated.map_or("no whole number".to_owned(), |n| n.to_string()),
        })
}

fn wrong(
    file: &CheckpointFile,
    entry: &Entry,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> CheckpointError {
    CheckpointError::Tensor {
        file: file.path.clone(),
        tensor: short(&entry.name),
        expected: expected.into(),
        found: found.into(),
    }
}

fn place_one<'a>(
    file: &CheckpointFile,
    entry: &'a Entry,
    data_start: u64,
    alignment: u64,
) -> Result<Placed<'a>, CheckpointError> {
    let Some(dtype) = dtype(entry.kind) else {
        let found = match entry.kind {
            4 | 5 | 31..=33 | 36..=38 => format!("type {}, which llama.cpp gave up", entry.kind),
            kind => format!("type {kind}"),
        };
        return Err(wrong(file, entry, "a tensor type that is read here", found));
    };
    // Rows are contiguous in both conventions; only the order in which sizes are told differs.
    let shape: Option<Vec<usize>> = entry
        .dimensions
        .iter()
        .rev()
        .map(|&size| usize::try_from(size).ok())
        .collect();
    let n_elements = entry
        .dimensions
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size));
    let block = dtype.block_elements() as u64;
    let size = n_elements.and_then(|n| (n / block).checked_mul(dtype.size_bytes() as u64));
    let (Some(shape), Some(size)) = (shape, size) else {
        let found = format!("the dimensions {:?}", entry.dimensions);
        return Err(wrong(file, entry, "a size below 2⁶⁴ bytes", found));
    };
    if entry.dimensions.first().copied().unwrap_or(1) % block != 0 {
        let expected = format!("rows of whole blocks of {block} ({})", dtype.name());
        let found = format!("the dimensions {:?}", entry.dimensions);
        return Err(wrong(file, entry, expected, found));
    }
    if !entry.offset.is_multiple_of(alignment) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(wrong(file, entry, expected, entry.offset.to_string()));
    }
    let start = data_start.checked_add(entry.offset);
    let range = start.and_then(|start| Some((start, start.checked_add(size)?)));
    let len = file.source.len();
    match range {
        Some((start, end)) if end <= len => Ok(Placed {
            name: &entry.name,
            dtype,
            shape,
            start,
            end,
        }),
        _ => {
            let expected = format!(
                "{size} bytes at {} of the data, which begin at {data_start}",
                entry.offset
            );
            Err(wrong(
                file,
                entry,
                expected,
                format!("a file of {len} bytes"),
            ))
        }
    }
}

/// Bytes that belong to no tensor and are more than padding are told: something may be kept there.
fn note_unused(
    file: &CheckpointFile,
    placed: &[Placed<'_>],
    data_start: u64,
    alignment: u64,
    notes: &mut Vec<String>,
) {
    let mut end = data_start;
    let mut unused = 0u64;
    let mut gap = |from: u64, to: u64| {
        let gap = to.saturating_sub(from);
        unused += if gap < alignment { 0 } else { gap };
    };
    for tensor in placed {
        gap(end, tensor.start);
        end = tensor.end;
    }
    gap(end, file.source.len());
    if unused > 0 {
        notes.push(format!(
            "{}: {unused} bytes of data belong to no tensor",
            file.path
        ));
    }
}

/// `blk.7.attn_q.weight` → (7, `q`).
fn query_or_key(name: &str) -> Option<(usize, bool)> {
    let rest = name.strip_prefix("blk.")?;
    let (layer, rest) = rest.split_once('.')?;
    let is_query = match rest {
        "attn_q.weight" | "attn_q.bias" => true,
        "attn_k.weight" | "attn_k.bias" => false,
        _ => return None,
    };
    Some((layer.parse().ok()?, is_query))
}

fn make(
    tensor: Placed<'_>,
    bytes: &Arc<dyn TensorBytes>,
    metadata: &Metadata,
    notes: &mut Vec<String>,
) -> Result<Tensor, CheckpointError> {
    let (mut source, mut offset) = (Arc::clone(bytes), tensor.start);
    let architecture = metadata.text("general.architecture").unwrap_or_default();
    if heads::are_interleaved(architecture)
        && let Some((layer, is_query)) = query_or_key(tensor.name)
        && let Some(&n_rows) = tensor.shape.first()
        && n_rows > 0
    {
        let key = |what: &str| format!("{architecture}.attention.{what}");
        let n_query = metadata.of_layer(&key("head_count"), layer);
        let n_heads = if is_query {
            n_query
        } else {
            metadata.of_layer(&key("head_count_kv"), layer).or(n_query)
        };
        let head_dim = n_heads
            .filter(|n| n_rows.is_multiple_of(*n))
            .map(|n| n_rows / n);
        match head_dim.filter(|dim| dim.is_multiple_of(2)) {
            Some(head_dim) if (tensor.end - tensor.start).is_multiple_of(n_rows as u64) => {
                source = Arc::new(Deinterleaved {
                    stored: source,
                    offset,
                    row_bytes: (tensor.end - tensor.start) / n_rows as u64,
                    n_rows: n_rows as u64,
                    head_dim: head_dim as u64,
                });
                offset = 0;
            }
            _ => notes.push(format!(
                "{}: {} does not state a number of heads that divides {n_rows} rows; they stay in \
                 llama.cpp's order",
                short(tensor.name),
                key("head_count"),
            )),
        }
    }
    Ok(Tensor::new(
        tensor.name.to_owned(),
        tensor.dtype,
        tensor.shape,
        source,
        offset,
    )?)
}

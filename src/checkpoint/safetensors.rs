//! safetensors: a length, a JSON header, and the tensors' bytes without holes.
//!
//! The header is checked entry by entry for the sake of messages that name the tensor, and once more
//! as a whole by the `safetensors` crate, which has the last word on what a valid file is.
//! Format: <https://huggingface.co/docs/safetensors>.

use super::error::short;
use super::index::MAX_NAME_BYTES;
use super::shards::{self, Naming};
use super::{Checkpoint, CheckpointError, CheckpointFile, FileBytes, Format, MAX_DIMENSIONS};
use crate::tensor::{DType, Tensor, TensorBytes};
use ::safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Largest header, as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The safetensors format, in one file or sharded by an index.
#[derive(Debug)]
pub(super) struct Safetensors;

/// How its files are called.
const NAMING: Naming = Naming {
    is_weights: |file| file.path.ends_with(".safetensors"),
    index_suffix: ".safetensors.index.json",
    index: "model.safetensors.index.json",
    single: "model.safetensors",
};

impl Format for Safetensors {
    fn id(&self) -> &'static str {
        "safetensors"
    }

    fn claims(&self, files: &[CheckpointFile]) -> bool {
        NAMING.claims(files)
    }

    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        shards::open(self.id(), &NAMING, files, read_file)
    }
}

/// A tensor's entry as the header has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header in the order of the file; names may repeat here.
#[derive(Default)]
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header
                            .metadata
                            .extend(map.next_value::<BTreeMap<String, String>>()?);
                    } else {
                        let entry = map.next_value::<Entry>().map_err(|error| {
                            serde::de::Error::custom(format!("{}: {error}", short(&name)))
                        })?;
                        header.entries.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads a file's header and adds its tensors.
fn read_file(file: &CheckpointFile, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
    let (header, data_start) = read_header(file)?;
    let data_len = file.source.len() - data_start;
    let mut entries = Vec::with_capacity(header.entries.len());
    let mut seen = HashSet::with_capacity(header.entries.len());
    for (name, entry) in &header.entries {
        if !seen.insert(name.as_str()) {
            return Err(wrong(file, name, "one entry", "the name twice"));
        }
        entries.push((name, entry, check_entry(file, name, entry, data_len)?));
    }
    entries.sort_by_key(|(_, entry, _)| entry.data_offsets);
    let mut end = 0;
    for (name, entry, _) in &entries {
        if entry.data_offsets.0 != end {
            let expected = format!("data that begins at {end}, where the last tensor ends");
            let found = format!("data that begins at {}", entry.data_offsets.0);
            return Err(wrong(file, name, expected, found));
        }
        end = entry.data_offsets.1;
    }
    if end != data_len {
        return Err(CheckpointError::File {
            file: file.path.clone(),
            expected: format!("{end} bytes of tensors after the header"),
            found: format!("{data_len} bytes"),
        });
    }
    // The reference implementation checks the same once more.
    let infos = entries
        .iter()
        .map(|(name, _, (_, info))| ((*name).clone(), info.clone()));
    if let Err(error) = Metadata::new(None, infos.collect()) {
        return Err(CheckpointError::File {
            file: file.path.clone(),
            expected: "a header that the safetensors library accepts".to_owned(),
            found: error.to_string(),
        });
    }
    let bytes: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&file.source)));
    for (name, entry, (dtype, info)) in entries {
        let offset = data_start + entry.data_offsets.0;
        let tensor = Tensor::new(name.clone(), dtype, info.shape, Arc::clone(&bytes), offset)?;
        checkpoint.tensors.push(tensor);
    }
    checkpoint.metadata.extend(header.metadata);
    Ok(())
}

/// Reads the header and says where the data begin.
fn read_header(file: &CheckpointFile) -> Result<(Header, u64), CheckpointError> {
    let wrong = |expected: String, found: String| CheckpointError::File {
        file: file.path.clone(),
        expected,
        found,
    };
    let failed = |error| CheckpointError::Io {
        file: file.path.clone(),
        error,
    };
    let file_len = file.source.len();
    if file_len < 8 {
        let expected = "a safetensors file, which begins with 8 bytes of header length".to_owned();
        return Err(wrong(expected, format!("a file of {file_len} bytes")));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&file.source.read(0..8).map_err(failed)?);
    let header_len = u64::from_le_bytes(length);
    let limit = MAX_HEADER_BYTES.min(file_len - 8);
    if header_len > limit {
        let expected = format!("a header of at most {limit} bytes");
        return Err(wrong(expected, format!("a header length of {header_len}")));
    }
    let data_start = 8 + header_len;
    let bytes = file.source.read(8..data_start).map_err(failed)?;
    let header = serde_json::from_slice(&bytes)
        .map_err(|error| wrong("a JSON header of tensors".to_owned(), error.to_string()))?;
    Ok((header, data_start))
}

/// Checks one entry against itself and the size of the data.
fn check_entry(
    file: &CheckpointFile,
    name: &str,
    entry: &Entry,
    data_len: u64,
) -> Result<(DType, TensorInfo), CheckpointError> {
    let wrong = |expected: &str, found: String| wrong(file, name, expected, found);
    if name.len() > MAX_NAME_BYTES {
        return Err(wrong(
            "a name of at most 4096 bytes",
            format!("{} bytes", name.len()),
        ));
    }
    let Some(dtype) = DType::from_name(&entry.dtype) else {
        return Err(wrong(
            "a dtype that is read here",
            format!("the dtype {}", short(&entry.dtype)),
        ));
    };
    let stored = serde_json::from_value(serde_json::Value::String(entry.dtype.clone()))
        .map_err(|error| wrong("a dtype of the safetensors library", error.to_string()))?;
    if entry.shape.len() > MAX_DIMENSIONS {
        return Err(wrong(
            "at most 32 dimensions",
            format!("{} dimensions", entry.shape.len()),
        ));
    }
    let shape: Option<Vec<usize>> = entry
        .shape
        .iter()
        .map(|&size| usize::try_from(size).ok())
        .collect();
    let size = entry
        .shape
        .iter()
        .try_fold(dtype.size_bytes() as u64, |product, &size| {
            product.checked_mul(size)
        });
    let (Some(shape), Some(size)) = (shape, size) else {
        return Err(wrong(
            "a size below 2⁶⁴ bytes",
            format!("the shape {:?}", entry.shape),
        ));
    };
    let (begin, end) = entry.data_offsets;
    if begin > end || end > data_len {
        let expected = format!("offsets in order and within {data_len} bytes of data");
        return Err(wrong(&expected, format!("{begin}..{end}")));
    }
    if end - begin != size {
        let expected = format!("{size} bytes for {:?} of {}", entry.shape, dtype.name());
        return Err(wrong(&expected, format!("{} bytes", end - begin)));
    }
    // Both fit: they lie within a file whose length fits.
    let data_offsets = (begin as usize, end as usize);
    Ok((
        dtype,
        TensorInfo {
            dtype: stored,
            shape,
            data_offsets,
        },
    ))
}

fn wrong(
    file: &CheckpointFile,
    tensor: &str,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> CheckpointError {
    CheckpointError::Tensor {
        file: file.path.clone(),
        tensor: short(tensor),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bytes::MemoryFile;

    fn file(path: &str, header: &str, data: &[u8]) -> CheckpointFile {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        CheckpointFile {
            path: path.into(),
            source: Arc::new(MemoryFile::new(path, bytes)),
        }
    }

    fn open(files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        Safetensors.open(files)
    }

    const A: &str = r#"{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}"#;
    const B: &str = r#"{"b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}"#;

    fn index(json: &str) -> CheckpointFile {
        let path = "model.safetensors.index.json";
        let source = Arc::new(MemoryFile::new(path, json.as_bytes().to_vec()));
        CheckpointFile {
            path: path.into(),
            source,
        }
    }

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let header = r#"{"__metadata__": {"format": "pt"},
            "late": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [1, 5]},
            "early": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
            "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [5, 5]}}"#;
        let checkpoint = open(&[file("m.safetensors", header, &[7, 0x80, 0x3f, 0, 0xc0])]).unwrap();
        let names: Vec<&str> = checkpoint.tensors.iter().map(Tensor::name).collect();
        assert_eq!(names, ["early", "late", "empty"]);
        assert_eq!(
            checkpoint.tensors[1].read_elements(0..2).unwrap(),
            [1.0, -2.0]
        );
        assert_eq!(checkpoint.metadata["format"], "pt");
    }

    #[test]
    fn an_index_chooses_the_shards_and_incomplete_sets_are_refused() {
        let declared = r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#;
        let (a, b) = (
            file("x-1.safetensors", A, &[1, 2]),
            file("x-2.safetensors", B, &[3, 4]),
        );
        let whole = open(&[index(declared), b.clone(), a.clone()]).unwrap();
        assert_eq!(whole.tensors.len(), 2);
        assert!(
            open(&[index(declared), a.clone()])
                .unwrap_err()
                .to_string()
                .contains("x-2")
        );
        let none = open(&[index(declared)]).unwrap();
        assert_eq!((none.format, none.missing_shards.len()), ("none", 2));
        let elsewhere = file("x-2.safetensors", A, &[3, 4]);
        assert!(
            open(&[index(declared), a, elsewhere])
                .unwrap_err()
                .to_string()
                .contains("x-2")
        );
    }

    #[test]
    fn a_numbered_series_must_be_complete_without_an_index_too() {
        let first = file("m-00001-of-00002.safetensors", A, &[1, 2]);
        let second = file("m-00002-of-00002.safetensors", B, &[1, 2]);
        assert_eq!(open(&[first.clone(), second]).unwrap().tensors.len(), 2);
        let error = open(&[first]).unwrap_err().to_string();
        assert!(error.contains("m-00002-of-00002"), "{error}");
        let absurd = file("m-00001-of-99999999999999.safetensors", A, &[1, 2]);
        assert!(open(&[absurd]).is_err());
    }

    #[test]
    fn a_file_beside_the_checkpoint_is_left_and_named() {
        let checkpoint = open(&[
            file("model.safetensors", A, &[1, 2]),
            file("old.safetensors", A, &[1, 2]),
        ]);
        let checkpoint = checkpoint.unwrap();
        assert_eq!(checkpoint.tensors.len(), 1);
        assert!(checkpoint.notes[0].contains("old.safetensors"));
    }

    #[test]
    fn contradictions_are_refused_with_file_and_tensor() {
        let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
            format!(
                r#""{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#
            )
        };
        let two = |a: String, b: String| format!("{{{a}, {b}}}");
        let a = || entry("a", "U8", "[2]", "[0, 2]");
        for (label, header) in [
            ("overlap", two(a(), entry("b", "U8", "[2]", "[1, 3]"))),
            ("hole", two(a(), entry("b", "U8", "[1]", "[3, 4]"))),
            ("duplicate", two(a(), entry("a", "U8", "[2]", "[2, 4]"))),
            ("backwards", two(a(), entry("b", "U8", "[2]", "[4, 2]"))),
            ("beyond", two(a(), entry("b", "U8", "[3]", "[2, 5]"))),
            ("size", two(a(), entry("b", "F32", "[2]", "[2, 4]"))),
            (
                "overflow",
                two(a(), entry("b", "F64", "[4611686018427387904, 8]", "[2, 4]")),
            ),
            ("negative", two(a(), entry("b", "U8", "[-2]", "[2, 4]"))),
            ("float", two(a(), entry("b", "U8", "[2.0]", "[2, 4]"))),
            ("dtype", two(a(), entry("b", "F3", "[2]", "[2, 4]"))),
            ("left over", format!("{{{}}}", a())),
        ] {
            let error = open(&[file("m.safetensors", &header, &[0; 4])])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("m.safetensors: "), "{label}: {error}");
            assert!(error.contains("expected"), "{label}: {error}");
        }
    }

    #[test]
    fn headers_that_lie_about_their_length_are_refused() {
        for bytes in [
            vec![],
            vec![0; 7],
            u64::MAX.to_le_bytes().to_vec(),
            [1000u64.to_le_bytes().as_slice(), b"{}"].concat(),
            [2u64.to_le_bytes().as_slice(), b"[]"].concat(),
            [2u64.to_le_bytes().as_slice(), &[0xff, 0xfe]].concat(),
        ] {
            let source = Arc::new(MemoryFile::new("m.safetensors", bytes));
            let error = open(&[CheckpointFile {
                path: "m.safetensors".into(),
                source,
            }]);
            assert!(
                matches!(error, Err(CheckpointError::File { .. })),
                "{error:?}"
            );
        }
    }
}

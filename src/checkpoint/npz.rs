//! NumPy's `.npz` and `.npy`: arrays in a zip archive of stored entries, or one alone.
//!
//! The header of an array is a Python dictionary in text; a reader of exactly that dictionary stands here, and
//! nothing is evaluated. Arrays of objects are pickles and refused. Format:
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use super::error::short;
use super::index::MAX_NAME_BYTES;
use super::zip::{self, ZipError};
use super::{Checkpoint, CheckpointError, CheckpointFile, FileBytes, Format, MAX_DIMENSIONS};
use crate::tensor::{DType, Tensor, TensorBytes};
use std::ops::Range;
use std::sync::Arc;

/// The format of NumPy's archives.
#[derive(Debug)]
pub(super) struct Npz;

/// Largest header: NumPy itself reads no longer one without being asked to.
const MAX_HEADER_BYTES: u64 = 10_000;
const MAGIC: &[u8] = b"\x93NUMPY";

/// Types of NumPy, little-endian or of one byte.
const TYPES: &[(&str, DType)] = &[
    ("<f8", DType::F64),
    ("<f4", DType::F32),
    ("<f2", DType::F16),
    ("<i8", DType::I64),
    ("<i4", DType::I32),
    ("<i2", DType::I16),
    ("|i1", DType::I8),
    ("<u8", DType::U64),
    ("<u4", DType::U32),
    ("<u2", DType::U16),
    ("|u1", DType::U8),
    ("|b1", DType::Bool),
];

fn is_weights(file: &CheckpointFile) -> bool {
    file.path.ends_with(".npz") || file.path.ends_with(".npy")
}

impl Format for Npz {
    fn id(&self) -> &'static str {
        "npz"
    }

    fn claims(&self, files: &[CheckpointFile]) -> bool {
        files.iter().any(is_weights)
    }

    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Checkpoint {
            format: self.id(),
            ..Checkpoint::default()
        };
        for file in files.iter().filter(|file| is_weights(file)) {
            if let Some(name) = file.path.strip_suffix(".npy") {
                let name = name.rsplit('/').next().unwrap_or(name);
                let whole = 0..file.source.len();
                checkpoint.tensors.push(array(file, name, whole)?);
                continue;
            }
            let entries = zip::entries(file.source.as_ref()).map_err(|error| match error {
                ZipError::Io(error) => CheckpointError::Io {
                    file: file.path.clone(),
                    error,
                },
                ZipError::Malformed(expected, found) => CheckpointError::File {
                    file: file.path.clone(),
                    expected,
                    found,
                },
            })?;
            for entry in entries {
                match entry.name.strip_suffix(".npy") {
                    Some(name) => checkpoint.tensors.push(array(file, name, entry.data)?),
                    None => checkpoint.notes.push(format!(
                        "{}: the entry {} is no array and was left aside",
                        file.path,
                        short(&entry.name)
                    )),
                }
            }
        }
        Ok(checkpoint)
    }
}

/// An array whose header and values are these bytes of a file.
fn array(file: &CheckpointFile, name: &str, bytes: Range<u64>) -> Result<Tensor, CheckpointError> {
    let wrong = |expected: String, found: String| CheckpointError::Tensor {
        file: file.path.clone(),
        tensor: short(name),
        expected,
        found,
    };
    if name.len() > MAX_NAME_BYTES {
        let found = format!("one of {} bytes", name.len());
        return Err(wrong(
            format!("a name of at most {MAX_NAME_BYTES} bytes"),
            found,
        ));
    }
    let read = |range: Range<u64>| {
        file.source
            .read(range)
            .map_err(|error| CheckpointError::Io {
                file: file.path.clone(),
                error,
            })
    };
    let head = read(bytes.start..bytes.end.min(bytes.start + 12))?;
    let length = match head.strip_prefix(MAGIC) {
        Some([1, _, a, b, ..]) => Some((10, u64::from(u16::from_le_bytes([*a, *b])))),
        Some([2 | 3, _, a, b, c, d]) => Some((12, u64::from(u32::from_le_bytes([*a, *b, *c, *d])))),
        _ => None,
    };
    let Some((before, length)) = length else {
        let expected = "an array of NumPy (version 1 to 3)".to_owned();
        return Err(wrong(expected, "other bytes".to_owned()));
    };
    let data = bytes.start + before + length;
    if length > MAX_HEADER_BYTES || data > bytes.end {
        let limit = MAX_HEADER_BYTES.min(bytes.end - bytes.start);
        let expected = format!("a header of at most {limit} bytes");
        return Err(wrong(expected, format!("one of {length}")));
    }
    let text = read(bytes.start + before..data)?;
    let header = std::str::from_utf8(&text).ok().and_then(Header::read);
    let Some(header) = header else {
        let expected = "{'descr': …, 'fortran_order': …, 'shape': …}".to_owned();
        let found = String::from_utf8_lossy(&text);
        return Err(wrong(expected, short(found.trim_end())));
    };
    let Some((_, dtype)) = TYPES.iter().find(|(descr, _)| *descr == header.descr) else {
        let known: Vec<&str> = TYPES.iter().map(|(descr, _)| *descr).collect();
        let expected = format!("one of the types {}", known.join(", "));
        return Err(wrong(expected, short(header.descr)));
    };
    if header.is_fortran && header.shape.len() > 1 {
        let expected = "values row by row; save numpy.ascontiguousarray of it".to_owned();
        return Err(wrong(expected, "values column by column".to_owned()));
    }
    let n_values = header
        .shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size as u64));
    let n_bytes = n_values.and_then(|n| n.checked_mul(dtype.size_bytes() as u64));
    if n_bytes != Some(bytes.end - data) {
        let expected = format!("the values of {:?} {}", header.shape, dtype.name());
        return Err(wrong(expected, format!("{} bytes", bytes.end - data)));
    }
    let source: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&file.source)));
    let name = name.to_owned();
    Ok(Tensor::new(name, *dtype, header.shape, source, data)?)
}

/// The dictionary before the values.
struct Header<'a> {
    descr: &'a str,
    is_fortran: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// Reads it in the order in which NumPy writes it, that of the alphabet.
    fn read(text: &'a str) -> Option<Self> {
        let text = text.trim_end_matches(['\n', ' ']);
        let rest = text.strip_prefix("{'descr': '")?;
        let (descr, rest) = rest.split_once("', 'fortran_order': ")?;
        let (order, rest) = rest.split_once(", 'shape': (")?;
        let is_fortran = match order {
            "True" => true,
            "False" => false,
            _ => return None,
        };
        let sizes = rest
            .strip_suffix("), }")
            .or_else(|| rest.strip_suffix(")}"))?;
        let sizes = sizes.strip_suffix(',').unwrap_or(sizes);
        let mut shape = Vec::new();
        if !sizes.is_empty() {
            for size in sizes.split(", ") {
                if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                shape.push(size.parse().ok()?);
            }
        }
        (shape.len() <= MAX_DIMENSIONS).then_some(Self {
            descr,
            is_fortran,
            shape,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_numpy_writes_them_and_no_other_way() {
        let header = |text: &'static str| Header::read(text);
        let read =
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n").unwrap();
        assert_eq!((read.descr, read.is_fortran), ("<f4", false));
        assert_eq!(read.shape, [3, 4]);
        let one = header("{'descr': '|b1', 'fortran_order': True, 'shape': (7,), }\n").unwrap();
        assert_eq!((one.is_fortran, one.shape), (true, vec![7]));
        let none = header("{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n").unwrap();
        assert!(none.shape.is_empty());
        for text in [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3 + 1,), }",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
            "{'shape': (3,), 'descr': '<f4', 'fortran_order': False}",
        ] {
            assert!(header(text).is_none(), "{text}");
        }
    }
}

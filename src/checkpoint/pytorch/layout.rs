//! Where a tensor's elements lie: storage, offset, shape and strides to a [`Tensor`].
//!
//! A contiguous tensor is a byte range of the file. Any other view (transposed, sliced, expanded) is
//! gathered in row-major order when it is read, so that nobody above sees strides.

use super::super::error::short;
use super::super::{CheckpointError, MAX_DIMENSIONS};
use super::value::{Element, Id, TensorParts, Value, Values};
use crate::tensor::{Tensor, TensorBytes, TensorError};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Longest keys of storages; torch's have 15 digits.
const MAX_KEY_BYTES: usize = 256;
/// Bytes of the file that a gathering read looks at in one go.
const SPAN_BYTES: u64 = 4 << 20;

/// Where each storage lies in the file, by key.
pub(super) type Stored = HashMap<Arc<str>, Range<u64>>;

/// A storage that the pickle refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Declared {
    pub element: Element,
    pub n_elements: u64,
}

impl Declared {
    pub(super) fn size_bytes(self) -> Option<u64> {
        self.n_elements
            .checked_mul(self.element.size_bytes() as u64)
    }
}

/// Every storage that the pickle refers to, by key.
///
/// # Errors
/// When a key or size is none, or one storage is declared twice with different types or sizes
/// (expected, found).
pub(super) fn storages(values: &Values) -> Result<HashMap<Arc<str>, Declared>, (String, String)> {
    let mut found: HashMap<Arc<str>, Declared> = HashMap::new();
    for value in &values.0 {
        let Value::Storage(storage) = value else {
            continue;
        };
        let key = values.str(storage.key).filter(|k| k.len() <= MAX_KEY_BYTES);
        let (Some(key), Some(n_elements)) = (key, values.natural(storage.n_elements)) else {
            return Err((
                "storages with a key of at most 256 bytes and a size".to_owned(),
                "one without".to_owned(),
            ));
        };
        let declared = Declared {
            element: storage.element,
            n_elements,
        };
        match found.get(key) {
            Some(before) if *before != declared => {
                return Err((
                    format!("one type and size of storage {}", short(key)),
                    format!("{before:?} and {declared:?}"),
                ));
            }
            Some(_) => {}
            None => {
                found.insert(key.clone(), declared);
            }
        }
    }
    Ok(found)
}

/// What tensors of one file are placed with.
pub(super) struct Places<'a> {
    pub file: &'a str,
    pub values: &'a Values,
    pub stored: &'a Stored,
    pub bytes: &'a Arc<dyn TensorBytes>,
}

impl Places<'_> {
    /// The tensor of a rebuild call.
    ///
    /// # Errors
    /// When its type is not read, or its view reaches beyond its storage.
    pub(super) fn tensor(
        &self,
        name: &str,
        parts: &TensorParts,
    ) -> Result<Tensor, CheckpointError> {
        let wrong = |expected: &str, found: String| CheckpointError::Tensor {
            file: self.file.to_owned(),
            tensor: short(name),
            expected: expected.to_owned(),
            found,
        };
        let Value::Storage(storage) = self.values.get(parts.storage) else {
            return Err(wrong("a storage", "none".to_owned()));
        };
        let dtype = match parts.element.unwrap_or(storage.element) {
            Element::Read(dtype) => dtype,
            Element::Unread(name, _) => {
                return Err(wrong(
                    "a dtype that is read here",
                    format!("the dtype {name}"),
                ));
            }
        };
        let size = dtype.size_bytes() as u64;
        let key = self.values.str(storage.key).map_or("", |key| &**key);
        let Some(place) = self.stored.get(key) else {
            let found = format!("no storage {}", short(key));
            return Err(wrong("a storage in the file", found));
        };
        let mut place = place.clone();
        if let Some(view) = storage.view {
            let within = (|| {
                let &[_, offset, n] = self.values.items(view)? else {
                    return None;
                };
                let unit = storage.element.size_bytes() as u64;
                let start = self.values.natural(offset)?.checked_mul(unit)?;
                let n_bytes = self.values.natural(n)?.checked_mul(unit)?;
                let start = place.start.checked_add(start)?;
                let end = start.checked_add(n_bytes)?;
                (end <= place.end).then_some(start..end)
            })();
            place = within.ok_or_else(|| {
                wrong("a view within its storage", "one that leaves it".to_owned())
            })?;
        }
        let shape = self.numbers(parts.shape);
        let strides = self.numbers(parts.strides);
        let offset = self.values.natural(parts.offset);
        let (Some(shape), Some(mut strides), Some(offset)) = (shape, strides, offset) else {
            return Err(wrong(
                "an offset, and sizes and strides of at most 32 dimensions, none negative",
                "something else".to_owned(),
            ));
        };
        if shape.len() != strides.len() {
            return Err(wrong(
                "one stride per dimension",
                format!("{} for {} dimensions", strides.len(), shape.len()),
            ));
        }
        // A stride along one element or none is never taken, and may be any number.
        for (stride, _) in strides.iter_mut().zip(&shape).filter(|(_, n)| **n <= 1) {
            *stride = 0;
        }
        let is_empty = shape.contains(&0);
        let n_elements = (place.end - place.start) / size;
        let end = if is_empty {
            Some(0)
        } else {
            span(&shape, &strides).and_then(|span| offset.checked_add(span))
        };
        if end.is_none_or(|end| end > n_elements) {
            return Err(wrong(
                &format!("a view within a storage of {n_elements} elements"),
                format!("offset {offset}, shape {shape:?}, strides {strides:?}"),
            ));
        }
        let sizes: Result<Vec<usize>, _> = shape.iter().map(|n| usize::try_from(*n)).collect();
        let Ok(sizes) = sizes else {
            return Err(wrong("sizes that can be addressed", format!("{shape:?}")));
        };
        // Within the file, hence no overflow; an empty tensor lies nowhere.
        let start = if is_empty {
            0
        } else {
            place.start + offset * size
        };
        if is_empty || is_contiguous(&shape, &strides) {
            let bytes = Arc::clone(self.bytes);
            return Ok(Tensor::new(name.to_owned(), dtype, sizes, bytes, start)?);
        }
        let gathered = Gathered {
            bytes: Arc::clone(self.bytes),
            start,
            element_bytes: size,
            shape,
            strides,
        };
        Ok(Tensor::new(
            name.to_owned(),
            dtype,
            sizes,
            Arc::new(gathered),
            0,
        )?)
    }

    fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        let items = self.values.items(id)?;
        if items.len() > MAX_DIMENSIONS {
            return None;
        }
        items.iter().map(|id| self.values.natural(*id)).collect()
    }
}

/// Elements from the first to the last of a view that is not empty.
fn span(shape: &[u64], strides: &[u64]) -> Option<u64> {
    shape
        .iter()
        .zip(strides)
        .try_fold(1u64, |span, (n, stride)| {
            n.checked_sub(1)?.checked_mul(*stride)?.checked_add(span)
        })
}

/// Whether row-major order is the order of the file. Strides along one element mean nothing.
fn is_contiguous(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = Some(1u64);
    for (n, stride) in shape.iter().zip(strides).rev() {
        if *n != 1 && expected != Some(*stride) {
            return false;
        }
        expected = expected.and_then(|e| e.checked_mul(*n));
    }
    true
}

/// A strided view as the row-major bytes that readers expect. It lies within its storage: checked.
#[derive(Debug)]
struct Gathered {
    bytes: Arc<dyn TensorBytes>,
    /// Offset of the view's first element in the file.
    start: u64,
    element_bytes: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl Gathered {
    /// Appends the run of the last axis from element `from` on, at most `n` elements; returns how many.
    fn run(&self, from: u64, n: u64, out: &mut Vec<u8>) -> Result<u64, TensorError> {
        let (mut rest, mut position) = (from, 0);
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            position += rest % size * stride;
            rest /= size;
        }
        let inner = self.shape.last().copied().unwrap_or(1);
        let stride = self.strides.last().copied().unwrap_or(1);
        let most = (SPAN_BYTES / self.element_bytes / stride.max(1)).max(1);
        let n = n.min(inner - from % inner).min(most);
        let start = self.start + position * self.element_bytes;
        let end = start + ((n - 1) * stride + 1) * self.element_bytes;
        let bytes = self.bytes.read(start..end)?;
        let element = self.element_bytes as usize;
        match stride {
            0 => (0..n).for_each(|_| out.extend_from_slice(&bytes)),
            1 => out.extend_from_slice(&bytes),
            _ => bytes
                .chunks(stride as usize * element)
                .for_each(|chunk| out.extend_from_slice(&chunk[..element.min(chunk.len())])),
        }
        Ok(n)
    }
}

impl TensorBytes for Gathered {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        let size = self.element_bytes;
        let n_bytes = self.shape.iter().product::<u64>() * size;
        if range.start > range.end || range.end > n_bytes {
            return Err(TensorError::Io {
                file: self.file().to_owned(),
                error: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        let (first, last) = (range.start / size, range.end.div_ceil(size));
        let mut out = Vec::with_capacity(((last - first) * size) as usize);
        let mut at = first;
        while at < last {
            at += self.run(at, last - at, &mut out)?;
        }
        out.truncate((range.end - first * size) as usize);
        out.drain(..(range.start - first * size) as usize);
        Ok(Cow::Owned(out))
    }

    fn file(&self) -> &str {
        self.bytes.file()
    }

    /// All that the view spans: its elements lie apart.
    fn stored(&self, _: Range<u64>) -> Vec<(&str, Range<u64>)> {
        let size = span(&self.shape, &self.strides).unwrap_or(0) * self.element_bytes;
        self.bytes.stored(self.start..self.start + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[derive(Debug)]
    struct Counting;

    impl TensorBytes for Counting {
        fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
            assert!(range.end <= 256);
            Ok(range.map(|n| n as u8).collect::<Vec<u8>>().into())
        }

        fn file(&self) -> &str {
            "counting"
        }
    }

    fn gathered(shape: &[u64], strides: &[u64], start: u64) -> Tensor {
        let bytes = Gathered {
            bytes: Arc::new(Counting),
            start,
            element_bytes: 1,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        let sizes = shape.iter().map(|n| *n as usize).collect();
        Tensor::new("t".into(), DType::U8, sizes, Arc::new(bytes), 0).unwrap()
    }

    #[test]
    fn strided_views_read_in_row_major_order() {
        let transposed = gathered(&[3, 2], &[1, 3], 10);
        assert_eq!(
            transposed.read_elements(0..6).unwrap(),
            [10.0, 13.0, 11.0, 14.0, 12.0, 15.0]
        );
        let every_second = gathered(&[2, 2], &[8, 2], 0);
        assert_eq!(
            every_second.read_elements(0..4).unwrap(),
            [0.0, 2.0, 8.0, 10.0]
        );
        let expanded = gathered(&[2, 3], &[1, 0], 5);
        assert_eq!(
            expanded.read_elements(0..6).unwrap(),
            [5.0, 5.0, 5.0, 6.0, 6.0, 6.0]
        );
    }

    #[test]
    fn any_part_of_a_view_is_that_part_of_the_whole() {
        let (shape, strides) = ([3, 4, 2], [2, 10, 1]);
        let whole = gathered(&shape, &strides, 3).read_elements(0..24).unwrap();
        let view = gathered(&shape, &strides, 3);
        for start in 0..=24 {
            for end in start..=24 {
                assert_eq!(view.read_elements(start..end).unwrap(), whole[start..end]);
            }
        }
        assert!(view.read_bytes(0..25).is_err());
    }

    #[test]
    fn parts_that_cut_elements_are_cut() {
        let view = Gathered {
            bytes: Arc::new(Counting),
            start: 0,
            element_bytes: 4,
            shape: vec![2, 2],
            strides: vec![1, 2],
        };
        let whole = view.read(0..16).unwrap().into_owned();
        assert_eq!(whole[..12], [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]);
        for start in 0..16 {
            for end in start..=16 {
                let range = start as u64..end as u64;
                assert_eq!(*view.read(range).unwrap(), whole[start..end]);
            }
        }
    }

    #[test]
    fn only_row_major_order_is_contiguous_and_axes_of_one_do_not_count() {
        assert!(is_contiguous(&[2, 3], &[3, 1]));
        assert!(is_contiguous(&[1, 3], &[99, 1]));
        assert!(is_contiguous(&[3, 1], &[1, 99]));
        assert!(is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[2, 3], &[1, 2]));
        assert!(!is_contiguous(&[2, 3], &[4, 1]));
        assert!(!is_contiguous(&[2], &[0]));
        assert_eq!(span(&[u64::MAX, 2], &[u64::MAX, 1]), None);
    }
}

//! A named tensor whose values stay where they are stored until they are asked for.

use super::{DType, TensorError};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The bytes that tensors of one file lie in.
pub trait TensorBytes: Send + Sync + std::fmt::Debug {
    /// The bytes of a range of the file.
    ///
    /// # Errors
    /// When they cannot be had; the error names the file.
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError>;

    /// Path of the file relative to the model's root.
    fn file(&self) -> &str;
}

/// A named tensor: row-major, little-endian, read lazily.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    n_elements: usize,
    bytes: Arc<dyn TensorBytes>,
    offset: u64,
}

impl Tensor {
    /// A tensor whose first byte lies at `offset` of the file. Whether the file is long enough is
    /// checked when bytes are read.
    ///
    /// # Errors
    /// When the shape has more elements, or the tensor more bytes, than can be addressed.
    pub fn new(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        bytes: Arc<dyn TensorBytes>,
        offset: u64,
    ) -> Result<Self, TensorError> {
        let n_elements = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        let end = n_elements
            .and_then(|n| n.checked_mul(dtype.size_bytes()))
            .and_then(|size| offset.checked_add(size as u64));
        match (n_elements, end) {
            (Some(n_elements), Some(_)) => Ok(Self {
                name,
                dtype,
                shape,
                n_elements,
                bytes,
                offset,
            }),
            _ => Err(TensorError::TooLarge {
                file: bytes.file().to_owned(),
                tensor: name,
                shape,
            }),
        }
    }

    /// Name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, slowest first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Product of the sizes; 1 for a scalar.
    pub fn n_elements(&self) -> usize {
        self.n_elements
    }

    /// Stored size.
    pub fn size_bytes(&self) -> u64 {
        (self.n_elements * self.dtype.size_bytes()) as u64
    }

    /// Path of the file it lies in, relative to the model's root.
    pub fn file(&self) -> &str {
        self.bytes.file()
    }

    /// Stored bytes, `range` counted from the tensor's first byte.
    ///
    /// # Errors
    /// When the range leaves the tensor, or the bytes cannot be had.
    pub fn read_bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        if range.start > range.end || range.end > self.size_bytes() {
            let limit = self.size_bytes() as usize;
            return Err(TensorError::index(self, range.end as usize, limit));
        }
        self.bytes
            .read(self.offset + range.start..self.offset + range.end)
    }

    /// Values of a range of elements in storage order, as f32. Not checked for being finite.
    ///
    /// # Errors
    /// When the range leaves the tensor, or the bytes cannot be had.
    pub fn read_elements(&self, range: Range<usize>) -> Result<Vec<f32>, TensorError> {
        if range.start > range.end || range.end > self.n_elements {
            return Err(TensorError::index(self, range.end, self.n_elements));
        }
        let size = self.dtype.size_bytes() as u64;
        let bytes = self.read_bytes(range.start as u64 * size..range.end as u64 * size)?;
        let mut values = vec![0.0; range.len()];
        self.dtype.decode(&bytes, &mut values);
        Ok(values)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Tensors in memory, for tests of this module.
    #[derive(Debug)]
    pub(in crate::tensor) struct InMemory(pub Vec<u8>);

    impl TensorBytes for InMemory {
        fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
            self.0
                .get(range.start as usize..range.end as usize)
                .map(Cow::Borrowed)
                .ok_or_else(|| TensorError::Io {
                    file: "memory".into(),
                    error: std::io::ErrorKind::UnexpectedEof.into(),
                })
        }

        fn file(&self) -> &str {
            "memory"
        }
    }

    pub(in crate::tensor) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(
            "t".into(),
            DType::F32,
            shape.to_vec(),
            Arc::new(InMemory(bytes)),
            0,
        )
        .unwrap()
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        let bytes = Arc::new(InMemory(vec![]));
        for shape in [
            vec![usize::MAX, 2],
            vec![usize::MAX / 4 + 1],
            vec![1 << 40, 1 << 40],
        ] {
            let made = Tensor::new("t".into(), DType::F32, shape, bytes.clone(), 0);
            assert!(matches!(made, Err(TensorError::TooLarge { .. })));
        }
    }

    #[test]
    fn reads_beyond_the_tensor_are_refused_even_where_the_file_goes_on() {
        let tensor = Tensor::new(
            "t".into(),
            DType::U8,
            vec![4],
            Arc::new(InMemory((0..10).collect())),
            2,
        )
        .unwrap();
        assert_eq!(tensor.read_elements(1..4).unwrap(), [3.0, 4.0, 5.0]);
        assert!(tensor.read_elements(1..5).is_err());
        assert!(tensor.read_bytes(3..5).is_err());
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error_that_names_it() {
        let tensor = Tensor::new(
            "t".into(),
            DType::F32,
            vec![4],
            Arc::new(InMemory(vec![0; 10])),
            0,
        )
        .unwrap();
        assert!(tensor.read_elements(0..2).is_ok());
        assert!(
            tensor
                .read_elements(0..4)
                .unwrap_err()
                .to_string()
                .contains("memory")
        );
    }
}

//! A named tensor whose values stay where they are stored until they are asked for.

use super::coded::{self, Decoder, Elements, Part};
use super::{DType, RowRuns, TensorError};
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

    /// Where in which files the bytes of a range lie, for those that give them out in another order.
    fn stored(&self, range: Range<u64>) -> Vec<(&str, Range<u64>)> {
        vec![(self.file(), range)]
    }
}

/// A named tensor: row-major, little-endian, read lazily.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    n_elements: usize,
    store: Store,
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug)]
enum Store {
    /// Its elements, or blocks of them, one after the other.
    Bytes {
        bytes: Arc<dyn TensorBytes>,
        offset: u64,
    },
    /// Other tensors, by way of a decoder.
    Coded(Arc<dyn Decoder>),
    /// Some rows of another tensor.
    Part {
        whole: Arc<Tensor>,
        rows: Arc<RowRuns>,
    },
}

impl Tensor {
    /// A tensor whose first byte lies at `offset` of the file. Whether the file is long enough is
    /// checked when bytes are read.
    ///
    /// # Errors
    /// When the shape has more elements, or the tensor more bytes, than can be addressed, or its rows
    /// are no whole number of blocks.
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
            .and_then(|n| (n / dtype.block_elements()).checked_mul(dtype.size_bytes()))
            .and_then(|size| offset.checked_add(size as u64));
        let row = shape.last().copied().unwrap_or(1);
        if matches!(dtype, DType::Coded(_)) {
            return Err(TensorError::Shape {
                file: bytes.file().to_owned(),
                tensor: name,
                expected: "elements, or blocks of them, one after the other".to_owned(),
                found: dtype.name().to_owned(),
            });
        }
        if n_elements.is_some() && row % dtype.block_elements() != 0 {
            return Err(TensorError::Shape {
                file: bytes.file().to_owned(),
                tensor: name,
                expected: format!(
                    "rows of whole blocks of {} elements ({})",
                    dtype.block_elements(),
                    dtype.name()
                ),
                found: format!("{shape:?}"),
            });
        }
        match (n_elements, end) {
            (Some(n_elements), Some(_)) => Ok(Self {
                name,
                dtype,
                shape,
                n_elements,
                store: Store::Bytes { bytes, offset },
            }),
            _ => Err(TensorError::TooLarge {
                file: bytes.file().to_owned(),
                tensor: name,
                shape,
            }),
        }
    }

    /// A tensor whose values a decoder computes from other tensors.
    ///
    /// # Errors
    /// When the shape has more elements than can be addressed.
    pub fn coded(
        name: String,
        shape: Vec<usize>,
        decoder: Arc<dyn Decoder>,
    ) -> Result<Self, TensorError> {
        let n_elements = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        match n_elements {
            Some(n_elements) => Ok(Self {
                name,
                dtype: DType::Coded(decoder.coding()),
                shape,
                n_elements,
                store: Store::Coded(decoder),
            }),
            None => {
                let file = decoder.parts().first();
                Err(TensorError::TooLarge {
                    file: file.map_or(String::new(), |part| part.tensor.file().to_owned()),
                    tensor: name,
                    shape,
                })
            }
        }
    }

    /// Some rows (first dimension) of a tensor of bytes, as a tensor with its name and fewer rows. Nothing
    /// outside of them can be read through it.
    ///
    /// # Errors
    /// When the tensor is coded or a part itself, has no rows, or not all of these.
    pub fn part(&self, rows: &RowRuns) -> Result<Self, TensorError> {
        if !matches!(self.store, Store::Bytes { .. }) || self.shape.len() < 2 || rows.is_empty() {
            return Err(TensorError::shape(self, "rows of a stored tensor"));
        }
        if rows.end() > self.shape[0] {
            return Err(TensorError::index(self, rows.end(), self.shape[0]));
        }
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        Ok(Self {
            name: self.name.clone(),
            dtype: self.dtype,
            // Fewer rows than the whole has, whose product was checked.
            n_elements: self.n_elements / self.shape[0] * rows.len(),
            shape,
            store: Store::Part {
                whole: Arc::new(self.clone()),
                rows: Arc::new(rows.clone()),
            },
        })
    }

    /// The tensor of which this is a part, and which of its rows it holds.
    pub fn whole(&self) -> Option<(&Self, &RowRuns)> {
        match &self.store {
            Store::Part { whole, rows } => Some((whole, rows)),
            _ => None,
        }
    }

    /// The stored tensors behind a coded one: codes, scales, zero points. Empty for all others.
    pub fn parts(&self) -> &[Part] {
        match &self.store {
            Store::Coded(decoder) => decoder.parts(),
            Store::Bytes { .. } | Store::Part { .. } => &[],
        }
    }

    /// Whether two coded tensors compute their values in the same way from their parts.
    pub fn is_coded_like(&self, other: &Self) -> bool {
        match (&self.store, &other.store) {
            (Store::Coded(a), Store::Coded(b)) => {
                a.coding() == b.coding() && a.parameters() == b.parameters()
            }
            _ => false,
        }
    }

    /// Numbers that a coded tensor's values depend on beside its parts, as bits (see
    /// [`Decoder::parameters`]); empty for all others.
    pub fn coding_parameters(&self) -> Vec<u64> {
        match &self.store {
            Store::Coded(decoder) => decoder.parameters(),
            Store::Bytes { .. } | Store::Part { .. } => Vec::new(),
        }
    }

    /// The same values under another name.
    pub fn renamed(&self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self.clone()
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

    /// Stored size; of a coded tensor that of all its parts.
    pub fn size_bytes(&self) -> u64 {
        match &self.store {
            Store::Bytes { .. } | Store::Part { .. } => self.dtype.bytes_of(0..self.n_elements).end,
            Store::Coded(decoder) => decoder
                .parts()
                .iter()
                .fold(0, |sum, part| sum.saturating_add(part.tensor.size_bytes())),
        }
    }

    /// Bytes of one row of a part, of which the constructor of the whole saw to it that they are whole blocks.
    fn row_bytes(&self) -> u64 {
        let n_rows = self.shape.first().copied().unwrap_or(1).max(1);
        self.dtype.bytes_of(0..self.n_elements / n_rows).end
    }

    /// Bytes of some rows of the whole, `range` counted from the first byte of the part.
    fn read_part(
        &self,
        whole: &Self,
        rows: &RowRuns,
        range: Range<u64>,
    ) -> Result<Cow<'_, [u8]>, TensorError> {
        let row_bytes = self.row_bytes();
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let mut before = 0;
        for run in rows.runs() {
            let n_bytes = run.len() as u64 * row_bytes;
            let (from, to) = (range.start.max(before), range.end.min(before + n_bytes));
            if from < to {
                let start = run.start as u64 * row_bytes;
                let part = start + (from - before)..start + (to - before);
                bytes.extend_from_slice(&whole.read_bytes(part)?);
            }
            before += n_bytes;
        }
        Ok(Cow::Owned(bytes))
    }

    /// Where what it is stored as lies, in bytes of each file: one range, one of each part, or one of each
    /// run of rows.
    pub fn byte_ranges(&self) -> Vec<(&str, Range<u64>)> {
        match &self.store {
            // The constructor saw to it that the end can be written.
            Store::Bytes { .. } => self.stored_bytes(0..self.size_bytes()),
            Store::Coded(decoder) => {
                let parts = decoder.parts().iter();
                parts.flat_map(|part| part.tensor.byte_ranges()).collect()
            }
            Store::Part { whole, rows } => whole.row_ranges(rows),
        }
    }

    /// Where some of its rows lie: a range for each run of them. Of a coded tensor all of it.
    pub fn row_ranges(&self, rows: &RowRuns) -> Vec<(&str, Range<u64>)> {
        if !matches!(self.store, Store::Bytes { .. }) {
            return self.byte_ranges();
        }
        let at = |row: usize| (row as u64).saturating_mul(self.row_bytes());
        let runs = rows.runs();
        runs.flat_map(|run| self.stored_bytes(at(run.start)..at(run.end)))
            .collect()
    }

    /// Where some of its bytes lie, `range` counted from the first; of other tensors than of bytes, all.
    pub fn stored_bytes(&self, range: Range<u64>) -> Vec<(&str, Range<u64>)> {
        match &self.store {
            Store::Bytes { bytes, offset } => {
                let at = |byte: u64| offset.saturating_add(byte);
                bytes.stored(at(range.start)..at(range.end))
            }
            Store::Coded(_) | Store::Part { .. } => self.byte_ranges(),
        }
    }

    /// Path of the file it lies in, relative to the model's root; of a coded tensor that of its codes.
    pub fn file(&self) -> &str {
        match &self.store {
            Store::Bytes { bytes, .. } => bytes.file(),
            Store::Coded(decoder) => decoder.parts().first().map_or("", |p| p.tensor.file()),
            Store::Part { whole, .. } => whole.file(),
        }
    }

    /// Stored bytes, `range` counted from the tensor's first byte. A coded tensor has none of its own:
    /// read those of its [`Self::parts`].
    ///
    /// # Errors
    /// When the range leaves the tensor, the bytes cannot be had, or the tensor is coded.
    pub fn read_bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        if range.start > range.end || range.end > self.size_bytes() {
            let limit = self.size_bytes() as usize;
            return Err(TensorError::index(self, range.end as usize, limit));
        }
        match &self.store {
            Store::Bytes { bytes, offset } => bytes.read(offset + range.start..offset + range.end),
            Store::Coded(_) => Err(TensorError::shape(self, "a tensor with bytes of its own")),
            Store::Part { whole, rows } => self.read_part(whole, rows, range),
        }
    }

    /// Values of a range of elements in storage order, as f32. Not checked for being finite.
    ///
    /// # Errors
    /// When the range leaves the tensor, or the bytes cannot be had.
    pub fn read_elements(&self, range: Range<usize>) -> Result<Vec<f32>, TensorError> {
        if range.start > range.end || range.end > self.n_elements {
            return Err(TensorError::index(self, range.end, self.n_elements));
        }
        let mut values = vec![0.0; range.len()];
        self.decode(range, &mut values)?;
        Ok(values)
    }

    /// Decodes a range of elements that lies in the tensor.
    pub(super) fn decode(&self, range: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        if let Store::Coded(decoder) = &self.store {
            return self.decode_coded(decoder.as_ref(), range, &mut Elements::values(out));
        }
        let bytes = self.read_bytes(self.dtype.bytes_of(range.clone()))?;
        let whole = self.dtype.whole_blocks(range.clone());
        if whole == range {
            self.dtype.decode(&bytes, out);
        } else {
            let mut values = vec![0.0; whole.len()];
            self.dtype.decode(&bytes, &mut values);
            for (out, value) in out.iter_mut().zip(&values[range.start - whole.start..]) {
                *out = *value;
            }
        }
        Ok(())
    }

    fn decode_coded(
        &self,
        decoder: &dyn Decoder,
        range: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let n_columns = self.shape.last().copied().unwrap_or(1);
        coded::decode(self, decoder, n_columns, range, out)
    }

    /// Codes of a range of elements in the order of the values, as they are stored, unpacked; `None` for
    /// tensors that are not coded.
    ///
    /// # Errors
    /// When the range leaves the tensor, or the bytes cannot be had.
    pub fn read_codes(&self, range: Range<usize>) -> Result<Option<Vec<i32>>, TensorError> {
        let Store::Coded(decoder) = &self.store else {
            return Ok(None);
        };
        if range.start > range.end || range.end > self.n_elements {
            return Err(TensorError::index(self, range.end, self.n_elements));
        }
        let (mut values, mut codes) = (vec![0.0; range.len()], vec![0; range.len()]);
        let mut out = Elements::values(&mut values).with_codes(&mut codes);
        self.decode_coded(decoder.as_ref(), range, &mut out)?;
        Ok(Some(codes))
    }

    /// For a range of elements, how far from its value each can have been before it was rounded to its
    /// code (see [`super::BlockType::rounding_bounds`]); `None` for types without such a statement.
    ///
    /// # Errors
    /// When the range leaves the tensor, or the bytes cannot be had.
    pub fn read_rounding_bounds(
        &self,
        range: Range<usize>,
    ) -> Result<Option<Vec<f32>>, TensorError> {
        if range.start > range.end || range.end > self.n_elements {
            return Err(TensorError::index(self, range.end, self.n_elements));
        }
        if let Store::Coded(decoder) = &self.store {
            if !decoder.has_bounds() {
                return Ok(None);
            }
            let (mut values, mut bounds) = (vec![0.0; range.len()], vec![0.0; range.len()]);
            let mut out = Elements::values(&mut values).with_bounds(&mut bounds);
            self.decode_coded(decoder.as_ref(), range, &mut out)?;
            return Ok(Some(bounds));
        }
        let DType::Block(block) = self.dtype else {
            return Ok(None);
        };
        let bytes = self.read_bytes(self.dtype.bytes_of(range.clone()))?;
        let whole = self.dtype.whole_blocks(range.clone());
        let mut bounds = vec![0.0; whole.len()];
        if !block.rounding_bounds(&bytes, &mut bounds) {
            return Ok(None);
        }
        bounds.drain(..range.start - whole.start);
        bounds.truncate(range.len());
        Ok(Some(bounds))
    }
}

/// Bytes that are held in memory.
#[derive(Debug)]
pub struct InMemory {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The file that they came from, for messages.
    pub file: String,
}

impl TensorBytes for InMemory {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| self.bytes.get(start..end))
            .map(Cow::Borrowed)
            .ok_or_else(|| TensorError::Io {
                file: self.file.clone(),
                error: std::io::ErrorKind::UnexpectedEof.into(),
            })
    }

    fn file(&self) -> &str {
        &self.file
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bytes as a tensor's, for tests of this module.
    pub(in crate::tensor) fn in_memory(bytes: Vec<u8>) -> Arc<InMemory> {
        let file = "memory".to_owned();
        Arc::new(InMemory { bytes, file })
    }

    pub(in crate::tensor) fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new("t".into(), DType::F32, shape.to_vec(), in_memory(bytes), 0).unwrap()
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        let bytes = in_memory(vec![]);
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
            in_memory((0..10).collect()),
            2,
        )
        .unwrap();
        assert_eq!(tensor.read_elements(1..4).unwrap(), [3.0, 4.0, 5.0]);
        assert!(tensor.read_elements(1..5).is_err());
        assert!(tensor.read_bytes(3..5).is_err());
    }

    #[test]
    fn a_part_reads_its_rows_and_nothing_else() {
        let values: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let whole = tensor(&[10, 3], &values);
        let part = whole.part(&RowRuns::new([1..3, 7..8])).unwrap();
        assert_eq!((part.shape(), part.size_bytes()), (&[3, 3][..], 36));
        let expected = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 21.0, 22.0, 23.0];
        assert_eq!(part.read_elements(0..9).unwrap(), expected);
        assert_eq!(part.read_elements(5..7).unwrap(), [8.0, 21.0]);
        assert!(part.read_elements(0..10).is_err());
        let ranges: Vec<Range<u64>> = part.byte_ranges().into_iter().map(|(_, r)| r).collect();
        assert_eq!(ranges, [12..36, 84..96]);
        assert!(whole.part(&RowRuns::one(9..11)).is_err());
        assert!(whole.part(&RowRuns::default()).is_err());
        assert!(tensor(&[30], &values).part(&RowRuns::one(0..1)).is_err());
    }

    #[test]
    fn a_part_of_blocks_is_whole_blocks() {
        let dtype = DType::Block(crate::tensor::BlockType::Q8_0);
        let bytes = (0..4 * 68).map(|i: usize| {
            if i % 34 == 1 {
                0x3c
            } else {
                (i / 34 + i % 34) as u8
            }
        });
        let bytes = in_memory(bytes.collect());
        let whole = Tensor::new("t".into(), dtype, vec![4, 64], bytes, 0).unwrap();
        let part = whole.part(&RowRuns::new([1..2, 3..4])).unwrap();
        let rows = [
            whole.read_elements(64..128).unwrap(),
            whole.read_elements(192..256).unwrap(),
        ];
        assert_eq!(part.read_elements(0..128).unwrap(), rows.concat());
        assert_eq!(part.read_elements(40..70).unwrap(), rows.concat()[40..70]);
        let bounds = whole.read_rounding_bounds(192..256).unwrap();
        assert_eq!(part.read_rounding_bounds(64..128).unwrap(), bounds);
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error_that_names_it() {
        let tensor =
            Tensor::new("t".into(), DType::F32, vec![4], in_memory(vec![0; 10]), 0).unwrap();
        assert!(tensor.read_elements(0..2).is_ok());
        assert!(
            tensor
                .read_elements(0..4)
                .unwrap_err()
                .to_string()
                .contains("memory")
        );
    }

    #[test]
    fn a_range_within_a_block_reads_what_the_whole_block_reads() {
        let dtype = DType::Block(crate::tensor::BlockType::Q8_0);
        let mut bytes = vec![0u8; 4 * 34];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = if i % 34 < 2 {
                [0, 0x3c][i % 34]
            } else {
                i as u8
            };
        }
        let make = |shape: &[usize]| {
            let bytes = in_memory(bytes.clone());
            Tensor::new("t".into(), dtype, shape.to_vec(), bytes, 0)
        };
        let tensor = make(&[2, 64]).unwrap();
        assert_eq!(tensor.size_bytes(), 136);
        let all = tensor.read_elements(0..128).unwrap();
        assert_eq!(all[33], f32::from(37i8));
        for range in [0..1, 5..70, 31..33, 127..128, 64..64] {
            assert_eq!(tensor.read_elements(range.clone()).unwrap(), all[range]);
        }
        assert_eq!(
            tensor.read_rounding_bounds(5..7).unwrap().map(|b| b.len()),
            Some(2)
        );
        // A row that ends within a block does not exist.
        let error = make(&[4, 16]).unwrap_err().to_string();
        assert!(error.contains("whole blocks of 32"), "{error}");
    }
}

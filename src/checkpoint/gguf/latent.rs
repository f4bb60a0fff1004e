//! Joins what llama.cpp's converter takes apart: keys and values of multi-head latent attention.
//!
//! `kv_b_proj` of DeepSeek-V2 and V3 holds the rows of each head's keys, then those of its values:
//! `[n_heads · (key_dim + value_dim), rank]`. Since 2025 the converter writes two tensors of it, the keys turned,
//! `attn_k_b` `[n_heads, rank, key_dim]`, and the values, `attn_v_b` `[n_heads, value_dim, rank]`
//! (<https://github.com/ggml-org/llama.cpp>, `conversion/deepseek.py`). Here they are given out as the original,
//! by the name that files of before have: `attn_kv_b`.

use super::super::CheckpointError;
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorBytes, TensorError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Names of the two within a layer, and of what they make.
const KEYS: &str = "attn_k_b.weight";
const VALUES: &str = "attn_v_b.weight";
const JOINED: &str = "attn_kv_b.weight";

/// Puts a joined tensor in the place of each pair, and tells how many. Those of which only one is there stay as
/// they are.
///
/// # Errors
/// When the shapes of a pair do not fit.
pub(super) fn join(
    tensors: Vec<Tensor>,
    notes: &mut Vec<String>,
) -> Result<Vec<Tensor>, CheckpointError> {
    let layer_of = |tensor: &Tensor, suffix: &str| {
        let name = tensor.name().strip_suffix(suffix)?;
        Some(name.to_owned())
    };
    let values: BTreeMap<String, Tensor> = tensors
        .iter()
        .filter_map(|tensor| Some((layer_of(tensor, VALUES)?, tensor.clone())))
        .collect();
    let mut joined = BTreeMap::new();
    for keys in &tensors {
        if let Some(layer) = layer_of(keys, KEYS)
            && let Some(values) = values.get(&layer)
        {
            let name = format!("{layer}{JOINED}");
            joined.insert(layer, Halves::new(keys, values)?.tensor(name)?);
        }
    }
    if !joined.is_empty() {
        let n = joined.len();
        let halves = "attn_k_b and attn_v_b are stored apart and given out as one attn_kv_b";
        notes.push(format!("layers whose {halves}, as in the original: {n}"));
    }
    let place = |tensor: Tensor| match layer_of(&tensor, KEYS) {
        Some(layer) => Some(joined.get(&layer).cloned().unwrap_or(tensor)),
        None => {
            let is_joined = layer_of(&tensor, VALUES).is_some_and(|l| joined.contains_key(&l));
            (!is_joined).then_some(tensor)
        }
    };
    Ok(tensors.into_iter().filter_map(place).collect())
}

/// The two, whose shapes fit.
#[derive(Debug, Clone)]
struct Halves {
    /// `[n_heads, rank, key_dim]`.
    keys: Tensor,
    /// `[n_heads, value_dim, rank]`.
    values: Tensor,
    n_heads: usize,
    rank: usize,
    key_dim: usize,
    value_dim: usize,
}

/// Rows of one head that are its keys or its values, counted from the first of them.
struct Piece {
    head: usize,
    are_keys: bool,
    rows: Range<usize>,
}

impl Halves {
    fn new(keys: &Tensor, values: &Tensor) -> Result<Self, CheckpointError> {
        match (keys.shape(), values.shape()) {
            (&[n_heads, rank, key_dim], &[heads, value_dim, width])
                if (heads, width) == (n_heads, rank) && keys.n_elements() > 0 =>
            {
                Ok(Self {
                    keys: keys.clone(),
                    values: values.clone(),
                    n_heads,
                    rank,
                    key_dim,
                    value_dim,
                })
            }
            (of_keys, of_values) => Err(CheckpointError::Tensor {
                file: values.file().to_owned(),
                tensor: values.name().to_owned(),
                expected: format!(
                    "[heads, width, rank] of {} [heads, rank, width], which is {of_keys:?}",
                    keys.name()
                ),
                found: format!("{of_values:?}"),
            }),
        }
    }

    /// Numbers as they are keep their type; of blocks, which lie across the rows of the original, each value is
    /// computed.
    fn tensor(self, name: String) -> Result<Tensor, CheckpointError> {
        let n_rows = (self.key_dim.checked_add(self.value_dim))
            .and_then(|n| n.checked_mul(self.n_heads))
            .unwrap_or(usize::MAX);
        let (shape, dtype) = (vec![n_rows, self.rank], self.keys.dtype());
        let tensor = match dtype == self.values.dtype() && !matches!(dtype, DType::Block(_)) {
            true => Tensor::new(name, dtype, shape, Arc::new(JoinedNumbers(self)), 0)?,
            false => Tensor::coded(name, shape, Arc::new(JoinedBlocks::new(self)))?,
        };
        Ok(tensor)
    }

    /// Rows of the joined tensor, head by head.
    fn pieces(&self, rows: Range<usize>) -> Vec<Piece> {
        let of_head = self.key_dim + self.value_dim;
        let mut pieces = Vec::new();
        let mut row = rows.start;
        while row < rows.end {
            let (head, within) = (row / of_head, row % of_head);
            let are_keys = within < self.key_dim;
            let (begin, end) = match are_keys {
                true => (0, self.key_dim),
                false => (self.key_dim, of_head),
            };
            let last = end.min(within + (rows.end - row));
            pieces.push(Piece {
                head,
                are_keys,
                rows: within - begin..last - begin,
            });
            row += last - within;
        }
        pieces
    }

    /// Elements of a head's keys: all of them, for the rows of the original are its columns.
    fn keys_of(&self, head: usize) -> Range<usize> {
        let n = self.rank * self.key_dim;
        head * n..(head + 1) * n
    }

    /// Elements of rows of a head's values.
    fn values_of(&self, piece: &Piece) -> Range<usize> {
        let first = piece.head * self.value_dim;
        (first + piece.rows.start) * self.rank..(first + piece.rows.end) * self.rank
    }
}

/// Both halves hold numbers of one type: bytes in the order of the original.
#[derive(Debug)]
struct JoinedNumbers(Halves);

impl JoinedNumbers {
    /// Rows that a range of bytes touches.
    fn rows(&self, range: &Range<u64>) -> Range<usize> {
        let row_bytes = (self.0.rank * self.0.keys.dtype().size_bytes()) as u64;
        (range.start / row_bytes) as usize..range.end.div_ceil(row_bytes) as usize
    }
}

impl TensorBytes for JoinedNumbers {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        let (halves, dtype) = (&self.0, self.0.keys.dtype());
        let size = dtype.size_bytes();
        let rows = self.rows(&range);
        let first = (rows.start * halves.rank * size) as u64;
        let mut bytes = Vec::with_capacity(rows.len() * halves.rank * size);
        for piece in halves.pieces(rows) {
            if !piece.are_keys {
                let values = dtype.bytes_of(halves.values_of(&piece));
                bytes.extend_from_slice(&halves.values.read_bytes(values)?);
                continue;
            }
            let keys = dtype.bytes_of(halves.keys_of(piece.head));
            let keys = halves.keys.read_bytes(keys)?;
            for row in piece.rows {
                for column in keys.chunks_exact(halves.key_dim * size) {
                    bytes.extend_from_slice(&column[row * size..(row + 1) * size]);
                }
            }
        }
        bytes.truncate((range.end - first) as usize);
        bytes.drain(..(range.start - first) as usize);
        Ok(Cow::Owned(bytes))
    }

    fn file(&self) -> &str {
        self.0.keys.file()
    }

    fn stored(&self, range: Range<u64>) -> Vec<(&str, Range<u64>)> {
        if range.is_empty() {
            return Vec::new();
        }
        let (halves, dtype) = (&self.0, self.0.keys.dtype());
        let pieces = halves.pieces(self.rows(&range)).into_iter();
        pieces
            .flat_map(|piece| match piece.are_keys {
                true => {
                    let keys = dtype.bytes_of(halves.keys_of(piece.head));
                    halves.keys.stored_bytes(keys)
                }
                false => {
                    let values = dtype.bytes_of(halves.values_of(&piece));
                    halves.values.stored_bytes(values)
                }
            })
            .collect()
    }
}

/// One half at least is stored in blocks.
#[derive(Debug)]
struct JoinedBlocks {
    halves: Halves,
    parts: Vec<Part>,
    has_bounds: bool,
}

impl JoinedBlocks {
    fn new(halves: Halves) -> Self {
        let part = |kind, tensor: &Tensor| Part {
            kind,
            tensor: tensor.clone(),
        };
        // Nothing is read for no element.
        let says = |half: &Tensor| {
            let bounds = half.read_rounding_bounds(0..0);
            !half.dtype().is_quantized() || matches!(bounds, Ok(Some(_)))
        };
        Self {
            has_bounds: says(&halves.keys) && says(&halves.values),
            parts: vec![part("keys", &halves.keys), part("values", &halves.values)],
            halves,
        }
    }

    /// Values and, where they are asked for, bounds of elements of one half.
    fn read(
        tensor: &Tensor,
        elements: Range<usize>,
        with_bounds: bool,
    ) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        let values = tensor.read_elements(elements.clone())?;
        let bounds = match with_bounds {
            false => vec![0.0; values.len()],
            true => match tensor.read_rounding_bounds(elements)? {
                Some(bounds) => bounds,
                None => {
                    let step = |value: &f32| tensor.dtype().half_step(*value);
                    values.iter().map(step).collect()
                }
            },
        };
        Ok((values, bounds))
    }

    /// Puts the columns of rows of one head's keys or values.
    fn piece(
        &self,
        piece: Piece,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let (halves, with_bounds) = (&self.halves, out.wants_bounds());
        // Values are no codes; their bits are equal where they are.
        let mut put = |value: f32, bound: f32| out.put(value.to_bits() as i32, value, bound);
        if piece.are_keys {
            let all = halves.keys_of(piece.head);
            let (width, begin) = (halves.key_dim, all.start);
            let wanted = begin + columns.start * width..begin + columns.end * width;
            let (values, bounds) = Self::read(&halves.keys, wanted, with_bounds)?;
            for row in piece.rows {
                for column in 0..columns.len() {
                    let at = column * width + row;
                    put(values[at], bounds[at]);
                }
            }
        } else {
            let rows = halves.values_of(&piece);
            for start in rows.step_by(halves.rank) {
                let wanted = start + columns.start..start + columns.end;
                let (values, bounds) = Self::read(&halves.values, wanted, with_bounds)?;
                for (value, bound) in values.into_iter().zip(bounds) {
                    put(value, bound);
                }
            }
        }
        Ok(())
    }
}

impl Decoder for JoinedBlocks {
    /// That of the values: the keys' rows are often too short for the blocks of the file.
    fn coding(&self) -> Coding {
        Coding(self.halves.values.dtype().name())
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn has_bounds(&self) -> bool {
        self.has_bounds
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        for piece in self.halves.pieces(row..row + 1) {
            self.piece(piece, columns.clone(), out)?;
        }
        Ok(())
    }

    /// All rows of a head's keys are read at once: one of them alone costs as much.
    fn decode_rows(
        &self,
        rows: Range<usize>,
        n_columns: usize,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        for piece in self.halves.pieces(rows) {
            self.piece(piece, 0..n_columns, out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{BlockType, InMemory};

    const HEADS: usize = 3;
    const RANK: usize = 32;
    const KEYS_OF_HEAD: usize = 64;
    const VALUES_OF_HEAD: usize = 5;
    const N_ROWS: usize = HEADS * (KEYS_OF_HEAD + VALUES_OF_HEAD);

    fn stored(name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        let file = "m.gguf".to_owned();
        let bytes = Arc::new(InMemory { bytes, file });
        Tensor::new(name.to_owned(), dtype, shape.to_vec(), bytes, 0).unwrap()
    }

    fn numbers(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// One row after the other: whole numbers that say where they are.
    fn original() -> Vec<f32> {
        (0..N_ROWS * RANK).map(|i| i as f32).collect()
    }

    /// The two as the converter writes them.
    fn apart() -> (Vec<f32>, Vec<f32>) {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let original = original();
        for head in original.chunks((KEYS_OF_HEAD + VALUES_OF_HEAD) * RANK) {
            let (k, v) = head.split_at(KEYS_OF_HEAD * RANK);
            for column in 0..RANK {
                keys.extend((0..KEYS_OF_HEAD).map(|row| k[row * RANK + column]));
            }
            values.extend_from_slice(v);
        }
        (keys, values)
    }

    fn keys(dtype: DType, bytes: Vec<u8>) -> Tensor {
        let shape = [HEADS, RANK, KEYS_OF_HEAD];
        stored("blk.0.attn_k_b.weight", dtype, &shape, bytes)
    }

    fn values(dtype: DType, bytes: Vec<u8>) -> Tensor {
        let shape = [HEADS, VALUES_OF_HEAD, RANK];
        stored("blk.0.attn_v_b.weight", dtype, &shape, bytes)
    }

    fn joined(keys: Tensor, values: Tensor) -> Tensor {
        let other = stored("blk.0.attn_norm.weight", DType::F32, &[1], vec![0; 4]);
        let mut notes = Vec::new();
        let joined = join(vec![values, other, keys], &mut notes).unwrap();
        assert!(
            notes.len() == 1 && notes[0].ends_with("original: 1"),
            "{notes:?}"
        );
        let names: Vec<&str> = joined.iter().map(Tensor::name).collect();
        assert_eq!(names, ["blk.0.attn_norm.weight", "blk.0.attn_kv_b.weight"]);
        joined[1].clone()
    }

    #[test]
    fn numbers_come_in_the_order_of_the_original_whatever_part_is_read() {
        let (k, v) = apart();
        let f32 = DType::F32;
        let tensor = joined(keys(f32, numbers(&k)), values(f32, numbers(&v)));
        let original = original();
        assert_eq!((tensor.dtype(), tensor.shape()), (f32, &[N_ROWS, RANK][..]));
        for range in [
            0..original.len(),
            0..1,
            31..33,
            63 * 32 + 5..70 * 32 + 1,
            4000..4000,
        ] {
            let read = tensor.read_elements(range.clone()).unwrap();
            assert_eq!(read, original[range]);
        }
    }

    #[test]
    fn what_is_fetched_for_rows_is_what_they_are_read_from() {
        let (k, v) = apart();
        let tensor = joined(
            keys(DType::F32, numbers(&k)),
            values(DType::F32, numbers(&v)),
        );
        // The last rows of the second head's keys, and the first of its values.
        let first = KEYS_OF_HEAD + VALUES_OF_HEAD;
        let rows = first + KEYS_OF_HEAD - 2..first + KEYS_OF_HEAD + 1;
        let bytes = (rows.start * RANK * 4) as u64..(rows.end * RANK * 4) as u64;
        let of_head = (RANK * KEYS_OF_HEAD * 4) as u64;
        let of_value = (RANK * 4) as u64;
        let value = VALUES_OF_HEAD as u64 * of_value;
        assert_eq!(
            tensor.stored_bytes(bytes),
            [
                ("m.gguf", of_head..2 * of_head),
                ("m.gguf", value..value + of_value)
            ]
        );
    }

    /// Blocks of 32 codes at scale 1, each code its place in the block.
    fn blocks(n: usize) -> Vec<u8> {
        let block = |i: usize| {
            let codes = (0..32).map(move |j| ((i * 7 + j) % 100) as u8);
            [0, 0x3c].into_iter().chain(codes)
        };
        (0..n / 32).flat_map(block).collect()
    }

    #[test]
    fn blocks_are_decoded_where_they_lie_with_their_bounds() {
        let q8 = DType::Block(BlockType::Q8_0);
        let k = keys(q8, blocks(HEADS * RANK * KEYS_OF_HEAD));
        let v = values(q8, blocks(HEADS * VALUES_OF_HEAD * RANK));
        let tensor = joined(k.clone(), v.clone());
        assert!(tensor.dtype().is_quantized() && tensor.dtype().name() == "Q8_0");
        let all = tensor.read_elements(0..tensor.n_elements()).unwrap();
        let bounds = tensor.read_rounding_bounds(0..tensor.n_elements());
        let bounds = bounds.unwrap().expect("bounds of Q8_0");
        let of = |t: &Tensor| t.read_elements(0..t.n_elements()).unwrap();
        let bounds_of = |t: &Tensor| t.read_rounding_bounds(0..t.n_elements()).unwrap().unwrap();
        let (of_k, of_v, bounds_k, bounds_v) = (of(&k), of(&v), bounds_of(&k), bounds_of(&v));
        for (at, (value, bound)) in all.iter().zip(&bounds).enumerate() {
            let (row, column) = (at / RANK, at % RANK);
            let (head, within) = (
                row / (KEYS_OF_HEAD + VALUES_OF_HEAD),
                row % (KEYS_OF_HEAD + VALUES_OF_HEAD),
            );
            let (value_there, bound_there) = match within.checked_sub(KEYS_OF_HEAD) {
                None => {
                    let i = (head * RANK + column) * KEYS_OF_HEAD + within;
                    (of_k[i], bounds_k[i])
                }
                Some(row) => {
                    let i = (head * VALUES_OF_HEAD + row) * RANK + column;
                    (of_v[i], bounds_v[i])
                }
            };
            assert_eq!((*value, *bound), (value_there, bound_there), "{at}");
        }
        for range in [5..7, 31..65, 64 * 32 - 3..64 * 32 + 40] {
            assert_eq!(tensor.read_elements(range.clone()).unwrap(), all[range]);
        }
    }

    #[test]
    fn codes_without_bounds_state_none_and_numbers_beside_codes_their_half_step() {
        let zeros = |name: &str, block: BlockType, shape: [usize; 3]| {
            let dtype = DType::Block(block);
            let n_bytes = dtype.bytes_of(0..shape.iter().product()).end;
            stored(name, dtype, &shape, vec![0; n_bytes as usize])
        };
        let k = zeros("blk.0.attn_k_b.weight", BlockType::Q8_0, [1, 256, 32]);
        let v = zeros("blk.0.attn_v_b.weight", BlockType::Iq2Xxs, [1, 1, 256]);
        let unknown = joined(k, v).read_rounding_bounds(0..4).unwrap();
        assert_eq!(unknown, None);

        let shape = [HEADS, RANK, KEYS_OF_HEAD];
        let k = zeros("blk.0.attn_k_b.weight", BlockType::Q8_0, shape);
        let mixed = joined(k, values(DType::F32, numbers(&apart().1)));
        let value = KEYS_OF_HEAD * RANK;
        let bounds = mixed.read_rounding_bounds(value..value + 1).unwrap();
        assert_eq!(bounds.unwrap(), [value as f32 / 2f32.powi(24)]);
    }

    #[test]
    fn halves_that_do_not_fit_are_named_and_one_alone_stays() {
        let (k, v) = apart();
        let k = keys(DType::F32, numbers(&k));
        let shape = [HEADS, RANK, VALUES_OF_HEAD];
        let turned = stored("blk.0.attn_v_b.weight", DType::F32, &shape, numbers(&v));
        let error = join(vec![k.clone(), turned], &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("attn_v_b") && error.contains("[3, 32, 64]"),
            "{error}"
        );
        let mut notes = Vec::new();
        let alone = join(vec![k], &mut notes).unwrap();
        assert!(notes.is_empty());
        assert_eq!(alone[0].name(), "blk.0.attn_k_b.weight");
    }
}

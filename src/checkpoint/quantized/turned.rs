//! Arrays that are stored column by column of the weight, given out row by row.
//!
//! GPTQ and AWQ store `[in, out]` where the weight is `[out, in]`: the codes of one of its rows lie
//! scattered over the file. They are read in tiles of neighbouring rows, which stay in a cache of fixed
//! size that all tensors of a checkpoint share, so that memory does not grow with the model.

use crate::tensor::{Tensor, TensorBytes, TensorError};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a stored row that go into one tile.
const SEGMENT_BYTES: usize = 1024;
/// A tile is narrower where the array is high.
const TILE_BYTES: usize = 4 << 20;
/// Tiles that are kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// A tile's bytes and when it was last used.
type Kept = (Arc<[u8]>, u64);

/// Tiles by array and number, and their bytes in all.
type Shelf = (HashMap<(u64, usize), Kept>, usize);

/// Tiles that were read, of all arrays of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    kept: Mutex<Shelf>,
    clock: AtomicU64,
    n_arrays: AtomicU64,
}

impl Tiles {
    fn get(&self, key: (u64, usize)) -> Option<Arc<[u8]>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (tile, used) = kept.0.get_mut(&key)?;
        *used = now;
        Some(Arc::clone(tile))
    }

    /// Keeps a tile and drops those that were not used for longest.
    fn put(&self, key: (u64, usize), tile: &Arc<[u8]>) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, n_bytes) = &mut *kept;
        *n_bytes += tile.len();
        if let Some((before, _)) = map.insert(key, (Arc::clone(tile), now)) {
            *n_bytes -= before.len();
        }
        while *n_bytes > CACHE_BYTES && map.len() > 1 {
            let oldest = map.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            if let Some((dropped, _)) = map.remove(&oldest) {
                *n_bytes -= dropped.len();
            }
        }
    }
}

/// An array `[n_rows, n_columns]` of items, given out as `[n_columns, n_rows]`.
#[derive(Debug)]
struct Turned {
    stored: Tensor,
    /// Where the array begins in the tensor.
    offset: u64,
    item_bytes: usize,
    n_rows: usize,
    n_columns: usize,
    /// Columns of a tile.
    tile: usize,
    id: u64,
    tiles: Arc<Tiles>,
}

/// The last two dimensions of a tensor exchanged, item by item, where an item is `item_bytes` long: the
/// bytes of `[n_columns, n_rows]`. `slice` is the place of the matrix in a stack of them.
///
/// # Errors
/// When the sizes do not lie in the tensor.
pub(super) fn turned(
    tensor: &Tensor,
    slice: usize,
    [n_rows, n_columns]: [usize; 2],
    item_bytes: usize,
    tiles: &Arc<Tiles>,
) -> Result<Arc<dyn TensorBytes>, TensorError> {
    let size = n_rows
        .checked_mul(n_columns)
        .and_then(|n| n.checked_mul(item_bytes));
    let offset = size.and_then(|size| size.checked_mul(slice));
    let end = size.zip(offset).and_then(|(size, at)| at.checked_add(size));
    let (Some(offset), Some(end)) = (offset, end) else {
        return Err(TensorError::shape(tensor, "a size that can be addressed"));
    };
    if end as u64 > tensor.size_bytes() {
        let expected = format!("{n_rows} × {n_columns} items of {item_bytes} bytes");
        return Err(TensorError::shape(tensor, expected));
    }
    // Both products are below the size, which was checked.
    let high = (n_rows * item_bytes).max(1);
    let tile = (SEGMENT_BYTES / item_bytes.max(1)).min(TILE_BYTES / high);
    Ok(Arc::new(Turned {
        stored: tensor.clone(),
        offset: offset as u64,
        item_bytes,
        n_rows,
        n_columns,
        tile: tile.clamp(1, n_columns.max(1)),
        id: tiles.n_arrays.fetch_add(1, Ordering::Relaxed),
        tiles: Arc::clone(tiles),
    }))
}

impl Turned {
    /// The columns of one tile, one after the other.
    fn tile(&self, index: usize) -> Result<Arc<[u8]>, TensorError> {
        let key = (self.id, index);
        if let Some(tile) = self.tiles.get(key) {
            return Ok(tile);
        }
        let columns = index * self.tile..self.n_columns.min((index + 1) * self.tile);
        let item = self.item_bytes;
        let mut out = vec![0; columns.len() * self.n_rows * item];
        let mut scatter = |row: usize, segment: &[u8]| {
            for (column, bytes) in segment.chunks_exact(item).enumerate() {
                let at = (column * self.n_rows + row) * item;
                out[at..at + item].copy_from_slice(bytes);
            }
        };
        let row_bytes = self.n_columns * item;
        if columns.len() == self.n_columns {
            let end = self.offset + (self.n_rows * row_bytes) as u64;
            let all = self.stored.read_bytes(self.offset..end)?;
            for (row, segment) in all.chunks_exact(row_bytes).enumerate() {
                scatter(row, segment);
            }
        } else {
            for row in 0..self.n_rows {
                let start = self.offset + (row * row_bytes + columns.start * item) as u64;
                let end = start + (columns.len() * item) as u64;
                scatter(row, &self.stored.read_bytes(start..end)?);
            }
        }
        let tile = Arc::from(out);
        self.tiles.put(key, &tile);
        Ok(tile)
    }
}

impl TensorBytes for Turned {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        let column_bytes = self.n_rows * self.item_bytes;
        let limit = self.n_columns * column_bytes;
        let whole = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .filter(|&(start, end)| start <= end && end <= limit);
        let Some((start, end)) = whole else {
            return Err(TensorError::index(&self.stored, range.end as usize, limit));
        };
        let mut out = Vec::with_capacity(end - start);
        let mut at = start;
        while at < end {
            let tile_bytes = self.tile * column_bytes;
            let index = at / tile_bytes;
            let tile = self.tile(index)?;
            let from = at - index * tile_bytes;
            let to = tile.len().min(end - index * tile_bytes);
            out.extend_from_slice(&tile[from..to]);
            at += to - from;
        }
        Ok(Cow::Owned(out))
    }

    fn file(&self) -> &str {
        self.stored.file()
    }

    /// The whole array: a column crosses all rows.
    fn stored(&self, _: Range<u64>) -> Vec<(&str, Range<u64>)> {
        let size = (self.n_rows * self.n_columns * self.item_bytes) as u64;
        self.stored.stored_bytes(self.offset..self.offset + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::FileBytes;
    use crate::source::bytes::MemoryFile;
    use crate::tensor::DType;

    #[test]
    fn rows_become_columns_whatever_the_tiles() {
        let tiles = Arc::new(Tiles::default());
        for (n_rows, n_columns) in [(3, 2), (5, 1000), (1000, 5), (1, 1), (70_000, 40)] {
            let n = n_rows * n_columns;
            let bytes: Vec<u8> = (0..n as u32).flat_map(u32::to_le_bytes).collect();
            let file = MemoryFile::new("m", bytes.clone());
            let file = Arc::new(FileBytes(Arc::new(file)));
            let shape = vec![n_rows, n_columns];
            let stored = Tensor::new("t".into(), DType::U32, shape, file, 0).unwrap();
            let turned = turned(&stored, 0, [n_rows, n_columns], 4, &tiles).unwrap();
            let found = turned.read(0..4 * n as u64).unwrap().into_owned();
            let expected = (0..n_columns).flat_map(|c| (0..n_rows).map(move |r| (r, c)));
            let expected: Vec<u8> = expected
                .flat_map(|(r, c)| ((r * n_columns + c) as u32).to_le_bytes())
                .collect();
            assert!(found == expected, "{n_rows} × {n_columns}");
            let part = turned.read(3..4 * n as u64 - 1).unwrap();
            assert!(*part == expected[3..expected.len() - 1]);
            assert!(turned.read(1..4 * n as u64 + 1).is_err());
            assert_eq!(turned.stored(4..8), [("m", 0..4 * n as u64)]);
        }
        let kept = tiles.kept.lock().unwrap();
        assert!(kept.1 <= CACHE_BYTES);
        let held: usize = kept.0.values().map(|(tile, _)| tile.len()).sum();
        assert_eq!(kept.1, held);
    }
}

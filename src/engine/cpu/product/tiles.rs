//! Products of many rows by tiles: the third version of [`super`].
//!
//! Both sides are first packed: decoded, padded with zeros to whole lanes, and laid out in the order of use.
//! A tile of M rows of x and N rows of W holds its M × N sums in registers, so that M + N loads serve M × N
//! fused multiply-adds. Rows are passed [`DEPTH`] vectors at a time for a block of tiles, so that the part of
//! x stays in the nearest cache; sums that wait for the next part keep all of their lanes, so that the order
//! of summation is that of the definition.

use super::super::real::{Element, Real};
use super::{LANES, Lanes};
use multiversion::{multiversion, target::target_cfg_f};
use rayon::prelude::*;
use std::ops::Range;

/// Vectors of a row that are passed at once.
const DEPTH: usize = 48;
/// Tiles along W whose sums wait together.
const BLOCK: usize = 8;
/// Bytes of W that all tiles along x pass before the next are read: what the second cache keeps of it.
const BLOCK_BYTES: usize = 256 << 10;

/// Rows of x that one task packs.
const PACK_ROWS: usize = 24;

/// Rows of x and rows of W of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Tile {
    /// 6 × 4: 24 of 32 registers, where one holds all lanes.
    Large,
    /// 3 × 2: 12 of 16 registers, where two hold the lanes.
    Small,
    /// 1 × 2: where four do, or there are no vectors.
    Least,
}

impl Tile {
    /// Every tile.
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Large, Self::Small, Self::Least];

    /// The tile for this type on this machine.
    pub fn of<T: Real>() -> Self {
        match (registers(), size_of::<T>()) {
            (Registers::Wide, 4) => Self::Large,
            (Registers::Wide, _) | (Registers::Half, 4) => Self::Small,
            _ => Self::Least,
        }
    }

    /// Rows of x.
    pub fn n_x(self) -> usize {
        match self {
            Self::Large => 6,
            Self::Small => 3,
            Self::Least => 1,
        }
    }

    /// Rows of W.
    pub fn n_w(self) -> usize {
        match self {
            Self::Large => 4,
            Self::Small | Self::Least => 2,
        }
    }
}

/// What the machine computes with.
enum Registers {
    /// 32 registers of 64 bytes.
    Wide,
    /// 16 registers of 32 bytes.
    Half,
    /// Less, or not known.
    Other,
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn registers() -> Registers {
    let has_wide = target_cfg_f!(target_feature = "avx512f");
    let has_half = target_cfg_f!(target_feature = "avx2");
    match (has_wide, has_half) {
        (true, _) => Registers::Wide,
        (_, true) => Registers::Half,
        _ => Registers::Other,
    }
}

/// Rows packed in groups of a tile's: of each group, for every vector of lanes of the width, that of each of
/// its rows. Missing rows of the last group are zeros.
#[derive(Debug, Default)]
pub(in super::super) struct Packed<T> {
    values: Vec<Lanes<T>>,
    n_vectors: usize,
    group: usize,
    n_rows: usize,
}

impl<T: Real> Packed<T> {
    /// Packs rows of x for a tile, on all cores.
    pub fn x<E: Element>(rows: &[E], width: usize, tile: Tile) -> Self {
        let mut packed = Self::default();
        packed.resize(rows.len() / width, width, tile.n_x());
        let n_groups = PACK_ROWS.div_ceil(tile.n_x());
        packed
            .parts(n_groups)
            .zip(rows.par_chunks(n_groups * tile.n_x() * width))
            .for_each(|(place, rows)| pack(rows, width, tile.n_x(), place));
        packed
    }

    /// Packs rows in groups, on this thread; memory is used again.
    pub fn fill<E: Element>(&mut self, rows: &[E], width: usize, group: usize) {
        self.resize(rows.len() / width, width, group);
        pack(rows, width, group, &mut self.values);
    }

    /// Makes place for rows in groups; memory is used again.
    pub fn resize(&mut self, n_rows: usize, width: usize, group: usize) {
        self.n_vectors = width.div_ceil(LANES);
        self.group = group;
        self.n_rows = n_rows;
        let n = n_rows.div_ceil(group) * group * self.n_vectors;
        self.values.resize(n, Lanes::ZERO);
    }

    /// The place of all groups, to be filled by [`pack`].
    pub fn place(&mut self) -> &mut [Lanes<T>] {
        &mut self.values
    }

    /// The places of `n_groups` groups each, fewer in the last, to be filled by [`pack`] on many cores.
    pub fn parts(&mut self, n_groups: usize) -> rayon::slice::ChunksMut<'_, Lanes<T>> {
        self.values
            .par_chunks_mut(n_groups * self.group * self.n_vectors)
    }

    /// A range of rows that starts with a group and ends with one, or with the last row.
    pub fn rows(&self, rows: Range<usize>) -> PackedRows<'_, T> {
        let per_row = self.n_vectors;
        let end = rows.end.div_ceil(self.group) * self.group * per_row;
        PackedRows {
            values: &self.values[rows.start * per_row..end],
            n_vectors: self.n_vectors,
            n_rows: rows.len(),
        }
    }

    /// All rows.
    pub fn all(&self) -> PackedRows<'_, T> {
        self.rows(0..self.n_rows)
    }
}

/// Whole groups of [`Packed`].
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct PackedRows<'a, T> {
    values: &'a [Lanes<T>],
    n_vectors: usize,
    n_rows: usize,
}

/// Packs rows `[n, width]` into their place: every value of it is written.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(in super::super) fn pack<T: Real, E: Element>(
    rows: &[E],
    width: usize,
    group: usize,
    out: &mut [Lanes<T>],
) {
    let n_vectors = width.div_ceil(LANES);
    for (rows, out) in rows
        .chunks(group * width)
        .zip(out.chunks_mut(group * n_vectors))
    {
        for member in 0..group {
            let place = out[member..].iter_mut().step_by(group);
            match rows.get(member * width..(member + 1) * width) {
                None => place.for_each(|out| *out = Lanes::ZERO),
                Some(row) => {
                    let (whole, rest) = row.as_chunks::<LANES>();
                    for (k, out) in place.enumerate() {
                        *out = match whole.get(k) {
                            Some(stored) => Lanes::decode(stored),
                            None => Lanes::decode_part(rest),
                        };
                    }
                }
            }
        }
    }
}

/// Where products go: that of row i of x and row j of W to `values[i · x_stride + j · w_stride]`.
#[derive(Debug)]
pub(in super::super) struct Out<'a, T> {
    pub values: &'a mut [T],
    pub x_stride: usize,
    pub w_stride: usize,
}

/// The products of packed rows, on this thread; both packed for this tile.
///
/// # Panics
/// When widths differ or the products have no place.
pub(in super::super) fn packed_times<T: Real>(
    x: PackedRows<'_, T>,
    w: PackedRows<'_, T>,
    tile: Tile,
    out: &mut Out<'_, T>,
) {
    assert_eq!(x.n_vectors, w.n_vectors, "rows of one width");
    match tile {
        Tile::Large => tiles::<T, 6, 4>(x, w, out),
        Tile::Small => tiles::<T, 3, 2>(x, w, out),
        Tile::Least => tiles::<T, 1, 2>(x, w, out),
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn tiles<T: Real, const M: usize, const N: usize>(
    x: PackedRows<'_, T>,
    w: PackedRows<'_, T>,
    out: &mut Out<'_, T>,
) {
    let n_vectors = x.n_vectors;
    let block = (BLOCK_BYTES / (N * n_vectors * size_of::<Lanes<T>>())).clamp(1, BLOCK);
    let mut sums = [[[Lanes::<T>::ZERO; N]; M]; BLOCK];
    for (b, w_block) in w.values.chunks(block * N * n_vectors).enumerate() {
        let n_tiles = w_block.len() / (N * n_vectors);
        for (m, x_group) in x.values.chunks_exact(M * n_vectors).enumerate() {
            for start in (0..n_vectors).step_by(DEPTH) {
                let end = n_vectors.min(start + DEPTH);
                let x_part = x_group[start * M..end * M].as_chunks::<M>().0;
                for (w_group, sums) in w_block.chunks_exact(N * n_vectors).zip(&mut sums) {
                    let w_part = w_group[start * N..end * N].as_chunks::<N>().0;
                    let mut lanes = if start == 0 {
                        [[Lanes::ZERO; N]; M]
                    } else {
                        *sums
                    };
                    for (x, w) in x_part.iter().zip(w_part) {
                        for j in 0..N {
                            for i in 0..M {
                                lanes[i][j].add_products(&x[i], &w[j]);
                            }
                        }
                    }
                    *sums = lanes;
                }
            }
            for (tile, sums) in sums[..n_tiles].iter().enumerate() {
                let (first_x, first_w) = (m * M, (b * block + tile) * N);
                let n_x = M.min(x.n_rows - first_x);
                let n_w = N.min(w.n_rows.saturating_sub(first_w));
                for (i, sums) in sums[..n_x].iter().enumerate() {
                    let start = (first_x + i) * out.x_stride + first_w * out.w_stride;
                    for (j, lanes) in sums[..n_w].iter().enumerate() {
                        // Opaque, so that totals are not computed side by side from values gathered
                        // one by one.
                        out.values[start + j * out.w_stride] = std::hint::black_box(lanes).total();
                    }
                }
            }
        }
    }
}

//! Products of many rows by tiles: the third version of [`super`].
//!
//! Both sides are first packed: decoded, padded with zeros to whole lanes, and laid out in the order of use.
//! A tile of M rows of x and N rows of W holds M × N sums of V lanes in registers, one register each, so that
//! M + N loads serve M × N fused multiply-adds; where a register does not hold all lanes, the rows are passed
//! once for each part of them. They are passed [`DEPTH`] vectors at a time for a block of tiles, so that the
//! part of x stays in the nearest cache; sums that wait for the next part keep all of their lanes, so that the
//! order of summation is that of the definition.

use super::super::real::{Element, Real};
use super::{LANES, add_products, decode_part};
use multiversion::{multiversion, target::target_cfg_f};
use rayon::prelude::*;
use std::ops::Range;

/// Vectors of a row that are passed at once.
const DEPTH: usize = 48;
/// Rows of W whose tiles' sums wait together.
const BLOCK_ROWS: usize = 64;
/// Bytes of W that all tiles along x pass before the next are read: what the second cache keeps of it.
const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of a line of a cache: packed rows start with one, for vectors that cross lines are read twice.
const LINE_BYTES: usize = 64;

/// Rows of x that one task packs.
const PACK_ROWS: usize = 24;

/// The rows of x and of W of a tile, and the lanes of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Tile {
    is_large: bool,
    lanes: usize,
}

impl Tile {
    /// Every tile.
    #[cfg(test)]
    pub const ALL: [Self; 4] = [
        Self::new(true, 16),
        Self::new(true, 8),
        Self::new(false, 8),
        Self::new(false, 4),
    ];

    const fn new(is_large: bool, lanes: usize) -> Self {
        Self { is_large, lanes }
    }

    /// The tile for this type on this machine.
    pub fn of<T: Real>() -> Self {
        match (registers(), size_of::<T>()) {
            (Registers::Wide, 4) => Self::new(true, 16),
            (Registers::Wide, _) => Self::new(true, 8),
            (Registers::Half, 4) => Self::new(false, 8),
            _ => Self::new(false, 4),
        }
    }

    /// Whether there are registers for the large tile.
    pub fn is_large(self) -> bool {
        self.is_large
    }

    /// Rows of x.
    pub fn n_x(self) -> usize {
        6
    }

    /// Rows of W: with the rows of x, 24 sums in 32 registers, or 12 in 16.
    pub fn n_w(self) -> usize {
        if self.is_large { 4 } else { 2 }
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

/// The form of packed rows: how many vectors of all lanes they are, how many rows lie together, and the lanes
/// of a register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Layout {
    n_vectors: usize,
    group: usize,
    lanes: usize,
}

impl Layout {
    /// Values of a group of rows.
    fn group_values(self) -> usize {
        self.group * self.n_vectors * LANES
    }
}

/// Rows packed in groups of a tile's: of each group, for every part of the lanes, for every vector of lanes of
/// the width, that of each of its rows. Missing rows of the last group are zeros.
#[derive(Debug, Default)]
pub(in super::super) struct Packed<T> {
    /// Those in use, and what was needed before.
    values: Vec<T>,
    used: Range<usize>,
    layout: Layout,
    n_rows: usize,
}

impl<T: Real> Packed<T> {
    /// Packs rows of x for a tile, on all cores; memory is used again.
    pub fn par_fill_x<E: Element>(&mut self, rows: &[E], width: usize, tile: Tile) {
        self.resize(rows.len() / width, width, tile.n_x(), tile);
        let n_groups = PACK_ROWS.div_ceil(tile.n_x());
        self.parts(n_groups)
            .zip(rows.par_chunks(n_groups * tile.n_x() * width))
            .for_each(|(mut place, rows)| place.pack(rows, width));
    }

    /// Packs rows of x for a tile, on this thread; memory is used again.
    pub fn fill_x<E: Element>(&mut self, rows: &[E], width: usize, tile: Tile) {
        self.resize(rows.len() / width, width, tile.n_x(), tile);
        self.place().pack(rows, width);
    }

    /// Packs rows of W for a tile, on this thread; memory is used again.
    pub fn fill_w<E: Element>(&mut self, rows: &[E], width: usize, tile: Tile) {
        self.resize_w(rows.len() / width, width, tile);
        self.place().pack(rows, width);
    }

    /// Makes place for rows of W; memory is used again.
    pub fn resize_w(&mut self, n_rows: usize, width: usize, tile: Tile) {
        self.resize(n_rows, width, tile.n_w(), tile);
    }

    fn resize(&mut self, n_rows: usize, width: usize, group: usize, tile: Tile) {
        self.layout = Layout {
            n_vectors: width.div_ceil(LANES),
            group,
            lanes: tile.lanes,
        };
        self.n_rows = n_rows;
        let n = n_rows.div_ceil(group) * self.layout.group_values();
        let spare = LINE_BYTES / size_of::<T>();
        if self.values.len() < n + spare {
            self.values.resize(n + spare, T::ZERO);
        }
        // A whole number of values, for their size divides a line; where it cannot be told, any place is right.
        let start = self.values.as_ptr().align_offset(LINE_BYTES);
        let start = if start <= spare { start } else { 0 };
        self.used = start..start + n;
    }

    /// The place of all groups.
    pub fn place(&mut self) -> Place<'_, T> {
        Place {
            values: &mut self.values[self.used.clone()],
            layout: self.layout,
        }
    }

    /// The places of `n_groups` groups each, fewer in the last, to be filled on many cores.
    pub fn parts(&mut self, n_groups: usize) -> impl IndexedParallelIterator<Item = Place<'_, T>> {
        let layout = self.layout;
        self.values[self.used.clone()]
            .par_chunks_mut(n_groups * layout.group_values())
            .map(move |values| Place { values, layout })
    }

    /// A range of rows that starts with a group and ends with one, or with the last row.
    pub fn rows(&self, rows: Range<usize>) -> PackedRows<'_, T> {
        let (group, per_group) = (self.layout.group, self.layout.group_values());
        let groups = rows.start / group * per_group..rows.end.div_ceil(group) * per_group;
        PackedRows {
            values: &self.values[self.used.clone()][groups],
            layout: self.layout,
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
    values: &'a [T],
    layout: Layout,
    n_rows: usize,
}

/// Where whole groups of rows are packed.
#[derive(Debug)]
pub(in super::super) struct Place<'a, T> {
    values: &'a mut [T],
    layout: Layout,
}

impl<T: Real> Place<'_, T> {
    /// Packs rows `[n, width]`: every value of the place is written.
    pub fn pack<E: Element>(&mut self, rows: &[E], width: usize) {
        match self.layout.lanes {
            16 => pack::<T, E, 16>(rows, width, self.layout, self.values),
            8 => pack::<T, E, 8>(rows, width, self.layout, self.values),
            _ => pack::<T, E, 4>(rows, width, self.layout, self.values),
        }
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn pack<T: Real, E: Element, const V: usize>(
    rows: &[E],
    width: usize,
    layout: Layout,
    out: &mut [T],
) {
    let Layout {
        n_vectors, group, ..
    } = layout;
    for (rows, out) in rows
        .chunks(group * width)
        .zip(out.chunks_mut(layout.group_values()))
    {
        let out = out.as_chunks_mut::<V>().0;
        for member in 0..group {
            let row = rows.get(member * width..(member + 1) * width);
            let (whole, rest) = row.unwrap_or_default().as_chunks::<V>();
            for (part, out) in out.chunks_mut(n_vectors * group).enumerate() {
                let places = out[member..].iter_mut().step_by(group);
                for (k, out) in places.enumerate() {
                    // Vector k of the row begins with part k · LANES / V of all of its parts.
                    let at = k * (LANES / V) + part;
                    *out = match whole.get(at) {
                        Some(stored) => stored.map(E::as_real),
                        None if at == whole.len() => decode_part(rest),
                        None => [T::ZERO; V],
                    };
                }
            }
        }
    }
}

/// A part of the lanes of a sum: those of a register. Compilers keep it in one; of arrays alone they make
/// single numbers.
#[derive(Debug, Clone, Copy)]
struct Part<T, const V: usize>([T; V]);

/// The sums of a tile, one part of their lanes. Aligned as a line of a cache is.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Sums<T, const M: usize, const N: usize, const V: usize>([[Part<T, V>; N]; M]);

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
    let of = |group| Layout {
        group,
        lanes: tile.lanes,
        ..x.layout
    };
    assert!(
        x.layout == of(tile.n_x()) && w.layout == of(tile.n_w()),
        "rows of one width, packed for this tile"
    );
    match (tile.is_large, tile.lanes) {
        (true, 16) => tiles::<T, 6, 4, 16>(x, w, out),
        (true, _) => tiles::<T, 6, 4, 8>(x, w, out),
        (false, 8) => tiles::<T, 6, 2, 8>(x, w, out),
        (false, _) => tiles::<T, 6, 2, 4>(x, w, out),
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn tiles<T: Real, const M: usize, const N: usize, const V: usize>(
    x: PackedRows<'_, T>,
    w: PackedRows<'_, T>,
    out: &mut Out<'_, T>,
) {
    let n_vectors = x.layout.n_vectors;
    let (x_values, w_values) = (x.layout.group_values(), w.layout.group_values());
    let block = (BLOCK_BYTES / (w_values * size_of::<T>())).clamp(1, BLOCK_ROWS / N);
    let block = block.min(w.values.len() / w_values).max(1);
    let n_parts = LANES / V;
    let mut sums = vec![Sums([[Part([T::ZERO; V]); N]; M]); block * n_parts];
    for (b, w_block) in w.values.chunks(block * w_values).enumerate() {
        let n_tiles = w_block.len() / w_values;
        for (m, x_group) in x.values.chunks_exact(x_values).enumerate() {
            let x_group = x_group.as_chunks::<V>().0.as_chunks::<M>().0;
            for start in (0..n_vectors).step_by(DEPTH) {
                let end = n_vectors.min(start + DEPTH);
                for (w_group, sums) in w_block.chunks_exact(w_values).zip(sums.chunks_mut(n_parts))
                {
                    let w_group = w_group.as_chunks::<V>().0.as_chunks::<N>().0;
                    for part in 0..n_parts {
                        let range = part * n_vectors + start..part * n_vectors + end;
                        let (x_part, w_part) = (&x_group[range.clone()], &w_group[range]);
                        let mut lanes = if start == 0 {
                            [[Part([T::ZERO; V]); N]; M]
                        } else {
                            sums[part].0
                        };
                        for (x, w) in x_part.iter().zip(w_part) {
                            for i in 0..M {
                                for j in 0..N {
                                    let (x, w) = (Part(x[i]), Part(w[j]));
                                    add_products(&mut lanes[i][j].0, &x.0, &w.0);
                                }
                            }
                        }
                        sums[part].0 = lanes;
                    }
                }
            }
            for (tile, sums) in sums.chunks(n_parts).take(n_tiles).enumerate() {
                let (first_x, first_w) = (m * M, (b * block + tile) * N);
                let n_x = M.min(x.n_rows - first_x);
                let n_w = N.min(w.n_rows.saturating_sub(first_w));
                let mut totals = [[T::ZERO; N]; M];
                for (at, totals) in totals.as_flattened_mut().chunks_exact_mut(4).enumerate() {
                    let mut lanes = [[[T::ZERO; 4]; 4]; 4];
                    for product in 0..4 {
                        for quarter in 0..4 {
                            let sums = sums[quarter * 4 / V].0.as_flattened();
                            let sum = &sums[at * 4 + product].0;
                            lanes[product][quarter] = sum.as_chunks::<4>().0[quarter % (V / 4)];
                        }
                    }
                    totals.copy_from_slice(&T::totals(&lanes));
                }
                for (i, totals) in totals[..n_x].iter().enumerate() {
                    let start = (first_x + i) * out.x_stride + first_w * out.w_stride;
                    for (j, &total) in totals[..n_w].iter().enumerate() {
                        out.values[start + j * out.w_stride] = total;
                    }
                }
            }
        }
    }
}

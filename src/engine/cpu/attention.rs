//! Attention on the CPU: per row and head, scores, softmax and the weighted sum of values.
//!
//! Scores are products of rows (`super::product`), their exponentials are added up in lanes by the
//! number of the key, and the values are added in the order of the keys. All of that is a function of
//! the row and of the keys that it sees, so that a text cut into chunks gives the bits of the whole, and so
//! does either version: a row at a time for a few, blocks of rows for many.

use super::product::few::few_times;
use super::product::tiles::{Out, Packed, Tile, packed_times};
use super::product::{LANES, Lanes};
use super::real::Real;
use crate::engine::backend::AttentionShape;
use multiversion::multiversion;
use rayon::prelude::*;
use std::ops::Range;

/// Rows from which on attention is computed by blocks.
const BLOCKS_FROM: usize = 16;
/// Rows of a block: whole tiles of every size.
const BLOCK_ROWS: usize = 24;

/// Keys and values of one text in one layer, `[n_heads, capacity, width]`: the rows of a head lie
/// together.
#[derive(Debug)]
pub struct Cache<T> {
    pub(super) capacity: usize,
    pub(super) n_kv_heads: usize,
    pub(super) keys: Vec<T>,
    pub(super) values: Vec<T>,
}

impl<T: Real> Cache<T> {
    /// Writes the keys and values of token `at`.
    pub(super) fn write(&mut self, at: usize, keys: &[T], values: &[T]) {
        for (row, store) in [(keys, &mut self.keys), (values, &mut self.values)] {
            let width = row.len() / self.n_kv_heads;
            for (head, row) in row.chunks(width).enumerate() {
                let start = (head * self.capacity + at) * width;
                store[start..start + width].copy_from_slice(row);
            }
        }
    }
}

/// The keys that token `at` sees when there are `n_tokens`.
fn seen(at: usize, n_tokens: usize, shape: &AttentionShape) -> Range<usize> {
    let end = if shape.causal { at + 1 } else { n_tokens };
    let start = shape
        .window
        .map_or(0, |window| (at + 1).saturating_sub(window));
    start..end
}

/// Turns scores into weights that sum to 1. A score that is NaN, or infinite, makes all weights NaN.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn softmax<T: Real>(scores: &mut [T]) {
    let mut highest = T::LOWEST;
    for &score in scores.iter() {
        highest = if score > highest { score } else { highest };
    }
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
    }
    let mut lanes = Lanes::ZERO;
    let (whole, rest) = scores.as_chunks::<LANES>();
    for values in whole {
        for (lane, &value) in lanes.0.iter_mut().zip(values) {
            *lane += value;
        }
    }
    for (lane, &value) in lanes.0.iter_mut().zip(rest) {
        *lane += value;
    }
    let total = std::hint::black_box(&lanes).total();
    for score in scores.iter_mut() {
        *score = *score / total;
    }
}

/// Adds `weights[j] · values[j]` to columns of a sum, in the order of j; rows of values are `stride` apart.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn add_weighted<T: Real>(weights: &[T], values: &[T], stride: usize, out: &mut [T]) {
    for (&weight, row) in weights.iter().zip(values.chunks(stride)) {
        for (out, &value) in out.iter_mut().zip(row) {
            *out = weight.fused(value, *out);
        }
    }
}

/// Adds `weights[r][j] · values[j]` to `LANES × C` columns of R sums, in the order of j: the same for many rows,
/// whose sums stay in registers.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
fn add_weighted_rows<T: Real, const R: usize, const C: usize>(
    weights: [&[T]; R],
    values: &[T],
    stride: usize,
    out: &mut [[Lanes<T>; C]; R],
) {
    let n_keys = weights[0].len();
    let mut sums = *out;
    let mut rows = [&weights[0][..n_keys]; R];
    for r in 0..R {
        rows[r] = &weights[r][..n_keys];
    }
    for (j, row) in values.chunks(stride).take(n_keys).enumerate() {
        let vectors = row.as_chunks::<LANES>().0;
        for c in 0..C {
            let value = vectors[c];
            for r in 0..R {
                let weight = rows[r][j];
                for (sum, &value) in sums[r][c].0.iter_mut().zip(&value) {
                    *sum = weight.fused(value, *sum);
                }
            }
        }
    }
    *out = sums;
}

/// What one row of scores sees, and where it lies.
struct Row<'a, T> {
    /// The numbers of the keys.
    seen: Range<usize>,
    /// Their weights.
    weights: &'a [T],
}

/// The sums of values of R neighbouring rows of a head, `LANES × C` columns from column `at` on.
fn sums_of_rows<T: Real, const R: usize, const C: usize>(
    rows: [&Row<'_, T>; R],
    values: &[T],
    stride: usize,
    at: usize,
) -> [[Lanes<T>; C]; R] {
    let mut sums = [[Lanes::ZERO; C]; R];
    // Keys that all of the rows see are added side by side, those before and after by row: each row adds its
    // keys in their order.
    let start = rows.iter().map(|row| row.seen.start).max().unwrap_or(0);
    let end = rows.iter().map(|row| row.seen.end).min().unwrap_or(0);
    let end = end.max(start);
    let add = |row: &Row<'_, T>, keys: Range<usize>, sums: &mut [Lanes<T>; C]| {
        if keys.start < keys.end {
            let weights = &row.weights[keys.start - row.seen.start..keys.end - row.seen.start];
            let values = &values[keys.start * stride + at..];
            add_weighted_rows([weights], values, stride, std::array::from_mut(sums));
        }
    };
    for (row, sums) in rows.iter().zip(&mut sums) {
        add(row, row.seen.start..start.min(row.seen.end), sums);
    }
    if start < end {
        let weights = rows.map(|row| &row.weights[start - row.seen.start..end - row.seen.start]);
        add_weighted_rows(weights, &values[start * stride + at..], stride, &mut sums);
    }
    for (row, sums) in rows.iter().zip(&mut sums) {
        add(row, end.max(row.seen.start)..row.seen.end, sums);
    }
    sums
}
/// Scores into weights: scaled, capped, sloped, then softmax.
fn weigh<T: Real>(scores: &mut [T], seen: Range<usize>, head: usize, shape: &AttentionShape) {
    for (score, key) in scores.iter_mut().zip(seen) {
        *score = *score * T::from_f32(shape.scale);
        if let Some(cap) = shape.softcap.map(T::from_f32) {
            *score = cap * (*score / cap).tanh();
        }
        if let Some(slopes) = &shape.slopes {
            *score += T::from_f32(slopes.added(head, key));
        }
    }
    softmax(scores);
}

/// Attention of rows of q `[n_rows, n_heads × head_dim]`, the first of which is token `at`, over the
/// cache: `[n_rows, n_heads × value_dim]`.
pub(super) fn attention<T: Real>(
    q: &[T],
    cache: &Cache<T>,
    at: usize,
    shape: &AttentionShape,
) -> Vec<T> {
    let n_rows = q.len() / (shape.n_heads * shape.head_dim);
    let tile = Tile::of::<T>();
    if n_rows < BLOCKS_FROM {
        return by_row(q, cache, at, shape);
    }
    // As many sums of all lanes as there are registers for.
    match (tile.is_large(), size_of::<T>()) {
        (true, 4) => by_block::<T, 6, 2>(q, cache, at, shape, tile),
        (true, _) | (false, 4) => by_block::<T, 6, 1>(q, cache, at, shape, tile),
        (false, _) => by_block::<T, 3, 1>(q, cache, at, shape, tile),
    }
}

/// Every row and head by itself.
fn by_row<T: Real>(q: &[T], cache: &Cache<T>, at: usize, shape: &AttentionShape) -> Vec<T> {
    let n_rows = q.len() / (shape.n_heads * shape.head_dim);
    let n_tokens = at + n_rows;
    let group = shape.n_heads / shape.n_kv_heads;
    let mut out = vec![T::ZERO; n_rows * shape.n_heads * shape.value_dim];
    let one = |scores: &mut Vec<T>, (index, out): (usize, &mut [T])| {
        let (row, head) = (index / shape.n_heads, index % shape.n_heads);
        let seen = seen(at + row, n_tokens, shape);
        let first = (head / group) * cache.capacity + seen.start;
        let keys = &cache.keys[first * shape.head_dim..][..seen.len() * shape.head_dim];
        let values = &cache.values[first * shape.value_dim..][..seen.len() * shape.value_dim];
        scores.resize(seen.len(), T::ZERO);
        few_times(
            &q[index * shape.head_dim..][..shape.head_dim],
            keys,
            shape.head_dim,
            scores,
        );
        weigh(scores, seen, head, shape);
        add_weighted(scores, values, shape.value_dim, out);
    };
    out.par_chunks_mut(shape.value_dim)
        .enumerate()
        .for_each_init(Vec::new, one);
    out
}

/// Memory that one thread uses again and again.
#[derive(Debug)]
struct Scratch<T> {
    q: Vec<T>,
    packed: Packed<T>,
    scores: Vec<T>,
}

/// Blocks of rows: scores by tiles, the values of R rows added side by side in C vectors of columns.
fn by_block<T: Real, const R: usize, const C: usize>(
    q: &[T],
    cache: &Cache<T>,
    at: usize,
    shape: &AttentionShape,
    tile: Tile,
) -> Vec<T> {
    let (n_heads, head_dim, value_dim) = (shape.n_heads, shape.head_dim, shape.value_dim);
    let n_rows = q.len() / (n_heads * head_dim);
    let n_tokens = at + n_rows;
    // The first row sees the first key of all: none is packed that no row sees.
    let base = seen(at, n_tokens, shape).start;
    let end = seen(at + n_rows - 1, n_tokens, shape).end;
    let keys: Vec<Packed<T>> = (0..shape.n_kv_heads)
        .into_par_iter()
        .map(|head| {
            let first = head * cache.capacity;
            let keys = &cache.keys[(first + base) * head_dim..(first + end) * head_dim];
            let mut packed = Packed::default();
            packed.fill_w(keys, head_dim, tile);
            packed
        })
        .collect();
    let mut out = vec![T::ZERO; n_rows * n_heads * value_dim];
    let scratch = || Scratch {
        q: Vec::new(),
        packed: Packed::default(),
        scores: Vec::new(),
    };
    out.par_chunks_mut(BLOCK_ROWS * n_heads * value_dim)
        .enumerate()
        .for_each_init(scratch, |scratch, (block, out)| {
            let rows = block * BLOCK_ROWS..n_rows.min((block + 1) * BLOCK_ROWS);
            let seen_of = |row: usize| seen(at + row, n_tokens, shape);
            for head in 0..n_heads {
                scratch.q.clear();
                for row in rows.clone() {
                    let start = (row * n_heads + head) * head_dim;
                    scratch.q.extend_from_slice(&q[start..start + head_dim]);
                }
                scratch.packed.fill_x(&scratch.q, head_dim, tile);
                let kv_head = head / (n_heads / shape.n_kv_heads);
                // Packed keys start with a group.
                let first = (seen_of(rows.start).start - base) / tile.n_w() * tile.n_w();
                let last = seen_of(rows.end - 1).end - base;
                let n_keys = last - first;
                scratch.scores.resize(rows.len() * n_keys, T::ZERO);
                let mut products = Out {
                    values: &mut scratch.scores,
                    x_stride: n_keys,
                    w_stride: 1,
                };
                let keys = keys[kv_head].rows(first..last);
                packed_times(scratch.packed.all(), keys, tile, &mut products);
                for (row, scores) in rows.clone().zip(scratch.scores.chunks_mut(n_keys)) {
                    let seen = seen_of(row);
                    let start = seen.start - base - first;
                    weigh(&mut scores[start..start + seen.len()], seen, head, shape);
                }
                let weighted: Vec<Row<'_, T>> = rows
                    .clone()
                    .zip(scratch.scores.chunks(n_keys))
                    .map(|(row, scores)| {
                        let seen = seen_of(row);
                        let start = seen.start - base - first;
                        let weights = &scores[start..start + seen.len()];
                        Row { seen, weights }
                    })
                    .collect();
                let first = kv_head * cache.capacity * value_dim;
                let values = &cache.values[first..first + n_tokens * value_dim];
                let out = &mut out[head * value_dim..];
                add_values::<T, R, C>(&weighted, values, value_dim, n_heads * value_dim, out);
            }
        });
    out
}

/// The weighted sums of values `[n_tokens, width]` of all rows, into zeros; rows of `out` are `stride` apart.
fn add_values<T: Real, const R: usize, const C: usize>(
    rows: &[Row<'_, T>],
    values: &[T],
    width: usize,
    stride: usize,
    out: &mut [T],
) {
    let wide = width / (C * LANES) * (C * LANES);
    let whole = width / LANES * LANES;
    let (together, rest) = rows.as_chunks::<R>();
    for (group, rows) in together.iter().enumerate() {
        let rows = rows.each_ref();
        let out = &mut out[group * R * stride..];
        for column in (0..wide).step_by(C * LANES) {
            let sums = sums_of_rows::<T, R, C>(rows, values, width, column);
            write(&sums, stride, column, out);
        }
        for column in (wide..whole).step_by(LANES) {
            let sums = sums_of_rows::<T, R, 1>(rows, values, width, column);
            write(&sums, stride, column, out);
        }
    }
    for (row, place) in rest.iter().zip(together.len() * R..) {
        let out = &mut out[place * stride..];
        for column in (0..whole).step_by(LANES) {
            let sums = sums_of_rows::<T, 1, 1>([row], values, width, column);
            write(&sums, stride, column, out);
        }
    }
    if whole < width {
        for (place, row) in rows.iter().enumerate() {
            let values = &values[row.seen.start * width + whole..];
            let start = place * stride;
            let out = &mut out[start + whole..start + width];
            add_weighted(row.weights, values, width, out);
        }
    }
}

/// Writes sums to columns from `at` on.
fn write<T: Real, const R: usize, const C: usize>(
    sums: &[[Lanes<T>; C]; R],
    stride: usize,
    at: usize,
    out: &mut [T],
) {
    for (r, sums) in sums.iter().enumerate() {
        for (c, lanes) in sums.iter().enumerate() {
            let start = r * stride + at + c * LANES;
            out[start..start + LANES].copy_from_slice(&lanes.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_window_counts_the_token_itself() {
        let shape = AttentionShape {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 1,
            value_dim: 1,
            scale: 1.0,
            softcap: None,
            window: Some(3),
            slopes: None,
            causal: true,
        };
        assert_eq!(seen(0, 9, &shape), 0..1);
        assert_eq!(seen(5, 9, &shape), 3..6);
        let all = AttentionShape {
            window: None,
            causal: false,
            ..shape
        };
        assert_eq!(seen(5, 9, &all), 0..9);
    }

    #[test]
    fn blocks_of_rows_give_the_bits_of_single_rows_in_every_shape() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut numbers =
            |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-1.0..1.0)).collect() };
        for (n_heads, n_kv_heads, head_dim, value_dim) in
            [(4, 2, 64, 64), (3, 3, 20, 39), (2, 1, 7, 90)]
        {
            for (at, n_rows) in [(0, 16), (0, 50), (37, 29)] {
                for (window, causal) in [
                    (None, true),
                    (Some(3), true),
                    (Some(20), true),
                    (None, false),
                ] {
                    let shape = AttentionShape {
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        value_dim,
                        scale: 0.7,
                        softcap: None,
                        window,
                        slopes: None,
                        causal,
                    };
                    let capacity = at + n_rows + 3;
                    let mut cache = Cache {
                        capacity,
                        n_kv_heads,
                        keys: numbers(capacity * n_kv_heads * head_dim),
                        values: numbers(capacity * n_kv_heads * value_dim),
                    };
                    // What no row sees, or only some, must not reach the others.
                    cache.keys[(at + n_rows) * head_dim] = f32::NAN;
                    cache.values[(at + n_rows - 1) * value_dim] = f32::NAN;
                    let q = numbers(n_rows * n_heads * head_dim);
                    let expected = by_row(&q, &cache, at, &shape);
                    let [wide, large, small, least] = Tile::ALL;
                    for found in [
                        by_block::<f32, 6, 2>(&q, &cache, at, &shape, wide),
                        by_block::<f32, 6, 1>(&q, &cache, at, &shape, large),
                        by_block::<f32, 6, 1>(&q, &cache, at, &shape, small),
                        by_block::<f32, 3, 1>(&q, &cache, at, &shape, least),
                    ] {
                        for (found, expected) in found.iter().zip(&expected) {
                            let both_nan = found.is_nan() && expected.is_nan();
                            assert!(both_nan || found.to_bits() == expected.to_bits());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weights_sum_to_one_and_nan_spoils_them() {
        let mut scores = [1.0f32, 1000.0, -5.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.0, 1.0, 0.0]);
        let mut scores = [1.0f32, f32::NAN];
        softmax(&mut scores);
        assert!(scores.iter().all(|x| x.is_nan()));
    }
}

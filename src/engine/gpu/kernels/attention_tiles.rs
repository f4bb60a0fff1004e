//! Attention of many queries: the fourth version of [`super::attention`], which says what is computed.
//!
//! A workgroup of 16 × 16 units takes a tile of queries that read the same key and value head, and goes
//! through the segments of keys. Keys of a segment lie in shared memory, then weights and values; unit (a, b)
//! scores the queries a, a + 16, … over the keys b, b + 16, … and sums their values in the columns of vector
//! b, b + 16, …. What is added is added in the order of the other versions, so that bits are the same.

use super::super::device::{Device, Four, UNITS, Words, launch};
use super::attention::{SEGMENT, Sizes, SizesLaunch, end_seen, first_seen, weight};
use super::number::{max_or_nan, tanh_of};
use crate::engine::EngineError;
use crate::engine::backend::AttentionShape;
use cubecl::prelude::*;

/// Units along queries, and along keys.
const SIDE: usize = 16;
/// Keys of a segment that a unit scores.
const KEYS: usize = SEGMENT / SIDE;
/// Fewer queries than this are not worth a tile.
const FEW_QUERIES: usize = 32;
/// Most columns of values, in vectors per unit.
const MAX_VALUE_VECTORS: usize = 4;

/// What a tile needs to know when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Queries per unit.
    queries: usize,
    /// Vectors of four in a head of queries and keys.
    head_vectors: usize,
    /// Vectors of four in a head of values.
    value_vectors: usize,
}

impl Tile {
    /// Vectors between the starts of rows in shared memory; odd, so that neighbours lie in different banks.
    const fn stride(self) -> usize {
        let widest = if self.head_vectors > self.value_vectors {
            self.head_vectors
        } else {
            self.value_vectors
        };
        widest | 1
    }

    const fn q_stride(self) -> usize {
        self.head_vectors | 1
    }

    /// Queries of a workgroup.
    const fn n_queries(self) -> usize {
        SIDE * self.queries
    }

    /// Vectors of values that a unit sums.
    const fn columns(self) -> usize {
        self.value_vectors.div_ceil(SIDE)
    }

    const fn shared_bytes(self) -> usize {
        16 * (SEGMENT * self.stride() + self.n_queries() * self.q_stride())
            + 4 * self.n_queries() * (SEGMENT + SIDE)
    }

    /// The tile for so many queries per key and value head, if one pays and fits.
    pub(super) fn choose(
        shape: &AttentionShape,
        n_queries: usize,
        shared_bytes: usize,
    ) -> Option<Self> {
        let whole = shape.head_dim.is_multiple_of(4) && shape.value_dim.is_multiple_of(4);
        let tile = |queries| Self {
            queries,
            head_vectors: shape.head_dim / 4,
            value_vectors: shape.value_dim / 4,
        };
        let fits = |tile: &Self| {
            tile.shared_bytes() <= shared_bytes && tile.columns() <= MAX_VALUE_VECTORS
        };
        let many = whole && n_queries >= FEW_QUERIES && tile(1).columns() > 0;
        let choices: &[usize] = if n_queries > FEW_QUERIES {
            &[4, 2]
        } else {
            &[2]
        };
        choices.iter().map(|&n| tile(n)).filter(|_| many).find(fits)
    }
}

/// A number of a tree's leaves: 16 partial sums of a query, added as the halves of the segment are.
#[cube]
fn sum_of_sixteen(partial: &SharedMemory<f32>, start: usize) -> f32 {
    let mut leaves = Array::<f32>::new(SIDE);
    #[unroll]
    for k in 0..SIDE {
        leaves[k] = partial[start + k];
    }
    #[unroll]
    for level in 0..4usize {
        let half = comptime!(SIDE >> (level + 1));
        #[unroll]
        for k in 0..half {
            leaves[k] = leaves[k] + leaves[k + half];
        }
    }
    leaves[0]
}

/// Brings a segment of keys or values into shared memory; zeros where no query of the tile looks.
#[cube]
fn stage(
    source: &Array<Vector<f32, Four>>,
    shared: &mut SharedMemory<Vector<f32, Four>>,
    segment: usize,
    first_key: usize,
    end_key: usize,
    n_kv_heads: usize,
    kv_head: usize,
    #[comptime] vectors: usize,
    #[comptime] stride: usize,
) {
    let mut slot = UNIT_POS as usize;
    while slot < comptime!(SEGMENT * vectors) {
        let row = slot / vectors;
        let v = slot % vectors;
        let key = segment * SEGMENT + row;
        let mut value = Vector::<f32, Four>::new(0.0f32);
        if key >= first_key && key < end_key {
            value = source[(key * n_kv_heads + kv_head) * vectors + v];
        }
        shared[row * stride + v] = value;
        slot += UNITS as usize;
    }
}

/// Adds the weighted values of a segment; `masked` where some query of the tile does not see all keys.
#[cube]
fn add_values(
    weights: &SharedMemory<f32>,
    values: &SharedMemory<Vector<f32, Four>>,
    sums: &mut Array<Vector<f32, Four>>,
    starts: &Array<u32>,
    ends: &Array<u32>,
    segment: usize,
    a: usize,
    b: usize,
    #[comptime] tile: Tile,
    #[comptime] masked: bool,
) {
    let columns = comptime!(tile.columns());
    for j in 0..SEGMENT {
        let mut vs = Array::<Vector<f32, Four>>::new(columns);
        #[unroll]
        for c in 0..columns {
            // Columns beyond the last repeat the first, and are not written.
            let column = b + comptime!(c * SIDE);
            let column = select(column < comptime!(tile.value_vectors), column, 0usize);
            vs[c] = values[j * comptime!(tile.stride()) + column];
        }
        #[unroll]
        for i in 0..comptime!(tile.queries) {
            let w = weights[(a + comptime!(i * SIDE)) * SEGMENT + j];
            let key = segment * SEGMENT + j;
            let mut seen = true.runtime();
            if comptime!(masked) {
                seen = key >= starts[i] as usize && key < ends[i] as usize;
            }
            #[unroll]
            for c in 0..columns {
                let v = vs[c];
                let mut sum = sums[comptime!(i * columns + c)];
                #[unroll]
                for e in 0..4 {
                    if comptime!(masked) {
                        sum[e] = select(seen, fma(w, v[e], sum[e]), sum[e]);
                    } else {
                        sum[e] = fma(w, v[e], sum[e]);
                    }
                }
                sums[comptime!(i * columns + c)] = sum;
            }
        }
    }
}

#[cube(launch, launch_unchecked)]
fn tiles_kernel(
    q: &Array<Vector<f32, Four>>,
    keys: &Array<Vector<f32, Four>>,
    values: &Array<Vector<f32, Four>>,
    slopes: &Array<f32>,
    out: &mut Array<Vector<f32, Four>>,
    sizes: &Sizes,
    #[comptime] tile: Tile,
    #[comptime] causal: bool,
    #[comptime] capped: bool,
    #[comptime] sloped: bool,
) {
    let queries = comptime!(tile.queries);
    let columns = comptime!(tile.columns());
    let (stride, q_stride) = comptime!((tile.stride(), tile.q_stride()));
    let head_vectors = comptime!(tile.head_vectors);
    let value_vectors = comptime!(tile.value_vectors);
    let n_tile = comptime!(tile.n_queries());
    let a = UNIT_POS as usize / SIDE;
    let b = UNIT_POS as usize % SIDE;
    let group = sizes.n_heads / sizes.n_kv_heads;
    let kv_head = CUBE_POS_Y as usize;
    let first_query = CUBE_POS_X as usize * n_tile;
    let n_queries = sizes.n_rows * group;

    let mut staged = SharedMemory::<Vector<f32, Four>>::new(comptime!(SEGMENT * stride));
    let mut q_shared = SharedMemory::<Vector<f32, Four>>::new(comptime!(n_tile * q_stride));
    let mut weights = SharedMemory::<f32>::new(comptime!(n_tile * SEGMENT));
    let mut partial = SharedMemory::<f32>::new(comptime!(n_tile * SIDE));

    // Queries beyond the last repeat it, and are not written.
    let last = n_queries - 1usize;
    let mut slot = UNIT_POS as usize;
    while slot < comptime!(n_tile * head_vectors) {
        let i = slot / head_vectors;
        let index = select(first_query + i < n_queries, first_query + i, last);
        let row = sizes.first_row + index / group;
        let head = kv_head * group + index % group;
        q_shared[i * q_stride + slot % head_vectors] =
            q[(row * sizes.n_heads + head) * head_vectors + slot % head_vectors];
        slot += UNITS as usize;
    }
    let mut heads = Array::<u32>::new(queries);
    let mut starts = Array::<u32>::new(queries);
    let mut ends = Array::<u32>::new(queries);
    let mut maximum = Array::<f32>::new(queries);
    let mut total = Array::<f32>::new(queries);
    let mut summed = Array::<Vector<f32, Four>>::new(comptime!(queries * columns));
    #[unroll]
    for i in 0..queries {
        let index = first_query + a + comptime!(i * SIDE);
        let index = select(index < n_queries, index, last);
        let row = index / group;
        heads[i] = (kv_head * group + index % group) as u32;
        starts[i] = first_seen(sizes, row, causal) as u32;
        ends[i] = end_seen(sizes, row, causal) as u32;
        maximum[i] = sizes.lowest;
        total[i] = 0.0f32;
        #[unroll]
        for c in 0..columns {
            summed[comptime!(i * columns + c)] = Vector::<f32, Four>::new(0.0f32);
        }
    }
    // Rows only grow along a tile: its first query sees the first key, its last the last, and what both see
    // all see.
    let end_index = first_query + comptime!(n_tile - 1);
    let last_row = select(end_index < n_queries, end_index, last) / group;
    let first_key = first_seen(sizes, first_query / group, causal);
    let end_key = end_seen(sizes, last_row, causal);
    let all_from = first_seen(sizes, last_row, causal);
    let all_to = end_seen(sizes, first_query / group, causal);

    for segment in first_key / SEGMENT..end_key.div_ceil(SEGMENT) {
        sync_cube();
        stage(
            keys,
            &mut staged,
            segment,
            first_key,
            end_key,
            sizes.n_kv_heads,
            kv_head,
            head_vectors,
            stride,
        );
        sync_cube();

        // 1. Scores.
        let mut scores = Array::<f32>::new(comptime!(queries * KEYS));
        #[unroll]
        for at in 0..comptime!(queries * KEYS) {
            scores[at] = 0.0f32;
        }
        for v in 0..head_vectors {
            let mut ks = Array::<Vector<f32, Four>>::new(KEYS);
            #[unroll]
            for j in 0..KEYS {
                ks[j] = staged[(b + comptime!(j * SIDE)) * stride + v];
            }
            #[unroll]
            for i in 0..queries {
                let x = q_shared[(a + comptime!(i * SIDE)) * q_stride + v];
                #[unroll]
                for j in 0..KEYS {
                    let k = ks[j];
                    let mut sum = scores[comptime!(i * KEYS + j)];
                    #[unroll]
                    for e in 0..4 {
                        sum = fma(x[e], k[e], sum);
                    }
                    scores[comptime!(i * KEYS + j)] = sum;
                }
            }
        }
        #[unroll]
        for i in 0..queries {
            let mut highest = sizes.lowest;
            #[unroll]
            for j in 0..KEYS {
                let key = segment * SEGMENT + b + comptime!(j * SIDE);
                let mut score = scores[comptime!(i * KEYS + j)] * sizes.scale;
                if comptime!(capped) {
                    score = sizes.softcap * tanh_of(score / sizes.softcap);
                }
                if comptime!(sloped) {
                    let n_keys = sizes.at + sizes.n_rows;
                    let shown = select(key < n_keys, key, 0usize);
                    score += slopes[heads[i] as usize * n_keys + shown];
                }
                if key < starts[i] as usize || key >= ends[i] as usize {
                    score = sizes.lowest;
                }
                scores[comptime!(i * KEYS + j)] = score;
                highest = max_or_nan(highest, score);
            }
            partial[(a + comptime!(i * SIDE)) * SIDE + b] = highest;
        }
        sync_cube();

        // 2. Values come while maximum and weights of each query are found.
        stage(
            values,
            &mut staged,
            segment,
            first_key,
            end_key,
            sizes.n_kv_heads,
            kv_head,
            value_vectors,
            stride,
        );
        let mut segment_maximum = Array::<f32>::new(queries);
        #[unroll]
        for i in 0..queries {
            let start = (a + comptime!(i * SIDE)) * SIDE;
            let mut highest = partial[start];
            #[unroll]
            for k in 1..SIDE {
                highest = max_or_nan(highest, partial[start + k]);
            }
            segment_maximum[i] = highest;
        }
        sync_cube();
        #[unroll]
        for i in 0..queries {
            let mut leaves = Array::<f32>::new(KEYS);
            #[unroll]
            for j in 0..KEYS {
                let key = segment * SEGMENT + b + comptime!(j * SIDE);
                let mut w = weight(scores[comptime!(i * KEYS + j)], segment_maximum[i]);
                if key < starts[i] as usize || key >= ends[i] as usize {
                    w = 0.0f32;
                }
                weights[(a + comptime!(i * SIDE)) * SEGMENT + b + comptime!(j * SIDE)] = w;
                leaves[j] = w;
            }
            #[unroll]
            for level in 0..3usize {
                let half = comptime!(KEYS >> (level + 1));
                #[unroll]
                for j in 0..half {
                    leaves[j] = leaves[j] + leaves[j + half];
                }
            }
            partial[(a + comptime!(i * SIDE)) * SIDE + b] = leaves[0];
        }
        sync_cube();

        // 3. Values of this segment, merged with those before.
        let mut sums = Array::<Vector<f32, Four>>::new(comptime!(queries * columns));
        #[unroll]
        for at in 0..comptime!(queries * columns) {
            sums[at] = Vector::<f32, Four>::new(0.0f32);
        }
        let whole = segment * SEGMENT >= all_from && (segment + 1usize) * SEGMENT <= all_to;
        if whole {
            add_values(
                &weights, &staged, &mut sums, &starts, &ends, segment, a, b, tile, false,
            );
        } else {
            add_values(
                &weights, &staged, &mut sums, &starts, &ends, segment, a, b, tile, true,
            );
        }
        #[unroll]
        for i in 0..queries {
            let together = max_or_nan(maximum[i], segment_maximum[i]);
            let before = weight(maximum[i], together);
            let now = weight(segment_maximum[i], together);
            let segment_total = sum_of_sixteen(&partial, (a + comptime!(i * SIDE)) * SIDE);
            total[i] = total[i] * before + segment_total * now;
            maximum[i] = together;
            #[unroll]
            for c in 0..columns {
                let mut sum = summed[comptime!(i * columns + c)];
                let added = sums[comptime!(i * columns + c)];
                #[unroll]
                for e in 0..4 {
                    sum[e] = sum[e] * before + added[e] * now;
                }
                summed[comptime!(i * columns + c)] = sum;
            }
        }
    }

    #[unroll]
    for i in 0..queries {
        let index = first_query + a + comptime!(i * SIDE);
        if index < n_queries {
            let place = index / group * sizes.n_heads + heads[i] as usize;
            #[unroll]
            for c in 0..columns {
                let column = b + comptime!(c * SIDE);
                if column < value_vectors {
                    let mut y = summed[comptime!(i * columns + c)];
                    #[unroll]
                    for e in 0..4 {
                        y[e] = y[e] / total[i];
                    }
                    out[place * value_vectors + column] = y;
                }
            }
        }
    }
}

/// Attention of many queries, into out `[n_rows, n_heads × value_dim]`.
pub(super) fn attention<R: Runtime>(
    device: &Device<R>,
    q: &Words,
    (keys, values): (&Words, &Words),
    slopes: &Words,
    out: &Words,
    sizes: SizesLaunch<R>,
    shape: &AttentionShape,
    (tile, n_queries): (Tile, usize),
) -> Result<(), EngineError> {
    let grid = device.grid_3d(n_queries.div_ceil(tile.n_queries()), shape.n_kv_heads, 1)?;
    launch!(
        device,
        tiles_kernel,
        grid,
        UNITS,
        device.arg4(q),
        device.arg4(keys),
        device.arg4(values),
        device.arg(slopes),
        device.arg4(out),
        sizes,
        tile,
        shape.causal,
        shape.softcap.is_some(),
        shape.slopes.is_some(),
    );
    Ok(())
}

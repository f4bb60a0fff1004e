//! Attention with an online softmax: no score leaves the workgroup.
//!
//! Versions:
//! 1. `plain` (tests): all scores of a row, in f64.
//! 2. A workgroup computes several queries that read the same key and value head (rows of the text and
//!    heads of a group alike), in segments of [`SEGMENT`] keys: a unit scores one key for all queries, two
//!    trees find maximum and sum, a unit then sums its value columns.
//! 3. For few rows over many keys the segments go to workgroups of their own, which leave maximum, sum and
//!    values for `merge_kernel`.
//! 4. For many queries, tiles of them: [`super::attention_tiles`].
//!
//! Segments start at absolute positions and are merged from the first to the last, in 2., 3. and 4. by the same
//! arithmetic: a row is the same bits however the text is cut into chunks. A segment in which a query sees
//! nothing changes nothing. A key that a query does not see is never multiplied, not even by 0, so that
//! NaN in a later token stays there; NaN that is seen makes the row NaN.

use super::super::device::{Device, Words, launch};
use super::attention_tiles::{self, Tile};
use super::number::{is_negative_infinity, max_or_nan, tanh_of};
use crate::engine::EngineError;
use crate::engine::backend::AttentionShape;
use cubecl::prelude::*;

/// Keys of a segment, and units of a workgroup.
pub(super) const SEGMENT: usize = 128;
/// Widest value head: columns per unit times units.
const MAX_WIDTH: usize = 512;
/// Fewer workgroups than this leave a large device idle.
const MANY_GROUPS: usize = 256;

/// Numbers of a launch that are the same for all queries.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) value_dim: usize,
    pub(super) first_row: usize,
    pub(super) n_rows: usize,
    pub(super) at: usize,
    pub(super) window: usize,
    pub(super) n_segments: usize,
    pub(super) scale: f32,
    pub(super) softcap: f32,
    /// −∞: as a constant of a kernel, CUDA's compiler would refuse it.
    pub(super) lowest: f32,
}

/// The number of the first key that the query in row `row` of the pass sees.
#[cube]
pub(super) fn first_seen(sizes: &Sizes, row: usize, #[comptime] causal: bool) -> usize {
    if comptime!(causal) {
        let end = sizes.at + row + 1usize;
        select(end > sizes.window, end - sizes.window, 0usize)
    } else {
        0usize.runtime()
    }
}

/// One more than the number of the last key that it sees.
#[cube]
pub(super) fn end_seen(sizes: &Sizes, row: usize, #[comptime] causal: bool) -> usize {
    if comptime!(causal) {
        sizes.at + row + 1usize
    } else {
        sizes.at + sizes.n_rows
    }
}

/// exp(x − maximum), and 0 where nothing has been seen.
#[cube]
pub(super) fn weight(x: f32, maximum: f32) -> f32 {
    select(is_negative_infinity(maximum), 0.0f32, f32::exp(x - maximum))
}

#[cube(launch, launch_unchecked)]
fn attention_kernel<N: Size>(
    q: &Array<Vector<f32, N>>,
    keys: &Array<Vector<f32, N>>,
    values: &Array<f32>,
    slopes: &Array<f32>,
    out: &mut Array<f32>,
    sizes: &Sizes,
    #[comptime] queries: usize,
    #[comptime] columns: usize,
    #[comptime] head_vectors: usize,
    #[comptime] causal: bool,
    #[comptime] capped: bool,
    #[comptime] sloped: bool,
    #[comptime] split: bool,
) {
    let unit = UNIT_POS as usize;
    let group = sizes.n_heads / sizes.n_kv_heads;
    let kv_head = CUBE_POS_Y as usize;
    let first_query = CUBE_POS_X as usize * queries;
    let n_queries = sizes.n_rows * group;

    let mut q_shared = SharedMemory::<Vector<f32, N>>::new(comptime!(queries * head_vectors));
    let mut weights = SharedMemory::<f32>::new(comptime!(queries * SEGMENT));
    let mut tree = SharedMemory::<f32>::new(comptime!(queries * SEGMENT));

    // Queries beyond the last repeat it, and are not written.
    let mut heads = Array::<u32>::new(queries);
    let mut starts = Array::<u32>::new(queries);
    let mut ends = Array::<u32>::new(queries);
    let mut maximum = Array::<f32>::new(queries);
    let mut total = Array::<f32>::new(queries);
    let mut summed = Array::<f32>::new(comptime!(queries * columns));
    let mut first_key = sizes.at + sizes.n_rows;
    let mut end_key = 0usize.runtime();
    #[unroll]
    for i in 0..queries {
        let index = select(
            first_query + i < n_queries,
            first_query + i,
            n_queries - 1usize,
        );
        let row = index / group;
        let head = kv_head * group + index % group;
        let start = first_seen(sizes, row, causal);
        let end = end_seen(sizes, row, causal);
        heads[i] = head as u32;
        starts[i] = start as u32;
        ends[i] = end as u32;
        first_key = select(start < first_key, start, first_key);
        end_key = select(end > end_key, end, end_key);
        maximum[i] = sizes.lowest;
        total[i] = 0.0f32;
        #[unroll]
        for c in 0..columns {
            summed[comptime!(i * columns + c)] = 0.0f32;
        }
        let mut v = unit;
        while v < head_vectors {
            q_shared[comptime!(i * head_vectors) + v] =
                q[((sizes.first_row + row) * sizes.n_heads + head) * head_vectors + v];
            v += SEGMENT;
        }
    }
    sync_cube();

    let mut segment = first_key / SEGMENT;
    let mut last_segment = end_key.div_ceil(SEGMENT);
    if comptime!(split) {
        segment = CUBE_POS_Z as usize;
        last_segment = segment + 1usize;
    }
    while segment < last_segment {
        let key = segment * SEGMENT + unit;
        let seen = key >= first_key && key < end_key;

        // 1. Scores of one key.
        let mut scores = Array::<f32>::new(queries);
        #[unroll]
        for i in 0..queries {
            scores[i] = 0.0f32;
        }
        if seen {
            let start = (key * sizes.n_kv_heads + kv_head) * head_vectors;
            for v in 0..head_vectors {
                let k = keys[start + v];
                #[unroll]
                for i in 0..queries {
                    let x = q_shared[comptime!(i * head_vectors) + v];
                    let mut sum = scores[i];
                    #[unroll]
                    for e in 0..N::value() {
                        sum = fma(x[e], k[e], sum);
                    }
                    scores[i] = sum;
                }
            }
        }
        #[unroll]
        for i in 0..queries {
            let mut score = scores[i] * sizes.scale;
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
            scores[i] = score;
            tree[comptime!(i * SEGMENT) + unit] = score;
        }
        sync_cube();

        // 2. Maximum of each query, then the sum of the weights, each in a tree.
        let mut step = comptime!(SEGMENT / 2).runtime();
        while step > 0usize {
            if unit < step {
                #[unroll]
                for i in 0..queries {
                    let at = comptime!(i * SEGMENT) + unit;
                    tree[at] = max_or_nan(tree[at], tree[at + step]);
                }
            }
            sync_cube();
            step /= 2usize;
        }
        let mut segment_maximum = Array::<f32>::new(queries);
        #[unroll]
        for i in 0..queries {
            segment_maximum[i] = tree[comptime!(i * SEGMENT)];
        }
        sync_cube();
        #[unroll]
        for i in 0..queries {
            let mut w = weight(scores[i], segment_maximum[i]);
            if key < starts[i] as usize || key >= ends[i] as usize {
                w = 0.0f32;
            }
            weights[comptime!(i * SEGMENT) + unit] = w;
            tree[comptime!(i * SEGMENT) + unit] = w;
        }
        sync_cube();
        let mut step = comptime!(SEGMENT / 2).runtime();
        while step > 0usize {
            if unit < step {
                #[unroll]
                for i in 0..queries {
                    let at = comptime!(i * SEGMENT) + unit;
                    tree[at] = tree[at] + tree[at + step];
                }
            }
            sync_cube();
            step /= 2usize;
        }

        // 3. Values of this segment, merged with those before.
        let mut segment_sum = Array::<f32>::new(comptime!(queries * columns));
        #[unroll]
        for i in 0..comptime!(queries * columns) {
            segment_sum[i] = 0.0f32;
        }
        let from = select(first_key > segment * SEGMENT, first_key, segment * SEGMENT);
        let segment_end = (segment + 1usize) * SEGMENT;
        let to = select(end_key < segment_end, end_key, segment_end);
        #[unroll]
        for c in 0..columns {
            let column = comptime!(c * SEGMENT) + unit;
            if column < sizes.value_dim {
                for j in from..to {
                    let v = values[(j * sizes.n_kv_heads + kv_head) * sizes.value_dim + column];
                    #[unroll]
                    for i in 0..queries {
                        if j >= starts[i] as usize && j < ends[i] as usize {
                            let w = weights[comptime!(i * SEGMENT) + j - segment * SEGMENT];
                            let at = comptime!(i * columns + c);
                            segment_sum[at] = fma(w, v, segment_sum[at]);
                        }
                    }
                }
            }
        }
        #[unroll]
        for i in 0..queries {
            let together = max_or_nan(maximum[i], segment_maximum[i]);
            let before = weight(maximum[i], together);
            let now = weight(segment_maximum[i], together);
            total[i] = total[i] * before + tree[comptime!(i * SEGMENT)] * now;
            maximum[i] = together;
            #[unroll]
            for c in 0..columns {
                let at = comptime!(i * columns + c);
                summed[at] = summed[at] * before + segment_sum[at] * now;
            }
        }
        sync_cube();
        segment += 1usize;
    }

    #[unroll]
    for i in 0..queries {
        if first_query + i < n_queries {
            let row = (first_query + i) / group;
            let place = row * sizes.n_heads + heads[i] as usize;
            if comptime!(split) {
                let stride = sizes.value_dim + 2usize;
                let start = (place * sizes.n_segments + CUBE_POS_Z as usize) * stride;
                if unit == 0usize {
                    out[start] = maximum[i];
                    out[start + 1usize] = total[i];
                }
                #[unroll]
                for c in 0..columns {
                    let column = comptime!(c * SEGMENT) + unit;
                    if column < sizes.value_dim {
                        out[start + 2usize + column] = summed[comptime!(i * columns + c)];
                    }
                }
            } else {
                #[unroll]
                for c in 0..columns {
                    let column = comptime!(c * SEGMENT) + unit;
                    if column < sizes.value_dim {
                        out[place * sizes.value_dim + column] =
                            summed[comptime!(i * columns + c)] / total[i];
                    }
                }
            }
        }
    }
}

/// Merges, in order, what the segments of a query left: maximum, sum, values.
#[cube(launch, launch_unchecked)]
fn merge_kernel(
    parts: &Array<f32>,
    out: &mut Array<f32>,
    value_dim: usize,
    n_segments: usize,
    lowest: f32,
) {
    let i = ABSOLUTE_POS;
    if i < out.len() {
        let place = i / value_dim;
        let column = i % value_dim;
        let stride = value_dim + 2usize;
        let mut maximum = lowest;
        let mut total = 0.0f32;
        let mut summed = 0.0f32;
        for segment in 0..n_segments {
            let start = (place * n_segments + segment) * stride;
            let together = max_or_nan(maximum, parts[start]);
            let before = weight(maximum, together);
            let now = weight(parts[start], together);
            total = total * before + parts[start + 1usize] * now;
            summed = summed * before + parts[start + 2usize + column] * now;
            maximum = together;
        }
        out[i] = summed / total;
    }
}

/// Where the work of a launch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Split {
    /// By tiles for many queries; segments go to their own workgroups where there are too few otherwise.
    Auto,
    /// A workgroup goes through all segments.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare"))]
    Never,
    /// Each segment goes to a workgroup of its own.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare"))]
    Always,
}

/// Rows of q, and tokens in the cache before the first of them.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Span {
    /// First row of q.
    pub(in super::super) first_row: usize,
    /// Rows.
    pub(in super::super) n_rows: usize,
    /// The number of the first row's token.
    pub(in super::super) at: usize,
}

/// `[n_rows, n_heads × value_dim]` of q over keys and values of the first `at + n_rows` tokens.
pub(in super::super) fn attention<R: Runtime>(
    device: &Device<R>,
    q: &Words,
    (keys, values): (&Words, &Words),
    span: Span,
    shape: &AttentionShape,
    split: Split,
) -> Result<Words, EngineError> {
    let columns = shape.value_dim.div_ceil(SEGMENT);
    if shape.value_dim > MAX_WIDTH || shape.head_dim > MAX_WIDTH {
        return Err(device.error(format!(
            "attention heads of {} and {} dimensions are wider than {MAX_WIDTH}",
            shape.head_dim, shape.value_dim
        )));
    }
    let out = device.empty(span.n_rows * shape.n_heads * shape.value_dim)?;
    let slopes = match &shape.slopes {
        // What is added, for every head and key: its rounding is the host's.
        Some(slopes) => {
            let n_keys = span.at + span.n_rows;
            let added: Vec<f32> = (0..shape.n_heads)
                .flat_map(|head| (0..n_keys).map(move |key| slopes.added(head, key)))
                .collect();
            device.upload(&added)?
        }
        None => out.clone(),
    };
    let n_queries = span.n_rows * (shape.n_heads / shape.n_kv_heads);
    // As many queries at a time as registers and shared memory hold.
    let room = (MAX_WIDTH / shape.head_dim.max(1).next_power_of_two()).clamp(1, 4);
    let queries = n_queries
        .next_power_of_two()
        .min(room)
        .min(4 / columns.min(4))
        .max(1);
    let n_segments = (span.at + span.n_rows).div_ceil(SEGMENT);
    let sizes = SizesLaunch::new(
        shape.n_heads,
        shape.n_kv_heads,
        shape.value_dim,
        span.first_row,
        span.n_rows,
        span.at,
        shape.window.unwrap_or(u32::MAX as usize / 2),
        n_segments,
        shape.scale,
        shape.softcap.unwrap_or(0.0),
        f32::NEG_INFINITY,
    );
    let tile = Tile::choose(shape, n_queries, device.limits().shared_bytes);
    if let (Split::Auto, Some(tile)) = (split, tile) {
        let (kv, chosen) = ((keys, values), (tile, n_queries));
        attention_tiles::attention(device, q, kv, &slopes, &out, sizes, shape, chosen)?;
        return Ok(out);
    }
    let n_groups = n_queries.div_ceil(queries) * shape.n_kv_heads;
    let stride = shape.value_dim + 2;
    let part_bytes = (span.n_rows * shape.n_heads * n_segments * stride * 4) as u64;
    let split = match split {
        Split::Never => false,
        Split::Always => true,
        Split::Auto => {
            n_segments > 1 && n_groups < MANY_GROUPS && part_bytes <= device.limits().buffer_bytes
        }
    };
    let target = if split {
        device.empty(span.n_rows * shape.n_heads * n_segments * stride)?
    } else {
        out.clone()
    };
    let lanes = if shape.head_dim.is_multiple_of(4) {
        4
    } else {
        1
    };
    let view = |words: &Words| {
        if lanes == 4 {
            device.arg4(words)
        } else {
            device.arg(words)
        }
    };
    let grid = device.grid_3d(
        n_queries.div_ceil(queries),
        shape.n_kv_heads,
        if split { n_segments } else { 1 },
    )?;
    launch!(
        device,
        attention_kernel,
        grid,
        SEGMENT as u32,
        lanes,
        view(q),
        view(keys),
        device.arg(values),
        device.arg(&slopes),
        device.arg(&target),
        sizes,
        queries,
        columns,
        shape.head_dim / lanes,
        shape.causal,
        shape.softcap.is_some(),
        shape.slopes.is_some(),
        split,
    );
    if split {
        let grid = device.grid(out.len().div_ceil(SEGMENT))?;
        launch!(
            device,
            merge_kernel,
            grid,
            SEGMENT as u32,
            device.arg(&target),
            device.arg(&out),
            shape.value_dim,
            n_segments,
            f32::NEG_INFINITY,
        );
    }
    Ok(out)
}

/// What is right, in f64.
#[cfg(test)]
pub(in super::super) fn plain(
    q: &[f32],
    (keys, values): (&[f32], &[f32]),
    span: Span,
    shape: &AttentionShape,
) -> Vec<f64> {
    let group = shape.n_heads / shape.n_kv_heads;
    let mut out = Vec::new();
    for row in 0..span.n_rows {
        let position = span.at + row;
        for head in 0..shape.n_heads {
            let q = &q[((span.first_row + row) * shape.n_heads + head) * shape.head_dim..]
                [..shape.head_dim];
            let seen = if shape.causal {
                (position + 1).saturating_sub(shape.window.unwrap_or(usize::MAX))..position + 1
            } else {
                0..span.at + span.n_rows
            };
            let place = |j: usize| j * shape.n_kv_heads + head / group;
            let scores: Vec<f64> = seen
                .clone()
                .map(|j| {
                    let k = &keys[place(j) * shape.head_dim..][..shape.head_dim];
                    let dot: f64 = q
                        .iter()
                        .zip(k)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b))
                        .sum();
                    let mut score = dot * f64::from(shape.scale);
                    if let Some(cap) = shape.softcap {
                        score = f64::from(cap) * (score / f64::from(cap)).tanh();
                    }
                    if let Some(slopes) = &shape.slopes {
                        score += f64::from(slopes.added(head, j));
                    }
                    score
                })
                .collect();
            let nan = scores.iter().any(|s| s.is_nan());
            let maximum = if nan {
                f64::NAN
            } else {
                scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            };
            let weights: Vec<f64> = scores.iter().map(|s| (s - maximum).exp()).collect();
            let total: f64 = weights.iter().sum();
            for column in 0..shape.value_dim {
                let sum: f64 = seen
                    .clone()
                    .zip(&weights)
                    .map(|(j, w)| w * f64::from(values[place(j) * shape.value_dim + column]))
                    .sum();
                out.push(sum / total);
            }
        }
    }
    out
}

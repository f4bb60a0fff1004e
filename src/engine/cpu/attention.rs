//! Attention on the CPU: per row and head, scores, softmax and the weighted sum of values.
//!
//! Scores are products of rows (`super::product`), their exponentials are added up in lanes by the
//! number of the key, and the values are added in the order of the keys. All of that is a function of
//! the row and of the keys that it sees, so that a text cut into chunks gives the bits of the whole.

use super::product::{LANES, few_times, total};
use super::real::Real;
use crate::engine::backend::AttentionShape;
use multiversion::multiversion;
use rayon::prelude::*;
use std::ops::Range;

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
#[multiversion(targets("x86_64+avx2+fma"))]
fn softmax<T: Real>(scores: &mut [T]) {
    let mut highest = T::LOWEST;
    for &score in scores.iter() {
        highest = if score > highest { score } else { highest };
    }
    let mut lanes = [T::ZERO; LANES];
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
    }
    for (i, &score) in scores.iter().enumerate() {
        lanes[i % LANES] += score;
    }
    let total = total(lanes);
    for score in scores.iter_mut() {
        *score = *score / total;
    }
}

/// The sum of `weights[j] · values[j]`, in the order of j.
#[multiversion(targets("x86_64+avx2+fma"))]
fn weighted_sum<T: Real>(weights: &[T], values: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    for (&weight, row) in weights.iter().zip(values.chunks_exact(out.len())) {
        for (out, &value) in out.iter_mut().zip(row) {
            *out = weight.fused(value, *out);
        }
    }
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
        weighted_sum(scores, values, out);
    };
    out.par_chunks_mut(shape.value_dim)
        .enumerate()
        .for_each_init(Vec::new, one);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn weights_sum_to_one_and_nan_spoils_them() {
        let mut scores = [1.0f32, 1000.0, -5.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.0, 1.0, 0.0]);
        let mut scores = [1.0f32, f32::NAN];
        softmax(&mut scores);
        assert!(scores.iter().all(|x| x.is_nan()));
    }
}

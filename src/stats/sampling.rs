//! Deterministic random choices: everything drawn in an audit can be drawn again.
//!
//! A stream is named, so that adding a draw to one test never shifts the draws of another. The
//! bounded integers are made here and not by a library whose algorithm may change between
//! versions: a report printed today must be reproducible in years. Not for secrets.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The generator of one named stream: ChaCha8 keyed with SHA-256 of the stream's name and `seed`.
///
/// Use the test's id and the tensor's role as the name: `gate-up-matching/layer-3`.
pub fn rng(seed: u64, stream: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"modelkin/sampling/1\0");
    hash.update(seed.to_le_bytes());
    hash.update(stream.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A uniform integer in `0..bound`; 0 when `bound` is 0. Free of modulo bias.
pub fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    if bound < 2 {
        return 0;
    }
    // The largest multiple of `bound` that fits; what lies above it is drawn again.
    let limit = u64::MAX - (u64::MAX % bound + 1) % bound;
    loop {
        let draw = rng.next_u64();
        if draw <= limit {
            return draw % bound;
        }
    }
}

/// `k` of the indices `0..n`, uniformly without replacement, in ascending order.
///
/// All of them when `k` ≥ `n`. O(k) memory whatever `n` (Floyd's algorithm).
pub fn choose(n: usize, k: usize, seed: u64, stream: &str) -> Vec<usize> {
    if k >= n {
        return (0..n).collect();
    }
    let mut rng = rng(seed, stream);
    let mut chosen = HashSet::with_capacity(k);
    for last in n - k..n {
        let draw = below(&mut rng, last as u64 + 1) as usize;
        if !chosen.insert(draw) {
            chosen.insert(last);
        }
    }
    let mut sorted: Vec<usize> = chosen.into_iter().collect();
    sorted.sort_unstable();
    sorted
}

/// A uniformly random permutation of `0..n` (Fisher and Yates).
pub fn permutation(n: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut items: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        items.swap(i, below(rng, i as u64 + 1) as usize);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_sorted_distinct_and_the_same_every_time() {
        let a = choose(1_000_000, 500, 7, "a");
        assert_eq!(a, choose(1_000_000, 500, 7, "a"));
        assert_eq!(a.len(), 500);
        assert!(a.windows(2).all(|w| w[0] < w[1]) && a[499] < 1_000_000);
        assert_ne!(a, choose(1_000_000, 500, 7, "b"));
        assert_ne!(a, choose(1_000_000, 500, 8, "a"));
        assert_eq!(choose(3, 5, 0, "x"), [0, 1, 2]);
        assert_eq!(choose(0, 0, 0, "x"), Vec::<usize>::new());
    }

    #[test]
    fn the_streams_are_pinned_for_ever() {
        // A change here changes every report: it needs a new name in `rng`.
        assert_eq!(choose(100, 6, 42, "pinned"), PINNED);
    }

    const PINNED: [usize; 6] = [0, 3, 44, 46, 75, 96];

    #[test]
    fn every_subset_is_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            *counts.entry(choose(4, 2, seed, "subsets")).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1000 expected each, standard deviation 29.
        assert!(
            counts.values().all(|&c| (870..1130).contains(&c)),
            "{counts:?}"
        );
    }

    #[test]
    fn every_permutation_is_equally_likely() {
        let mut generator = rng(1, "permutations");
        let mut counts = std::collections::HashMap::new();
        for _ in 0..6000 {
            *counts.entry(permutation(3, &mut generator)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(
            counts.values().all(|&c| (870..1130).contains(&c)),
            "{counts:?}"
        );
    }
}

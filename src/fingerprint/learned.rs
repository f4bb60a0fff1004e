//! What of a matrix was learned: its leading singular directions, and how much of them another holds.
//!
//! An initialiser fills all directions of a matrix evenly; training puts most of what it learns into
//! a few. Leading and trailing directions are those of the matrix itself and do not look at the other
//! one, so that for b = c·a + independent noise the expected shares are equal, c in both.

use crate::stats::{self, sampling};
use ndarray::Array2;
use rand::RngExt;
use std::collections::HashMap;
use std::iter::Sum;
use std::ops::Add;

/// Directions that count as leading.
const N_LEADING: usize = 8;
/// Trailing directions begin after half of them, and after this many at the latest: what large
/// matrices learn lies in few directions, and subspaces of thousands would take minutes.
const MAX_CUT: usize = 32;
/// Subspace iterations: the edges between the groups need not be sharp.
const N_ITERATIONS: usize = 4;
/// Smaller matrices have no trailing half to speak of.
const MIN_SIDE: usize = 24;
/// A share of the trailing directions below this is not told from none.
const MIN_TRAILING_SHARE: f64 = 0.01;

/// The leading and the trailing directions of a matrix: its top right singular subspaces, and its
/// energy in them.
#[derive(Debug)]
pub struct Directions {
    /// `[m, N_LEADING]` and `[m, n_cut]`, orthonormal columns; what is trailing lies outside `cut`.
    leading: Array2<f64>,
    cut: Array2<f64>,
    leading_square: f64,
    trailing_square: f64,
    n_trailing: usize,
}

/// Energy of a random matrix in its leading directions over that in its trailing ones, by shape.
#[derive(Debug, Default)]
pub struct Noise(HashMap<(usize, usize), f64>);

impl Noise {
    fn contrast(&mut self, shape: (usize, usize), seed: u64) -> Option<f64> {
        if let Some(&known) = self.0.get(&shape) {
            return Some(known);
        }
        let mut rng = sampling::rng(seed, "learned/noise");
        // A sum of uniforms is as good as a normal here: only the variance matters for the edge.
        let noise = Array2::from_shape_fn(shape, |_| {
            (0..4).map(|_| rng.random::<f64>() - 0.5).sum::<f64>()
        });
        let contrast = Directions::of(&noise, usize::MAX, seed)?.contrast();
        self.0.insert(shape, contrast);
        Some(contrast)
    }
}

/// How much of one matrix's directions another holds. Sums over matrices are sums of the parts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    leading_product: f64,
    leading_square: f64,
    trailing_product: f64,
    trailing_square: f64,
    /// Share of the leading energy that a random matrix of this shape would not have: 0 at
    /// initialisation, near 1 for matrices of low rank.
    pub learned: f64,
}

fn inner(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

impl Directions {
    /// Directions of `a` (`[n, m]`, f64), whose rank is at most `max_rank`; `None` where it is too
    /// small or too poor in directions.
    pub fn of(a: &Array2<f64>, max_rank: usize, seed: u64) -> Option<Self> {
        let side = a.nrows().min(a.ncols()).min(max_rank);
        if side < MIN_SIDE {
            return None;
        }
        let n_cut = (side / 2).min(MAX_CUT);
        let basis = |k: usize| stats::top_right_subspace(a.view(), k, N_ITERATIONS, seed);
        let energy = |basis: &Array2<f64>| {
            let part = a.dot(basis);
            inner(&part, &part)
        };
        let (leading, cut) = (basis(N_LEADING), basis(n_cut));
        let total = inner(a, a);
        let found = Self {
            leading_square: energy(&leading),
            trailing_square: total - energy(&cut),
            n_trailing: side - n_cut,
            leading,
            cut,
        };
        // What rounding leaves of a matrix without trailing directions is none.
        let rich = found.leading_square > 0.0 && found.trailing_square > 1e-9 * total;
        rich.then_some(found)
    }

    /// Mean energy of a leading direction over that of a trailing one.
    fn contrast(&self) -> f64 {
        let leading = self.leading_square / N_LEADING as f64;
        let trailing = self.trailing_square / self.n_trailing as f64;
        leading / trailing
    }

    /// How much of these directions of `a` is in `b`.
    pub fn held_by(&self, a: &Array2<f64>, b: &Array2<f64>, noise: &mut Noise, seed: u64) -> Held {
        let learned = noise
            .contrast(a.dim(), seed)
            .map_or(0.0, |noise| 1.0 - noise / self.contrast());
        let within = |basis: &Array2<f64>| inner(&a.dot(basis), &b.dot(basis));
        Held {
            leading_product: within(&self.leading),
            leading_square: self.leading_square,
            trailing_product: inner(a, b) - within(&self.cut),
            trailing_square: self.trailing_square,
            learned,
        }
    }
}

impl Held {
    /// Coefficient of the leading part of the one in the other: 1 for a copy.
    pub fn leading_share(&self) -> f64 {
        self.leading_product / self.leading_square
    }

    /// Coefficient of the trailing part.
    pub fn trailing_share(&self) -> f64 {
        self.trailing_product / self.trailing_square
    }

    /// Leading share over trailing share of all matrices together, with a 95 % jackknife interval
    /// over matrices where there are at least four. `None` where next to nothing is shared.
    pub fn ratio(parts: &[Self]) -> Option<(f64, Option<(f64, f64)>)> {
        let ratio_of = |total: Self| total.leading_share() / total.trailing_share();
        let total: Self = parts.iter().copied().sum();
        if !(total.trailing_share() >= MIN_TRAILING_SHARE) {
            return None;
        }
        let ratio = ratio_of(total);
        let n = parts.len();
        if n < 4 {
            return Some((ratio, None));
        }
        let left_out: Vec<f64> = (0..n)
            .map(|i| {
                let rest = parts.iter().enumerate().filter(|(j, _)| *j != i);
                ratio_of(rest.map(|(_, part)| *part).sum())
            })
            .collect();
        let mean = left_out.iter().sum::<f64>() / n as f64;
        let spread: f64 = left_out.iter().map(|x| (x - mean).powi(2)).sum();
        let half = 1.96 * (spread * (n - 1) as f64 / n as f64).sqrt();
        Some((ratio, Some((ratio - half, ratio + half))))
    }
}

impl Add for Held {
    type Output = Self;

    fn add(self, b: Self) -> Self {
        Self {
            leading_product: self.leading_product + b.leading_product,
            leading_square: self.leading_square + b.leading_square,
            trailing_product: self.trailing_product + b.trailing_product,
            trailing_square: self.trailing_square + b.trailing_square,
            learned: self.learned + b.learned,
        }
    }
}

impl Sum for Held {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(shape: (usize, usize), scale: f64, stream: &str) -> Array2<f64> {
        let mut rng = sampling::rng(1, stream);
        Array2::from_shape_fn(shape, |_| scale * (rng.random::<f64>() - 0.5))
    }

    /// Initialisation plus something learned, of rank four and about its size.
    fn trained(initial: &Array2<f64>, stream: &str) -> Array2<f64> {
        let (n, m) = initial.dim();
        let left = noise((n, 4), 1.0, &format!("{stream}/left"));
        let right = noise((4, m), 2.0, &format!("{stream}/right"));
        initial + &left.dot(&right)
    }

    fn ratio(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
        let directions = Directions::of(a, usize::MAX, 0).unwrap();
        Held::ratio(&[directions.held_by(a, b, &mut Noise::default(), 0)])
            .unwrap()
            .0
    }

    #[test]
    fn copies_with_noise_and_merges_keep_what_was_learned_and_twins_do_not() {
        let initial = noise((120, 80), 1.0, "initial");
        let parent = trained(&initial, "parent");
        let noised = &parent + &noise((120, 80), 1.0, "noise");
        let merged = &parent * 0.3 + &trained(&noise((120, 80), 1.0, "other"), "other") * 0.7;
        for child in [&parent, &noised, &merged] {
            assert!(
                (ratio(&parent, child) - 1.0).abs() < 0.15,
                "{}",
                ratio(&parent, child)
            );
        }
        let twin = trained(&initial, "twin");
        assert!(ratio(&parent, &twin) < 0.7, "{}", ratio(&parent, &twin));
    }

    #[test]
    fn a_matrix_at_initialisation_has_learned_nothing() {
        let initial = noise((120, 80), 1.0, "initial");
        let learned = |a: &Array2<f64>| {
            let directions = Directions::of(a, usize::MAX, 0).unwrap();
            directions.held_by(a, a, &mut Noise::default(), 0).learned
        };
        assert!(learned(&initial).abs() < 0.1, "{}", learned(&initial));
        assert!(learned(&trained(&initial, "parent")) > 0.4);
    }

    #[test]
    fn small_or_empty_matrices_have_no_directions() {
        assert!(Directions::of(&Array2::zeros((100, 10)), 99, 0).is_none());
        assert!(Directions::of(&Array2::zeros((100, 100)), 99, 0).is_none());
    }
}

//! Ranks and correlations of short vectors (one entry per unit, layer or item).
//!
//! Used by the matching test and by evidence that compares orderings. Does not turn a
//! correlation into a p-value: `matching` does, from the null of its own situation.

/// Ranks from 1 to n in ascending order; equal values share the mean of their ranks.
///
/// `None` when any value is NaN: a NaN has no rank. Infinities do.
pub fn average_ranks(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|v| v.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    // `==` between neighbours, so that -0.0 and 0.0, which total_cmp separates, are a tie.
    let mut n_before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = n_before as f64 + (tied.len() + 1) as f64 / 2.0;
        for &i in tied {
            ranks[i] = mean;
        }
        n_before += tied.len();
    }
    Some(ranks)
}

/// Pearson's correlation, two-pass in f64.
///
/// `None` when the lengths differ, fewer than two pairs are given, either vector is constant, or
/// anything is not finite.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 2 {
        return None;
    }
    let n = x.len() as f64;
    let mean_x = x.iter().sum::<f64>() / n;
    let mean_y = y.iter().sum::<f64>() / n;
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (&a, &b) in x.iter().zip(y) {
        let (a, b) = (a - mean_x, b - mean_y);
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    // Written so that NaN fails it.
    if !(xx > 0.0 && yy > 0.0) {
        return None;
    }
    let r = xy / xx.sqrt() / yy.sqrt();
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

/// Spearman's ρ: the correlation of the average ranks. `None` as in [`pearson`], or for NaN.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    pearson(&average_ranks(x)?, &average_ranks(y)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        let ranks = average_ranks(&[3.0, 1.0, 3.0, 2.0, 3.0, -0.0, 0.0]).unwrap();
        assert_eq!(ranks, [6.0, 3.0, 6.0, 4.0, 6.0, 1.5, 1.5]);
        assert_eq!(average_ranks(&[]).unwrap(), Vec::<f64>::new());
    }

    #[test]
    fn nan_has_no_rank_and_no_correlation() {
        assert_eq!(average_ranks(&[1.0, f64::NAN]), None);
        assert_eq!(spearman(&[1.0, f64::NAN, 2.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[1.0, f64::INFINITY, 2.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn constant_short_and_unequal_vectors_have_no_correlation() {
        assert_eq!(pearson(&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn spearman_sees_order_only_and_pearson_sees_values() {
        let x = [1.0, 2.0, 3.0, 4.0];
        let y = [1.0, 10.0, 100.0, 1000.0];
        assert!((spearman(&x, &y).unwrap() - 1.0).abs() < 1e-15);
        assert!(pearson(&x, &y).unwrap() < 0.9);
        let reversed = [4.0, 3.0, 2.0, 1.0];
        assert!((spearman(&x, &reversed).unwrap() + 1.0).abs() < 1e-15);
        // Worked by hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4 give 4.5/√(4.5·5).
        let tied = spearman(&[1.0, 5.0, 5.0, 9.0], &x).unwrap();
        assert!((tied - 4.5 / 22.5f64.sqrt()).abs() < 1e-15, "{tied}");
    }
}

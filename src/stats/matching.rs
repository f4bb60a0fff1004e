//! The null of two matchings of the same units: do they agree more than chance lets them?
//!
//! Two assignments are computed from two separate views of a pair of models (for instance from
//! the gate and from the up projection, or from weights against the stored order). If the models
//! are independent, each view matches units for reasons of its own, and the two matchings agree
//! only by chance. Stands between `assignment`, which makes the matchings, and the evidence tests
//! that call it. Does not check that the two views are separate: that is the caller's argument.
//!
//! # The null
//! Given the first matching, the second one is a uniformly random injection into the
//! `n_targets` targets. This is exact when, under the hypothesis of independence, the joint
//! distribution of the candidate's units is unchanged by permuting them in one view alone.
//! The alternative is one-sided: positive association.
//!
//! # Two statistics
//! *Rank.* Spearman's ρ between the two vectors of target indices. Sensitive to near misses in an
//! ordered set. With up to 8 units p is the exact share of permutations with at least this ρ.
//! Above, two approximations are computed with a continuity correction and the **larger** p is
//! taken: Student's t = ρ√((n−2)/(1−ρ²)) with n−2 degrees of freedom, and the symmetric beta
//! distribution with the exact variance and kurtosis of ρ under permutation. The t alone has
//! lighter tails than ρ has (its excess kurtosis is −6/n, that of ρ −4.56/n) and at n = 10 claims
//! 4·10⁻⁶ where the truth is 2.5·10⁻⁵.
//!
//! *Coincidences.* K, the number of units whose two targets are the same. By the union bound over
//! the sets of k units, P(K ≥ k) ≤ C(n, k)·(m−k)!/m! for m targets; no approximation is involved.
//!
//! # Why the final p is valid
//! A large-sample approximation deserves no trust at 10⁻³⁰, so below 10⁻⁶ the rank statistic
//! claims nothing by itself: p falls below 10⁻⁶ only as far as the exact bound on K supports it.
//! For α ≥ 10⁻⁶, {p ≤ α} implies {p_rank ≤ α}. For α < 10⁻⁶, {p ≤ α} implies {bound(K) ≤ α}, and
//! since the bound falls with k, that is {K ≥ k*} with P(K ≥ k*) ≤ bound(k*) ≤ α. At each level
//! only one of the two statistics decides, so nothing is paid for having looked at both.

use super::special::{ln_choose, ln_factorial, ln_regularized_beta, ln_student_t_sf};
use std::f64::consts::LN_2;

/// ln 10⁻⁶: below it only the coincidence bound may carry the p-value.
const LN_TRUST: f64 = -13.815_510_557_964_274;

/// Up to this many units the rank statistic is enumerated (8! = 40,320 permutations).
const N_ENUMERATED: usize = 8;

/// Agreement of two matchings, with the p-value and what it was made of. All p are ln p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchingTest {
    /// Number of matched units.
    pub n: usize,
    /// Number of targets they were matched into; at least `n`.
    pub n_targets: usize,
    /// Spearman's ρ between the two vectors of targets; 0 for fewer than two units.
    pub spearman: f64,
    /// Units with the same target in both matchings.
    pub n_coincident: usize,
    /// The one p-value to report (module documentation); 0 for fewer than three units.
    pub ln_p: f64,
    /// p of ρ alone: exact up to 8 units, else the larger of two approximations.
    pub ln_p_rank: f64,
    /// Exact upper bound on P(K ≥ `n_coincident`).
    pub ln_p_coincident: f64,
}

impl MatchingTest {
    /// The test by the coincidences alone: for matchings of a part of the units of each model, chosen before
    /// they were looked at, in which most units have no partner. Those are matched at random and dilute ρ,
    /// while the partners that are there coincide. Valid by the bound on K at every level.
    pub fn by_coincidences(self) -> Self {
        Self {
            ln_p: if self.n < 3 {
                0.0
            } else {
                self.ln_p_coincident
            },
            ..self
        }
    }
}

/// Why two vectors are not a pair of matchings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchingError {
    /// The vectors have different lengths.
    #[error("the two matchings cover different numbers of units: {first} and {second}")]
    LengthMismatch {
        /// Length of the first.
        first: usize,
        /// Length of the second.
        second: usize,
    },
    /// A target index is too large.
    #[error("unit {unit} of the {which} matching has target {target}, expected below {n_targets}")]
    OutOfRange {
        /// `first` or `second`.
        which: &'static str,
        /// Index of the unit.
        unit: usize,
        /// Its target.
        target: usize,
        /// Number of targets.
        n_targets: usize,
    },
    /// Two units share a target, so the vector is no matching and has another null.
    #[error("units {unit} and {other} of the {which} matching share target {target}")]
    NotInjective {
        /// `first` or `second`.
        which: &'static str,
        /// The later unit.
        unit: usize,
        /// The earlier unit.
        other: usize,
        /// The target of both.
        target: usize,
    },
}

/// Tests whether two matchings agree beyond chance; see the module documentation for the null.
///
/// `first[i]` and `second[i]` are the targets of unit i, each in `0..n_targets` and each vector
/// without repetition. Symmetric in its arguments. Integer arithmetic throughout ρ, so that ties
/// between permutations are exact.
///
/// # Errors
/// Vectors of different length, a target out of range, or a repeated target.
pub fn matching_test(
    first: &[usize],
    second: &[usize],
    n_targets: usize,
) -> Result<MatchingTest, MatchingError> {
    if first.len() != second.len() {
        return Err(MatchingError::LengthMismatch {
            first: first.len(),
            second: second.len(),
        });
    }
    let first_rank = injective_ranks("first", first, n_targets)?;
    let second_rank = injective_ranks("second", second, n_targets)?;

    let n = first.len();
    let n_coincident = first.iter().zip(second).filter(|(a, b)| a == b).count();
    let ln_p_coincident = ln_coincidence_bound(n, n_targets, n_coincident);
    let mut test = MatchingTest {
        n,
        n_targets,
        spearman: 0.0,
        n_coincident,
        ln_p: 0.0,
        ln_p_rank: 0.0,
        ln_p_coincident,
    };
    if n < 2 {
        return Ok(test);
    }
    let distance: u128 = first_rank
        .iter()
        .zip(&second_rank)
        .map(|(&a, &b)| (a.abs_diff(b) as u128).pow(2))
        .sum();
    test.spearman = rho_of(distance as f64, n);
    if n < 3 {
        return Ok(test);
    }
    if n <= N_ENUMERATED {
        // 1/8! is above 10⁻⁶, so the exact value is also the final one.
        test.ln_p_rank = ln_rank_enumerated(n, distance);
        test.ln_p = test.ln_p_rank;
        return Ok(test);
    }
    // Σd² takes every second integer; half a step is added, against the claim.
    let rho = rho_of(distance as f64 + 1.0, n);
    test.ln_p_rank = ln_rank_student(rho, n).max(ln_rank_four_moments(rho, n));
    test.ln_p = if test.ln_p_rank >= LN_TRUST {
        test.ln_p_rank
    } else {
        // Validity needs only the coincidences. The published statistic, here without any
        // correction, is respected as well: p never falls below what its t would claim.
        ln_rank_student(test.spearman, n).max(LN_TRUST.min(ln_p_coincident))
    };
    Ok(test)
}

/// Tests whether a matching keeps the stored order of the units: [`matching_test`] of `matching`
/// against `rows`, where `rows[i]` is the reference unit that stands where unit i stands.
///
/// # Errors
/// As [`matching_test`]; `rows` is its first argument.
pub fn order_test(
    matching: &[usize],
    rows: &[usize],
    n_targets: usize,
) -> Result<MatchingTest, MatchingError> {
    matching_test(rows, matching, n_targets)
}

/// ln min(1, C(n, k)·(m−k)!/m!): an upper bound on the probability that a uniformly random
/// injection of n units into m ≥ n targets agrees with a given one on at least k units.
///
/// −∞ when k > n, which cannot happen.
pub fn ln_coincidence_bound(n: usize, m: usize, k: usize) -> f64 {
    let (n, m, k) = (n as u64, m as u64, k as u64);
    if k > n {
        return f64::NEG_INFINITY;
    }
    // m!/(m−k)! = C(m, k) k!
    (ln_choose(n, k) - ln_choose(m, k) - ln_factorial(k)).min(0.0)
}

/// The rank of each target among the targets used, or why there is none.
fn injective_ranks(
    which: &'static str,
    targets: &[usize],
    n_targets: usize,
) -> Result<Vec<usize>, MatchingError> {
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|&unit| targets[unit]);
    let mut ranks = vec![0; targets.len()];
    for (rank, &unit) in order.iter().enumerate() {
        let target = targets[unit];
        if target >= n_targets {
            return Err(MatchingError::OutOfRange {
                which,
                unit,
                target,
                n_targets,
            });
        }
        if rank > 0 && targets[order[rank - 1]] == target {
            // The sort is stable, so the neighbour is the earlier unit.
            let other = order[rank - 1];
            return Err(MatchingError::NotInjective {
                which,
                unit,
                other,
                target,
            });
        }
        ranks[unit] = rank;
    }
    Ok(ranks)
}

/// ρ = 1 − 6 Σd²/(n(n²−1)), exact for ranks without ties.
fn rho_of(distance: f64, n: usize) -> f64 {
    let n = n as f64;
    1.0 - 6.0 * distance / (n * (n * n - 1.0))
}

/// ln of the share of permutations of n units with Σd² of at most `distance`.
fn ln_rank_enumerated(n: usize, distance: u128) -> f64 {
    let mut permutation: Vec<usize> = (0..n).collect();
    let (mut n_as_extreme, mut n_all) = (0u64, 0u64);
    for_each_permutation(&mut permutation, 0, &mut |p| {
        let d: u128 = p
            .iter()
            .enumerate()
            .map(|(i, &j)| (i.abs_diff(j) as u128).pow(2))
            .sum();
        n_all += 1;
        n_as_extreme += u64::from(d <= distance);
    });
    (n_as_extreme as f64 / n_all as f64).ln()
}

/// Visits every permutation once, by swapping each remaining element into place.
fn for_each_permutation(items: &mut [usize], at: usize, visit: &mut impl FnMut(&[usize])) {
    if at == items.len() {
        return visit(items);
    }
    for other in at..items.len() {
        items.swap(at, other);
        for_each_permutation(items, at + 1, visit);
        items.swap(at, other);
    }
}

/// One-sided ln p of ρ by Student's t with n−2 degrees of freedom.
fn ln_rank_student(rho: f64, n: usize) -> f64 {
    let df = n as f64 - 2.0;
    if rho.abs() >= 1.0 {
        return if rho > 0.0 { f64::NEG_INFINITY } else { 0.0 };
    }
    // (1−ρ)(1+ρ) keeps the digits that 1−ρ² loses near 1.
    ln_student_t_sf(rho * (df / ((1.0 - rho) * (1.0 + rho))).sqrt(), df)
}

/// One-sided ln p of ρ by the density ∝ (1 − ρ²/c²)^(s−1) on [−c, c] (Pearson's type II) whose
/// variance and kurtosis are those of ρ under a uniformly random permutation.
fn ln_rank_four_moments(rho: f64, n: usize) -> f64 {
    let n = n as f64;
    // Kendall and Stuart: Var ρ = 1/(n−1), and the excess kurtosis below, for ranks without ties.
    let excess = 3.0 * (25.0 * n.powi(3) - 38.0 * n * n - 35.0 * n + 72.0)
        / (25.0 * n * (n * n - 1.0))
        - 3.0;
    // The density above has excess kurtosis −6/(2s+3) and variance c²/(2s+1).
    let twice_s = -6.0 / excess - 3.0;
    let c_squared = (twice_s + 1.0) / (n - 1.0);
    let ln_two_sided = ln_regularized_beta(1.0 - rho * rho / c_squared, 0.5 * twice_s, 0.5);
    let ln_upper = ln_two_sided - LN_2;
    if rho >= 0.0 {
        ln_upper
    } else {
        super::special::ln_one_minus_exp(ln_upper)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ks::ks_uniform;
    use super::super::sampling::{permutation, rng};
    use super::*;

    #[test]
    fn equal_matchings_get_the_exact_probability_of_that_and_no_less() {
        for n in 3..=200usize {
            let identity: Vec<usize> = (0..n).collect();
            let test = matching_test(&identity, &identity, n).unwrap();
            let floor = -ln_factorial(n as u64);
            assert_eq!((test.spearman, test.n_coincident), (1.0, n));
            assert!(
                test.ln_p >= floor - 1e-9 && test.ln_p_rank >= floor - 1e-9,
                "{test:?}"
            );
            if n <= 8 || n >= 20 {
                assert!((test.ln_p - floor).abs() < 1e-9 * floor.abs(), "{test:?}");
            }
        }
    }

    #[test]
    fn spare_targets_make_a_coincidence_rarer() {
        let first: Vec<usize> = (0..40).map(|i| i * 7).collect();
        let test = matching_test(&first, &first, 280).unwrap();
        let exact: f64 = (241..=280).map(|i| -(i as f64).ln()).sum();
        assert!(
            (test.ln_p - exact).abs() < 1e-9 * exact.abs(),
            "{} {exact}",
            test.ln_p
        );
    }

    #[test]
    fn p_is_uniform_for_random_matchings() {
        for n in [40usize, 80, 120, 200] {
            let mut generator = rng(n as u64, "matching-null");
            let (mut p, mut p_spare) = (Vec::new(), Vec::new());
            for _ in 0..4000 {
                let (a, b) = (
                    permutation(n, &mut generator),
                    permutation(n, &mut generator),
                );
                p.push(matching_test(&a, &b, n).unwrap().ln_p.exp());
                let m = n + 13;
                let (a, b) = (
                    permutation(m, &mut generator),
                    permutation(m, &mut generator),
                );
                p_spare.push(matching_test(&a[..n], &b[..n], m).unwrap().ln_p.exp());
            }
            for values in [&p, &p_spare] {
                let ks = ks_uniform(values).unwrap();
                assert!(ks.ln_p > 1e-3f64.ln(), "n = {n}: {ks:?}");
            }
        }
    }

    #[test]
    fn the_approximation_beyond_enumeration_is_not_below_the_exact_share() {
        // n = 9 is enumerated here and approximated there; the t alone is 25 times too small.
        let n = 9;
        for distance in (0..80u32).step_by(2) {
            let exact = ln_rank_enumerated(n, u128::from(distance));
            let rho = rho_of(f64::from(distance) + 1.0, n);
            let used = ln_rank_student(rho, n).max(ln_rank_four_moments(rho, n));
            assert!(
                used > exact - 0.05,
                "Σd² = {distance}: {used} against {exact}"
            );
        }
    }

    #[test]
    fn the_coincidence_bound_holds_for_every_small_injection() {
        for m in 1..=7usize {
            for n in 1..=m {
                // The first n entries of all permutations of m are all injections, equally often.
                let (mut counts, mut n_all) = (vec![0u64; n + 1], 0u64);
                for_each_permutation(&mut (0..m).collect::<Vec<_>>(), 0, &mut |p| {
                    counts[p[..n].iter().enumerate().filter(|(i, t)| i == *t).count()] += 1;
                    n_all += 1;
                });
                for k in 0..=n {
                    let tail = counts[k..].iter().sum::<u64>() as f64 / n_all as f64;
                    let bound = ln_coincidence_bound(n, m, k);
                    assert!(
                        tail.ln() <= bound + 1e-12,
                        "n {n} m {m} k {k}: {tail} {bound}"
                    );
                    if k == n {
                        assert!((tail.ln() - bound).abs() < 1e-12, "tight when all agree");
                    }
                }
            }
        }
    }

    #[test]
    fn a_strong_rank_correlation_without_coincidences_stops_at_the_trusted_level() {
        // A shift by one: ρ near 1, no unit in its place.
        let identity: Vec<usize> = (0..500).collect();
        let shifted: Vec<usize> = (0..500).map(|i| (i + 1) % 500).collect();
        let test = matching_test(&identity, &shifted, 500).unwrap();
        assert!(test.spearman > 0.98 && test.n_coincident == 0);
        assert!(test.ln_p_rank < -300.0);
        assert_eq!(test.ln_p, LN_TRUST);
    }

    #[test]
    fn of_parts_the_few_partners_are_seen_by_their_coincidences() {
        // 16 of 400 units have their partner in the other part; the rest is matched at random, twice.
        let mut generator = rng(5, "matching-parts");
        let n = 400;
        let (first, mut second) = (
            permutation(n, &mut generator),
            permutation(n, &mut generator),
        );
        for (unit, target) in first.iter().enumerate().take(16) {
            let at = second.iter().position(|other| other == target).unwrap();
            second.swap(unit, at);
        }
        let test = matching_test(&first, &second, n).unwrap();
        assert!(test.ln_p > -5.0, "{test:?}");
        assert!(test.by_coincidences().ln_p < -25.0, "{test:?}");
        // Under the null it claims no more than it may.
        let n_below = (0..2000).filter(|_| {
            let (a, b) = (
                permutation(n, &mut generator),
                permutation(n, &mut generator),
            );
            matching_test(&a, &b, n).unwrap().by_coincidences().ln_p <= 0.05f64.ln()
        });
        assert!(n_below.count() <= 120);
    }

    #[test]
    fn the_test_is_one_sided() {
        let identity: Vec<usize> = (0..60).collect();
        let reversed: Vec<usize> = (0..60).rev().collect();
        let test = matching_test(&identity, &reversed, 60).unwrap();
        assert!(test.spearman == -1.0 && test.ln_p > -1e-6, "{test:?}");
        let short = matching_test(&identity[..5], &reversed[..5], 60).unwrap();
        assert!(short.ln_p.abs() < 1e-12, "{short:?}");
    }

    #[test]
    fn fewer_than_three_units_say_nothing() {
        for n in 0..3usize {
            let identity: Vec<usize> = (0..n).collect();
            let test = matching_test(&identity, &identity, 1000).unwrap();
            assert_eq!((test.ln_p, test.ln_p_rank), (0.0, 0.0), "{test:?}");
        }
    }

    #[test]
    fn order_test_is_the_matching_test_against_the_stored_rows() {
        let rows: Vec<usize> = (0..50).map(|i| i * 2).collect();
        let mut matching = rows.clone();
        matching.swap(3, 30);
        let test = order_test(&matching, &rows, 100).unwrap();
        assert_eq!(test, matching_test(&rows, &matching, 100).unwrap());
        assert_eq!(test.n_coincident, 48);
        assert!(
            test.ln_p < -40.0 && test.ln_p_coincident < -150.0,
            "{test:?}"
        );
    }

    #[test]
    fn vectors_that_are_no_matchings_are_refused_by_name() {
        let error = |a: &[usize], b: &[usize]| matching_test(a, b, 3).unwrap_err().to_string();
        assert!(error(&[0, 1], &[0]).contains("2 and 1"));
        assert!(error(&[0, 1], &[0, 3]).contains("second matching has target 3"));
        assert!(error(&[2, 0, 2], &[0, 1, 2]).contains("units 2 and 0 of the first"));
    }
}

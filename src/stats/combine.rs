//! Several p-values into one, and the correction for having looked several times.
//!
//! All values are ln p. These functions cannot know whether their inputs are independent: that
//! argument is the caller's, and each function says which one it needs.

use super::special::ln_regularized_gamma_q;

/// Fisher's combination: ln P(χ²₂ₖ ≥ −2 Σ ln pᵢ) over k p-values.
///
/// **Needs independence under the null**, which the caller must argue, not assume: p-values of
/// different tensors of one pair of models qualify only if, under the null, the randomness that
/// makes each of them a p-value is drawn separately (for instance the initial order of the units
/// of each layer). Two tests on the same tensor do not. Superuniform (conservative) inputs are
/// allowed; discrete ones are too.
///
/// The tail is the Erlang sum e⁻ˢ Σ_{j<k} sʲ/j! with s = −Σ ln pᵢ, evaluated in log space.
/// `None` when nothing is given or any value is not a finite number of at most 0.
pub fn fisher(ln_ps: &[f64]) -> Option<f64> {
    if ln_ps.is_empty() || !ln_ps.iter().all(|p| p.is_finite() && *p <= 0.0) {
        return None;
    }
    let sum = -ln_ps.iter().sum::<f64>();
    let ln_p = ln_regularized_gamma_q(ln_ps.len() as f64, sum);
    ln_p.is_finite().then_some(ln_p)
}

/// Bonferroni: ln of the smallest of `n` p-values, corrected for having chosen it.
///
/// Valid under any dependence. NaN stays NaN; `n` of 0 counts as 1.
pub fn bonferroni(ln_p_min: f64, n: usize) -> f64 {
    let corrected = ln_p_min + (n.max(1) as f64).ln();
    // `min` would turn NaN into 0, a p-value of 1.
    if corrected > 0.0 { 0.0 } else { corrected }
}

/// Holm's step-down adjusted ln p-values, in the order of the input.
///
/// Rejecting those at most ln α keeps the chance of any false rejection below α, under any
/// dependence. A NaN (a test that failed) stays NaN and still counts as a test that was made.
pub fn holm(ln_ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ln_ps.len()).collect();
    // NaN last, whatever its sign, so that it cannot shift the factors of the others downwards.
    order.sort_by(|&a, &b| {
        ln_ps[a]
            .is_nan()
            .cmp(&ln_ps[b].is_nan())
            .then(ln_ps[a].total_cmp(&ln_ps[b]))
    });
    let mut adjusted = vec![f64::NAN; ln_ps.len()];
    let mut running = f64::NEG_INFINITY;
    for (i, &at) in order.iter().enumerate() {
        if ln_ps[at].is_nan() {
            break;
        }
        running = running.max(bonferroni(ln_ps[at], ln_ps.len() - i));
        adjusted[at] = running;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::super::special::{ln_add_exp, ln_factorial};
    use super::*;

    #[test]
    fn fisher_is_the_erlang_sum_from_one_half_to_minus_a_million() {
        for (k, each) in [
            (1, -0.7),
            (3, -0.2),
            (5, -4.0),
            (24, -30.0),
            (64, -2e4),
            (400, -1.01),
        ] {
            let s = -(k as f64) * each;
            let mut ln_sum = f64::NEG_INFINITY;
            for j in 0..k as u64 {
                ln_sum = ln_add_exp(ln_sum, j as f64 * s.ln() - ln_factorial(j));
            }
            let got = fisher(&vec![each; k]).unwrap();
            assert!(
                (got - (ln_sum - s)).abs() < 1e-9 * got.abs().max(1e-3),
                "{k} {each}: {got}"
            );
        }
    }

    #[test]
    fn fisher_of_one_value_is_that_value() {
        for ln_p in [0.0, -1e-9, -3.0, -1e6] {
            let got = fisher(&[ln_p]).unwrap();
            assert!((got - ln_p).abs() <= 1e-10 * ln_p.abs(), "{got} {ln_p}");
        }
    }

    #[test]
    fn fisher_refuses_what_is_no_p_value() {
        for bad in [
            &[][..],
            &[f64::NAN],
            &[-1.0, 0.1],
            &[f64::NEG_INFINITY, -1.0],
        ] {
            assert_eq!(fisher(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn bonferroni_is_capped_at_one_and_keeps_nan() {
        assert_eq!(bonferroni(-1.0, 100), 0.0);
        assert!((bonferroni(-1e6, 10) + 1e6 - 10f64.ln()).abs() < 1e-9);
        assert!(bonferroni(f64::NAN, 3).is_nan());
        assert_eq!(bonferroni(-2.0, 0), -2.0);
    }

    #[test]
    fn holm_steps_down_and_never_reverses_an_order() {
        let p = [0.01f64, 0.04, 0.03, 0.005].map(f64::ln);
        let adjusted: Vec<f64> = holm(&p).iter().map(|l| l.exp()).collect();
        for (got, want) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((got - want).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn a_failed_test_still_counts_in_holm() {
        let adjusted = holm(&[-10.0, f64::NAN, -f64::NAN]);
        assert!((adjusted[0] + 10.0 - 3f64.ln()).abs() < 1e-12);
        assert!(adjusted[1].is_nan() && adjusted[2].is_nan());
        assert_eq!(holm(&[]), Vec::<f64>::new());
    }
}

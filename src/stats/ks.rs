//! One-sample Kolmogorov–Smirnov test against the uniform distribution on [0, 1].
//!
//! Its main use is on ourselves: p-values of independent pairs must be uniform. Does not handle
//! discrete or superuniform p-values, which a two-sided test rightly calls not uniform.

use std::f64::consts::{LN_2, PI};

/// Result of a Kolmogorov–Smirnov test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KsTest {
    /// Largest distance between the empirical distribution function and the identity.
    pub d: f64,
    /// ln p, two-sided, asymptotic.
    pub ln_p: f64,
}

/// Are these values uniform on [0, 1]?
///
/// Kolmogorov's limiting distribution at λ = (√n + 0.12 + 0.11/√n)·D (Stephens, 1970), good to
/// two digits of p from n = 5 on. `None` for no values, NaN, or anything outside [0, 1].
pub fn ks_uniform(values: &[f64]) -> Option<KsTest> {
    if values.is_empty() || !values.iter().all(|v| (0.0..=1.0).contains(v)) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let mut d = 0f64;
    for (i, &v) in sorted.iter().enumerate() {
        d = d.max(v - i as f64 / n).max((i as f64 + 1.0) / n - v);
    }
    let lambda = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * d;
    Some(KsTest {
        d,
        ln_p: ln_kolmogorov_sf(lambda),
    })
}

/// ln of 2 Σ (−1)^(j−1) exp(−2j²λ²).
fn ln_kolmogorov_sf(lambda: f64) -> f64 {
    if lambda < 1.0 {
        // The same function by Jacobi's theta identity, which converges fast where the other
        // series does not: 1 − √(2π)/λ Σ exp(−(2j−1)²π²/(8λ²)).
        let mut sum = 0.0;
        for j in 1..=4 {
            let odd = f64::from(2 * j - 1);
            sum += (-(odd * PI).powi(2) / (8.0 * lambda * lambda)).exp();
        }
        return (-(2.0 * PI).sqrt() / lambda * sum).ln_1p();
    }
    // The first term is taken out, so that nothing underflows.
    let relative = |j: f64| (-2.0 * (j * j - 1.0) * lambda * lambda).exp();
    LN_2 - 2.0 * lambda * lambda + (-relative(2.0) + relative(3.0) - relative(4.0)).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_grid_is_uniform_and_its_square_is_not() {
        let grid: Vec<f64> = (0..1000).map(|i| (i as f64 + 0.5) / 1000.0).collect();
        let even = ks_uniform(&grid).unwrap();
        assert!(
            (even.d - 0.0005).abs() < 1e-12 && even.ln_p > -1e-6,
            "{even:?}"
        );
        let squares: Vec<f64> = grid.iter().map(|v| v * v).collect();
        let bent = ks_uniform(&squares).unwrap();
        assert!(
            (bent.d - 0.25).abs() < 1e-3 && bent.ln_p < -100.0,
            "{bent:?}"
        );
    }

    #[test]
    fn the_tail_matches_published_critical_values_and_both_series_meet() {
        // Asymptotic critical values of √n·D: 1.2238 at 10 %, 1.3581 at 5 %, 1.6276 at 1 %.
        for (lambda, p) in [(1.2238, 0.1f64), (1.3581, 0.05), (1.6276, 0.01)] {
            assert!((ln_kolmogorov_sf(lambda) - p.ln()).abs() < 1e-3, "{lambda}");
        }
        let gap = ln_kolmogorov_sf(1.0 - 1e-12) - ln_kolmogorov_sf(1.0);
        assert!(gap.abs() < 1e-10, "{gap}");
    }

    #[test]
    fn a_million_zeros_do_not_underflow() {
        let test = ks_uniform(&vec![0.0; 1_000_000]).unwrap();
        assert!(test.ln_p < -1.9e6 && test.ln_p.is_finite(), "{test:?}");
    }

    #[test]
    fn what_is_no_probability_is_refused() {
        for bad in [&[][..], &[0.5, f64::NAN], &[-0.1], &[1.1]] {
            assert_eq!(ks_uniform(bad), None);
        }
    }
}

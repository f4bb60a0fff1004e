//! Special functions whose results are logarithms: gamma, beta, and the tails built on them.
//!
//! Every tail stays in log space from the first operation to the last, so that ln p = −1e6 is as
//! good a number as ln p = −1. Logarithms of large gamma functions are never subtracted from one
//! another: the Stirling parts cancel on paper (formulas in the comments) and only their small
//! remainders are computed. Reference values: `tests/data/special_reference.json`, written by
//! `tests/scripts/special_reference.py`. Does not decide which test needs which tail.
//!
//! Arguments outside a function's domain, and NaN, give NaN: the checked constructor of
//! [`PValue`](super::PValue) then refuses them.

use std::f64::consts::{LN_2, PI};

/// From here on the Stirling series below is exact to the last bit.
const STIRLING_FROM: f64 = 10.0;

/// Continued fractions need O(√(a+b)) steps near the mode; beyond this the result is NaN.
const MAX_ITERATIONS: usize = 2_000_000;

/// ln Γ(x) for x > 0.
pub fn ln_gamma(x: f64) -> f64 {
    if !(x > 0.0) {
        return f64::NAN;
    }
    if x == f64::INFINITY {
        return x;
    }
    if x >= STIRLING_FROM {
        return (x - 0.5) * x.ln() - x + half_ln_two_pi() + stirling_remainder(x);
    }
    // Γ(x) = Γ(x+n) / (x (x+1) … (x+n−1)); the product is below 10¹⁰ and cannot overflow.
    let mut shifted = x;
    let mut product = 1.0;
    while shifted < STIRLING_FROM {
        product *= shifted;
        shifted += 1.0;
    }
    ln_gamma(shifted) - product.ln()
}

/// ln n!
pub fn ln_factorial(n: u64) -> f64 {
    if n <= 20 {
        // 20! is the largest factorial that fits in a u64.
        return ((1..=n).product::<u64>() as f64).ln();
    }
    ln_gamma(n as f64 + 1.0)
}

/// ln C(n, k); −∞ when k > n.
pub fn ln_choose(n: u64, k: u64) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    if k == 0 || k == n {
        return 0.0;
    }
    // C(n, k) = 1 / ((n+1) B(n−k+1, k+1)): no large logarithms are subtracted.
    let n_plus_one = n as f64 + 1.0;
    -n_plus_one.ln() - ln_beta((n - k) as f64 + 1.0, k as f64 + 1.0)
}

/// ln(eᵃ + eᵇ).
pub fn ln_add_exp(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY || high == f64::INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

/// ln(1 − eˣ) for x ≤ 0, without cancellation at either end.
pub fn ln_one_minus_exp(x: f64) -> f64 {
    if !(x <= 0.0) {
        return f64::NAN;
    }
    // The switch at ln 2 is that of Mächler (2012), "Accurately computing log(1 − exp(−|a|))".
    if x > -LN_2 {
        (-x.exp_m1()).ln()
    } else {
        (-x.exp()).ln_1p()
    }
}

/// ln B(a, b) for a, b > 0.
pub fn ln_beta(a: f64, b: f64) -> f64 {
    if !(a > 0.0 && b > 0.0 && a.is_finite() && b.is_finite()) {
        return f64::NAN;
    }
    let (small, large) = if a <= b { (a, b) } else { (b, a) };
    let sum = small + large;
    if large < STIRLING_FROM {
        return ln_gamma(small) + ln_gamma(large) - ln_gamma(sum);
    }
    let remainder = stirling_remainder(large) - stirling_remainder(sum);
    let ratio = (small / large).ln_1p(); // ln((a+b)/b)
    if small < STIRLING_FROM {
        // ln Γ(b) − ln Γ(a+b), with the terms b ln b taken out of both.
        return ln_gamma(small) - (large - 0.5) * ratio - small * sum.ln() + small + remainder;
    }
    half_ln_two_pi() + (small - 0.5) * (small / sum).ln() - (large - 0.5) * ratio - 0.5 * sum.ln()
        + stirling_remainder(small)
        + remainder
}

/// ln Iₓ(a, b), the regularised incomplete beta function, for 0 ≤ x ≤ 1 and a, b > 0.
///
/// When 1 − x is known better than x, swap: Iₓ(a, b) = 1 − I₁₋ₓ(b, a).
pub fn ln_regularized_beta(x: f64, a: f64, b: f64) -> f64 {
    if !((0.0..=1.0).contains(&x)) {
        return f64::NAN;
    }
    BetaArgument {
        x,
        y: 1.0 - x,
        ln_x: x.ln(),
        ln_y: (-x).ln_1p(),
    }
    .ln_regularized(a, b)
}

/// ln P(T ≥ t) for Student's t with `df` > 0 degrees of freedom (not necessarily an integer).
pub fn ln_student_t_sf(t: f64, df: f64) -> f64 {
    if t.is_nan() || !(df > 0.0 && df.is_finite()) {
        return f64::NAN;
    }
    // P(|T| ≥ |t|) = Iₓ(df/2, ½) with x = df/(df+t²) = 1/(1+r²); both x and 1−x are at hand.
    let r = t.abs() / df.sqrt();
    let argument = if r > 1e8 {
        // r² may overflow, and 1 + r² = r² to the last bit.
        BetaArgument {
            x: (1.0 / r) / r,
            y: 1.0,
            ln_x: -2.0 * r.ln(),
            ln_y: 0.0,
        }
    } else {
        let r2 = r * r;
        BetaArgument {
            x: 1.0 / (1.0 + r2),
            y: r2 / (1.0 + r2),
            ln_x: -r2.ln_1p(),
            ln_y: 2.0 * r.ln() - r2.ln_1p(),
        }
    };
    let ln_upper = argument.ln_regularized(0.5 * df, 0.5) - LN_2;
    if t >= 0.0 {
        ln_upper
    } else {
        ln_one_minus_exp(ln_upper)
    }
}

/// ln Q(a, x), the regularised upper incomplete gamma function, for a > 0 and x ≥ 0.
pub fn ln_regularized_gamma_q(a: f64, x: f64) -> f64 {
    if !(a > 0.0 && a.is_finite() && x >= 0.0) {
        return f64::NAN;
    }
    if x == 0.0 {
        return 0.0;
    }
    if x == f64::INFINITY {
        return f64::NEG_INFINITY;
    }
    let ln_prefix = ln_gamma_prefix(a, x);
    if x < a + 1.0 {
        // P(a, x) = xᵃ e⁻ˣ / Γ(a+1) · Σ xⁿ / ((a+1)…(a+n))
        let mut term = 1.0;
        let mut sum = 1.0;
        let mut n = a;
        for _ in 0..MAX_ITERATIONS {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * 1e-17 {
                return ln_one_minus_exp((ln_prefix - a.ln() + sum.ln()).min(0.0));
            }
        }
        return f64::NAN;
    }
    // Legendre's continued fraction, evaluated by the modified Lentz method.
    let fraction = lentz(x + 1.0 - a, |i| {
        let i = i as f64;
        (-i * (i - a), x + 2.0 * i + 1.0 - a)
    });
    ln_prefix - fraction.ln()
}

/// ln P(X ≥ x) for χ² with `df` > 0 degrees of freedom; 0 for x ≤ 0.
pub fn ln_chi2_sf(x: f64, df: f64) -> f64 {
    ln_regularized_gamma_q(0.5 * df, if x < 0.0 { 0.0 } else { 0.5 * x })
}

/// ln P(Z ≥ z) for the standard normal distribution.
pub fn ln_normal_sf(z: f64) -> f64 {
    // P(|Z| ≥ z) = Q(½, z²/2)
    let ln_upper = ln_regularized_gamma_q(0.5, 0.5 * z * z) - LN_2;
    if z < 0.0 {
        ln_one_minus_exp(ln_upper)
    } else {
        ln_upper
    }
}

/// x and 1 − x with their logarithms, each as precisely as its caller knows it.
struct BetaArgument {
    x: f64,
    y: f64,
    ln_x: f64,
    ln_y: f64,
}

impl BetaArgument {
    fn ln_regularized(&self, a: f64, b: f64) -> f64 {
        if !(a > 0.0 && b > 0.0 && a.is_finite() && b.is_finite()) {
            return f64::NAN;
        }
        if self.ln_x == f64::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        if self.ln_y == f64::NEG_INFINITY {
            return 0.0;
        }
        if self.x <= (a + 1.0) / (a + b + 2.0) {
            return self.ln_fraction(a, b).min(0.0);
        }
        let swapped = Self {
            x: self.y,
            y: self.x,
            ln_x: self.ln_y,
            ln_y: self.ln_x,
        };
        ln_one_minus_exp(swapped.ln_fraction(b, a).min(0.0))
    }

    /// Iₓ(a, b) = xᵃ (1−x)ᵇ / (a B(a, b)) · 1/(1 + d₁/(1 + d₂/(1 + …))) (DLMF 8.17.22).
    fn ln_fraction(&self, a: f64, b: f64) -> f64 {
        let x = self.x;
        let fraction = lentz(1.0, |i| {
            let m = (i / 2) as f64;
            let numerator = if i % 2 == 0 {
                m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
            } else {
                -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
            };
            (numerator, 1.0)
        });
        self.ln_prefix(a, b) - a.ln() - fraction.ln()
    }

    /// ln(xᵃ (1−x)ᵇ / B(a, b)).
    fn ln_prefix(&self, a: f64, b: f64) -> f64 {
        if a < STIRLING_FROM || b < STIRLING_FROM {
            return a * self.ln_x + b * self.ln_y - ln_beta(a, b);
        }
        // With d = bx − a(1−x), x = a/(a+b)·(1+d/a) and 1−x = b/(a+b)·(1−d/b): the parts of
        // ln B that grow with a and b cancel exactly and leave two terms of size d²/a.
        let d = b * self.x - a * self.y;
        let near_mode = |u: f64, n: f64, ln_argument: f64| {
            if u.abs() < 0.5 {
                n * ln_1p_minus(u) + n * u
            } else {
                n * (ln_argument - (n / (a + b)).ln())
            }
        };
        near_mode(d / a, a, self.ln_x)
            + near_mode(-d / b, b, self.ln_y)
            + 0.5 * (a / (a + b) * b).ln()
            - half_ln_two_pi()
            - stirling_remainder(a)
            - stirling_remainder(b)
            + stirling_remainder(a + b)
    }
}

/// ln(xᵃ e⁻ˣ / Γ(a)).
fn ln_gamma_prefix(a: f64, x: f64) -> f64 {
    if a < STIRLING_FROM {
        return a * x.ln() - x - ln_gamma(a);
    }
    let u = (x - a) / a;
    let exponent = if u.abs() < 0.5 {
        a * ln_1p_minus(u)
    } else {
        a * (x / a).ln() - (x - a)
    };
    exponent + 0.5 * a.ln() - half_ln_two_pi() - stirling_remainder(a)
}

/// ln Γ(x) − ((x−½) ln x − x + ½ ln 2π): the asymptotic series (DLMF 5.11.1) for x ≥ 10.
fn stirling_remainder(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 7] = [
        1.0 / 12.0,
        -1.0 / 360.0,
        1.0 / 1260.0,
        -1.0 / 1680.0,
        1.0 / 1188.0,
        -691.0 / 360_360.0,
        1.0 / 156.0,
    ];
    let inverse_square = 1.0 / (x * x);
    COEFFICIENTS
        .iter()
        .rev()
        .fold(0.0, |sum, c| sum * inverse_square + c)
        / x
}

/// ln(1+u) − u for |u| < ½, without cancellation.
fn ln_1p_minus(u: f64) -> f64 {
    // ln(1+u) = 2 artanh(r) with r = u/(2+u), and 2r − u = −ru.
    let r = u / (2.0 + u);
    let r2 = r * r;
    let mut power = r2;
    let mut sum = 0.0;
    let mut odd = 3.0;
    while power > 1e-18 * r2 {
        sum += power / odd;
        power *= r2;
        odd += 2.0;
    }
    r * (2.0 * sum - u)
}

fn half_ln_two_pi() -> f64 {
    0.5 * (2.0 * PI).ln()
}

/// b₀ + a₁/(b₁ + a₂/(b₂ + …)) by the modified Lentz method; `term(i)` returns (aᵢ, bᵢ), i ≥ 1.
/// NaN when it does not converge.
fn lentz(b0: f64, term: impl Fn(usize) -> (f64, f64)) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut value = away_from_zero(b0);
    let mut c = value;
    let mut d = 0.0;
    for i in 1..=MAX_ITERATIONS {
        let (a, b) = term(i);
        d = 1.0 / away_from_zero(b + a * d);
        c = away_from_zero(b + a / c);
        let step = c * d;
        value *= step;
        if (step - 1.0).abs() < 3e-16 {
            return value;
        }
        if value.is_nan() {
            return value;
        }
    }
    f64::NAN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten digits of ln p, as the report prints at most four.
    const TOLERANCE: f64 = 1e-10;

    fn assert_close(what: &str, got: f64, want: f64) {
        // The absolute term is for zeros of the function (ln Γ near 1 and 2) and for ln p of a p
        // that is 1 to the last bit.
        let tolerance = TOLERANCE * want.abs() + 1e-15;
        assert!(
            (got - want).abs() <= tolerance,
            "{what}: got {got:e}, want {want:e}"
        );
    }

    #[test]
    fn every_function_agrees_with_fifty_digit_reference_values() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/special_reference.json"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<(String, Vec<f64>, f64)> = serde_json::from_str(&text).unwrap();
        assert!(rows.len() > 200, "only {} reference values", rows.len());
        let deepest = rows.iter().map(|r| r.2).fold(0.0, f64::min);
        assert!(deepest < -1e5, "the table stops at {deepest}");
        for (name, x, want) in rows {
            let got = match (name.as_str(), x.as_slice()) {
                ("ln_gamma", [x]) => ln_gamma(*x),
                ("ln_choose", [n, k]) => ln_choose(*n as u64, *k as u64),
                ("ln_regularized_beta", [x, a, b]) => ln_regularized_beta(*x, *a, *b),
                ("ln_student_t_sf", [t, df]) => ln_student_t_sf(*t, *df),
                ("ln_regularized_gamma_q", [a, x]) => ln_regularized_gamma_q(*a, *x),
                ("ln_chi2_sf", [x, df]) => ln_chi2_sf(*x, *df),
                ("ln_normal_sf", [z]) => ln_normal_sf(*z),
                _ => panic!("unknown reference function {name}"),
            };
            assert_close(&format!("{name}{x:?}"), got, want);
        }
    }

    #[test]
    fn factorials_are_the_exact_products() {
        assert_eq!(ln_factorial(0), 0.0);
        assert_eq!(ln_factorial(1), 0.0);
        let mut sum = 0.0;
        for n in 2..=200u64 {
            sum += (n as f64).ln();
            assert_close("ln_factorial", ln_factorial(n), sum);
        }
        assert_eq!(ln_choose(7, 0), 0.0);
        assert_eq!(ln_choose(3, 4), f64::NEG_INFINITY);
    }

    #[test]
    fn tails_stay_finite_far_below_the_underflow_of_p() {
        for tail in [
            ln_normal_sf(1e4),
            ln_student_t_sf(1e200, 30_000.0),
            ln_chi2_sf(1e7, 24.0),
            ln_regularized_beta(1e-300, 5_000.0, 0.5),
        ] {
            assert!(tail.is_finite() && tail < -1e6, "{tail}");
        }
    }

    #[test]
    fn out_of_domain_and_nan_give_nan() {
        for bad in [
            ln_gamma(0.0),
            ln_gamma(-1.5),
            ln_gamma(f64::NAN),
            ln_one_minus_exp(0.1),
            ln_one_minus_exp(f64::NAN),
            ln_add_exp(f64::NAN, 0.0),
            ln_regularized_beta(1.5, 1.0, 1.0),
            ln_regularized_beta(0.5, -1.0, 1.0),
            ln_student_t_sf(f64::NAN, 3.0),
            ln_student_t_sf(1.0, 0.0),
            ln_chi2_sf(f64::NAN, 2.0),
            ln_normal_sf(f64::NAN),
        ] {
            assert!(bad.is_nan(), "{bad}");
        }
    }

    #[test]
    fn log_arithmetic_holds_at_both_ends() {
        assert_close("add", ln_add_exp(-1e6, -1e6), -1e6 + LN_2);
        assert_eq!(ln_add_exp(f64::NEG_INFINITY, -3.0), -3.0);
        assert_close("tiny", ln_one_minus_exp(-1e-20), (1e-20f64).ln());
        assert_close("large", ln_one_minus_exp(-50.0), -(-50f64).exp());
        assert_eq!(ln_one_minus_exp(0.0), f64::NEG_INFINITY);
    }
}

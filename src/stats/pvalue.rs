//! The one way to hold a p-value: its natural logarithm, and how it was obtained.
//!
//! Published tests underflow at 2.2e-308 and then print 0; nothing here leaves log space.
//! Does not compute anything: the tests construct values, the verdict and the reports read them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a p-value was obtained. The kinds are never mixed in one combination without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PKind {
    /// The null distribution is known exactly; the value may be tiny.
    Exact,
    /// Monte-Carlo permutation with the +1 correction (Phipson and Smyth, 2010): never below 1/(n+1).
    Permutation {
        /// Number of permutations drawn.
        n_permutations: u64,
    },
    /// Rank in a population of independent reference pairs: never below 1/(n+1).
    Calibrated {
        /// Size of the reference population.
        n_reference: u64,
    },
    /// A large-sample approximation of the null distribution.
    Asymptotic,
}

impl PKind {
    /// The kebab-case name used in JSON (`p_kind`).
    pub fn name(&self) -> &'static str {
        match self {
            PKind::Exact => "exact",
            PKind::Permutation { .. } => "permutation",
            PKind::Calibrated { .. } => "calibrated",
            PKind::Asymptotic => "asymptotic",
        }
    }

    /// The smallest ln p that this kind can honestly report, if it has one.
    fn floor_ln_p(&self) -> Option<f64> {
        match *self {
            PKind::Permutation { n_permutations: n } | PKind::Calibrated { n_reference: n } => {
                Some(-((n + 1) as f64).ln())
            }
            PKind::Exact | PKind::Asymptotic => None,
        }
    }
}

/// Why a number was refused as a p-value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PValueError {
    /// NaN, positive, or minus infinity.
    #[error("ln p must be finite and at most 0, got {0}")]
    OutOfRange(f64),
    /// Below what the stated number of permutations or reference pairs can support.
    #[error("ln p {ln_p} is below the floor {floor} of a {kind} p-value")]
    BelowFloor {
        /// The offending value.
        ln_p: f64,
        /// The smallest value that the kind supports.
        floor: f64,
        /// Name of the kind.
        kind: &'static str,
    },
}

/// A p-value, stored as ln p: never zero, never NaN, and with its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PValue {
    ln_p: f64,
    kind: PKind,
}

impl PValue {
    /// Checked constructor; `ln_p` is the natural logarithm of p.
    ///
    /// # Errors
    /// When `ln_p` is NaN, positive or −∞, or below the floor of a permutation or calibrated p.
    pub fn new(ln_p: f64, kind: PKind) -> Result<Self, PValueError> {
        if !(ln_p.is_finite() && ln_p <= 0.0) {
            return Err(PValueError::OutOfRange(ln_p));
        }
        if let Some(floor) = kind.floor_ln_p()
            && !(ln_p >= floor - 1e-9)
        {
            return Err(PValueError::BelowFloor {
                ln_p,
                floor,
                kind: kind.name(),
            });
        }
        Ok(Self { ln_p, kind })
    }

    /// Natural logarithm of p.
    pub fn ln_p(&self) -> f64 {
        self.ln_p
    }

    /// How the value was obtained.
    pub fn kind(&self) -> PKind {
        self.kind
    }
}

impl fmt::Display for PValue {
    /// Scientific notation that never underflows: `p = 3.1e-742`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log10 = self.ln_p / std::f64::consts::LN_10;
        if log10 > -3.0 {
            return write!(f, "{:.4}", self.ln_p.exp());
        }
        let exponent = log10.floor();
        let mantissa = 10f64.powf(log10 - exponent);
        // 9.96 would be printed as 10.0e-5.
        let (mantissa, exponent) = if mantissa >= 9.95 {
            (1.0, exponent + 1.0)
        } else {
            (mantissa, exponent)
        };
        write!(f, "{mantissa:.1}e{exponent:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_nan_and_positive_are_refused() {
        for bad in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, 0.1] {
            assert!(PValue::new(bad, PKind::Exact).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_permutation_p_cannot_beat_its_count() {
        let kind = PKind::Permutation {
            n_permutations: 999,
        };
        assert!(PValue::new(-(1000f64.ln()), kind).is_ok());
        assert!(PValue::new(-8.0, kind).is_err());
    }

    #[test]
    fn display_does_not_underflow() {
        let p = PValue::new(-5000.0, PKind::Exact).unwrap();
        assert_eq!(p.to_string(), "3.4e-2172");
        assert_eq!(
            PValue::new(0.0, PKind::Exact).unwrap().to_string(),
            "1.0000"
        );
    }
}

//! Reference populations: what a statistic says of models that are known to be independent.
//!
//! The files of `fingerprints/calibration/` are part of the program, so that one version ranks in one
//! population for ever. A rank never goes below 1/(n + 1), and n is always reported with it.

use serde::Deserialize;
use std::sync::LazyLock;

#[derive(Debug, Deserialize)]
struct File {
    pairs: Vec<ReferencePair>,
}

#[derive(Debug, Deserialize)]
struct ReferencePair {
    agreement: f64,
}

/// The values of one statistic in a population of independent pairs.
#[derive(Debug)]
pub(super) struct Population {
    values: Vec<f64>,
}

/// Agreement of the token lens among independently trained models of one text.
pub(super) static LENS_AGREEMENT: LazyLock<Population> = LazyLock::new(|| {
    Population::read(include_str!(
        "../../fingerprints/calibration/token-lens-matching.json"
    ))
});

impl Population {
    /// A population that cannot be read is empty: it then ranks nothing as extreme. A test checks
    /// that the shipped ones can be read.
    fn read(text: &str) -> Self {
        let values = serde_json::from_str::<File>(text).map_or_else(
            |_| Vec::new(),
            |file| file.pairs.iter().map(|pair| pair.agreement).collect(),
        );
        Self { values }
    }

    /// Number of independent pairs.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// The largest value of an independent pair; 0 where there is none.
    pub(super) fn largest(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }

    /// (1 + number of independent pairs that reach `value`) / (1 + number of pairs): the calibrated
    /// p of large values. Ties count against the claim.
    pub(super) fn rank_p(&self, value: f64) -> f64 {
        let reached = self.values.iter().filter(|&&x| x >= value).count();
        (reached as f64 + 1.0) / (self.values.len() as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_population_can_be_read_and_holds_fractions() {
        assert!(LENS_AGREEMENT.len() >= 20);
        assert!(LENS_AGREEMENT.values.iter().all(|x| (0.0..1.0).contains(x)));
    }

    #[test]
    fn a_rank_counts_ties_against_the_claim_and_never_reaches_zero() {
        let population = Population {
            values: vec![0.1, 0.2, 0.3],
        };
        assert_eq!(population.rank_p(0.2), 0.75);
        assert_eq!(population.rank_p(1.0), 0.25);
        assert_eq!(population.rank_p(0.0), 1.0);
        assert_eq!(Population { values: vec![] }.rank_p(1.0), 1.0);
    }
}

//! Are units that stand in the same place alike? The permutation test of a common initialisation.
//!
//! Null: the two models were initialised independently. Initialisers draw the hidden units of an MLP
//! exchangeably and training treats them alike, so under the null the units of one model can be
//! re-ordered without changing the joint law. Statistic: the sum, over units, of the cosines of
//! gate rows, up rows and down columns that stand in the same place. One-sided: alike.
//!
//! Each layer is permuted on its own. Given what the layers hold, those permutations are independent,
//! so Fisher's combination over layers is exact; the +1 correction keeps each p above 0.

use super::context::{EvidenceError, Settings};
use super::layers;
use super::pair::ComponentPair;
use super::unit_matching;
use crate::fingerprint::product;
use crate::fingerprint::units::{Mlp, View};
use crate::stats::{self, PKind, PValue, sampling};
use crate::tensor::TensorError;
use ndarray::Array2;

/// Permutations drawn for each layer.
const N_PERMUTATIONS: u64 = 9_999;
/// Units of an MLP that are looked at; the same ones in both models.
const MAX_UNITS: usize = 768;
/// A permuted sum that reaches the observed one up to rounding counts as reaching it.
const TIE: f64 = 1e-9;

/// Sum of the cosines of all views, unit against unit: `[n, n]`.
fn likeness(a: &Mlp<'_>, b: &Mlp<'_>, units: &[usize]) -> Result<Array2<f32>, TensorError> {
    let (plain_a, plain_b) = (a.clone().as_plain(), b.clone().as_plain());
    let mut views = vec![
        (&plain_a, &plain_b, View::First),
        (&plain_a, &plain_b, View::Second),
    ];
    if a.is_gated() && b.is_gated() {
        views.push((a, b, View::First));
    }
    let mut sum = Array2::zeros((units.len(), units.len()));
    for (a, b, view) in views {
        let (mut x, mut y) = (a.rows(view, units)?, b.rows(view, units)?);
        product::normalise_rows(&mut x);
        product::normalise_rows(&mut y);
        sum += &product::rows_by_rows(x.view(), y.view());
    }
    Ok(sum)
}

/// ln p of one layer: the share of permutations under which units are at least as much alike.
fn layer_ln_p(likeness: &Array2<f32>, seed: u64, stream: &str) -> f64 {
    // Units without weights (padding, pruned ones) are like nothing and can be told from the others:
    // they are not exchangeable with them.
    let has_weights: Vec<usize> = (0..likeness.nrows())
        .filter(|&i| {
            let empty =
                |mut values: ndarray::iter::Iter<'_, f32, ndarray::Ix1>| values.all(|&x| x == 0.0);
            !empty(likeness.row(i).into_iter()) && !empty(likeness.column(i).into_iter())
        })
        .collect();
    let n = has_weights.len();
    let sum = |order: &[usize]| -> f64 {
        order
            .iter()
            .enumerate()
            .map(|(i, &j)| f64::from(likeness[(has_weights[i], has_weights[j])]))
            .sum()
    };
    let in_place: Vec<usize> = (0..n).collect();
    let observed = sum(&in_place);
    let threshold = observed - TIE * observed.abs().max(1.0);
    let mut rng = sampling::rng(seed, stream);
    let reached = (0..N_PERMUTATIONS)
        .filter(|_| sum(&sampling::permutation(n, &mut rng)) >= threshold)
        .count();
    ((reached as f64 + 1.0) / (N_PERMUTATIONS as f64 + 1.0)).ln()
}

/// The p-value of units in place, over the chosen layers; `None` where no MLPs of equal shape stand
/// against each other.
///
/// # Errors
/// When a weight cannot be read or is not finite.
pub(super) fn p_value(
    pair: &ComponentPair,
    settings: &Settings,
) -> Result<Option<PValue>, EvidenceError> {
    let (a, b) = (&pair.reference, &pair.candidate);
    if a.n_layers != b.n_layers || a.hidden_size.is_none() || a.hidden_size != b.hidden_size {
        return Ok(None);
    }
    let mut ln_ps = Vec::new();
    for layer in layers::chosen(a.n_layers, settings) {
        for (expert_a, expert_b) in a.experts(layer).into_iter().zip(b.experts(layer)) {
            let found = unit_matching::mlps(pair, (layer, expert_a), (layer, expert_b));
            let sizes = |mlp: &Mlp<'_>| (mlp.n_units(), mlp.n_units_of_whole());
            let Some((x, y)) = found.filter(|(x, y)| sizes(x) == sizes(y)) else {
                continue;
            };
            let stream = format!("in-place/{layer}/{}", expert_a.map_or(0, |e| e + 1));
            let n = x.n_units();
            let units = stats::choose(n, n.min(MAX_UNITS), settings.seed, &stream);
            ln_ps.push(layer_ln_p(
                &likeness(&x, &y, &units)?,
                settings.seed,
                &stream,
            ));
        }
    }
    let kind = PKind::Permutation {
        n_permutations: N_PERMUTATIONS,
        n_combined: ln_ps.len() as u32,
    };
    match stats::fisher(&ln_ps) {
        Some(ln_p) => Ok(Some(PValue::new(ln_p, kind)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn noise(n: usize, diagonal: f32, seed: u64) -> Array2<f32> {
        let mut rng = sampling::rng(seed, "in-place-test");
        Array2::from_shape_fn((n, n), |(i, j)| {
            rng.random::<f32>() + if i == j { diagonal } else { 0.0 }
        })
    }

    #[test]
    fn units_that_are_a_little_alike_in_place_reach_the_floor() {
        let floor = -(N_PERMUTATIONS as f64 + 1.0).ln();
        let found = layer_ln_p(&noise(100, 0.2, 1), 0, "x");
        assert!((found - floor).abs() < 1e-12, "{found} {floor}");
    }

    #[test]
    fn p_is_uniform_for_units_that_are_not_alike() {
        let ps: Vec<f64> = (0..200)
            .map(|seed| layer_ln_p(&noise(20, 0.0, seed), seed, "x").exp())
            .collect();
        let test = stats::ks_uniform(&ps).unwrap();
        assert!(test.ln_p > 0.001f64.ln(), "{test:?}");
    }

    #[test]
    fn units_without_weights_change_nothing() {
        let likeness = noise(20, 0.1, 3);
        let mut padded = Array2::zeros((26, 26));
        padded.slice_mut(ndarray::s![..20, ..20]).assign(&likeness);
        assert_eq!(layer_ln_p(&padded, 0, "x"), layer_ln_p(&likeness, 0, "x"));
    }

    #[test]
    fn equal_units_are_ties_and_give_no_evidence() {
        assert_eq!(layer_ln_p(&Array2::ones((30, 30)), 0, "x"), 0.0);
    }
}

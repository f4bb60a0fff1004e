//! Mixtures of experts: which experts a token is sent to, and with which weights.
//!
//! Choosing is done on the host: a row of scores per token is little, and the same code chooses for
//! every device. Experts are computed in the order of their numbers, and a token's outputs are added
//! in that order, whatever other tokens there are.

use super::EngineError;
use super::backend::Backend;
use super::forward::Decoder;
use super::load::Mixture;
use crate::arch::spec::{RouterSpec, Scoring};
use std::ops::Range;

/// Experts of one token, and their weights.
type Choice = Vec<(usize, f32)>;

/// Scores of one row of router outputs.
fn scores(logits: &[f32], scoring: Scoring) -> Vec<f32> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Scoring::Softmax => {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = logits.iter().map(|x| (x - highest).exp()).collect();
            let total: f32 = powers.iter().sum();
            powers.into_iter().map(|x| x / total).collect()
        }
    }
}

/// Numbers of the k highest values, highest first; of equal ones the lower number.
fn highest(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

/// The experts of one token by its router outputs.
fn choose(logits: &[f32], top_k: usize, router: &RouterSpec, correction: Option<&[f32]>) -> Choice {
    let scores = scores(logits, router.scoring);
    let mut merits = scores.clone();
    if let Some(correction) = correction {
        for (merit, correction) in merits.iter_mut().zip(correction) {
            *merit += correction;
        }
    }
    if let Some(groups) = router.groups {
        let size = merits.len() / groups.n_groups;
        let of_groups: Vec<f32> = merits
            .chunks(size)
            .map(|group| {
                let n_best = if groups.by_best_two { 2 } else { 1 };
                highest(group, n_best).into_iter().map(|i| group[i]).sum()
            })
            .collect();
        let kept = highest(&of_groups, groups.top_k);
        for (group, merits) in merits.chunks_mut(size).enumerate() {
            if !kept.contains(&group) {
                // As published: 0 in DeepSeek-V2, whose scores are positive; nothing at all in V3.
                merits.fill(if groups.by_best_two {
                    f32::NEG_INFINITY
                } else {
                    0.0
                });
            }
        }
    }
    let chosen = highest(&merits, top_k);
    let mut total: f32 = chosen.iter().map(|&i| scores[i]).sum();
    if router.scoring == Scoring::Sigmoid {
        total += 1e-20;
    }
    chosen
        .into_iter()
        .map(|i| {
            let weight = if router.normalise {
                scores[i] / total
            } else {
                scores[i]
            };
            (i, weight * router.scale)
        })
        .collect()
}

/// The weighted sum of what its experts make of each row of x: `[n_rows, hidden_size]`.
fn experts<B: Backend>(
    decoder: &Decoder<B>,
    x: &B::Buffer,
    mixture: &Mixture<B>,
    choices: &[Choice],
) -> Result<B::Buffer, EngineError> {
    let backend = decoder.backend();
    let (n_rows, hidden) = backend.shape(x);
    // Rows in the order of the experts that they are sent to.
    let mut sent = Vec::new();
    let mut groups: Vec<(Range<usize>, usize)> = Vec::new();
    // For each token where its outputs are, and their weights, in the order of the experts.
    let mut outputs: Vec<Vec<(u32, f32)>> = vec![Vec::new(); n_rows];
    for expert in 0..mixture.spec.n_experts {
        let start = sent.len();
        for (row, choice) in choices.iter().enumerate() {
            if let Some((_, weight)) = choice.iter().find(|(chosen, _)| *chosen == expert) {
                outputs[row].push((sent.len() as u32, *weight));
                sent.push(row as u32);
            }
        }
        if start < sent.len() {
            groups.push((start..sent.len(), expert));
        }
    }
    let mut sum = backend.upload(&vec![0.0; n_rows * hidden], n_rows, hidden)?;
    if sent.is_empty() {
        return Ok(sum);
    }
    let of = |weights: &'_ [B::Weight], x: &B::Buffer| {
        let groups = groups
            .iter()
            .map(|(rows, expert)| (rows.clone(), &weights[*expert]));
        backend.linear_grouped(x, &groups.collect::<Vec<_>>())
    };
    let theirs = backend.gather(x, &sent)?; // [n_sent, hidden_size]
    let activation = mixture.spec.expert.activation;
    let mut inner = of(&mixture.experts.up, &theirs)?; // [n_sent, intermediate_size]
    match &mixture.experts.gate {
        Some(gate) => {
            let mut gate = of(gate, &theirs)?;
            backend.gated(&mut gate, &inner, activation)?;
            inner = gate;
        }
        None => backend.activate(&mut inner, activation)?,
    }
    let out = of(&mixture.experts.down, &inner)?; // [n_sent, hidden_size]
    for number in 0..mixture.spec.top_k {
        let (mut rows, mut from, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, outputs) in outputs.iter().enumerate() {
            if let Some(&(place, weight)) = outputs.get(number) {
                rows.push(row as u32);
                from.push(place);
                weights.push(weight);
            }
        }
        if !rows.is_empty() {
            backend.scatter_add(&mut sum, &rows, &weights, &backend.gather(&out, &from)?)?;
        }
    }
    Ok(sum)
}

/// The mixture of x `[n_rows, hidden_size]`: `[n_rows, hidden_size]`.
pub(super) fn forward<B: Backend>(
    decoder: &Decoder<B>,
    x: &B::Buffer,
    mixture: &Mixture<B>,
) -> Result<B::Buffer, EngineError> {
    let backend = decoder.backend();
    let (n_rows, _) = backend.shape(x);
    let logits = backend.download(&decoder.linear(x, &mixture.router)?)?; // [n_rows, n_experts]
    let choices: Vec<Choice> = logits
        .chunks(mixture.spec.n_experts)
        .map(|row| {
            let correction = mixture.correction.as_deref();
            choose(row, mixture.spec.top_k, &mixture.spec.router, correction)
        })
        .collect();
    let mut sum = experts(decoder, x, mixture, &choices)?;
    if let Some((shared, gate)) = &mixture.shared {
        let inner = decoder.mlp_activations(x, shared)?;
        let out = decoder.linear(&inner, &shared.down)?;
        match gate {
            None => backend.add(&mut sum, &out, 1.0)?,
            Some(gate) => {
                let gates = backend.download(&decoder.linear(x, gate)?)?; // [n_rows, 1]
                let weights: Vec<f32> = gates.iter().map(|g| 1.0 / (1.0 + (-g).exp())).collect();
                let rows: Vec<u32> = (0..n_rows as u32).collect();
                backend.scatter_add(&mut sum, &rows, &weights, &out)?;
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::spec::layer::Groups;

    const PLAIN: RouterSpec = RouterSpec {
        scoring: Scoring::Softmax,
        normalise: true,
        scale: 1.0,
        correction_bias: false,
        groups: None,
    };

    #[test]
    fn the_best_experts_share_the_weight() {
        let choice = choose(&[0.0, 2.0, 1.0, 2.0], 2, &PLAIN, None);
        assert_eq!(choice, [(1, 0.5), (3, 0.5)]);
        let raw = RouterSpec {
            normalise: false,
            scale: 2.0,
            ..PLAIN
        };
        let choice = choose(&[0.0, 0.0], 1, &raw, None);
        assert_eq!(choice, [(0, 1.0)]);
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let router = RouterSpec {
            scoring: Scoring::Sigmoid,
            normalise: false,
            ..PLAIN
        };
        let choice = choose(&[0.0, 0.0], 1, &router, Some(&[0.0, 1.0]));
        assert_eq!(choice, [(1, 0.5)]);
    }

    #[test]
    fn experts_outside_the_best_groups_are_not_chosen() {
        let groups = Groups {
            n_groups: 2,
            top_k: 1,
            by_best_two: true,
        };
        let router = RouterSpec {
            groups: Some(groups),
            ..PLAIN
        };
        // The best single expert is in the worse group.
        let chosen: Vec<usize> = choose(&[3.0, -9.0, 2.0, 2.9], 2, &router, None)
            .iter()
            .map(|c| c.0)
            .collect();
        assert_eq!(chosen, [3, 2]);
    }
}

//! `token-lens-matching`: gate-up matching on what units say to the tokens that both models share.
//!
//! Ours. Products of embeddings with gate and up rows are the same in every basis of the residual
//! stream, so that no rotation hides a copy; nothing is aligned, so nothing is used twice.

use super::calibration;
use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::tokens::SharedTokens;
use super::unit_matching::{self, Outcome, Question, Side};
use super::{Run, Test};
use crate::arch::Component;
use crate::fingerprint::lens::Lens;
use crate::fingerprint::units::Mlp;

/// Tokens that the coarse search looks at.
const COARSE_TOKENS: usize = 256;

static SPEC: TestSpec = TestSpec {
    id: "token-lens-matching",
    title: "Token-lens matching",
    question: "Seen through what they answer to the same tokens, are the hidden units of both models \
               the same units, however the model was rotated, permuted or rescaled?",
    scope: Scope::Component,
    needs: &[Need::Weights, Need::Tokenizer],
    null: Some(
        "The candidate was trained independently: which of its units answers to tokens like a given \
         unit of the reference by its gate says nothing about which one does by its up projection.",
    ),
    p_value: Some(
        "As gate-up-matching: Spearman correlation of two exact assignments, in the deep tail bounded \
         by the exact law of coincidences: exact for matchings that agree by chance alone. Features \
         that every model of the same text learns make the two matchings agree a little without \
         kinship, so that this p alone never accuses: the agreement is also ranked among that of \
         independently trained models (`calibrated-p-of-agreement`, `n-independent-pairs`), and must \
         exceed all of them.",
    ),
    survives: "re-ordered units and heads, per-unit scaling, rotation of the residual stream, rotation \
               of q and k, mixing of v and o, moved γ, noise of the size of the weights, other widths",
    defeated_by: "a new tokenizer that shares no tokens, embeddings trained anew",
    citation: "modelkin; after Zhu et al., ICML 2025",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// The two lenses of a pair, or why there are none.
pub(super) fn lenses(pair: &ComponentPair) -> Result<Result<(Lens, Lens), String>, EvidenceError> {
    let (reference, candidate) = match &pair.tokens {
        SharedTokens::Shared {
            reference,
            candidate,
            ..
        } => (reference, candidate),
        SharedTokens::None(reason) => return Ok(Err(reason.clone())),
    };
    if let Some(reason) = seen_in_part(pair) {
        return Ok(Err(reason));
    }
    let read = (
        Lens::read(&pair.reference, reference)?,
        Lens::read(&pair.candidate, candidate)?,
    );
    Ok(match read {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => Err("one of the two has no embedding for the shared tokens".to_owned()),
    })
}

/// Why the lens cannot be used where a plain MLP was read in part: what its units write is then known in
/// some coordinates only, and a product over some of them is another one in every basis.
fn seen_in_part(pair: &ComponentPair) -> Option<String> {
    let mlps = |component| {
        let of_layer = move |layer| {
            let experts = Component::experts(component, layer).into_iter();
            experts.filter_map(move |expert| Mlp::find(component, layer, expert))
        };
        (0..component.n_layers).flat_map(of_layer)
    };
    let all: Vec<Mlp<'_>> = mlps(&pair.reference).chain(mlps(&pair.candidate)).collect();
    let is_plain = all.iter().any(|mlp| !mlp.is_gated());
    let is_cut = all.iter().any(|mlp| !mlp.writes_whole());
    (is_plain && is_cut).then(|| {
        "of what the units of a plain MLP write only some coordinates were read; the lens needs all".to_owned()
    })
}

/// The grid through the token lens.
pub(super) fn grid(pair: &ComponentPair, settings: &Settings) -> Outcome {
    let (a, b) = match lenses(pair)? {
        Ok(lenses) => lenses,
        Err(reason) => return Ok(Err(reason)),
    };
    let coarse = (a.head(COARSE_TOKENS), b.head(COARSE_TOKENS));
    unit_matching::run(
        pair,
        Question::Agreement,
        settings,
        &|side, mlp, view, units, is_coarse| {
            let lens = match (side, is_coarse) {
                (Side::Reference, false) => &a,
                (Side::Candidate, false) => &b,
                (Side::Reference, true) => &coarse.0,
                (Side::Candidate, true) => &coarse.1,
            };
            lens.rows(mlp, view, units, &settings.products)
        },
    )
}

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let record = unit_matching::record(SPEC.id, &pair.id, pair.lens_grid(settings))?;
    let SharedTokens::Shared {
        reference,
        n_shared,
        basis,
        ..
    } = &pair.tokens
    else {
        return Ok(record);
    };
    let population = &*calibration::LENS_AGREEMENT;
    let record = match record.effect("agreement") {
        Some(agreement) => record
            .with_effect("calibrated-p-of-agreement", population.rank_p(agreement))
            .with_effect("n-independent-pairs", population.len() as f64)
            .with_effect(
                "largest-agreement-of-independent-pairs",
                population.largest(),
            ),
        None => record,
    };
    Ok(record
        .with_effect("n-tokens", reference.len() as f64)
        .with_effect("n-tokens-shared", *n_shared as f64)
        .with_detail(Detail::Selection(format!(
            "{} of {n_shared} shared tokens, drawn by the seed; {basis}",
            reference.len()
        ))))
}

//! Tokens that both vocabularies have: the common columns of the token lens.

use super::context::Settings;
use crate::arch::artefact::Artefacts;
use crate::arch::{Component, Model, Role, RoleKind};
use crate::fingerprint::vocabulary::Vocabulary;
use crate::stats;

/// The shared tokens, or why there are none.
#[derive(Debug, Clone)]
pub enum SharedTokens {
    /// Rows of the two embeddings that stand for the same token.
    Shared {
        /// Row in the reference.
        reference: Vec<usize>,
        /// Row in the candidate.
        candidate: Vec<usize>,
        /// How many tokens are shared in all, of which the above are a sample.
        n_shared: usize,
        /// How it is known that they are the same, in words.
        basis: String,
    },
    /// There are none, and why.
    None(String),
}

/// Fewer shared tokens than this give no lens worth looking through.
const MIN_TOKENS: usize = 16;

fn vocabulary(artefacts: &Artefacts) -> Result<Option<Vocabulary>, String> {
    Vocabulary::read(artefacts).map_err(|e| e.to_string())
}

fn rows(component: &Component) -> Option<usize> {
    component
        .role(Role::outside(RoleKind::TokenEmbedding))
        .map(|m| m.n_rows_of_whole())
}

/// Whether the rows of a token are at hand, in the embedding and in the head.
fn is_at_hand(component: &Component, token: usize) -> bool {
    let embedding = component.role(Role::outside(RoleKind::TokenEmbedding));
    [embedding, component.output_head()]
        .into_iter()
        .flatten()
        .all(|matrix| {
            matrix
                .part()
                .is_none_or(|part| part.position(token).is_some())
        })
}

/// Finds the shared tokens of two components and draws a sample that depends on the seed alone.
pub(super) fn shared(
    reference: (&Model, &Component),
    candidate: (&Model, &Component),
    settings: &Settings,
) -> SharedTokens {
    let (Some(n_reference), Some(n_candidate)) = (rows(reference.1), rows(candidate.1)) else {
        return SharedTokens::None(
            "one of the two has no token embedding that is known".to_owned(),
        );
    };
    let at_hand = |a: usize, b: usize| is_at_hand(reference.1, a) && is_at_hand(candidate.1, b);
    among(
        (reference.0, n_reference),
        (candidate.0, n_candidate),
        &at_hand,
        settings,
    )
}

/// The shared tokens of two models whose embeddings have these numbers of rows, all of them at hand.
pub(super) fn among_rows(
    reference: (&Model, usize),
    candidate: (&Model, usize),
    settings: &Settings,
) -> SharedTokens {
    among(reference, candidate, &|_, _| true, settings)
}

/// The shared tokens of two models whose embeddings have these numbers of rows; of each pair of rows is
/// asked whether both are at hand.
fn among(
    (reference, n_reference): (&Model, usize),
    (candidate, n_candidate): (&Model, usize),
    at_hand: &dyn Fn(usize, usize) -> bool,
    settings: &Settings,
) -> SharedTokens {
    let vocabularies = (
        vocabulary(&reference.artefacts),
        vocabulary(&candidate.artefacts),
    );
    let (mut pairs, basis): (Vec<(usize, usize)>, String) = match vocabularies {
        (Ok(Some(a)), Ok(Some(b))) => {
            let pairs = a
                .ids
                .iter()
                .filter_map(|(token, &id)| Some((id as usize, *b.ids.get(token)? as usize)))
                .collect();
            (pairs, "the same token in both tokenizers".to_owned())
        }
        (a, b) if n_reference == n_candidate => {
            let mut why =
                "a tokenizer is missing; equal ids are taken as equal tokens because both \
                           embeddings have the same number of rows"
                    .to_owned();
            for error in [a.err(), b.err()].into_iter().flatten() {
                why.push_str(&format!(" ({error})"));
            }
            ((0..n_reference).map(|id| (id, id)).collect(), why)
        }
        _ => {
            return SharedTokens::None(format!(
                "a tokenizer is missing or unreadable, and the embeddings have {n_reference} and \
                 {n_candidate} rows"
            ));
        }
    };
    pairs.retain(|&(a, b)| a < n_reference && b < n_candidate);
    pairs.sort_unstable();
    pairs.dedup_by_key(|pair| pair.0);
    let n_shared = pairs.len();
    pairs.retain(|&(a, b)| at_hand(a, b));
    if pairs.len() < MIN_TOKENS {
        let of_read = match pairs.len() < n_shared {
            true => format!(" of {n_shared} have their rows among those that were read"),
            false => " are shared".to_owned(),
        };
        return SharedTokens::None(format!(
            "{} tokens{of_read}; the lens needs at least {MIN_TOKENS}",
            pairs.len()
        ));
    }
    let chosen = stats::choose(
        pairs.len(),
        settings.n_tokens.min(pairs.len()),
        settings.seed,
        "shared-tokens",
    );
    let (reference, candidate) = chosen.into_iter().map(|i| pairs[i]).unzip();
    SharedTokens::Shared {
        reference,
        candidate,
        n_shared,
        basis,
    }
}

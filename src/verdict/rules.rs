//! The rules that judge one component, in order; the first that applies decides.
//!
//! Thresholds are set from the nulls of the tests or from what the published prototypes measured,
//! never from the pairs on which results are reported.

use super::finding::{Operation, Relation, Strength};
use super::words;
use crate::evidence::record::{Status, TestRecord};

/// Links below this p, after all p-values of the audit were paid for. ln 1e-6.
const LINK_LN_P: f64 = -13.815_510_557_964_274;
/// Independence is stated only where no test came below this p. ln 1e-3.
const SUSPICION_LN_P: f64 = -6.907_755_278_982_137;
/// Share of units that must agree through the token lens, for features that all models of one text
/// learn make the agreement of independent models exceed chance.
const LENS_AGREEMENT: f64 = 0.10;
/// Share of the reference's leading directions in the candidate: above, it holds what was learned;
/// below [`TWIN_BELOW`], only the initialisation. Prototype: 0.12–0.46 for twins, 0.99 for copies.
const LEARNED_ABOVE: f64 = 0.65;
const TWIN_BELOW: f64 = 0.50;
/// A merge holds the same share of everything: its coefficients vary less than this between tensors.
const MERGE_DEVIATION: f64 = 0.10;
/// Components without units to match are linked by their weights alone from here on, and called
/// independent below the other: independent matrices of 10^4 entries have |cosine| < 0.05.
const COSINE_LINK: f64 = 0.80;
const COSINE_NONE: f64 = 0.10;

/// A judgement before it is put into words.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub relation: Relation,
    pub operations: Vec<Operation>,
    pub strength: Strength,
    pub carried_by: Vec<String>,
    /// What it does not prove.
    pub caveats: Vec<String>,
    /// Smallest paid-for ln p among the tests that carried it.
    pub ln_p: Option<f64>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            relation: Relation::Inconclusive,
            operations: Vec::new(),
            strength: Strength::None,
            carried_by: Vec::new(),
            caveats: Vec::new(),
            ln_p: None,
        }
    }
}

/// How far a relation is from a plain copy: the overall relation is that of the most changed part.
pub(super) fn weight_of_change(relation: Relation) -> u8 {
    match relation {
        Relation::Identical => 1,
        Relation::Repackaged => 2,
        Relation::Quantized => 3,
        Relation::Noised => 4,
        Relation::FineTuned => 5,
        Relation::Derived => 6,
        Relation::Pruned => 7,
        Relation::Expanded => 8,
        Relation::Merged => 9,
        Relation::Disguised => 10,
        _ => 0,
    }
}

/// The value of an effect, if the test was measured.
pub(super) fn effect(records: &[&TestRecord], test: &str, name: &str) -> Option<f64> {
    records.iter().find(|r| r.test == test)?.effect(name)
}

/// ln p of a test with every p-value of the audit paid for (Bonferroni).
fn paid_ln_p(records: &[&TestRecord], test: &str, n_p_values: usize) -> Option<f64> {
    let p = records.iter().find(|r| r.test == test)?.p?;
    Some((p.ln_p() + (n_p_values as f64).ln()).min(0.0))
}

/// Strength of a link in words. A p-value bounds the likelihood ratio by 1/(−e p ln p) (Sellke, Bayarri
/// and Berger, 2001); the words then stand one step below the ENFSI scale for that ratio.
fn strength_of(ln_p: f64) -> Strength {
    let ln_ratio = -1.0 - ln_p - (-ln_p).max(1.0).ln();
    match ln_ratio / std::f64::consts::LN_10 {
        x if x >= 8.0 => Strength::ExtremelyStrong,
        x if x >= 6.0 => Strength::VeryStrong,
        x if x >= 4.0 => Strength::Strong,
        x if x >= 2.0 => Strength::Moderate,
        _ => Strength::Weak,
    }
}

/// What the unit tests say: which of them link, with the smallest p.
struct Links {
    order: bool,
    agreement: bool,
    lens: bool,
    smallest: Option<f64>,
    measured: Vec<&'static str>,
}

impl Links {
    fn read(records: &[&TestRecord], n_p_values: usize) -> Self {
        let ids = [
            "unit-permutation",
            "gate-up-matching",
            "token-lens-matching",
        ];
        let ps: Vec<Option<f64>> = ids
            .iter()
            .map(|id| paid_ln_p(records, id, n_p_values))
            .collect();
        let below = |i: usize| ps[i].is_some_and(|p| p <= LINK_LN_P);
        let agreement = effect(records, ids[2], "agreement");
        let lens = below(2) && agreement.is_some_and(|share| share >= LENS_AGREEMENT);
        // A small p through the lens without agreement is what features common to all models do.
        let counts = |i: usize| i != 2 || lens || !below(2);
        Self {
            order: below(0),
            agreement: below(1),
            lens,
            smallest: (0..3)
                .filter(|&i| counts(i))
                .filter_map(|i| ps[i])
                .reduce(f64::min),
            measured: (0..3)
                .filter(|&i| ps[i].is_some())
                .map(|i| ids[i])
                .collect(),
        }
    }

    fn any(&self) -> bool {
        self.order || self.agreement || self.lens
    }

    fn names(&self) -> Vec<String> {
        let all = [
            (self.order, "unit-permutation"),
            (self.agreement, "gate-up-matching"),
            (self.lens, "token-lens-matching"),
        ];
        all.iter()
            .filter(|(on, _)| *on)
            .map(|(_, id)| (*id).to_owned())
            .collect()
    }
}

/// Rule 1: equal values, whatever the packaging.
fn copies(records: &[&TestRecord]) -> Option<Judged> {
    let get = |name| effect(records, "tensor-identity", name);
    if get("fraction-tensors-paired")? < 1.0 {
        return None;
    }
    let equal = get("fraction-values-equal")?;
    let bytes = get("fraction-chunk-bytes-equal")?;
    let renamed = effect(records, "tensor-correspondence", "n-renamed").unwrap_or(0.0);
    let relation = if bytes >= 1.0 && renamed == 0.0 {
        Relation::Identical
    } else if equal >= 1.0 {
        Relation::Repackaged
    } else if get("fraction-values-equal-after-rounding")? >= 1.0 {
        Relation::Quantized
    } else {
        return None;
    };
    Some(Judged {
        relation,
        operations: match relation {
            Relation::Identical => Vec::new(),
            other => vec![words::operation(other, &[("n_tensors_renamed", renamed)])],
        },
        strength: Strength::ExtremelyStrong,
        carried_by: vec![
            "tensor-identity".to_owned(),
            "tensor-correspondence".to_owned(),
        ],
        caveats: vec![words::NO_DIRECTION.to_owned()],
        ln_p: None,
    })
}

/// Steps that shapes and tests show, in the order of application as far as it can be told.
fn operations(records: &[&TestRecord], links: &Links) -> Vec<Operation> {
    let mut steps = Vec::new();
    let structure = |name: &str| effect(records, "tensor-correspondence", name);
    let sizes = |what: &str| {
        Some((
            structure(&format!("n-{what}-reference"))?,
            structure(&format!("n-{what}-candidate"))?,
        ))
    };
    for what in ["layers", "units"] {
        if let Some((a, b)) = sizes(what)
            && a != b
        {
            let relation = if b < a {
                Relation::Pruned
            } else {
                Relation::Expanded
            };
            let parameters = [
                (format!("n_{what}_reference"), a),
                (format!("n_{what}_candidate"), b),
            ];
            let parameters: Vec<(&str, f64)> = parameters
                .iter()
                .map(|(name, value)| (name.as_str(), *value))
                .collect();
            steps.push(words::operation(relation, &parameters));
        }
    }
    let measured = |id| links.measured.contains(&id);
    let hidden_basis = links.lens && measured("gate-up-matching") && !links.agreement;
    let same_units = sizes("units").is_none_or(|(a, b)| a == b);
    let same_layers = sizes("layers").is_none_or(|(a, b)| a == b);
    let moved = effect(records, "gate-up-matching", "n-layers-moved").unwrap_or(0.0) > 0.0;
    let hidden_order = links.agreement && !links.order && same_units;
    if hidden_basis || (hidden_order && measured("unit-permutation")) || (moved && same_layers) {
        steps.push(words::disguise(
            hidden_basis,
            hidden_order,
            moved && same_layers,
        ));
    }
    let residual = |name| effect(records, "residual-noise", name);
    let one_sigma = |name| residual(name).is_some_and(|v| v <= 0.10);
    let in_place = links.order && same_layers && same_units;
    if in_place {
        let gaussian = residual("fraction-tensors-gaussian").is_some_and(|f| f >= 0.9);
        if gaussian && (one_sigma("sigma-variation") || one_sigma("relative-sigma-variation")) {
            let sigma = residual("sigma").unwrap_or(0.0);
            let relative = residual("relative-sigma").unwrap_or(0.0);
            steps.push(words::operation(
                Relation::Noised,
                &[("noise_std", sigma), ("noise_relative_std", relative)],
            ));
        } else if steps.is_empty() {
            steps.push(words::operation(Relation::FineTuned, &[]));
        }
    }
    steps
}

/// Rule 2: linked by units; then, by what is shared, derived or a twin.
fn linked(records: &[&TestRecord], links: &Links) -> Judged {
    let get = |name| effect(records, "shared-initialisation", name);
    let forward = get("leading-directions-of-reference-in-candidate");
    let backward = get("leading-directions-of-candidate-in-reference");
    let learned = match (forward, backward) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    };
    let ln_p = links.smallest.unwrap_or(0.0);
    let mut judged = Judged {
        strength: strength_of(ln_p),
        carried_by: links.names(),
        ln_p: Some(ln_p),
        ..Judged::default()
    };
    let even = get("leading-directions-deviation")
        .zip(forward)
        .is_some_and(|(deviation, share)| share >= 0.2 && deviation <= MERGE_DEVIATION * share);
    match learned {
        Some(share) if share >= LEARNED_ABOVE || even => {
            judged.carried_by.push("shared-initialisation".to_owned());
            judged.operations = operations(records, links);
            judged.relation = judged
                .operations
                .iter()
                .map(|step| step.relation)
                .max_by_key(|relation| weight_of_change(*relation))
                .unwrap_or(Relation::Derived);
            judged.caveats = vec![
                words::NO_DIRECTION.to_owned(),
                words::COMMON_ANCESTOR.to_owned(),
            ];
        }
        Some(share) if share < TWIN_BELOW => {
            judged.carried_by.push("shared-initialisation".to_owned());
            judged.relation = Relation::SharedInitialisation;
            judged.caveats = vec![words::TWIN.to_owned()];
        }
        _ => {
            judged.relation = Relation::Inconclusive;
            judged.strength = judged.strength.min(Strength::Moderate);
            judged.caveats = vec![words::TWIN_OR_CHILD.to_owned()];
        }
    }
    judged
}

/// Rule 3: no units to match; only the values can speak.
fn by_values(records: &[&TestRecord]) -> Judged {
    let mut judged = Judged {
        carried_by: vec!["weight-similarity".to_owned()],
        caveats: vec![words::NO_P_VALUE.to_owned()],
        ..Judged::default()
    };
    match effect(records, "weight-similarity", "median-centred-cosine") {
        Some(cosine) if cosine >= COSINE_LINK => {
            judged.relation = Relation::Derived;
            judged.strength = Strength::Strong;
            judged.caveats.push(words::COMMON_ANCESTOR.to_owned());
        }
        Some(cosine) if cosine.abs() < COSINE_NONE => {
            // No rotation or re-ordering was excluded: nothing stronger than this can be said.
            judged.relation = Relation::Independent;
            judged.strength = Strength::Weak;
        }
        Some(_) => judged.strength = Strength::Weak,
        None => judged.carried_by.clear(),
    }
    judged
}

/// Judges one component from its records.
pub(super) fn component(id: &str, records: &[&TestRecord], n_p_values: usize) -> Judged {
    let _ = id;
    if let Some(copy) = copies(records) {
        return copy;
    }
    let links = Links::read(records, n_p_values);
    if links.any() {
        return linked(records, &links);
    }
    if records
        .iter()
        .any(|r| r.status == Status::Failed && r.p.is_none() && is_unit_test(r.test))
    {
        return Judged {
            caveats: vec![words::FAILED.to_owned()],
            ..Judged::default()
        };
    }
    let Some(smallest) = links.smallest else {
        return by_values(records);
    };
    let carried_by = links.measured.iter().map(|id| (*id).to_owned()).collect();
    if smallest < SUSPICION_LN_P {
        return Judged {
            strength: Strength::Weak,
            carried_by,
            ln_p: Some(smallest),
            caveats: vec![words::SUSPICION.to_owned()],
            ..Judged::default()
        };
    }
    // Equal content of a good part of the tensors is more than independence allows.
    let content = effect(
        records,
        "tensor-correspondence",
        "fraction-paired-by-content",
    );
    let alike = effect(records, "weight-similarity", "median-centred-cosine");
    if alike.is_some_and(|cosine| cosine >= COSINE_LINK) && content.is_some_and(|f| f >= 0.5) {
        return by_values(records);
    }
    let through_lens = links.measured.contains(&"token-lens-matching");
    Judged {
        relation: Relation::Independent,
        strength: if through_lens {
            Strength::Strong
        } else {
            Strength::Moderate
        },
        carried_by,
        ln_p: Some(smallest),
        caveats: if through_lens {
            vec![words::INDEPENDENT.to_owned()]
        } else {
            vec![words::INDEPENDENT.to_owned(), words::NO_LENS.to_owned()]
        },
        ..Judged::default()
    }
}

fn is_unit_test(test: &str) -> bool {
    [
        "unit-permutation",
        "gate-up-matching",
        "token-lens-matching",
    ]
    .contains(&test)
}

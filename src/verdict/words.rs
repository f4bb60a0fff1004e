//! The sentences of a verdict: what was found, and what it does not prove.

use super::finding::{Conclusion, Operation, Relation, Strength};
use super::rules::Judged;

pub(super) const ARTEFACTS_ALONE: &str = "Files, configuration and tokenizer alone never show that weights were derived: anyone may reuse \
     them. The weights of both models are needed.";
pub(super) const NO_DIRECTION: &str =
    "It does not prove which of the two came first, nor that the licence forbids it.";
pub(super) const COMMON_ANCESTOR: &str = "It does not exclude that both descend from a third, public model; compare each of them with the \
     public models that they could share.";
pub(super) const TWIN: &str = "It does not show that one was derived from the other: what they share is where training began.";
pub(super) const TWIN_OR_CHILD: &str = "The units are linked, but what is shared lies between what a common initialisation and what \
     derivation leave; neither is claimed.";
pub(super) const UNTRAINED: &str = "The units are linked, but one of the two is still close to its initialisation: a model trained \
     from it and a twin that began in the same place cannot be told apart.";
pub(super) const NO_P_VALUE: &str = "No test with a p-value applies to this component; the weights are compared as they stand, and a \
     rotated or re-ordered copy would not be seen.";
pub(super) const SUSPICION: &str =
    "A p-value is smaller than independence makes likely, and not small enough to claim a link.";
pub(super) const FAILED: &str =
    "A test that could have decided failed; see its record. Nothing is concluded from its absence.";
pub(super) const INDEPENDENT: &str = "It does not exclude distillation, nor a copy whose weights were trained until nothing was left \
     of the original.";
pub(super) const NO_LENS: &str =
    "The token lens could not be used, so that a rotation of the residual stream is not excluded.";

pub(super) const TOO_FEW_UNITS: &str = "The budget holds too few units of any MLP to see a copy whose units were re-ordered: that none was \
     found says nothing. A larger budget, or none, decides.";
pub(super) const LAYERS_NOT_READ: &str = "Not all layers were read within the budget: a copy whose layers were moved, or of which only others \
     were kept, is not excluded.";
pub(super) const LENS_UNUSUAL: &str = "Through the token lens more units agree than in any independent pair of the reference population, \
     though not by more than such a pair may: a copy under very heavy noise is not excluded.";

pub(super) const ADAPTER_ALONE: &str = "One of the two is an adapter: it holds changes to a base model and no weights of its own. Name that \
     base (`--base` for the candidate, `--reference-base` for the reference), so that the model which it makes \
     can be compared.";
pub(super) const ADAPTERS: &str = "It speaks of what the two adapters change, not of their bases.";
pub(super) const SAME_DATA: &str =
    "It does not exclude two runs that began from the same random factors and saw the same data.";
pub(super) const SAME_FACTORS: &str = "The two began from the same random factors; whether one was trained further from the other, or both \
     from that beginning, does not show.";
pub(super) const ADAPTERS_ALIKE: &str = "What the two change is more alike than chance makes it; adapters of one base that saw similar data are.";
pub(super) const ADAPTERS_INDEPENDENT: &str = "It does not exclude an adapter that was trained until nothing of the first was left, nor that both \
     change the same base.";

/// A step with its parameters and a sentence.
pub(super) fn operation(relation: Relation, parameters: &[(&str, f64)]) -> Operation {
    let description = match relation {
        Relation::Repackaged => {
            "The same values under other names, in other files or another dtype."
        }
        Relation::FineTuned => {
            "The same units in the same order, changed by more than noise: trained further."
        }
        Relation::Pruned => "Layers or units were removed.",
        Relation::Expanded => "Layers or units were added.",
        _ => "The weights were changed.",
    };
    Operation {
        relation,
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
        description: description.to_owned(),
    }
}

/// The step that rounded; `in_candidate` says which of the two is the coarser.
pub(super) fn rounding(in_candidate: bool, n_tensors_renamed: f64) -> Operation {
    let (coarse, fine) = if in_candidate {
        ("candidate", "reference")
    } else {
        ("reference", "candidate")
    };
    Operation {
        relation: Relation::Quantized,
        parameters: [
            ("n_tensors_renamed", n_tensors_renamed),
            ("rounded_in_candidate", f64::from(u8::from(in_candidate))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect(),
        description: format!(
            "The {coarse} holds the values of the {fine}, rounded to a coarser dtype."
        ),
    }
}

/// The step that rounded to codes which do not tell whether anything else was done before.
pub(super) fn perhaps_rounding(in_candidate: bool) -> Operation {
    let (coarse, fine) = if in_candidate {
        ("candidate", "reference")
    } else {
        ("reference", "candidate")
    };
    Operation {
        relation: Relation::Derived,
        parameters: [(
            "rounded_in_candidate".to_owned(),
            f64::from(u8::from(in_candidate)),
        )]
        .into_iter()
        .collect(),
        description: format!(
            "The {coarse} is the {fine} in a scheme of so few bits that a plain quantized copy is not told \
             from one that was trained a little as well."
        ),
    }
}

/// The step that added noise; `in_candidate` says which of the two has it.
pub(super) fn noise(in_candidate: bool, std: f64, relative_std: f64) -> Operation {
    let (noisy, clean) = if in_candidate {
        ("candidate", "reference")
    } else {
        ("reference", "candidate")
    };
    Operation {
        relation: Relation::Noised,
        parameters: [
            ("noise_std", std),
            ("noise_relative_std", relative_std),
            ("noise_in_candidate", f64::from(u8::from(in_candidate))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect(),
        description: format!("The {noisy} is the {clean} with Gaussian noise added."),
    }
}

/// The step that hides a copy, and how.
pub(super) fn disguise(basis: bool, order: bool, layers: bool) -> Operation {
    let mut how = Vec::new();
    if basis {
        how.push("the residual stream was rotated into another basis");
    }
    if order {
        how.push("the hidden units were re-ordered");
    }
    if layers {
        how.push("layers were moved");
    }
    Operation {
        relation: Relation::Disguised,
        parameters: [
            ("residual_basis_changed", basis),
            ("units_reordered", order),
            ("layers_moved", layers),
        ]
        .into_iter()
        .map(|(name, on)| (name.to_owned(), f64::from(u8::from(on))))
        .collect(),
        description: format!(
            "Rewritten without changing what it computes: {}.",
            how.join("; ")
        ),
    }
}

fn strength_words(strength: Strength) -> &'static str {
    match strength {
        Strength::None => "no",
        Strength::Weak => "weak",
        Strength::Moderate => "moderate",
        Strength::Strong => "strong",
        Strength::VeryStrong => "very strong",
        Strength::ExtremelyStrong => "extremely strong",
    }
}

fn sentence(relation: Relation) -> &'static str {
    match relation {
        Relation::Identical => "The candidate is the reference, bit for bit.",
        Relation::Repackaged => {
            "The candidate holds the values of the reference in another packaging."
        }
        Relation::Quantized => "The two are one model but for rounding to a coarser dtype.",
        Relation::Noised => "The two are one model but for random noise.",
        Relation::FineTuned => {
            "One of the two was trained further from the other, or both from a common ancestor."
        }
        Relation::Merged => "The candidate is a combination in which the reference takes part.",
        Relation::Pruned => "The candidate is a part of the reference.",
        Relation::Expanded => {
            "The candidate was built out of the reference by adding layers or units."
        }
        Relation::Disguised => {
            "The two share their trained weights, and one was rewritten so that plain comparisons fail."
        }
        Relation::Derived => {
            "The trained weights of the two are causally linked: one is derived from the other, or both from a common ancestor."
        }
        Relation::SharesComponents => {
            "Some components are shared or derived, others are not; see each of them."
        }
        Relation::Siblings => "Both descend from a third model.",
        Relation::SharedInitialisation => {
            "Both were trained from the same random initialisation; neither is derived from the other."
        }
        Relation::BehaviouralKinship => "The behaviour of the two is linked.",
        Relation::Independent => "No link was found by tests that had the power to find one.",
        Relation::Inconclusive => "The evidence at hand does not decide.",
    }
}

/// Puts a judgement into words.
pub(super) fn conclusion(component: &str, judged: Judged) -> Conclusion {
    let mut summary = sentence(judged.relation).to_owned();
    if judged.relation != Relation::Inconclusive {
        summary.push_str(&format!(
            " The evidence is {}.",
            strength_words(judged.strength)
        ));
    }
    for step in judged
        .operations
        .iter()
        .filter(|step| step.relation != judged.relation)
    {
        summary.push(' ');
        summary.push_str(&step.description);
    }
    // How it was disguised, or which of the two has the noise or the coarser values, is not in the relation's sentence.
    if matches!(
        judged.relation,
        Relation::Disguised | Relation::Noised | Relation::Quantized
    ) && let Some(step) = judged
        .operations
        .iter()
        .find(|s| s.relation == judged.relation)
    {
        summary.push(' ');
        summary.push_str(&step.description);
    }
    Conclusion {
        component: component.to_owned(),
        relation: judged.relation,
        operations: judged.operations,
        strength: judged.strength,
        summary,
        carried_by: judged.carried_by,
        does_not_prove: judged.caveats,
    }
}

//! The vocabulary of a finding: relations, operations, strength, conclusions. Data only.

use std::collections::BTreeMap;

/// How the candidate relates to the reference. Kebab-case in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Every tensor bit-equal under the same name.
    Identical,
    /// Bit-equal content under other names, shards, order or a lossless cast.
    Repackaged,
    /// The same values at a coarser dtype.
    Quantized,
    /// The same values plus noise.
    Noised,
    /// Trained further from the reference.
    FineTuned,
    /// A combination of several parents.
    Merged,
    /// Layers or units removed.
    Pruned,
    /// Layers or units added.
    Expanded,
    /// Function-preserving rewrites that hide the origin.
    Disguised,
    /// Derived, the kind unknown.
    Derived,
    /// Some components descend from the reference, others do not.
    SharesComponents,
    /// Both descend from a third model.
    Siblings,
    /// Trained from one random initialisation; not derivation.
    SharedInitialisation,
    /// Behaviour alone links them.
    BehaviouralKinship,
    /// No link found by tests that had the power to find one.
    Independent,
    /// The evidence does not decide.
    Inconclusive,
}

impl Relation {
    /// The kebab-case name used in JSON and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            Relation::Identical => "identical",
            Relation::Repackaged => "repackaged",
            Relation::Quantized => "quantized",
            Relation::Noised => "noised",
            Relation::FineTuned => "fine-tuned",
            Relation::Merged => "merged",
            Relation::Pruned => "pruned",
            Relation::Expanded => "expanded",
            Relation::Disguised => "disguised",
            Relation::Derived => "derived",
            Relation::SharesComponents => "shares-components",
            Relation::Siblings => "siblings",
            Relation::SharedInitialisation => "shared-initialisation",
            Relation::BehaviouralKinship => "behavioural-kinship",
            Relation::Independent => "independent",
            Relation::Inconclusive => "inconclusive",
        }
    }

    /// Whether the relation means "related": `None` when inconclusive.
    pub fn related(self) -> Option<bool> {
        match self {
            Relation::Inconclusive => None,
            Relation::Independent | Relation::SharedInitialisation => Some(false),
            _ => Some(true),
        }
    }
}

/// One step of how the candidate was made, with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The kind of step, in the names of [`Relation`].
    pub relation: Relation,
    /// Parameters with units in their names, e.g. `noise_std`.
    pub parameters: BTreeMap<String, f64>,
    /// One sentence for people.
    pub description: String,
}

/// Strength of the evidence in words, after the verbal likelihood-ratio scale of forensic practice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Nothing that could be weighed.
    None,
    /// Artefacts only, or a p that chance explains.
    Weak,
    /// Better than chance but not enough to accuse.
    Moderate,
    /// Strong.
    Strong,
    /// Very strong.
    VeryStrong,
    /// Extremely strong.
    ExtremelyStrong,
}

impl Strength {
    /// The kebab-case name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Strength::None => "none",
            Strength::Weak => "weak",
            Strength::Moderate => "moderate",
            Strength::Strong => "strong",
            Strength::VeryStrong => "very-strong",
            Strength::ExtremelyStrong => "extremely-strong",
        }
    }
}

/// What is concluded of one component, or of the whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// Component id, or `model`.
    pub component: String,
    /// The relation.
    pub relation: Relation,
    /// Steps in the order of application.
    pub operations: Vec<Operation>,
    /// Strength in words.
    pub strength: Strength,
    /// One paragraph that a non-specialist reads.
    pub summary: String,
    /// Ids of the tests that carried the conclusion.
    pub carried_by: Vec<String>,
    /// What it does not prove, one sentence each.
    pub does_not_prove: Vec<String>,
}

/// The finding: the whole, and each component on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The whole model.
    pub overall: Conclusion,
    /// Each component.
    pub components: Vec<Conclusion>,
}

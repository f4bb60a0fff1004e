//! Fixed sentences: what a relation, a strength or a status means to a reader who is no specialist,
//! and what may be done next.
//!
//! Shared by the renderers for people. A table of words: it weighs nothing, and every sentence
//! follows from the relation and the strength that the verdict has set.

use super::Report;
use crate::evidence::record::Status;
use crate::verdict::{Conclusion, Relation, Strength};

/// The relation as the middle of a sentence between candidate and reference. The words claim no
/// direction that the evidence does not show: a link alone has none.
pub(super) fn predicate(relation: Relation) -> &'static str {
    match relation {
        Relation::Identical => "is identical to",
        Relation::Repackaged => "is a re-packaged copy of",
        Relation::Quantized => "is a quantized copy of",
        Relation::Noised => "is, but for added noise, the same model as",
        Relation::FineTuned => "is, but for further training, the same model as",
        Relation::Merged => "is a merge that contains",
        Relation::Pruned => "is a pruned version of",
        Relation::Expanded => "is an expanded version of",
        Relation::Disguised => "is, in disguise, the same model as",
        Relation::Derived => "is of one descent with",
        Relation::SharesComponents => "shares components with",
        Relation::Siblings => "shares a third ancestor with",
        Relation::SharedInitialisation => {
            "started from the same random initialisation as, but is not derived from,"
        }
        Relation::BehaviouralKinship => "behaves like a relative of",
        Relation::Independent => "shows no sign of descent from",
        Relation::Inconclusive => "may or may not be related to",
    }
}

/// The relation as a title.
pub(super) fn title(relation: Relation) -> &'static str {
    match relation {
        Relation::Identical => "Identical",
        Relation::Repackaged => "Re-packaged copy",
        Relation::Quantized => "Quantized copy",
        Relation::Noised => "Noised copy",
        Relation::FineTuned => "Fine-tuned",
        Relation::Merged => "Merged",
        Relation::Pruned => "Pruned",
        Relation::Expanded => "Expanded",
        Relation::Disguised => "Disguised copy",
        Relation::Derived => "Derived",
        Relation::SharesComponents => "Shares components",
        Relation::Siblings => "Siblings",
        Relation::SharedInitialisation => "Shared initialisation",
        Relation::BehaviouralKinship => "Behavioural kinship",
        Relation::Independent => "Independent",
        Relation::Inconclusive => "Inconclusive",
    }
}

/// The answer to "related?" in a word or two.
pub(super) fn related(relation: Relation) -> &'static str {
    match relation.related() {
        Some(true) => "related",
        Some(false) => "not related",
        None => "undecided",
    }
}

/// The strength as words in a sentence.
pub(super) fn strength(strength: Strength) -> &'static str {
    match strength {
        Strength::None => "no evidence",
        Strength::Weak => "weak evidence",
        Strength::Moderate => "moderate evidence",
        Strength::Strong => "strong evidence",
        Strength::VeryStrong => "very strong evidence",
        Strength::ExtremelyStrong => "extremely strong evidence",
    }
}

/// Steps of the verbal scale above "none", for a meter of [`STRENGTH_STEPS`] steps.
pub(super) fn strength_step(strength: Strength) -> usize {
    match strength {
        Strength::None => 0,
        Strength::Weak => 1,
        Strength::Moderate => 2,
        Strength::Strong => 3,
        Strength::VeryStrong => 4,
        Strength::ExtremelyStrong => 5,
    }
}

/// Length of the meter.
pub(super) const STRENGTH_STEPS: usize = 5;

/// The status as a word for people.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Measured => "measured",
        Status::NotApplicable => "not applicable",
        Status::Failed => "failed",
    }
}

/// Stands where a record without a measurement should have given its reason.
pub(super) const NO_REASON: &str = "no reason was given";

/// The finding in one plain sentence with its strength, cut where the names of the two models go:
/// `candidate · middle · reference · end`.
pub(super) fn sentence(conclusion: &Conclusion) -> (&'static str, String) {
    let end = match (conclusion.relation, conclusion.strength) {
        (Relation::Inconclusive, Strength::None) => ": nothing could be weighed.".to_owned(),
        (Relation::Inconclusive, s) => {
            format!(": there is {}, and it does not decide.", strength(s))
        }
        (_, s) => format!(" ({}).", strength(s)),
    };
    (predicate(conclusion.relation), end)
}

/// What to do next, one sentence each.
pub(super) fn next_steps(report: &Report) -> Vec<String> {
    let overall = &report.finding.overall;
    let mut steps: Vec<String> = Vec::new();
    let failed = report
        .records
        .iter()
        .filter(|r| r.status == Status::Failed)
        .count();
    if failed > 0 {
        let which = if failed == 1 {
            "One test"
        } else {
            "Some tests"
        };
        steps.push(format!(
            "{which} failed. Read the reason beside it, repair the cause, and run again: what \
             failed speaks neither for nor against."
        ));
    }
    match overall.relation.related() {
        Some(true) => steps.extend([
            "Compare both models with the bases that they declare: kinship through a common public \
             base is no evidence of copying."
                .to_owned(),
            "Ask the publisher for what only the one who trained a model has: intermediate \
             checkpoints, optimiser state, logs and data order."
                .to_owned(),
            "Read the licence of the reference: derivation may well be permitted, with or without \
             attribution. This report does not say."
                .to_owned(),
        ]),
        Some(false) => steps.extend([
            "Compare with other likely parents: this says nothing about models that were not \
             compared."
                .to_owned(),
            "Look at the tests that did not apply: a route that no test could look at is not ruled \
             out."
                .to_owned(),
        ]),
        None => steps.extend([
            "Supply what was missing: the tests that did not apply or failed say what they need. \
             Files other than weights never decide alone."
                .to_owned(),
            "Compare with the declared base, and with a model known to be independent, to see what \
             these tests print when the answer is known."
                .to_owned(),
        ]),
    }
    let all = report.options.all_layers || report.options.layer_rule.starts_with("all ");
    if !all && overall.relation != Relation::Identical {
        steps.push("Add `--all-layers` to measure every layer rather than a sample.".to_owned());
    }
    steps.push("Run the command again to check every number.".to_owned());
    steps
}

/// How to read the numbers, one sentence each.
pub(super) const HOW_TO_READ: &[&str] = &[
    "A p-value is the probability of a result at least this striking if the two models had been \
     made independently. It is not the probability that they are independent.",
    "Exact and permutation p-values may be extremely small, because the randomness is known. A \
     calibrated p-value is a rank among N independent pairs and can never be below 1/(N+1).",
    "An effect is a size, not a proof: two independent models may look alike because they share an \
     architecture, a tokenizer or data.",
    "Not applicable and failed mean absence of evidence; neither counts for or against.",
];

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn shared_initialisation_is_never_worded_as_descent() {
        let words = predicate(Relation::SharedInitialisation);
        assert!(words.contains("not derived"));
        assert_eq!(related(Relation::SharedInitialisation), "not related");
    }

    #[test]
    fn an_inconclusive_sentence_says_that_it_does_not_decide() {
        let mut conclusion = fixture::report().finding.overall;
        conclusion.relation = Relation::Inconclusive;
        conclusion.strength = Strength::Weak;
        assert!(sentence(&conclusion).1.contains("does not decide"));
    }

    #[test]
    fn failures_are_the_first_thing_to_do_something_about() {
        let report = fixture::report();
        assert!(report.records.iter().any(|r| r.status == Status::Failed));
        assert!(next_steps(&report)[0].contains("failed"));
    }
}

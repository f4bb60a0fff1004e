//! Records → finding: a pure function that reads records, never tensors.
//!
//! [`rules`] judges each component by an ordered list of rules, the first that applies decides;
//! [`judge`] puts the components together. Every threshold stands in `rules` with its reason, and the
//! same text is the docs' page on verdict rules.

mod finding;
mod rules;
mod words;

pub use finding::{Conclusion, Finding, Operation, Relation, Strength};

use crate::evidence::record::{Status, TestRecord};
use rules::Judged;

/// Judges the records of one pair of models.
pub fn judge(records: &[TestRecord]) -> Finding {
    let mut ids: Vec<&str> = Vec::new();
    for record in records {
        let id = record.component.as_str();
        if id != "model" && !ids.contains(&id) {
            ids.push(id);
        }
    }
    // Every p-value of the audit is a chance to accuse falsely: all of them are paid for.
    let n_p_values = records.iter().filter(|r| r.p.is_some()).count().max(1);
    let judged: Vec<Judged> = ids
        .iter()
        .map(|id| {
            let of_component: Vec<&TestRecord> =
                records.iter().filter(|r| r.component == *id).collect();
            rules::component(&of_component, n_p_values)
        })
        .collect();
    let whole: Vec<&TestRecord> = records.iter().filter(|r| r.component == "model").collect();
    let overall = overall(&judged, &whole);
    Finding {
        overall: words::conclusion("model", overall),
        components: ids
            .iter()
            .zip(judged)
            .map(|(id, j)| words::conclusion(id, j))
            .collect(),
    }
}

/// The relation that several components have together.
fn overall(judged: &[Judged], whole: &[&TestRecord]) -> Judged {
    if judged.is_empty() {
        let seen = whole.iter().any(|r| r.status == Status::Measured);
        return Judged {
            relation: Relation::Inconclusive,
            strength: if seen { Strength::Weak } else { Strength::None },
            carried_by: whole
                .iter()
                .filter(|r| r.status == Status::Measured)
                .map(|r| r.test.to_owned())
                .collect(),
            caveats: vec![words::ARTEFACTS_ALONE.to_owned()],
            ..Judged::default()
        };
    }
    let related: Vec<&Judged> = judged
        .iter()
        .filter(|j| j.relation.related() == Some(true))
        .collect();
    let unrelated: Vec<&Judged> = judged
        .iter()
        .filter(|j| j.relation.related() == Some(false))
        .collect();
    let Some(first) = related
        .iter()
        .max_by_key(|j| rules::weight_of_change(j.relation))
    else {
        // No component is related.
        let open = judged.iter().find(|j| j.relation == Relation::Inconclusive);
        let twin = judged
            .iter()
            .find(|j| j.relation == Relation::SharedInitialisation);
        // The backbone's independence stands also where a small part stays open.
        let backbone_independent = judged[0].relation == Relation::Independent;
        return match (twin, open) {
            (Some(twin), _) => twin.clone(),
            (None, Some(open)) if !backbone_independent => open.clone(),
            _ => judged[0].clone(),
        };
    };
    let mut result = (*first).clone();
    if !unrelated.is_empty() {
        result.relation = Relation::SharesComponents;
        result.operations = Vec::new();
    }
    let files_equal = rules::effect(whole, "file-identity", "fraction-weight-files-equal");
    if result.relation == Relation::Identical && files_equal.is_some_and(|f| f < 1.0) {
        // Equal tensors in other files: shards were cut anew.
        result.relation = Relation::Repackaged;
        result.operations = vec![words::operation(Relation::Repackaged, &[])];
    }
    for other in &related {
        for test in &other.carried_by {
            if !result.carried_by.contains(test) {
                result.carried_by.push(test.clone());
            }
        }
        result.strength = result.strength.max(other.strength);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::record::{Detail, OUTSIDE_THE_BUDGET, Observation};

    #[test]
    fn matrices_alone_say_nothing_where_a_budget_left_the_units_out() {
        let component = "language-model";
        let alike = TestRecord::measured("weight-similarity", component)
            .with_effect("median-centred-cosine", 0.01);
        let mut units = TestRecord::not_applicable("gate-up-matching", component, "no MLPs");
        let relation = |units: &TestRecord| {
            let finding = judge(&[alike.clone(), units.clone()]);
            finding.overall.relation
        };
        assert_eq!(relation(&units), Relation::Independent);
        units.details.push(Detail::Observations(vec![Observation {
            code: OUTSIDE_THE_BUDGET.to_owned(),
            message: "The budget left them out.".to_owned(),
            file: None,
        }]));
        assert_eq!(relation(&units), Relation::Inconclusive);
    }
}

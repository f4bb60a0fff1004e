//! `config-comparison`: which keys of the configuration are equal, changed, removed or added?
//!
//! Equal configuration is common among unrelated models of one architecture. It is reported and never
//! counted as proof.

use super::config_keys::{Keys, MAX_KEYS, same};
use super::context::{EvidenceError, Settings};
use super::excerpt;
use super::pair::Pair;
use super::record::{Detail, Observation, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::artefact::{ArtefactError, Artefacts};
use serde_json::Value;

static SPEC: TestSpec = TestSpec {
    id: "config-comparison",
    title: "Configuration",
    question: "Which keys of the configuration are equal, changed, removed or added?",
    scope: Scope::Model,
    needs: &[Need::Files],
    null: None,
    p_value: None,
    survives: "any change of the weights that keeps the architecture",
    defeated_by: "a configuration written anew; and an equal one is no proof",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Model(run),
};

/// The files that are compared, with the beginning of the names of their effects.
const FILES: &[(&str, &str)] = &[
    ("config.json", ""),
    ("generation_config.json", "generation-config-"),
    ("preprocessor_config.json", "preprocessor-config-"),
];

/// Keys that determine shapes or the forward pass, at any depth.
const ARCHITECTURE: &[&str] = &[
    "d_model",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "num_attention_heads",
    "num_experts",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "patch_size",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
];

/// Changed keys that are listed one by one, for each file.
const MAX_LISTED: usize = 40;

fn run(pair: &Pair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut record = TestRecord::measured(SPEC.id, "model");
    let mut seen = Vec::new();
    let (reference, candidate) = (&pair.reference.artefacts, &pair.candidate.artefacts);
    for (file, prefix) in FILES {
        let read = |artefacts: &Artefacts| artefacts.json(file);
        let (a, b) = match (read(reference), read(candidate)) {
            (Ok(Some(a)), Ok(Some(b))) => (a, b),
            (Ok(_), Ok(_)) => continue,
            (Err(error), _) => return Ok(unreadable("reference", &error)),
            (_, Err(error)) => return Ok(unreadable("candidate", &error)),
        };
        record = match (Keys::read(&a, file), Keys::read(&b, file)) {
            (Ok(x), Ok(y)) => compare(record, file, prefix, (&x, &y), &mut seen),
            (Err(error), _) => return Ok(unreadable("reference", &error)),
            (_, Err(error)) => return Ok(unreadable("candidate", &error)),
        };
    }
    if record.effects.is_empty() {
        let reason = "there is no configuration file that both models have";
        return Ok(TestRecord::not_applicable(SPEC.id, "model", reason));
    }
    Ok(if seen.is_empty() {
        record
    } else {
        record.with_detail(Detail::Observations(seen))
    })
}

fn unreadable(side: &str, error: &ArtefactError) -> TestRecord {
    TestRecord::failed(
        SPEC.id,
        "model",
        format!("the {side} cannot be read: {error}"),
    )
}

/// Counts and lists the differences of one file.
fn compare(
    mut record: TestRecord,
    file: &str,
    prefix: &str,
    (a, b): (&Keys, &Keys),
    seen: &mut Vec<Observation>,
) -> TestRecord {
    let mut note = |code: &str, message: String| {
        let file = Some(file.to_owned());
        seen.push(Observation {
            code: code.to_owned(),
            message,
            file,
        });
    };
    let common = a
        .values
        .iter()
        .filter_map(|(key, x)| Some((key, *x, *b.values.get(key)?)));
    let (equal, different): (Vec<_>, Vec<_>) = common.partition(|(_, x, y)| same(x, y));
    if file == "config.json" {
        let (code, message) = architecture(&equal, &different);
        if let Some(code) = code {
            note(code, message);
        }
    }
    let (n_removed, removed) = a.missing_in(b);
    let (n_added, added) = b.missing_in(a);
    if n_removed > 0 {
        let keys = excerpt::list(&removed, MAX_LISTED);
        note(
            "keys-removed",
            format!("The candidate's `{file}` lacks {keys}."),
        );
    }
    if n_added > 0 {
        let keys = excerpt::list(&added, MAX_LISTED);
        note(
            "keys-added",
            format!("The candidate's `{file}` has in addition {keys}."),
        );
    }
    for (key, x, y) in different.iter().take(MAX_LISTED) {
        let value = |v: &Value| excerpt::shorten(&v.to_string(), 80);
        let key = excerpt::shorten(key, 120);
        note(
            "key-changed",
            format!(
                "`{key}` is {} in the reference and {} in the candidate.",
                value(x),
                value(y)
            ),
        );
    }
    if different.len() > MAX_LISTED {
        let n = different.len() - MAX_LISTED;
        note(
            "changed-keys-not-listed",
            format!("{n} more keys of `{file}` were changed."),
        );
    }
    if a.truncated || b.truncated {
        record = record.with_reason(format!(
            "`{file}` has more than {MAX_KEYS} values; the rest was not compared"
        ));
    }
    let counts = [
        ("n-keys-equal", equal.len()),
        ("n-keys-different", different.len()),
        ("n-keys-removed", n_removed),
        ("n-keys-added", n_added),
    ];
    for (name, n) in counts {
        record = record.with_effect(&format!("{prefix}{name}"), n as f64);
    }
    record
}

/// Whether the keys that determine the architecture agree, where both state them.
fn architecture(
    equal: &[(&String, &Value, &Value)],
    different: &[(&String, &Value, &Value)],
) -> (Option<&'static str>, String) {
    let decides = |key: &&String| {
        key.split('.')
            .any(|segment| ARCHITECTURE.contains(&segment))
    };
    let n_equal = equal.iter().filter(|(key, ..)| decides(key)).count();
    let changed: Vec<&String> = different
        .iter()
        .map(|(key, ..)| *key)
        .filter(|key| decides(key))
        .collect();
    if changed.is_empty() && n_equal == 0 {
        return (None, String::new());
    }
    if changed.is_empty() {
        let message = format!(
            "All {n_equal} keys that determine the architecture and that both state are equal. This is \
             common among unrelated models and never a proof."
        );
        return (Some("architecture-equal"), message);
    }
    let message = format!(
        "Keys that determine the architecture differ: {}; {n_equal} are equal.",
        excerpt::list(&changed, MAX_LISTED)
    );
    (Some("architecture-differs"), message)
}

#[cfg(test)]
mod tests {
    use super::super::artefact_fixture::{codes, compare, llama3_v, model, observations};
    use super::super::record::Status;
    use super::*;

    fn test(a: &str, b: &str) -> TestRecord {
        compare(
            &model(&[("config.json", a)]),
            &model(&[("config.json", b)]),
            run,
        )
    }

    #[test]
    fn nested_keys_are_compared_by_their_dotted_names() {
        let record = test(
            r#"{"vision_config": {"hidden_size": 8, "depth": 2}, "a": 1}"#,
            r#"{"vision_config": {"hidden_size": 9, "depth": 2}, "b": [1]}"#,
        );
        for (name, n) in [
            ("equal", 1.0),
            ("different", 1.0),
            ("removed", 1.0),
            ("added", 1.0),
        ] {
            assert_eq!(record.effect(&format!("n-keys-{name}")), Some(n), "{name}");
        }
        let seen = observations(&record);
        assert!(
            seen.iter()
                .any(|o| o.message.contains("`vision_config.hidden_size` is 8"))
        );
        assert!(codes(&record).contains(&"architecture-differs".to_owned()));
    }

    #[test]
    fn equal_numbers_written_differently_are_equal() {
        let record = test(
            r#"{"rms_norm_eps": 1e-5, "rope_theta": 10000}"#,
            r#"{"rms_norm_eps": 0.00001, "rope_theta": 10000.0}"#,
        );
        assert_eq!(record.effect("n-keys-different"), Some(0.0));
        let seen = observations(&record);
        assert_eq!(seen[0].code, "architecture-equal");
        assert!(seen[0].message.contains("never a proof"));
    }

    #[test]
    fn a_group_that_is_absent_as_a_whole_is_one_entry() {
        let record = test(r#"{"slice": {"a": 1, "b": 2, "c": {}}}"#, "{}");
        assert_eq!(record.effect("n-keys-removed"), Some(3.0));
        assert!(
            observations(&record)[0]
                .message
                .contains("`slice (3 keys)`")
        );
    }

    #[test]
    fn the_other_files_have_effects_of_their_own() {
        let files = [("generation_config.json", r#"{"top_p": 0.9}"#)];
        let record = compare(&model(&files), &model(&files), run);
        assert_eq!(record.effect("generation-config-n-keys-equal"), Some(1.0));
        assert_eq!(record.effect("n-keys-equal"), None);
    }

    #[test]
    fn no_file_in_common_is_not_applicable_and_a_broken_one_failed() {
        let one = model(&[("config.json", "{}")]);
        assert_eq!(
            compare(&one, &model(&[]), run).status,
            Status::NotApplicable
        );
        for broken in ["{", "[1]", "\"text\"", "nul"] {
            assert_eq!(test("{}", broken).status, Status::Failed, "{broken}");
        }
    }

    #[test]
    fn a_huge_and_a_deep_file_end_in_a_record() {
        let many: Vec<String> = (0..20_000).map(|i| format!("\"k{i}\": {i}")).collect();
        let many = format!("{{{}}}", many.join(","));
        let record = test(&many, &many);
        assert_eq!(record.effect("n-keys-equal"), Some(MAX_KEYS as f64));
        assert!(record.reason.is_some());
        let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        assert_eq!(test("{}", &deep).status, Status::Failed);
    }

    #[test]
    fn llama3_v_lacks_keys_of_its_reference_and_keeps_the_architecture() {
        let Some((a, b)) = llama3_v() else { return };
        let record = compare(&a, &b, run);
        let seen = observations(&record);
        assert!(codes(&record).contains(&"architecture-equal".to_owned()));
        let removed = seen.iter().find(|o| o.code == "keys-removed").unwrap();
        for key in [
            "slice_config",
            "vision_config",
            "architectures",
            "batch_vision_input",
        ] {
            assert!(removed.message.contains(key), "{key}: {}", removed.message);
        }
        assert!(record.effect("n-keys-equal").unwrap() >= 20.0);
    }
}

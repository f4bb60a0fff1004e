//! `tokenizer-comparison`: how much of the reference's tokenizer does the candidate keep?
//!
//! Tokenizers are adopted freely, so that an equal one proves nothing; tokens and oddities that one
//! model added of its own are what tells.

use super::context::{EvidenceError, Settings};
use super::excerpt;
use super::odd_tokens::is_typical;
use super::pair::Pair;
use super::record::{Detail, Observation, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::artefact::{ArtefactError, Artefacts};
use crate::fingerprint::tokenizer_settings::{AddedToken, TokenizerSettings};
use crate::fingerprint::vocabulary::Vocabulary;
use std::collections::{BTreeSet, HashSet};

static SPEC: TestSpec = TestSpec {
    id: "tokenizer-comparison",
    title: "Tokenizers",
    question: "Does the candidate's tokenizer keep the tokens, ids, merges, added tokens and chat \
               template of the reference?",
    scope: Scope::Model,
    needs: &[Need::Files],
    null: None,
    p_value: None,
    survives: "any change of the weights; added or removed tokens",
    defeated_by: "a new tokenizer; and an equal one is no proof, because tokenizers are adopted freely",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Model(run),
};

/// What is known of one tokenizer: the vocabulary may be absent where the settings are there.
struct Tokenizer {
    settings: TokenizerSettings,
    vocabulary: Option<Vocabulary>,
}

impl Tokenizer {
    fn read(artefacts: &Artefacts) -> Result<Self, ArtefactError> {
        let vocabulary = Vocabulary::read(artefacts)?;
        Ok(Self {
            settings: TokenizerSettings::read(artefacts)?,
            vocabulary,
        })
    }

    fn is_absent(&self) -> bool {
        self.vocabulary.is_none() && self.settings == TokenizerSettings::default()
    }

    fn added(&self) -> &[AddedToken] {
        self.vocabulary
            .as_ref()
            .map_or(&self.settings.added, |v| &v.added)
    }

    /// Whether the tokenizer knows a token; `None` where its vocabulary is not at hand.
    fn knows(&self, token: &str) -> Option<bool> {
        Some(self.vocabulary.as_ref()?.ids.contains_key(token))
    }
}

fn run(pair: &Pair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut read = Vec::new();
    for (side, model) in [("reference", pair.reference), ("candidate", pair.candidate)] {
        match Tokenizer::read(&model.artefacts) {
            Ok(found) if found.is_absent() => {
                let reason = format!("the {side} has no tokenizer file");
                return Ok(TestRecord::not_applicable(SPEC.id, "model", reason));
            }
            Ok(found) => read.push(found),
            Err(error) => {
                let error = format!("the tokenizer of the {side} cannot be read: {error}");
                return Ok(TestRecord::failed(SPEC.id, "model", error));
            }
        }
    }
    let [a, b] = read.as_slice() else {
        return Err(EvidenceError::Numerical(
            "expected two tokenizers".to_owned(),
        ));
    };
    let mut seen = Vec::new();
    let mut record = TestRecord::measured(SPEC.id, "model");
    match (&a.vocabulary, &b.vocabulary) {
        (Some(x), Some(y)) => record = vocabularies(record, x, y, &mut seen),
        _ => {
            record = record.with_reason(
                "the vocabulary of one of the two is not at hand; added tokens, special tokens and \
                 chat template were compared",
            );
        }
    }
    record = added_tokens(record, a, b, &mut seen);
    special_tokens(a, b, &mut seen);
    if let (Some(x), Some(y)) = (&a.settings.chat_template, &b.settings.chat_template) {
        let same = x.trim() == y.trim();
        record = record.with_effect("chat-template-equal", f64::from(u8::from(same)));
        let (code, message) = if same {
            let message = format!("The chat templates are equal ({} characters).", chars(x));
            ("chat-template-equal", message)
        } else {
            let (x, y) = (chars(x), chars(y));
            let message = format!("The chat templates differ ({x} and {y} characters).");
            ("chat-template-differs", message)
        };
        seen.push(observation(code, message));
    }
    Ok(if seen.is_empty() {
        record
    } else {
        record.with_detail(Detail::Observations(seen))
    })
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

fn observation(code: &str, message: String) -> Observation {
    Observation {
        code: code.to_owned(),
        message,
        file: None,
    }
}

/// Tokens, ids and merges of two vocabularies.
fn vocabularies(
    mut record: TestRecord,
    a: &Vocabulary,
    b: &Vocabulary,
    seen: &mut Vec<Observation>,
) -> TestRecord {
    let shared = a
        .ids
        .iter()
        .filter_map(|(token, id)| Some((id, b.ids.get(token)?)));
    let (mut n_shared, mut n_same_id) = (0usize, 0usize);
    for (x, y) in shared {
        n_shared += 1;
        n_same_id += usize::from(x == y);
    }
    record = record
        .with_effect("vocabulary-size-reference", a.ids.len() as f64)
        .with_effect("vocabulary-size-candidate", b.ids.len() as f64);
    if !a.ids.is_empty() {
        record = record.with_effect(
            "fraction-of-reference-tokens-kept",
            n_shared as f64 / a.ids.len() as f64,
        );
    }
    if n_shared > 0 {
        record = record.with_effect("fraction-ids-kept", n_same_id as f64 / n_shared as f64);
    }
    if let Some(fraction) = merges_in_order(&a.merges, &b.merges) {
        record = record.with_effect("fraction-merges-kept-in-order", fraction);
    }
    let equal = n_same_id == a.ids.len() && a.ids.len() == b.ids.len() && a.merges == b.merges;
    if equal && n_shared > 0 {
        seen.push(observation(
            "vocabulary-equal",
            format!(
                "Both tokenizers have the same {n_shared} tokens with the same ids. Models that were \
                 not derived from one another often share a published tokenizer."
            ),
        ));
    } else if a.kind != b.kind {
        let (x, y) = (excerpt::shorten(&a.kind, 40), excerpt::shorten(&b.kind, 40));
        seen.push(observation(
            "tokenizer-kind-differs",
            format!(
                "The tokenizers are of the kinds {x} (`{}`) and {y} (`{}`).",
                a.file, b.file
            ),
        ));
    }
    record
}

/// Of the reference's merges, the share that the candidate has at the same place once the merges that
/// only one of the two has are left out; `None` where either has none.
fn merges_in_order(a: &[String], b: &[String]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (in_a, in_b): (HashSet<&String>, HashSet<&String>) =
        (a.iter().collect(), b.iter().collect());
    let shared_a = a.iter().filter(|merge| in_b.contains(merge));
    let shared_b = b.iter().filter(|merge| in_a.contains(merge));
    let n_kept = shared_a.zip(shared_b).filter(|(x, y)| x == y).count();
    Some(n_kept as f64 / a.len() as f64)
}

/// Added tokens that both have, above all the unusual ones.
fn added_tokens(
    record: TestRecord,
    a: &Tokenizer,
    b: &Tokenizer,
    seen: &mut Vec<Observation>,
) -> TestRecord {
    if a.added().is_empty() || b.added().is_empty() {
        return record;
    }
    let theirs: HashSet<(u32, &str)> = b
        .added()
        .iter()
        .map(|t| (t.id, t.content.as_str()))
        .collect();
    let shared: Vec<&AddedToken> = a
        .added()
        .iter()
        .filter(|t| theirs.contains(&(t.id, t.content.as_str())))
        .collect();
    let unusual: Vec<String> = shared
        .iter()
        .filter(|t| !is_typical(&t.content))
        .map(|t| format!("{} = {}", t.content, t.id))
        .collect();
    if !unusual.is_empty() {
        seen.push(observation(
            "unusual-added-tokens-shared",
            format!(
                "{} added tokens that libraries do not add of themselves stand under the same id in \
                 both: {}.",
                unusual.len(),
                excerpt::list(&unusual, 24)
            ),
        ));
    }
    record
        .with_effect("n-added-tokens-reference", a.added().len() as f64)
        .with_effect("n-added-tokens-candidate", b.added().len() as f64)
        .with_effect("n-added-tokens-shared", shared.len() as f64)
        .with_effect("n-unusual-added-tokens-shared", unusual.len() as f64)
}

/// Special tokens that are odd, and those that the candidate took over.
fn special_tokens(a: &Tokenizer, b: &Tokenizer, seen: &mut Vec<Observation>) {
    for (side, tokenizer) in [("reference", a), ("candidate", b)] {
        let missing: Vec<String> = tokenizer
            .settings
            .special
            .iter()
            .filter(|(_, token)| !token.is_empty() && tokenizer.knows(token) == Some(false))
            .map(|(key, token)| format!("{key} {token}"))
            .collect();
        if !missing.is_empty() {
            seen.push(observation(
                "special-token-not-in-the-vocabulary",
                format!(
                    "Special tokens of the {side} are not in its vocabulary: {}.",
                    excerpt::list(&missing, 12)
                ),
            ));
        }
    }
    let added: BTreeSet<&str> = a.added().iter().map(|t| t.content.as_str()).collect();
    let shared: Vec<String> = a
        .settings
        .special
        .iter()
        .filter(|(key, token)| {
            // A special token that is an ordinary word or sign, such as a pad token "!".
            let odd = !is_typical(token) || !(token.len() > 1 || added.contains(token.as_str()));
            odd && !token.is_empty() && b.settings.special.get(*key) == Some(token)
        })
        .map(|(key, token)| format!("{key} {token}"))
        .collect();
    if !shared.is_empty() {
        seen.push(observation(
            "unusual-special-tokens-shared",
            format!(
                "Both use the same unusual special tokens: {}.",
                excerpt::list(&shared, 12)
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::artefact_fixture::{codes, compare, llama3_v, model, observations};
    use super::super::record::Status;
    use super::*;

    fn tokenizer(vocab: &str, merges: &str, added: &str) -> String {
        format!(
            r#"{{"model": {{"type": "BPE", "vocab": {vocab}, "merges": {merges}}},
            "added_tokens": {added}}}"#
        )
    }

    fn test(a: &[(&str, &str)], b: &[(&str, &str)]) -> TestRecord {
        compare(&model(a), &model(b), run)
    }

    #[test]
    fn an_extended_vocabulary_keeps_all_tokens_ids_and_merges() {
        let a = tokenizer(r#"{"a": 0, "b": 1, "ab": 2}"#, r#"["a b"]"#, "[]");
        let b = tokenizer(
            r#"{"a": 0, "b": 1, "ab": 2, "abb": 3}"#,
            r#"["a b", "ab b"]"#,
            "[]",
        );
        let record = test(&[("tokenizer.json", &a)], &[("tokenizer.json", &b)]);
        for name in [
            "fraction-of-reference-tokens-kept",
            "fraction-ids-kept",
            "fraction-merges-kept-in-order",
        ] {
            assert_eq!(record.effect(name), Some(1.0), "{name}");
        }
        assert_eq!(record.effect("vocabulary-size-candidate"), Some(4.0));
    }

    #[test]
    fn equal_tokens_with_other_ids_are_kept_and_their_ids_are_not() {
        let a = tokenizer(r#"{"a": 0, "b": 1}"#, "[]", "[]");
        let b = tokenizer(r#"{"b": 0, "a": 1}"#, "[]", "[]");
        let record = test(&[("tokenizer.json", &a)], &[("tokenizer.json", &b)]);
        assert_eq!(
            record.effect("fraction-of-reference-tokens-kept"),
            Some(1.0)
        );
        assert_eq!(record.effect("fraction-ids-kept"), Some(0.0));
        assert_eq!(record.effect("fraction-merges-kept-in-order"), None);
    }

    #[test]
    fn unusual_added_tokens_are_told_from_typical_ones() {
        let added = r#"[{"id": 5, "content": "<quad>"}, {"id": 6, "content": "<pad>"}]"#;
        let file = tokenizer(r#"{"a": 0}"#, "[]", added);
        let record = test(&[("tokenizer.json", &file)], &[("tokenizer.json", &file)]);
        assert_eq!(record.effect("n-added-tokens-shared"), Some(2.0));
        assert_eq!(record.effect("n-unusual-added-tokens-shared"), Some(1.0));
    }

    #[test]
    fn a_special_token_outside_the_vocabulary_is_seen() {
        let file = tokenizer(r#"{"a": 0}"#, "[]", "[]");
        let config = r#"{"pad_token": "<nowhere>", "chat_template": "x"}"#;
        let files = [
            ("tokenizer.json", file.as_str()),
            ("tokenizer_config.json", config),
        ];
        let record = test(&files, &files);
        assert!(codes(&record).contains(&"special-token-not-in-the-vocabulary".to_owned()));
        assert_eq!(record.effect("chat-template-equal"), Some(1.0));
    }

    #[test]
    fn no_template_on_one_side_is_no_number() {
        let file = tokenizer(r#"{"a": 0}"#, "[]", "[]");
        let with = [
            ("tokenizer.json", file.as_str()),
            ("chat_template.jinja", "x"),
        ];
        assert_eq!(test(&with, &with[..1]).effect("chat-template-equal"), None);
    }

    #[test]
    fn an_absent_tokenizer_is_not_applicable_and_a_broken_one_failed() {
        let file = tokenizer(r#"{"a": 0}"#, "[]", "[]");
        let good = [("tokenizer.json", file.as_str())];
        assert_eq!(test(&good, &[]).status, Status::NotApplicable);
        let record = test(&good, &[("tokenizer.json", "{")]);
        assert_eq!(record.status, Status::Failed);
        assert!(record.reason.unwrap().contains("candidate"));
    }

    #[test]
    fn llama3_v_keeps_the_added_tokens_and_the_pad_token_of_its_reference() {
        let Some((a, b)) = llama3_v() else { return };
        let record = compare(&a, &b, run);
        assert_eq!(record.effect("n-added-tokens-shared"), Some(256.0));
        assert!(record.effect("n-unusual-added-tokens-shared").unwrap() >= 8.0);
        assert_eq!(record.effect("chat-template-equal"), Some(1.0));
        let seen = observations(&record);
        let odd = seen
            .iter()
            .find(|o| o.code == "unusual-special-tokens-shared")
            .unwrap();
        assert!(odd.message.contains("pad_token !"));
    }
}

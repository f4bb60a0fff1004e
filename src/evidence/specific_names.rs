//! Names that are one model's own (its label, modules, classes, model type), and where another
//! model's files mention them.

use super::file_references::{self, Target};
use crate::arch::Model;
use crate::arch::artefact::Artefacts;
use serde_json::Value;
use std::collections::BTreeMap;

/// Names looked for, and bytes looked through, at most.
const MAX_NAMES: usize = 64;
const MAX_TOTAL_BYTES: usize = 16 << 20;

/// Names that many projects give to modules and classes.
const GENERIC: &[&str] = &[
    "config",
    "configuration",
    "convert",
    "generation_utils",
    "handler",
    "inference",
    "modeling",
    "modelling",
    "pipeline",
    "preprocessor",
    "processing",
    "processor",
    "requirements",
    "resampler",
    "tokenization",
    "tokenizer",
    "pretrainedmodel",
    "pretrainedconfig",
    "pretrainedtokenizer",
    "pretrainedtokenizerfast",
];

/// A name is looked for only if it can hardly occur by chance.
fn is_specific(name: &str) -> bool {
    name.chars().count() >= 6 && !GENERIC.contains(&name.to_ascii_lowercase().as_str())
}

/// The part of a label before a revision, if it looks like a published name.
fn published_name(label: &str) -> Option<&str> {
    let name = label.split('@').next().unwrap_or(label).trim_matches('/');
    let short = name.rsplit('/').next().unwrap_or(name);
    let marked = short.contains(|c: char| c.is_ascii_digit() || c == '-' || c == '_');
    (marked && is_specific(short)).then_some(short)
}

/// Names of the model's own, each with what it is.
pub(super) fn of(model: &Model) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut add = |name: &str, what: &str| {
        if is_specific(name) && names.len() < MAX_NAMES {
            names
                .entry(name.to_owned())
                .or_insert_with(|| what.to_owned());
        }
    };
    if let Some(name) = published_name(&model.label) {
        add(name, "the name of the reference");
    }
    let config = |key: &str| model.config.as_ref()?.get(key)?.as_str();
    if let Some(name) = config("_name_or_path").and_then(published_name) {
        add(
            name,
            "the name that the reference's configuration states, which may be its own base",
        );
    }
    let mut has_code = false;
    for reference in file_references::find(&model.artefacts) {
        if let Target::Module {
            path,
            class: Some(class),
        } = &reference.target
        {
            has_code = true;
            add(stem(path), "a module of the reference");
            add(class, "a class of the reference");
        }
    }
    for path in model
        .artefacts
        .contents
        .keys()
        .filter(|path| path.ends_with(".py"))
    {
        if stem(path).contains('_') {
            add(stem(path), "a module of the reference");
        }
    }
    // Without code of its own the model's type is that of a public library.
    if let Some(kind) = config("model_type").filter(|_| has_code) {
        add(kind, "the model type of the reference");
    }
    names
}

/// The name of a module without folder and extension.
pub(super) fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".py").unwrap_or(name)
}

/// Files that mention the names: file and name, each pair once.
pub(super) fn mentions<'a>(
    artefacts: &'a Artefacts,
    names: &'a BTreeMap<String, String>,
) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut n_bytes = 0;
    for (path, content) in &artefacts.contents {
        if file_references::is_data(path, content) {
            continue;
        }
        n_bytes += content.len();
        if n_bytes > MAX_TOTAL_BYTES {
            break;
        }
        let Ok(text) = std::str::from_utf8(content) else {
            continue;
        };
        let unescaped = unescaped(path, text);
        for name in names.keys() {
            if mentions_name(unescaped.as_deref().unwrap_or(text), name) {
                found.push((path.as_str(), name.as_str()));
            }
        }
    }
    found
}

/// JSON may write any letter as an escape: its own strings are what it says.
fn unescaped(path: &str, text: &str) -> Option<String> {
    if !path.ends_with(".json") || !text.contains("\\u") {
        return None;
    }
    serde_json::from_str::<Value>(text)
        .ok()
        .map(|json| json.to_string())
}

/// Whether a text has a name as a word of its own, outside references into the public library.
fn mentions_name(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let starts = !before.ends_with(word);
        let ends = !after.starts_with(|c| word(c) || c == '-');
        // `transformers.models.llama.modeling_llama` is the library's module, not the reference's.
        let line = before.rsplit('\n').next().unwrap_or(before);
        let library = line
            .chars()
            .rev()
            .take(200)
            .collect::<String>()
            .contains("sremrofsnart");
        starts && ends && !library
    })
}

#[cfg(test)]
mod tests {
    use super::super::artefact_fixture::{labelled, model};
    use super::*;

    #[test]
    fn a_model_s_own_names_are_its_label_modules_classes_and_type() {
        let config = r#"{"model_type": "minicpmv", "auto_map": {"AutoModel": "modeling_mini.MiniCPM",
            "AutoConfig": "config.Config"}}"#;
        let own = labelled(
            "org/Mini-2_5@main",
            &[("config.json", config), ("model.py", "")],
        );
        let names: Vec<String> = of(&own).into_keys().collect();
        assert_eq!(names, ["Mini-2_5", "MiniCPM", "minicpmv", "modeling_mini"]);
    }

    #[test]
    fn names_of_public_libraries_are_not_the_model_s_own() {
        let config = r#"{"model_type": "mistral", "architectures": ["MistralForCausalLM"]}"#;
        assert!(of(&labelled("reference", &[("config.json", config)])).is_empty());
    }

    #[test]
    fn a_name_counts_as_a_word_only() {
        assert!(mentions_name("see modeling_mini.X", "modeling_mini"));
        assert!(mentions_name("models--org--Mini-2_5/snap", "Mini-2_5"));
        assert!(!mentions_name("modeling_mini_extra", "modeling_mini"));
        assert!(!mentions_name("Mini-2_5-int4", "Mini-2_5"));
        assert!(!mentions_name(
            "from transformers.models.a.modeling_mini import",
            "modeling_mini"
        ));
    }

    #[test]
    fn escapes_in_json_hide_nothing_and_token_lists_are_not_searched() {
        let names = BTreeMap::from([("modeling_mini".to_owned(), "a module".to_owned())]);
        let escaped = r#"{"a": "modeling\u005fmini"}"#;
        let files = model(&[
            ("a.json", escaped),
            ("vocab.json", "modeling_mini"),
            ("b.json", "{"),
        ]);
        assert_eq!(
            mentions(&files.artefacts, &names),
            [("a.json", "modeling_mini")]
        );
    }
}

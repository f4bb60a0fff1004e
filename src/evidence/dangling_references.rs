//! `dangling-references`: does the candidate refer to things that it does not contain, or that are the
//! reference's own?
//!
//! Who renames a model seldom finds every mention. Nothing is executed: JSON, Python and README files
//! are read as text.

use super::context::{EvidenceError, Settings};
use super::excerpt::shorten;
use super::file_references::{self, Reference, Target};
use super::pair::Pair;
use super::record::{Detail, Observation, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::specific_names;
use super::{Run, Test};
use crate::arch::Model;
use std::collections::{BTreeMap, BTreeSet};

static SPEC: TestSpec = TestSpec {
    id: "dangling-references",
    title: "Dangling references",
    question: "Does the candidate refer to modules, classes, files or names that it does not contain \
               and that are the reference's?",
    scope: Scope::Model,
    needs: &[Need::Files],
    null: None,
    p_value: None,
    survives: "any change of the weights; renaming that forgets a mention",
    defeated_by: "a thorough clean-up; and a model that openly names its base is no suspect",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Model(run),
};

/// Observations listed for each kind.
const MAX_LISTED: usize = 40;

/// Observations of one kind, listed up to a limit.
struct Seen {
    list: Vec<Observation>,
    n_by_code: BTreeMap<&'static str, usize>,
}

impl Seen {
    fn add(&mut self, code: &'static str, file: &str, message: String) {
        let file = Some(file.to_owned());
        let seen = Observation {
            code: code.to_owned(),
            message,
            file,
        };
        if self.list.contains(&seen) {
            return;
        }
        let n = self.n_by_code.entry(code).or_default();
        *n += 1;
        if *n <= MAX_LISTED {
            self.list.push(seen);
        }
    }

    fn count(&self, codes: &[&str]) -> f64 {
        codes
            .iter()
            .filter_map(|code| self.n_by_code.get(code))
            .sum::<usize>() as f64
    }

    fn finish(mut self) -> Vec<Observation> {
        for (code, n) in self.n_by_code.iter().filter(|(_, n)| **n > MAX_LISTED) {
            self.list.push(Observation {
                code: (*code).to_owned(),
                message: format!("There are {} more of this kind.", n - MAX_LISTED),
                file: None,
            });
        }
        self.list
    }
}

fn run(pair: &Pair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let (reference, candidate) = (pair.reference, pair.candidate);
    if candidate.artefacts.contents.is_empty() {
        let reason = "no JSON, Python or README file of the candidate is at hand";
        return Ok(TestRecord::not_applicable(SPEC.id, "model", reason));
    }
    let mut seen = Seen {
        list: Vec::new(),
        n_by_code: BTreeMap::new(),
    };
    let own = specific_names::of(reference);
    let theirs = Side::of(candidate);
    for found in file_references::find(&candidate.artefacts) {
        judge(&found, &own, &theirs, &mut seen);
    }
    for (file, name) in specific_names::mentions(&candidate.artefacts, &own) {
        let what = own
            .get(name)
            .map_or("a name of the reference", String::as_str);
        let message = format!(
            "`{}` mentions `{}`, {what}.",
            shorten(file, 120),
            shorten(name, 80)
        );
        seen.add("names-the-reference", file, message);
    }
    Ok(TestRecord::measured(SPEC.id, "model")
        .with_effect(
            "n-dangling",
            seen.count(&["dangling-module", "dangling-file"]),
        )
        .with_effect("n-foreign-classes", seen.count(&["foreign-class"]))
        .with_effect("n-other-models-named", seen.count(&["names-another-model"]))
        .with_effect(
            "n-names-of-the-reference",
            seen.count(&["names-the-reference"]),
        )
        .with_detail(Detail::Observations(seen.finish())))
}

/// What the candidate contains.
struct Side<'a> {
    files: BTreeSet<&'a str>,
    classes: BTreeSet<&'a str>,
    name: &'a str,
}

impl<'a> Side<'a> {
    fn of(model: &'a Model) -> Self {
        let artefacts = &model.artefacts;
        let listed = artefacts.files.iter().map(|file| file.path.as_str());
        let files = listed
            .chain(artefacts.contents.keys().map(String::as_str))
            .collect();
        let code = artefacts
            .contents
            .iter()
            .filter(|(path, _)| path.ends_with(".py"));
        let lines = code
            .filter_map(|(_, text)| std::str::from_utf8(text).ok())
            .flat_map(str::lines);
        let classes = lines
            .filter_map(|line| line.trim_start().strip_prefix("class "))
            .filter_map(|rest| {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
            })
            .collect();
        let name = model.label.split('@').next().unwrap_or(&model.label);
        Self {
            files,
            classes,
            name,
        }
    }

    fn has_module(&self, path: &str) -> bool {
        let package = path
            .strip_suffix(".py")
            .map(|stem| format!("{stem}/__init__.py"));
        self.files.contains(path) || package.is_some_and(|p| self.files.contains(p.as_str()))
    }
}

/// Reports one reference if it points outside the candidate.
fn judge(found: &Reference, own: &BTreeMap<String, String>, side: &Side, seen: &mut Seen) {
    let file = found.file.as_str();
    let shown = shorten(file, 120);
    match &found.target {
        Target::Module { path, class } if !side.has_module(path) => {
            let stem = specific_names::stem(path);
            let class = class.as_deref();
            let of = class.map(|c| format!(" (for the class `{}`)", shorten(c, 80)));
            let whose = if own.get(stem).is_some_and(|what| what.contains("module")) {
                " The reference has a module of this name."
            } else {
                ""
            };
            let message = format!(
                "`{shown}` refers to the module `{}`{}, which is not among the candidate's files.{whose}",
                shorten(stem, 80),
                of.unwrap_or_default()
            );
            seen.add("dangling-module", file, message);
            if let Some(class) = class {
                foreign_class(file, class, own, side, seen);
            }
        }
        Target::Module {
            class: Some(class), ..
        } => foreign_class(file, class, own, side, seen),
        Target::Class { name, .. } => foreign_class(file, name, own, side, seen),
        Target::File { key, path } if !side.files.contains(path.trim_start_matches("./")) => {
            let message = format!(
                "`{shown}` states `{}` as its `{}`; the candidate has no such file.",
                shorten(path, 120),
                shorten(key, 40)
            );
            seen.add("dangling-file", file, message);
        }
        Target::Model { key, name } if is_other_model(key, name, side.name) => {
            let message = format!(
                "`{shown}` names another model, `{}`, as its `{}`.",
                shorten(name, 120),
                shorten(key, 40)
            );
            seen.add("names-another-model", file, message);
        }
        _ => {}
    }
}

/// A published name other than the candidate's own. A folder's name does not tell what its
/// configuration may rightly call itself.
fn is_other_model(key: &str, name: &str, candidate: &str) -> bool {
    let is_published = name.split('/').filter(|part| !part.is_empty()).count() == 2
        && !name.starts_with(['/', '.', '~']);
    let may_be_its_own = key.contains("name_or_path") && !key.contains("base");
    let unknown = may_be_its_own && !candidate.contains('/');
    is_published && !unknown && !name.eq_ignore_ascii_case(candidate)
}

/// A class of the reference that no code of the candidate defines.
fn foreign_class(
    file: &str,
    class: &str,
    own: &BTreeMap<String, String>,
    side: &Side,
    seen: &mut Seen,
) {
    let is_theirs = own.get(class).is_some_and(|what| what.contains("class"));
    if is_theirs && !side.classes.contains(class) {
        let message = format!(
            "`{}` refers to the class `{}`, which the reference's own code defines and no code of the \
             candidate does.",
            shorten(file, 120),
            shorten(class, 80)
        );
        seen.add("foreign-class", file, message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::artefact_fixture::{codes, compare, labelled, llama3_v, observations};
    use super::super::record::Status;
    use super::*;

    const REFERENCE: &str = r#"{"model_type": "minicpmv",
        "auto_map": {"AutoModel": "modeling_minicpmv.MiniCPMV"}}"#;

    fn test(files: &[(&str, &str)]) -> TestRecord {
        let a = labelled(
            "org/Mini-2_5",
            &[("config.json", REFERENCE), ("modeling_minicpmv.py", "")],
        );
        compare(&a, &labelled("other/candidate-1", files), run)
    }

    #[test]
    fn a_module_of_the_reference_that_is_not_there_dangles() {
        let config = r#"{"auto_map": {"AutoTokenizer": ["modeling_minicpmv.MiniCPMV", null]}}"#;
        let record = test(&[("tokenizer_config.json", config)]);
        assert_eq!(record.effect("n-dangling"), Some(1.0));
        assert_eq!(record.effect("n-foreign-classes"), Some(1.0));
        assert_eq!(record.effect("n-names-of-the-reference"), Some(2.0));
        let seen = observations(&record);
        assert!(
            seen[0]
                .message
                .ends_with("The reference has a module of this name.")
        );
        assert_eq!(seen[0].file.as_deref(), Some("tokenizer_config.json"));
    }

    #[test]
    fn modules_that_are_there_do_not_dangle() {
        let record = test(&[
            (
                "config.json",
                r#"{"auto_map": {"AutoModel": "modeling_own.Own"}}"#,
            ),
            (
                "modeling_own.py",
                "from .parts import x\nfrom .package import y\nclass Own(Base):",
            ),
            ("parts.py", ""),
            ("package/__init__.py", ""),
        ]);
        assert_eq!(record.effect("n-dangling"), Some(0.0));
        assert!(codes(&record).is_empty());
    }

    #[test]
    fn a_missing_import_and_a_missing_file_dangle() {
        let record = test(&[
            ("modeling_own.py", "from .absent import x"),
            (
                "tokenizer_config.json",
                r#"{"vocab_file": "gone.model", "merges_file": null}"#,
            ),
        ]);
        assert_eq!(record.effect("n-dangling"), Some(2.0));
        assert_eq!(codes(&record), ["dangling-module", "dangling-file"]);
    }

    #[test]
    fn an_open_declaration_names_the_reference() {
        let record = test(&[("README.md", "---\nbase_model: org/Mini-2_5\n---\n")]);
        assert_eq!(record.effect("n-names-of-the-reference"), Some(1.0));
        assert_eq!(record.effect("n-other-models-named"), Some(1.0));
    }

    #[test]
    fn an_independent_model_names_nothing_of_the_reference() {
        let record = test(&[
            (
                "config.json",
                r#"{"model_type": "llama", "_name_or_path": "other/candidate-1"}"#,
            ),
            ("README.md", "A model trained from scratch."),
        ]);
        for (name, effect) in &record.effects {
            assert_eq!(effect.value, 0.0, "{name}");
        }
        assert_eq!(test(&[]).status, Status::NotApplicable);
    }

    #[test]
    fn a_folder_may_call_itself_what_it_likes() {
        assert!(!is_other_model("_name_or_path", "a/b", "folder"));
        assert!(is_other_model("base_model", "a/b", "folder"));
        assert!(is_other_model("_name_or_path", "a/b", "a/c"));
        assert!(!is_other_model("_name_or_path", "/data/b", "a/c"));
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let code: String = (0..100).map(|i| format!("from .m{i} import x\n")).collect();
        let record = test(&[("a.py", &code)]);
        assert_eq!(record.effect("n-dangling"), Some(100.0));
        assert_eq!(observations(&record).len(), MAX_LISTED + 1);
    }

    #[test]
    fn llama3_v_still_names_a_module_of_its_reference() {
        let Some((a, b)) = llama3_v() else { return };
        let record = compare(&a, &b, run);
        let seen = observations(&record);
        let dangling = seen
            .iter()
            .find(|o| o.code == "dangling-module" && o.message.contains("`modeling_minicpmv`"));
        let dangling = dangling.unwrap();
        assert_eq!(dangling.file.as_deref(), Some("tokenizer_config.json"));
        assert!(dangling.message.contains("The reference has a module"));
        assert!(record.effect("n-names-of-the-reference").unwrap() >= 1.0);
    }
}

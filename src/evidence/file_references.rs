//! References that a model's JSON, Python and README files make: to modules, files and other models.
//!
//! Lists what is referred to and where; whether it is there, and what it means, is the caller's.

use crate::arch::artefact::Artefacts;
use serde_json::Value;

/// Where a reference points.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A Python module beside the file, and the class in it if one is named.
    Module { path: String, class: Option<String> },
    /// A file named by a key such as `vocab_file`.
    File { key: String, path: String },
    /// Another model, by a key such as `_name_or_path` or `base_model`.
    Model { key: String, name: String },
    /// A class that a library is to load, such as `tokenizer_class`.
    Class { key: String, name: String },
}

/// A reference, and the file that makes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub file: String,
    pub target: Target,
}

/// References beyond this number are not collected.
const MAX_REFERENCES: usize = 2_000;
/// Larger files are data, not settings or code.
pub(super) const MAX_BYTES: usize = 2 << 20;

/// Files that list tokens or tensors and refer to nothing.
pub(super) fn is_data(path: &str, content: &[u8]) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lists = [
        "tokenizer.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "added_tokens.json",
    ];
    content.len() > MAX_BYTES
        || lists.contains(&name)
        || name.ends_with(".index.json")
        || name.ends_with(".model")
}

/// Everything that the files refer to, in the order of the files; each reference once.
pub(super) fn find(artefacts: &Artefacts) -> Vec<Reference> {
    let mut found = Vec::new();
    for (path, content) in &artefacts.contents {
        if is_data(path, content) || found.len() >= MAX_REFERENCES {
            continue;
        }
        let Ok(text) = std::str::from_utf8(content) else {
            continue;
        };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut targets = Vec::new();
        match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("json") => {
                // A file that is no JSON is config-comparison's or tokenizer-comparison's to report.
                if let Ok(json) = serde_json::from_str::<Value>(text) {
                    in_json(folder, "", &json, &mut targets);
                }
            }
            Some("py") => in_python(folder, text, &mut targets),
            Some("md") => in_front_matter(text, &mut targets),
            _ => {}
        }
        targets.sort();
        targets.dedup();
        found.extend(targets.into_iter().map(|target| Reference {
            file: path.clone(),
            target,
        }));
    }
    found.truncate(MAX_REFERENCES);
    found
}

fn join(folder: &str, path: &str) -> String {
    if folder.is_empty() {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    }
}

/// The parser bounds the depth, so that this recursion is bounded too.
fn in_json(folder: &str, key: &str, value: &Value, targets: &mut Vec<Target>) {
    if targets.len() >= MAX_REFERENCES {
        return;
    }
    match value {
        Value::Object(map) if key == "auto_map" || key == "custom_pipelines" => {
            map.values()
                .for_each(|entry| auto_map(folder, entry, targets));
        }
        Value::Object(map) => {
            map.iter()
                .for_each(|(key, inner)| in_json(folder, key, inner, targets));
        }
        Value::Array(list) => list
            .iter()
            .for_each(|inner| in_json(folder, key, inner, targets)),
        Value::String(text) => in_value(key, text, targets),
        _ => {}
    }
}

fn in_value(key: &str, text: &str, targets: &mut Vec<Target>) {
    if text.is_empty() {
        return;
    }
    let (key, text) = (key.to_owned(), text.to_owned());
    match key.as_str() {
        "_name_or_path" | "name_or_path" | "base_model" | "base_model_name_or_path" => {
            targets.push(Target::Model { key, name: text });
        }
        "architectures"
        | "tokenizer_class"
        | "processor_class"
        | "image_processor_type"
        | "feature_extractor_type" => targets.push(Target::Class { key, name: text }),
        _ if key.ends_with("_file") => targets.push(Target::File { key, path: text }),
        _ => {}
    }
}

/// `module.Class`, `repository--module.Class`, or a list of these.
fn auto_map(folder: &str, entry: &Value, targets: &mut Vec<Target>) {
    match entry {
        Value::Array(list) => list
            .iter()
            .for_each(|inner| auto_map(folder, inner, targets)),
        Value::Object(map) => map
            .values()
            .for_each(|inner| auto_map(folder, inner, targets)),
        Value::String(text) => match text.split_once("--") {
            Some((name, _)) => {
                let key = "auto_map".to_owned();
                targets.push(Target::Model {
                    key,
                    name: name.to_owned(),
                });
            }
            None => {
                if let Some((module, class)) = text.rsplit_once('.') {
                    let path = join(folder, &format!("{}.py", module.replace('.', "/")));
                    targets.push(Target::Module {
                        path,
                        class: Some(class.to_owned()),
                    });
                }
            }
        },
        _ => {}
    }
}

/// `from .module import …` and `from . import module`, by line.
fn in_python(folder: &str, text: &str, targets: &mut Vec<Target>) {
    for line in text.lines() {
        let Some(rest) = line.trim_start().strip_prefix("from .") else {
            continue;
        };
        if targets.len() >= MAX_REFERENCES {
            return;
        }
        let mut folder = folder;
        let mut rest = rest;
        while let Some(deeper) = rest.strip_prefix('.') {
            let Some((parent, _)) = folder.rsplit_once('/') else {
                // Of the top folder there is no parent but the root.
                folder = "";
                rest = deeper.trim_start_matches('.');
                break;
            };
            (folder, rest) = (parent, deeper);
        }
        let Some((module, names)) = rest.split_once("import") else {
            continue;
        };
        let module = module.trim();
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
        };
        if is_name(module) {
            let path = join(folder, &format!("{}.py", module.replace('.', "/")));
            targets.push(Target::Module { path, class: None });
        } else if module.is_empty() {
            // `from . import a` may also import a name that `__init__.py` defines.
            let names = names.split('#').next().unwrap_or(names);
            for name in names
                .split(',')
                .filter_map(|name| name.split_whitespace().next())
            {
                if is_name(name) {
                    let path = join(folder, &format!("{name}.py"));
                    targets.push(Target::Module { path, class: None });
                }
            }
        }
    }
}

/// `base_model:` in the YAML block at the head of a README, as a value or as a list.
fn in_front_matter(text: &str, targets: &mut Vec<Target>) {
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("---") {
        return;
    }
    let mut in_list = false;
    for line in lines.take_while(|line| line.trim() != "---").take(1_000) {
        let entry = if let Some(value) = line.strip_prefix("base_model:") {
            in_list = true;
            value
        } else if let Some(value) = line.trim_start().strip_prefix("- ").filter(|_| in_list) {
            value
        } else {
            in_list = false;
            continue;
        };
        let name = entry.trim().trim_matches(['"', '\'', '[', ']']);
        if !name.is_empty() {
            targets.push(Target::Model {
                key: "base_model".to_owned(),
                name: name.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(path: &str, text: &str) -> Vec<Target> {
        let contents = [(path.to_owned(), text.as_bytes().to_vec())];
        let artefacts = Artefacts {
            files: Vec::new(),
            contents: contents.into(),
            ..Artefacts::default()
        };
        find(&artefacts).into_iter().map(|r| r.target).collect()
    }

    fn module(path: &str, class: Option<&str>) -> Target {
        Target::Module {
            path: path.to_owned(),
            class: class.map(str::to_owned),
        }
    }

    #[test]
    fn auto_map_entries_are_modules_with_classes() {
        let json = r#"{"auto_map": {"AutoModel": "modeling_x.X",
            "AutoTokenizer": ["tok.y.Y", null], "AutoConfig": "org/other--conf.C"}}"#;
        let found = targets("sub/config.json", json);
        assert!(found.contains(&module("sub/modeling_x.py", Some("X"))));
        assert!(found.contains(&module("sub/tok/y.py", Some("Y"))));
        let name = "org/other".to_owned();
        assert!(found.contains(&Target::Model {
            key: "auto_map".to_owned(),
            name
        }));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn relative_imports_are_modules_of_their_folder() {
        let code = "from .a import b\n  from ..c.d import e\nfrom . import f, g as h # i\n\
                    from torch import nn\nfrom .x";
        let mut found = targets("p/q/m.py", code);
        found.sort();
        let paths = ["p/c/d.py", "p/q/a.py", "p/q/f.py", "p/q/g.py"];
        assert_eq!(found, paths.map(|path| module(path, None)));
    }

    #[test]
    fn a_read_me_names_its_base_as_a_value_or_as_a_list() {
        for head in [
            "base_model: a/b",
            "base_model:\n  - a/b\ntags:\n  - c/d",
            "base_model: ['a/b']",
        ] {
            let found = targets(
                "README.md",
                &format!("---\nlicense: mit\n{head}\n---\ntext"),
            );
            let name = "a/b".to_owned();
            assert_eq!(
                found,
                [Target::Model {
                    key: "base_model".to_owned(),
                    name
                }],
                "{head}"
            );
        }
        assert!(targets("README.md", "base_model: a/b").is_empty());
    }

    #[test]
    fn hostile_files_end_in_an_empty_or_a_bounded_list() {
        assert!(targets("config.json", &"[".repeat(500_000)).is_empty());
        assert!(
            targets(
                "config.json",
                r#"{"auto_map": {"A": "", "B": 3, "C": [[[]]]}}"#
            )
            .is_empty()
        );
        let many = "from .a import b\n".repeat(60_000);
        assert_eq!(targets("m.py", &many).len(), 1);
        assert_eq!(targets("m.py", "from ......").len(), 0);
    }
}

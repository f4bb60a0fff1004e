//! The house keeps its direction: who may import whom, one page of docs per test, lean files.

use modelkin::evidence::TESTS;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Module of a file: `src/stats/rank.rs` → `stats`, `src/audit.rs` → `audit`.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether a file is a module of tests alone: fixtures may build what they need from any layer.
fn is_test_only(path: &Path) -> bool {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else {
        return false;
    };
    let parent = fs::read_to_string(folder.join("mod.rs")).unwrap_or_default();
    parent.contains(&format!("#[cfg(test)]\nmod {};", stem.to_string_lossy()))
}

/// First segments after `crate::` in code (comments are skipped), groups in braces included.
fn imports(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        for (at, _) in line.match_indices("crate::") {
            if line[..at].ends_with('$') {
                continue;
            }
            let path = &line[at + "crate::".len()..];
            let segments: Vec<&str> = path
                .split("::")
                .map(|s| {
                    s.split(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap_or("")
                })
                .take(2)
                .collect();
            found.push((
                segments[0].to_owned(),
                segments.get(1).copied().unwrap_or_default().to_owned(),
            ));
        }
    }
    found
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("tensor", &[] as &[&str]),
        ("stats", &[]),
        ("source", &[]),
        ("checkpoint", &["tensor", "source"]),
        ("arch", &["checkpoint", "tensor"]),
        ("engine", &["arch", "tensor"]),
        ("fingerprint", &["engine", "arch", "tensor", "stats"]),
        (
            "evidence",
            &["fingerprint", "engine", "arch", "tensor", "stats"],
        ),
        ("verdict", &["evidence", "stats"]),
        ("report", &["verdict", "evidence", "stats"]),
        (
            "audit",
            &[
                "source",
                "checkpoint",
                "arch",
                "engine",
                "fingerprint",
                "evidence",
                "verdict",
                "report",
                "stats",
                "tensor",
            ],
        ),
        // The command line opens models and names tests; it holds no evidence of its own.
        (
            "cli",
            &[
                "audit", "engine", "report", "source", "arch", "evidence", "verdict",
            ],
        ),
    ]);
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(
        files.len() > 40,
        "the walk over src found only {} files",
        files.len()
    );
    let mut broken = Vec::new();
    for path in files {
        let module = module_of(&path);
        if module == "lib" || module == "main" || is_test_only(&path) {
            continue;
        }
        let Some(may) = allowed.get(module.as_str()) else {
            broken.push(format!("{module} has no line in the table of imports"));
            continue;
        };
        for (first, second) in imports(&fs::read_to_string(&path).unwrap()) {
            let fine = first == module || may.contains(&first.as_str());
            // Narrower than the table: records and specs only, and bytes only.
            let narrow = match (module.as_str(), first.as_str()) {
                ("verdict" | "report", "evidence") => ["record", "spec"].contains(&second.as_str()),
                ("checkpoint", "source") => second == "bytes",
                _ => true,
            };
            if !(fine && narrow) {
                broken.push(format!("{}: crate::{first}::{second}", path.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "imports against the direction of flow:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_registered_test_has_a_page_in_the_book() {
    let summary = fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    for test in TESTS {
        let page = format!("evidence/{}.md", test.spec.id);
        let text = fs::read_to_string(root().join("docs/src").join(&page))
            .unwrap_or_else(|e| panic!("docs/src/{page}: {e}"));
        assert!(summary.contains(&page), "{page} is missing from SUMMARY.md");
        for heading in ["## Null", "## Survives", "## Defeated by"] {
            assert!(text.contains(heading), "{page} lacks `{heading}`");
        }
    }
}

#[test]
fn test_ids_are_unique_kebab_case_and_tests_with_a_p_state_their_null() {
    let mut seen = Vec::new();
    for test in TESTS {
        let id = test.spec.id;
        assert!(
            id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{id}"
        );
        assert!(!seen.contains(&id), "{id} is registered twice");
        assert_eq!(
            test.spec.null.is_some(),
            test.spec.p_value.is_some(),
            "{id}"
        );
        seen.push(id);
    }
}

#[test]
fn one_reading_holds_a_file() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests"), &mut files);
    let long: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let n = fs::read_to_string(path).unwrap().lines().count();
            (n > 600).then(|| format!("{}: {n} lines", path.display()))
        })
        .collect();
    assert!(
        long.is_empty(),
        "files that no one reading holds:\n{}",
        long.join("\n")
    );
}

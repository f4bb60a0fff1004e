//! The program as scripts and people use it: exit codes, JSON by its schema, reports by extension.

use crate::support::zoo;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the program.
pub fn modelkin(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_modelkin"))
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .expect("the program starts")
}

/// Folder of a model of the zoo.
pub fn path(id: &str) -> String {
    zoo(id).display().to_string()
}

/// The page on standard output.
pub fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}; {error}"))
}

/// Fails unless a schema of the docs accepts the page.
pub fn assert_fits(page: &Value, schema: &str) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/schema")
        .join(schema);
    let schema: Value =
        serde_json::from_slice(&std::fs::read(schema).expect("the schema")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<String> = validator
        .iter_errors(page)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

fn assert_valid(report: &Value) {
    assert_fits(report, "report-v1.schema.json");
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let (a, tuned, other) = (
        path("llama-a"),
        path("llama-a-tuned"),
        path("llama-a-other-seed"),
    );
    let code = |args: &[&str]| modelkin(args).status.code();
    let only = "--only=unit-permutation,shared-initialisation";
    assert_eq!(code(&["compare", &a, &tuned, only]), Some(0));
    assert_eq!(
        code(&["compare", &a, &tuned, only, "--fail-on", "derived"]),
        Some(3)
    );
    assert_eq!(
        code(&["compare", &a, &other, only, "--fail-on", "derived"]),
        Some(0)
    );
    let artefacts = [
        "compare",
        &a,
        &tuned,
        "--only=config-comparison",
        "--fail-on=inconclusive",
    ];
    assert_eq!(code(&artefacts), Some(3));
    assert_eq!(code(&["compare", &a, "./no/such/folder"]), Some(2));
    assert_eq!(code(&["compare", &a]), Some(2));
    assert_eq!(
        code(&["compare", &a, &tuned, "--only=no-such-test"]),
        Some(2)
    );
    assert_eq!(
        code(&["compare", &a, &tuned, "--report", "x.docx"]),
        Some(1)
    );
    let empty = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(
        code(&["compare", &a, &empty.path().display().to_string()]),
        Some(1)
    );
}

#[test]
fn json_follows_the_published_schema_and_the_contract() {
    for (candidate, related, relation) in [
        ("llama-a-tuned", Value::Bool(true), "fine-tuned"),
        ("llama-a-other-seed", Value::Bool(false), "independent"),
        (
            "llama-a-same-seed-b",
            Value::Bool(false),
            "shared-initialisation",
        ),
    ] {
        let output = modelkin(&["compare", &path("llama-a"), &path(candidate), "--json"]);
        let report = json(&output);
        assert_valid(&report);
        let finding = &report["finding"];
        assert_eq!(finding["related"], related, "{candidate}");
        assert_eq!(finding["relation"], relation, "{candidate}");
        assert!(finding["strength"].is_string());
        for component in finding["components"].as_array().expect("components") {
            for key in ["related", "relation", "operations", "strength"] {
                assert!(component.get(key).is_some(), "{key}");
            }
        }
        for record in report["records"].as_array().expect("records") {
            for key in ["test", "component", "status", "effects"] {
                assert!(record.get(key).is_some(), "{key}");
            }
            assert_eq!(record["ln_p"].is_number(), record["p_kind"].is_string());
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_byte_but_its_own_line() {
    let run = |threads: &str| {
        let (a, b) = (path("qwen2-b"), path("qwen2-b-other-seed"));
        let mut report = json(&modelkin(&[
            "--threads",
            threads,
            "compare",
            &a,
            &b,
            "--json",
        ]));
        let object = report.as_object_mut().expect("an object");
        object.retain(|key, _| key != "threads");
        if let Some(run) = object.get_mut("run").and_then(Value::as_object_mut) {
            run.retain(|key, _| key != "threads");
        }
        report.to_string()
    };
    let one = run("1");
    assert_eq!(one, run("2"));
    assert_eq!(one, run("5"));
}

#[test]
fn the_command_in_a_report_repeats_it() {
    let output = modelkin(&[
        "compare",
        &path("gpt2-a"),
        &path("gpt2-a-tuned"),
        "--json",
        "--seed=3",
    ]);
    let report = json(&output);
    let command: Vec<&str> = find(&report, "command")
        .and_then(Value::as_array)
        .expect("a command")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(command[0], "modelkin");
    let mut again = command[1..].to_vec();
    again.push("--json");
    assert_eq!(json(&modelkin(&again)), report);
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object
        .get(key)
        .or_else(|| object.values().find_map(|inner| find(inner, key)))
}

#[test]
fn reports_are_written_in_every_format_that_an_extension_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (a, b) = (path("llama-a"), path("llama-a-tuned"));
    for extension in ["html", "md", "json", "txt"] {
        let file = folder.path().join(format!("report.{extension}"));
        let target = file.display().to_string();
        let output = modelkin(&["compare", &a, &b, "--report", &target]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = std::fs::read_to_string(&file).expect("a report");
        assert!(text.contains("unit-permutation"), "{extension}");
    }
    let names = std::fs::read_dir(folder.path()).expect("a folder");
    assert_eq!(names.count(), 4, "no temporary file is left");
}

#[test]
fn inspect_names_components_roles_and_hashes() {
    let report = json(&modelkin(&["inspect", &path("llama-a"), "--json"]));
    assert_eq!(report["components"][0]["family"], "llama");
    let roles: Vec<&Value> = report["components"][0]["tensors"]
        .as_array()
        .expect("tensors")
        .iter()
        .map(|t| &t["roles"])
        .collect();
    assert!(roles.iter().all(|r| r.is_array()), "{roles:?}");
    let files = report["files"].as_array().expect("files");
    assert!(
        files
            .iter()
            .all(|f| f["sha256"].as_str().is_some_and(|s| s.len() == 64))
    );
}

#[test]
fn the_catalogue_completions_and_man_page_are_generated() {
    let catalogue = json(&modelkin(&["tests", "--json"]));
    assert_eq!(
        catalogue.as_array().map(Vec::len),
        Some(modelkin::evidence::TESTS.len())
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = modelkin(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("compare"));
    }
    let page = modelkin(&["man"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains(".TH modelkin"));
}

#[test]
fn the_example_holds_a_derived_and_an_independent_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("example").display().to_string();
    assert!(modelkin(&["example", &root]).status.success());
    for (model, related) in [("derived", true), ("independent", false)] {
        let (a, b) = (format!("{root}/reference"), format!("{root}/{model}"));
        let report = json(&modelkin(&["compare", &a, &b, "--json"]));
        assert_eq!(
            report["finding"]["related"],
            Value::Bool(related),
            "{model}"
        );
    }
}

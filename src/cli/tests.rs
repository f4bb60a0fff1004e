//! `modelkin tests`: the catalogue of evidence tests.

use crate::evidence::TESTS;
use crate::evidence::spec::{Scope, TestSpec};
use comfy_table::{ContentArrangement, Table};
use serde_json::json;
use std::process::ExitCode;

/// List the evidence tests: what each asks, from which null, and what defeats it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show only this test
    test: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn as_json(spec: &TestSpec) -> serde_json::Value {
    json!({
        "id": spec.id,
        "title": spec.title,
        "question": spec.question,
        "scope": match spec.scope { Scope::Model => "model", Scope::Component => "component" },
        "null": spec.null,
        "p_value": spec.p_value,
        "survives": spec.survives,
        "defeated_by": spec.defeated_by,
        "citation": spec.citation,
    })
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let specs: Vec<&TestSpec> = TESTS
        .iter()
        .map(|test| test.spec)
        .filter(|spec| args.test.as_deref().is_none_or(|id| id == spec.id))
        .collect();
    if specs.is_empty() {
        anyhow::bail!("no test is called so; `modelkin tests` lists them all");
    }
    if args.json {
        let list: Vec<_> = specs.iter().map(|spec| as_json(spec)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["test", "question", "p-value", "survives", "defeated by"]);
    for spec in specs {
        let p = spec.p_value.unwrap_or("none: effects or observations only");
        table.add_row([spec.id, spec.question, p, spec.survives, spec.defeated_by]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

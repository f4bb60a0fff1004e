//! `modelkin inspect`: components, roles, dtypes, counts and hashes of one model.

use super::progress::Bars;
use crate::arch::{Component, Model};
use crate::audit;
use crate::report::{self, ModelSection};
use crate::source::{FetchOptions, ModelRef};
use comfy_table::Table;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Show what a model consists of: components, roles, dtypes, counts, hashes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model
    model: ModelRef,
    /// The model that it, an adapter, is added to
    #[arg(long, value_name = "MODEL")]
    base: Option<ModelRef>,
    /// Download a repository's weights instead of reading their headers alone
    #[arg(long)]
    full: bool,
    /// List every tensor with its role
    #[arg(long)]
    tensors: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Role of each tensor of a component, by name; fused tensors have several.
fn roles(component: &Component) -> BTreeMap<&str, Vec<String>> {
    let mut roles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (role, matrix) in &component.roles {
        roles
            .entry(matrix.tensor().name())
            .or_default()
            .push(role.to_string());
    }
    roles
}

fn as_json(model: &Model, section: &ModelSection) -> Value {
    let components: Vec<Value> = model
        .components
        .iter()
        .zip(&section.components)
        .map(|(component, line)| {
            let roles = roles(component);
            let tensors: Vec<Value> = component
                .tensors
                .iter()
                .map(|t| {
                    json!({
                        "name": t.name(), "dtype": t.dtype().name(), "shape": t.shape(),
                        "roles": roles.get(t.name()), "file": t.file(),
                    })
                })
                .collect();
            json!({
                "id": line.id, "family": line.family, "n_layers": line.n_layers,
                "hidden_size": line.hidden_size, "n_tensors": line.n_tensors,
                "n_parameters": line.n_parameters, "role_basis": line.role_basis,
                "tensors": tensors,
            })
        })
        .collect();
    let files: Vec<Value> = section
        .files
        .iter()
        .map(|f| json!({"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256}))
        .collect();
    json!({
        "label": section.label, "model_ref": section.model_ref, "revision": section.revision,
        "format": section.format, "n_tensors": section.n_tensors,
        "n_parameters": section.n_parameters, "dtypes": section.dtypes,
        "components": components, "files": files, "notes": section.notes,
    })
}

fn page(model: &Model, section: &ModelSection, tensors: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&report::visible(&text));
        out.push('\n');
    };
    line(section.label.clone());
    if let Some(revision) = &section.revision {
        line(format!("revision {revision}"));
    }
    let dtypes: Vec<String> = section
        .dtypes
        .iter()
        .map(|(dtype, n)| format!("{n} {dtype}"))
        .collect();
    line(format!(
        "{} tensors, {} parameters; {}",
        section.n_tensors,
        section.n_parameters,
        if dtypes.is_empty() {
            "no weights".to_owned()
        } else {
            dtypes.join(", ")
        }
    ));
    for note in &section.notes {
        line(format!("note: {note}"));
    }
    let mut components = Table::new();
    components.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    components.set_header([
        "component",
        "family",
        "layers",
        "width",
        "tensors",
        "parameters",
        "roles from",
    ]);
    for c in &section.components {
        components.add_row([
            c.id.clone(),
            c.family.clone(),
            c.n_layers.to_string(),
            c.hidden_size.to_string(),
            c.n_tensors.to_string(),
            c.n_parameters.to_string(),
            c.role_basis.clone(),
        ]);
    }
    out.push_str(&format!("{components}\n"));
    if tensors {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["tensor", "dtype", "shape", "role"]);
        for component in &model.components {
            let roles = roles(component);
            for tensor in &component.tensors {
                table.add_row([
                    report::visible(tensor.name()).into_owned(),
                    tensor.dtype().name().to_owned(),
                    format!("{:?}", tensor.shape()),
                    roles
                        .get(tensor.name())
                        .map_or("none".to_owned(), |r| r.join(", ")),
                ]);
            }
        }
        out.push_str(&format!("{table}\n"));
    }
    let mut files = Table::new();
    files.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    files.set_header(["file", "bytes", "sha256"]);
    for file in &section.files {
        files.add_row([
            report::visible(&file.path).into_owned(),
            file.size_bytes.to_string(),
            file.sha256.clone().unwrap_or_else(|| "not read".to_owned()),
        ]);
    }
    out.push_str(&format!("{files}\n"));
    out
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let bars = Bars::new();
    let fetch = FetchOptions {
        in_parts: !args.full,
        ..FetchOptions::default()
    };
    let (model, section) = audit::inspect(&args.model, args.base.as_ref(), &fetch, &bars)?;
    bars.clear();
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&as_json(&model, &section))?
        );
    } else {
        print!("{}", page(&model, &section, args.tensors));
    }
    Ok(ExitCode::SUCCESS)
}

//! `modelkin compare`: audit two models and report.

use super::progress::Bars;
use crate::audit::{self, Request};
use crate::evidence::{self, context::Settings};
use crate::report::{self, RenderOptions, Renderer, Report};
use crate::source::{FetchOptions, ModelRef};
use crate::verdict::Relation;
use anyhow::{Context, bail};
use clap::ValueEnum;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Audit two models: is the candidate derived from the reference?
///
/// A model is a folder, a file, `org/name[@revision]` on the hub (`hf:org/name@revision` in full), an
/// address (`https://…`), or a model of a registry (`ollama:`, `oci:`), of ModelScope (`modelscope:`) or in
/// an object store (`s3://`, `gs://`, `az://`).
/// The page goes to standard output, progress and log lines to standard error.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model that came first
    reference: ModelRef,
    /// The model under suspicion
    candidate: ModelRef,
    /// The model that the candidate, an adapter, is added to
    #[arg(long, value_name = "MODEL")]
    base: Option<ModelRef>,
    /// The model that the reference, an adapter, is added to
    #[arg(long, value_name = "MODEL")]
    reference_base: Option<ModelRef>,
    /// Also write the report to a file; the extension chooses the format: html, json, md, txt
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Print the report as JSON (schema: docs/schema/report-v1.schema.json)
    #[arg(long)]
    json: bool,
    /// Run only these tests (repeat or separate by commas; `modelkin tests` lists them)
    #[arg(long, value_name = "TEST", value_delimiter = ',', value_parser = test_id)]
    only: Vec<String>,
    /// Do not run these tests
    #[arg(long, value_name = "TEST", value_delimiter = ',', value_parser = test_id)]
    skip: Vec<String>,
    /// Seed of every random choice (which units, tokens and rows of large tensors are looked at)
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Look at every layer of deep models instead of an even spread
    #[arg(long)]
    all_layers: bool,
    /// Where large products of rows are computed: cpu, auto, cuda, vulkan or metal; `cuda:1` is the second
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Read at most so much of the weights of both models together, e.g. 100MB or 2GiB
    #[arg(long, value_name = "BYTES", value_parser = budget, conflicts_with = "full")]
    budget: Option<u64>,
    /// Download a repository's weights instead of reading the parts that the tests ask for
    #[arg(long)]
    full: bool,
    /// Exit with 3 when the finding is this
    #[arg(long, value_name = "FINDING", value_delimiter = ',')]
    fail_on: Vec<FailOn>,
}

/// Findings that scripts may want to stop at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// `finding.related` is true
    Derived,
    /// `finding.related` is null
    Inconclusive,
}

fn test_id(id: &str) -> Result<String, String> {
    if evidence::find(id).is_some() {
        return Ok(id.to_owned());
    }
    let known: Vec<&str> = evidence::TESTS.iter().map(|test| test.spec.id).collect();
    Err(format!(
        "no test is called so; there are: {}",
        known.join(", ")
    ))
}

/// Bytes as people write them: a whole number with nothing, kB, MB, GB (powers of 1000) or KiB, MiB,
/// GiB after it.
fn budget(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => {
            return Err("expected a whole number of bytes, kB, MB, GB, KiB, MiB or GiB".to_owned());
        }
    };
    let number = number.parse::<u64>().ok();
    number
        .and_then(|n| n.checked_mul(factor))
        .filter(|&n| n > 0)
        .ok_or_else(|| "expected a whole number above 0 that 64 bits hold".to_owned())
}

/// The command line that repeats the audit, without what only changes where the report goes.
fn command(args: &Args) -> Vec<String> {
    let mut command = vec!["modelkin".to_owned(), "compare".to_owned()];
    command.extend([args.reference.to_string(), args.candidate.to_string()]);
    for (flag, base) in [
        ("--base", &args.base),
        ("--reference-base", &args.reference_base),
    ] {
        if let Some(base) = base {
            command.extend([flag.to_owned(), base.to_string()]);
        }
    }
    command.extend(["--seed".to_owned(), args.seed.to_string()]);
    for (flag, ids) in [("--only", &args.only), ("--skip", &args.skip)] {
        if !ids.is_empty() {
            command.extend([flag.to_owned(), ids.join(",")]);
        }
    }
    if let Some(budget) = args.budget {
        command.extend(["--budget".to_owned(), budget.to_string()]);
    }
    if args.device != "cpu" {
        command.extend(["--device".to_owned(), args.device.clone()]);
    }
    if args.all_layers {
        command.push("--all-layers".to_owned());
    }
    command
}

/// The renderer that a file's extension asks for.
fn renderer_of(path: &Path) -> anyhow::Result<&'static dyn Renderer> {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    report::renderer(extension).with_context(|| {
        let known: Vec<&str> = report::RENDERERS.iter().map(|r| r.extension()).collect();
        format!(
            "{}: the extension chooses the format of a report and must be one of {}",
            path.display(),
            known.join(", ")
        )
    })
}

/// Writes a report under a temporary name and renames it: a full disk leaves no half of one.
fn write_report(path: &Path, renderer: &dyn Renderer, report: &Report) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    renderer.render(report, &mut bytes, &RenderOptions::default())?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| std::fs::rename(&partial, path)) {
        let _ = std::fs::remove_file(&partial);
        bail!("{}: the report cannot be written: {error}", path.display());
    }
    Ok(())
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Refused before hours of work, not after.
    let reports = args
        .report
        .iter()
        .map(|path| Ok((path.as_path(), renderer_of(path)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let selected = |id: &str| {
        let named = |ids: &[String]| ids.iter().any(|x| x == id);
        (args.only.is_empty() || named(&args.only)) && !named(&args.skip)
    };
    let tests: Vec<String> = evidence::TESTS
        .iter()
        .map(|test| test.spec.id.to_owned())
        .filter(|id| selected(id))
        .collect();
    if tests.is_empty() {
        bail!("--only and --skip leave no test to run");
    }
    let started = Instant::now();
    let bars = Bars::new();
    let request = Request {
        reference: args.reference.clone(),
        candidate: args.candidate.clone(),
        bases: [args.reference_base.clone(), args.base.clone()],
        settings: Settings {
            seed: args.seed,
            all_layers: args.all_layers,
            ..Settings::default()
        },
        fetch: FetchOptions {
            in_parts: !args.full,
            ..FetchOptions::default()
        },
        tests,
        device: args.device.clone(),
        budget_bytes: args.budget,
        command: command(&args),
    };
    let report = audit::compare(&request, &bars)?;
    bars.clear();
    for (path, renderer) in reports {
        write_report(path, renderer, &report)?;
    }
    let stdout = std::io::stdout();
    let options = RenderOptions {
        colour: super::colour(&stdout),
        width: super::progress::terminal_width(),
        wall_time: Some(started.elapsed()),
    };
    let renderer = report::renderer(if args.json { "json" } else { "terminal" })
        .context("the renderer of the page is not registered")?;
    let mut page = Vec::new();
    renderer.render(&report, &mut page, &options)?;
    match stdout.lock().write_all(&page) {
        // `modelkin compare … | head` is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(exit_code(report.finding.overall.relation, &args.fail_on))
}

fn exit_code(relation: Relation, fail_on: &[FailOn]) -> ExitCode {
    let stop = match relation.related() {
        Some(true) => fail_on.contains(&FailOn::Derived),
        None => fail_on.contains(&FailOn::Inconclusive),
        Some(false) => false,
    };
    ExitCode::from(if stop { 3 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::budget;

    #[test]
    fn a_budget_is_read_as_people_write_it() {
        assert_eq!(budget("100MB"), Ok(100_000_000));
        assert_eq!(budget("2 GiB"), Ok(2 << 30));
        assert_eq!(budget("7"), Ok(7));
        for text in ["", "MB", "-1", "0", "1.5GB", "1 mile", "99999999999GB"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}

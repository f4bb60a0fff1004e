//! `modelkin fetch`: bring a model here, or see that it already is.

use super::progress::Bars;
use crate::source::{self, FetchOptions, ModelRef};
use serde_json::json;
use std::process::ExitCode;

/// Fetch the files of a model that an audit needs, into the cache.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model
    model: ModelRef,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let bars = Bars::new();
    let snapshot = source::resolve(&args.model, &FetchOptions::default(), &bars)?;
    bars.clear();
    let n_bytes: u64 = snapshot.files.iter().map(|file| file.size_bytes).sum();
    if args.json {
        let files: Vec<_> = snapshot
            .files
            .iter()
            .map(|f| json!({"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256}))
            .collect();
        let root = snapshot.root.display().to_string();
        let page = json!({
            "label": snapshot.label, "revision": snapshot.revision, "root": root, "files": files,
        });
        println!("{}", serde_json::to_string_pretty(&page)?);
    } else {
        // The folder alone on standard output: `cd "$(modelkin fetch …)"`.
        eprintln!(
            "{}: {} files, {} bytes",
            crate::report::visible(&snapshot.label),
            snapshot.files.len(),
            n_bytes,
        );
        println!("{}", snapshot.root.display());
    }
    Ok(ExitCode::SUCCESS)
}

//! `modelkin engine`: the devices there are, and how far each is from exact arithmetic.

use super::engine_args::{ModelArgs, Opened};
use crate::engine::backend::Backend;
use crate::engine::check::{self, Noise};
use crate::engine::device::{Visitor, devices, with_device};
use comfy_table::Table;
use serde_json::json;
use std::process::ExitCode;

/// Inspect the inference engine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the devices that models can run on
    Devices {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure the noise floor: each device against double precision on the CPU
    Check {
        #[command(flatten)]
        model: ModelArgs,
        /// Devices to check [default: all that there are]
        #[arg(long = "device", value_name = "DEVICE")]
        devices: Vec<String>,
        /// Length of the text, of tokens drawn at random
        #[arg(long, default_value_t = 64, value_name = "N")]
        tokens: usize,
        /// Seed of the text
        #[arg(long, default_value_t = 0, value_name = "SEED")]
        seed: u64,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Devices { json } => {
            let found = devices();
            if json {
                let page: Vec<_> = found
                    .iter()
                    .map(|(name, what)| json!({"device": name, "description": what}))
                    .collect();
                println!("{}", serde_json::to_string_pretty(&page)?);
            } else {
                let mut table = Table::new();
                table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
                for (name, what) in found {
                    table.add_row([name, crate::report::visible(&what).into_owned()]);
                }
                println!("{table}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check {
            model,
            devices: named,
            tokens,
            seed,
            json,
        } => {
            let named = if named.is_empty() {
                devices().into_iter().map(|(name, _)| name).collect()
            } else {
                named
            };
            check_devices(model, named, tokens, seed, json)
        }
    }
}

struct Job<'a, F>(&'a Opened, F);

struct Exact {
    ids: Vec<u32>,
}

struct Compared<'a> {
    ids: &'a [u32],
    exact: &'a [f32],
}

impl Visitor for Job<'_, Exact> {
    type Output = anyhow::Result<Vec<f32>>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        Ok(check::logits(&self.0.load(backend)?, &self.1.ids)?)
    }
}

impl Visitor for Job<'_, Compared<'_>> {
    type Output = anyhow::Result<(String, Noise)>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        let decoder = self.0.load(backend)?;
        let noise = check::noise(&decoder, self.1.ids, self.1.exact)?;
        Ok((decoder.backend().describe(), noise))
    }
}

fn check_devices(
    model: ModelArgs,
    named: Vec<String>,
    n_tokens: usize,
    seed: u64,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let opened = Opened::new(&model)?;
    let ids = check::text(opened.spec.vocab_size, n_tokens, seed);
    let exact = with_device("cpu-f64", Job(&opened, Exact { ids: ids.clone() }))??;
    let mut lines = Vec::new();
    for name in named {
        let job = Job(
            &opened,
            Compared {
                ids: &ids,
                exact: &exact,
            },
        );
        let (described, noise) = with_device(&name, job)??;
        lines.push((name, described, noise));
    }
    if as_json {
        let page = json!({
            "model": opened.model.label, "n_tokens": ids.len(), "seed": seed,
            "assumptions": opened.spec.assumptions,
            "devices": lines.iter().map(|(name, described, noise)| json!({
                "device": name, "description": described, "nmse": noise.nmse,
                "max_difference": noise.max_difference, "n_other_first": noise.n_other_first,
                "chunks_equal": noise.chunks_equal,
            })).collect::<Vec<_>>(),
        });
        println!("{}", serde_json::to_string_pretty(&page)?);
    } else {
        for assumption in &opened.spec.assumptions {
            println!("{}", crate::report::visible(assumption));
        }
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "device",
            "NMSE",
            "max |Δlogit|",
            "other first token",
            "in chunks",
        ]);
        for (name, described, noise) in lines {
            table.add_row([
                format!("{name}: {}", crate::report::visible(&described)),
                format!("{:.1e}", noise.nmse),
                format!("{:.1e}", noise.max_difference),
                format!("{} of {n_tokens}", noise.n_other_first),
                if noise.chunks_equal {
                    "same bits"
                } else {
                    "other bits"
                }
                .to_owned(),
            ]);
        }
        println!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}

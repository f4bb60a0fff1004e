//! The command line: one file per subcommand, each with its arguments and what it does.

mod compare;
mod completions;
mod engine;
mod engine_args;
mod example;
mod fetch;
mod inspect;
mod logits;
mod man;
mod progress;
mod run;
mod tests;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Are these two models kin? Provenance evidence from weights, behaviour and files.
#[derive(Debug, Parser)]
#[command(
    name = "modelkin",
    version,
    about,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Say more about what is going on (repeat for more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Number of worker threads; it changes no number in a report [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Compare(compare::Args),
    Inspect(inspect::Args),
    Tests(tests::Args),
    Fetch(fetch::Args),
    Run(run::Args),
    Logits(logits::Args),
    Engine(engine::Args),
    Example(example::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the chosen subcommand.
///
/// # Errors
/// Whatever kept it from doing its job; `main` prints it and exits with 1.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(threads) = cli.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global()?;
    }
    match cli.command {
        Command::Compare(args) => compare::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tests(args) => tests::run(args),
        Command::Fetch(args) => fetch::run(args),
        Command::Run(args) => run::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Engine(args) => engine::run(args),
        Command::Example(args) => example::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// Sends log lines to standard error; `MODELKIN_LOG` overrides the level.
pub fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("MODELKIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("modelkin={level}")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour(&std::io::stderr()))
        .without_time()
        .init();
}

/// Prints an error with its causes.
pub fn print_error(error: &anyhow::Error) {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        // A transparent error repeats its source word for word.
        let line = crate::report::visible(&cause.to_string()).into_owned();
        if line != last {
            text.push_str(if text.is_empty() {
                "error: "
            } else {
                "\n  because: "
            });
            text.push_str(&line);
        }
        last = line;
    }
    eprintln!("{text}");
}

/// Whether colours may be written to a stream.
fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

//! Parse, dispatch, exit code.
//!
//! Exit codes: 0 the audit was done, 1 an error, 2 wrong usage, 3 only with `--fail-on`.

use clap::Parser;
use modelkin::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_logging(cli.verbose);
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            cli::print_error(&error);
            ExitCode::from(1)
        }
    }
}

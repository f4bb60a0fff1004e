//! `modelkin man`: man pages, generated from the command line itself.

use anyhow::Context;
use clap::CommandFactory;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the man page, or write one page per subcommand into a folder.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder for the pages
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let command = super::Cli::command();
    match args.out {
        Some(folder) => {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(command, &folder))
                .with_context(|| format!("{}: the pages cannot be written", folder.display()))?;
        }
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `modelkin example`: three tiny models whose kinship is known, to try the program on.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write three tiny trained models: a reference, a model derived from it, and an independent one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to write into
    #[arg(default_value = "modelkin-example")]
    folder: PathBuf,
}

/// Files of one model of `tests/zoo`, as the program carries them.
macro_rules! model {
    ($id:literal) => {
        &[
            (
                "config.json",
                include_bytes!(concat!("../../tests/zoo/", $id, "/config.json")),
            ),
            (
                "tokenizer.json",
                include_bytes!(concat!("../../tests/zoo/", $id, "/tokenizer.json")),
            ),
            (
                "tokenizer_config.json",
                include_bytes!(concat!("../../tests/zoo/", $id, "/tokenizer_config.json")),
            ),
            (
                "model.safetensors",
                include_bytes!(concat!("../../tests/zoo/", $id, "/model.safetensors")),
            ),
        ]
    };
}

/// File names and their content.
type Files = &'static [(&'static str, &'static [u8])];

/// Name in the example and files. The second was trained further from the first; the third has the
/// same configuration, tokenizer, text and order, and another seed.
const MODELS: &[(&str, Files)] = &[
    ("reference", model!("llama-a")),
    ("derived", model!("llama-a-continued")),
    ("independent", model!("llama-a-other-seed")),
];

fn write(folder: &Path) -> std::io::Result<()> {
    for (model, files) in MODELS {
        let target = folder.join(model);
        std::fs::create_dir_all(&target)?;
        for (name, content) in *files {
            std::fs::write(target.join(name), content)?;
        }
    }
    Ok(())
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = args.folder.display();
    write(&args.folder).with_context(|| format!("{folder}: the example cannot be written"))?;
    println!("modelkin compare {folder}/reference {folder}/derived");
    println!("modelkin compare {folder}/reference {folder}/independent");
    Ok(ExitCode::SUCCESS)
}

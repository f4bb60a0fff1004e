//! The tokenizer as a whole, on made-up files and on a published model.

use super::*;
use std::path::{Path, PathBuf};

/// Files of a folder that a tokenizer is read from.
fn artefacts(folder: &Path) -> Artefacts {
    let mut artefacts = Artefacts::default();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".safetensors") {
            artefacts.contents.insert(name, std::fs::read(&path).unwrap());
        }
    }
    artefacts
}

fn open(folder: &Path) -> Tokenizer {
    let artefacts = artefacts(folder);
    let config = artefacts.json("config.json").unwrap();
    Tokenizer::read(&artefacts, config.as_ref()).unwrap()
}

fn shared(path: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("MODELKIN_SHARED").map_or(beside, PathBuf::from);
    let found = root.join("data").join(path);
    if !found.exists() {
        eprintln!("skipped: {} is absent", found.display());
        return None;
    }
    Some(found)
}

#[test]
fn stories260k_reads_and_writes_as_published() {
    let Some(folder) = shared("models/stories260k") else {
        return;
    };
    let tokenizer = open(&folder);
    assert_eq!((tokenizer.n_tokens(), tokenizer.bos()), (512, Some(1)));
    assert_eq!(tokenizer.eos_ids(), [2]);
    let text = "Once upon a time, there was a little girl named Lily.";
    let ids = tokenizer.encode(text, true).unwrap();
    assert_eq!(ids[..4], [1, 403, 407, 261]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("<s> {text}"));
}

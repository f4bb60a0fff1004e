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
            artefacts
                .contents
                .insert(name, std::fs::read(&path).unwrap());
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
    assert_eq!(
        tokenizer.decode(&ids, false).unwrap(),
        format!("<s> {text}")
    );
}

fn made(name: &str) -> PathBuf {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text");
    data.join(name)
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids_of(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_sentencepiece_and_transformers() {
    let expected = json_file(&made("tokens.json"));
    let mut failures = Vec::new();
    for (name, cases) in expected.as_object().unwrap() {
        let tokenizer = open(&made(name));
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = ids_of(&case["ids"]);
            let found = tokenizer.encode(text, false).unwrap();
            if found != ids {
                failures.push(format!(
                    "{name} {text:?}: expected {ids:?}, found {found:?}"
                ));
            }
            let decoded = tokenizer.decode(&ids, true).unwrap();
            if Some(decoded.as_str()) != case["decoded"].as_str() {
                let expected = &case["decoded"];
                failures.push(format!(
                    "{name} {ids:?}: expected {expected}, found {decoded:?}"
                ));
            }
            if let Some(special) = case.get("special") {
                let (found, special) = (tokenizer.encode(text, true).unwrap(), ids_of(special));
                if found != special {
                    failures.push(format!(
                        "{name} {text:?}: expected {special:?}, found {found:?}"
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_stream_gives_out_what_all_ids_at_once_decode_to() {
    let expected = json_file(&made("tokens.json"));
    for (name, cases) in expected.as_object().unwrap() {
        let tokenizer = open(&made(name));
        for case in cases.as_array().unwrap() {
            let ids = ids_of(&case["ids"]);
            // All of the text, and texts that are cut within characters.
            for (n, skip_special) in (0..=ids.len()).flat_map(|n| [(n, true), (n, false)]) {
                let mut stream = tokenizer.stream(skip_special);
                let mut joined = String::new();
                for &id in &ids[..n] {
                    joined += &stream.push(id).unwrap();
                }
                joined += &stream.finish().unwrap();
                let whole = tokenizer.decode(&ids[..n], skip_special).unwrap();
                assert_eq!(joined, whole, "{name} {:?}", &ids[..n]);
            }
        }
    }
}

#[test]
fn a_stream_of_whole_words_holds_nothing_back() {
    let tokenizer = open(&made("bytes-json"));
    let ids = tokenizer.encode("The ship sails at dawn.", false).unwrap();
    let mut stream = tokenizer.stream(true);
    for id in ids {
        assert!(!stream.push(id).unwrap().is_empty());
    }
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn what_is_put_around_a_text_follows_the_config_and_the_class() {
    for (name, before, after) in [
        ("spm-bpe", true, false),
        ("spm-bpe-user", false, true),
        ("spm-unigram", false, true),
        ("spm-unigram-plain", true, false),
    ] {
        let tokenizer = open(&made(name));
        let plain = tokenizer.encode("dawn", false).unwrap();
        let around = tokenizer.encode("dawn", true).unwrap();
        let bos = before.then_some(1);
        let expected: Vec<u32> = bos
            .into_iter()
            .chain(plain)
            .chain(after.then_some(2))
            .collect();
        assert_eq!(around, expected, "{name}");
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos_ids()),
            (Some(1), &[2][..]),
            "{name}"
        );
    }
}

#[test]
fn a_damaged_file_is_an_error_or_a_tokenizer_and_never_a_panic() {
    for (name, file) in [
        ("spm-unigram", spm::FILE),
        ("spm-bpe-user", spm::FILE),
        ("bytes-json", json::FILE),
        ("bytes-files", files::MERGES),
    ] {
        damage(&made(name), file);
    }
}

/// Opens and uses a tokenizer of which one file was damaged at random places.
fn damage(folder: &Path, file: &str) {
    let whole = std::fs::read(folder.join(file)).unwrap();
    let mut n_refused = 0;
    // A linear congruence is chance enough, and the same everywhere.
    let mut state = 1u64;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..3 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        let mut files = artefacts(folder);
        files.contents.insert(file.to_owned(), bytes);
        match Tokenizer::read(&files, None) {
            Ok(tokenizer) => {
                if let Ok(ids) = tokenizer.encode("Hello \u{fb01} world 海 </s>", true) {
                    let _ = tokenizer.decode(&ids, false);
                }
            }
            Err(error) => {
                assert!(matches!(error, EngineError::Input { .. }), "{error}");
                n_refused += 1;
            }
        }
    }
    assert!(n_refused > 50, "{file}: {n_refused}");
}

#[test]
fn a_model_without_a_tokenizer_is_told_what_was_looked_for() {
    let error = Tokenizer::read(&Artefacts::default(), None).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn an_added_token_that_would_get_another_id_than_stated_is_refused() {
    let mut files = artefacts(&made("bytes-json"));
    let config =
        |id: u32| format!(r#"{{"added_tokens_decoder": {{"{id}": {{"content": "<x>"}}}}}}"#);
    let next = open(&made("bytes-json")).n_tokens() as u32;
    for (id, is_right) in [(next, true), (next + 7, false)] {
        let name = settings::CONFIG.to_owned();
        files.contents.insert(name, config(id).into_bytes());
        let read = Tokenizer::read(&files, None);
        assert_eq!(read.is_ok(), is_right, "{id}: {:?}", read.err());
    }
}

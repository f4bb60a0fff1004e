//! The entry points of the fuzz targets, on the stable toolchain: over the committed corpus, and over
//! mutations of it that are the same in every run. What the fuzzer does for hours is told in
//! `docs/src/threat-model.md`.

#[path = "../../fuzz/parsers.rs"]
mod entry_points;

use entry_points::{PARSERS, Parser};
use modelkin::source::answers::ANSWERS;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Mutations of each input of the corpus.
const N_MUTATIONS: usize = 200;
/// Longer than any small input takes on a busy machine, and shorter than a hang.
const SOON: Duration = Duration::from_secs(20);

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs an entry point and says whether it accepted; a panic or a hang fails with the input's name.
fn run(target: &str, parser: Parser, input: &str, bytes: &[u8]) -> bool {
    let start = Instant::now();
    let accepted = catch_unwind(|| parser(bytes))
        .unwrap_or_else(|_| panic!("{target}: {input}: panicked on {}", bytes.escape_ascii()));
    let took = start.elapsed();
    assert!(took < SOON, "{target}: {input}: took {took:?}");
    accepted
}

/// One change of some bytes: what breaks lengths, offsets, nesting and order.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    const NUMBERS: [u64; 8] = [
        0,
        1,
        127,
        255,
        65_535,
        u32::MAX as u64,
        i64::MAX as u64,
        u64::MAX,
    ];
    if bytes.is_empty() {
        return bytes.extend_from_slice(other);
    }
    let at = rng.random_range(0..bytes.len());
    let n = rng.random_range(1..=16).min(bytes.len() - at);
    match rng.random_range(0..8) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..at + n)),
        4 => {
            let repeated = bytes[at..at + n].repeat(rng.random_range(1..8));
            bytes.splice(at..at, repeated);
        }
        5 => {
            let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
            let n = [1, 2, 4, 8][rng.random_range(0..4)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&number[..n]);
        }
        6 => {
            let from = rng.random_range(0..=other.len());
            let until = other.len().min(from + n);
            bytes.splice(at..at + n, other[from..until].iter().copied());
        }
        _ => {
            // Numbers in text.
            let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_string();
            let digits = bytes.iter().skip(at).position(u8::is_ascii_digit);
            let start = at + digits.unwrap_or(0);
            bytes.splice(start..=start, number.into_bytes());
        }
    }
}

#[test]
fn every_parser_has_a_fuzz_target_and_accepts_some_of_its_corpus() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for (target, parser) in PARSERS {
        let path = format!("fuzz_targets/{target}.rs");
        let code = fs::read_to_string(fuzz().join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(code.contains(&format!("fuzz!({target});")), "{path}");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let inputs = corpus(target);
        let n = inputs
            .iter()
            .filter(|(name, bytes)| run(target, *parser, name, bytes));
        let n = n.count();
        assert!(
            2 * n >= inputs.len().min(4),
            "{target}: {n} of {}",
            inputs.len()
        );
        run(target, *parser, "nothing", b"");
    }
    let n_targets = manifest.matches("\n[[bin]]").count();
    assert_eq!(n_targets, PARSERS.len(), "targets without an entry point");
}

#[test]
fn no_mutation_of_the_corpus_makes_a_parser_panic_or_hang() {
    for (target, parser) in PARSERS {
        let start = Instant::now();
        let inputs = corpus(target);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (name, sound) in &inputs {
            for i in 0..N_MUTATIONS {
                let mut bytes = sound.clone();
                let (_, other) = &inputs[rng.random_range(0..inputs.len())];
                for _ in 0..rng.random_range(1..5) {
                    mutate(&mut bytes, other, &mut rng);
                }
                run(target, *parser, &format!("{name}, mutation {i}"), &bytes);
            }
        }
        println!(
            "{target}: {} inputs in {:?}",
            inputs.len() * N_MUTATIONS,
            start.elapsed()
        );
    }
}

#[test]
fn every_answer_of_the_corpus_is_accepted_as_what_it_is() {
    let inputs = corpus("server_answers");
    assert_eq!(inputs.len(), ANSWERS.len());
    for (kind, accepts) in ANSWERS {
        let (_, bytes) = inputs.iter().find(|(name, _)| name == kind).expect(kind);
        assert!(accepts(bytes), "{kind}");
    }
}

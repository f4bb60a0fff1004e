//! One entry point per parser of strangers' bytes, each a plain function.
//!
//! The fuzz targets here and `tests/suite/parsers.rs`, which is part of `cargo test`, call the same functions. An entry
//! point hands bytes to a parser as a published file would, and then looks at what came out as the tests
//! of an audit do. It tells whether the parser accepted them. Errors are fine; a panic, a hang or memory
//! without bound is a finding.

use modelkin::arch::Model;
use modelkin::arch::artefact::Artefacts;
use modelkin::arch::spec::ModelSpec;
use modelkin::checkpoint::{self, Checkpoint, CheckpointFile};
use modelkin::engine::text::Tokenizer;
use modelkin::engine::text::chat::{ChatOptions, ChatTemplate, Message};
use modelkin::fingerprint::vocabulary::Vocabulary;
use modelkin::source::answers::ANSWERS;
use modelkin::source::bytes::MemoryFile;
use modelkin::tensor::{BlockType, Tensor};
use serde_json::Value;
use std::sync::Arc;

/// An entry point: whether the parser accepted the bytes.
pub type Parser = fn(&[u8]) -> bool;

/// Every entry point by the name of its fuzz target and of its folder under `fuzz/corpus`.
pub const PARSERS: &[(&str, Parser)] = &[
    ("adapter", adapter),
    ("chat_template", chat_template),
    ("config", config),
    ("gguf", gguf),
    ("gguf_blocks", gguf_blocks),
    ("npz", npz),
    ("onnx", onnx),
    ("pytorch_legacy", pytorch_legacy),
    ("pytorch_pickle", pytorch_pickle),
    ("pytorch_zip", pytorch_zip),
    ("quantized", quantized),
    ("safetensors", safetensors),
    ("server_answers", server_answers),
    ("shard_index", shard_index),
    ("tokenizer_files", tokenizer_files),
    ("tokenizer_json", tokenizer_json),
    ("tokenizer_model", tokenizer_model),
];

/// Tensors of a file that are looked at.
const N_TENSORS: usize = 32;
/// Elements of a tensor that are looked at, from either end.
const N_ELEMENTS: usize = 600;
/// A text for tokenizers and templates: words, digits, signs, several scripts, white space, a token's name.
const TEXT: &str =
    "Once upon a time, 1234 \u{4f60}\u{597d} na\u{ef}ve \u{1f600}\t\n  <s> don't [INST] ##ing";

fn file(path: &str, bytes: &[u8]) -> CheckpointFile {
    CheckpointFile {
        path: path.to_owned(),
        source: Arc::new(MemoryFile::new(path, bytes.to_vec())),
    }
}

/// Opens files as one model, reads from its tensors, and gives the checkpoint's content to the readers
/// that an audit would give it to.
fn audit_files(files: &[CheckpointFile]) -> bool {
    let checkpoint = match checkpoint::open(files) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            drop(error.to_string());
            return false;
        }
    };
    for tensor in checkpoint.tensors.iter().take(N_TENSORS) {
        look_at(tensor);
    }
    // Some thousand tensors without bytes fit into one file, and names are matched against names.
    if checkpoint.tensors.len() <= 4 * N_TENSORS
        && let Ok(model) = Model::new("fuzzed", checkpoint, Artefacts::default())
    {
        if let Some(config) = &model.config {
            let _ = ModelSpec::read(config);
        }
        look_at_text(&model);
    }
    true
}

fn look_at(tensor: &Tensor) {
    let n = tensor.n_elements();
    let _ = tensor.byte_ranges();
    for range in [0..n.min(N_ELEMENTS), n - n.min(N_ELEMENTS)..n] {
        // Codes may point beyond their groups, which is an error that only reading finds.
        if let Ok(values) = tensor.read_elements(range.clone()) {
            assert_eq!(values.len(), range.len());
        }
        let _ = tensor.read_codes(range.clone());
        let _ = tensor.read_rounding_bounds(range);
    }
}

/// Vocabulary, tokenizer and chat template of a model: whether there is a vocabulary or a prompt.
fn look_at_text(model: &Model) -> bool {
    let mut accepted = matches!(Vocabulary::read(&model.artefacts), Ok(Some(_)));
    if let Ok(tokenizer) = Tokenizer::of(model)
        && let Ok(ids) = tokenizer.encode(TEXT, true)
    {
        let _ = tokenizer.decode(&ids, false);
        let _ = tokenizer.decode(&ids, true);
    }
    if let Ok(Some(template)) = ChatTemplate::of(model) {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", TEXT),
        ];
        let options = ChatOptions {
            add_generation_prompt: true,
            unix_seconds: Some(0),
            ..ChatOptions::default()
        };
        accepted |= template.render(&messages, &options).is_ok();
    }
    accepted
}

/// A model without weights that has these files.
fn text_files(files: &[(&str, &[u8])]) -> bool {
    let artefacts = Artefacts {
        contents: files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect(),
        ..Artefacts::default()
    };
    match Model::new("fuzzed", Checkpoint::default(), artefacts) {
        Ok(model) => look_at_text(&model),
        Err(_) => false,
    }
}

/// `model.safetensors`: header and data.
pub fn safetensors(bytes: &[u8]) -> bool {
    audit_files(&[file("model.safetensors", bytes)])
}

/// `model.safetensors.index.json` beside the one sound shard that an index of the corpus names.
pub fn shard_index(bytes: &[u8]) -> bool {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let shard = [&(header.len() as u64).to_le_bytes(), &header[..], &[0; 4]].concat();
    audit_files(&[
        file("model-00001-of-00001.safetensors", &shard),
        file("model.safetensors.index.json", bytes),
    ])
}

/// `model.gguf`: metadata, tensors, and the tokenizer within.
pub fn gguf(bytes: &[u8]) -> bool {
    audit_files(&[file("model.gguf", bytes)])
}

/// Blocks of the type that the first byte chooses.
pub fn gguf_blocks(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else {
        return false;
    };
    let n_types = BlockType::all().count();
    let Some(block) = BlockType::all().nth(usize::from(*first) % n_types) else {
        return false;
    };
    let n_blocks = bytes.len() / block.block_bytes();
    let mut values = vec![0.0; n_blocks * block.block_elements()];
    block.dequantize(bytes, &mut values);
    block.rounding_bounds(bytes, &mut values);
    n_blocks > 0
}

/// NumPy's archive, or an array alone.
pub fn npz(bytes: &[u8]) -> bool {
    let name = if bytes.starts_with(b"PK") {
        "a.npz"
    } else {
        "a.npy"
    };
    audit_files(&[file(name, bytes)])
}

/// An ONNX model beside a file that may hold its external data.
pub fn onnx(bytes: &[u8]) -> bool {
    let data = file("net.onnx.data", &[0x3c; 256]);
    audit_files(&[file("net.onnx", bytes), data])
}

/// An archive of `torch.save`.
pub fn pytorch_zip(bytes: &[u8]) -> bool {
    audit_files(&[file("pytorch_model.bin", bytes)])
}

/// A file of torch before 1.6.
pub fn pytorch_legacy(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"PK") && audit_files(&[file("model.pth", bytes)])
}

/// The pickle of a sound archive: what a stranger's program can ask for.
pub fn pytorch_pickle(bytes: &[u8]) -> bool {
    let storages = ["a/data/0", "a/data/1", "a/data/2"].map(|name| (name, &[0x3c; 64][..]));
    let entries = [("a/data.pkl", bytes), ("a/byteorder", b"little")];
    let archive = archive(&[&entries[..], &storages[..]].concat());
    audit_files(&[file("pytorch_model.bin", &archive)])
}

/// A zip archive of stored entries. The checksums are zero, as no reader of these archives looks at them.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let short = |n: usize| (n as u16).to_le_bytes();
    let long = |n: usize| (n as u32).to_le_bytes();
    for (name, data) in entries {
        let start = long(bytes.len());
        let sizes = [long(data.len()), long(data.len())].concat();
        let common = [&[0; 12][..], &sizes, &short(name.len()), &[0; 2]].concat();
        bytes.extend(
            [
                b"PK\x03\x04",
                &short(20)[..],
                &common,
                name.as_bytes(),
                data,
            ]
            .concat(),
        );
        let place = [&[0; 10][..], &start, name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02", &[0; 2][..], &short(20), &common, &place].concat());
    }
    let (start, size) = (long(bytes.len()), long(directory.len()));
    let counts = [short(entries.len()); 2].concat();
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &counts, &size, &start, &[0; 2]].concat());
    bytes
}

/// Two bytes of length, a `config.json` of that length, and a safetensors file of the parts.
pub fn quantized(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return false;
    };
    let n = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, parts) = rest.split_at(n);
    audit_files(&[
        file("config.json", config),
        file("model.safetensors", parts),
    ])
}

/// Two lengths of two bytes, an `adapter_config.json` and an `adapter_model.safetensors` of these lengths, and a
/// safetensors file of the base that the adapter is then added to.
pub fn adapter(bytes: &[u8]) -> bool {
    let Some((lengths, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let length = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high]));
    let (config, rest) = rest.split_at(length(lengths[0], lengths[1]).min(rest.len()));
    let (factors, base) = rest.split_at(length(lengths[2], lengths[3]).min(rest.len()));
    let files = [
        file("adapter_config.json", config),
        file("adapter_model.safetensors", factors),
    ];
    if !audit_files(&files) {
        return false;
    }
    let opened = checkpoint::open(&files).map(|checkpoint| checkpoint.adapter);
    let (Ok(Some(adapter)), Ok(mut base)) =
        (opened, checkpoint::open(&[file("model.safetensors", base)]))
    else {
        return false;
    };
    if adapter.add_to(&mut base).is_err() {
        return false;
    }
    base.tensors.iter().take(N_TENSORS).for_each(look_at);
    true
}

/// `config.json` as the engine reads it, and as the parts of a model without weights are named by it.
pub fn config(bytes: &[u8]) -> bool {
    text_files(&[("config.json", bytes)]);
    serde_json::from_slice::<Value>(bytes).is_ok_and(|config| ModelSpec::read(&config).is_ok())
}

/// `tokenizer.json`.
pub fn tokenizer_json(bytes: &[u8]) -> bool {
    text_files(&[("tokenizer.json", bytes)])
}

/// `tokenizer.model`: SentencePiece's protobuf, or tiktoken's lines.
pub fn tokenizer_model(bytes: &[u8]) -> bool {
    text_files(&[("tokenizer.model", bytes)])
}

/// `vocab.json`, `merges.txt` and `tokenizer_config.json`, cut apart at zero bytes.
pub fn tokenizer_files(bytes: &[u8]) -> bool {
    let mut parts = bytes.split(|byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    text_files(&[
        ("vocab.json", next()),
        ("merges.txt", next()),
        ("tokenizer_config.json", next()),
        ("added_tokens.json", next()),
    ])
}

/// What servers and checkouts say of files: lists, manifests, pointers. Every parser gets the bytes, for none knows
/// what it was sent.
pub fn server_answers(bytes: &[u8]) -> bool {
    ANSWERS
        .iter()
        .fold(false, |accepted, (_, accepts)| accepts(bytes) | accepted)
}

/// `chat_template.jinja`.
pub fn chat_template(bytes: &[u8]) -> bool {
    text_files(&[("chat_template.jinja", bytes)])
}

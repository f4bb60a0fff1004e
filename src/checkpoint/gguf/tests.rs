//! Hostile and ordinary GGUF files, made byte by byte.

use super::*;
use crate::source::bytes::MemoryFile;
use std::sync::Arc;

/// A GGUF file in the making.
#[derive(Clone, Default)]
struct Made {
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

impl Made {
    fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        let mut entry = string(key.as_bytes());
        entry.extend(kind.to_le_bytes());
        entry.extend_from_slice(value);
        self.entries.push(entry);
        self
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string(value.as_bytes()))
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    fn array(self, key: &str, kind: u32, elements: &[Vec<u8>]) -> Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend((elements.len() as u64).to_le_bytes());
        value.extend(elements.concat());
        self.raw(key, 9, &value)
    }

    /// An entry of any content; no data.
    fn entry(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = string(name.as_bytes());
        entry.extend((dimensions.len() as u32).to_le_bytes());
        entry.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// A tensor with its data, after the padding.
    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(data);
        self.entry(name, dimensions, kind, offset)
    }

    fn f32(self, name: &str, dimensions: &[u64]) -> Self {
        let n: u64 = dimensions.iter().product();
        let data: Vec<u8> = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
        self.tensor(name, dimensions, 0, &data)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

fn file(path: &str, bytes: Vec<u8>) -> CheckpointFile {
    CheckpointFile {
        path: path.into(),
        source: Arc::new(MemoryFile::new(path, bytes)),
    }
}

fn open_bytes(bytes: Vec<u8>) -> Result<Checkpoint, CheckpointError> {
    super::super::open(&[file("m.gguf", bytes)])
}

/// The message of the error that a file is answered with.
fn error(made: &Made) -> String {
    let message = open_bytes(made.bytes()).unwrap_err().to_string();
    assert!(message.starts_with("m.gguf: "), "{message}");
    assert!(message.contains("expected"), "{message}");
    message
}

/// A small llama: one layer of q and k, a tokenizer, one quantized tensor.
fn llama() -> Made {
    let tokens: Vec<Vec<u8>> = ["<unk>", "<s>", "▁a", "b"]
        .iter()
        .map(|t| string(t.as_bytes()))
        .collect();
    let types: Vec<Vec<u8>> = [2i32, 3, 1, 4]
        .iter()
        .map(|t| t.to_le_bytes().to_vec())
        .collect();
    let mut q8 = vec![0, 0x3c];
    q8.extend((0..32).map(|i| i as u8));
    Made::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .text("tokenizer.ggml.model", "llama")
        .array("tokenizer.ggml.tokens", 8, &tokens)
        .array("tokenizer.ggml.token_type", 5, &types)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .f32("blk.0.attn_q.weight", &[1, 8])
        .f32("blk.0.attn_k.weight", &[1, 4])
        .tensor("blk.0.ffn_up.weight", &[32, 1], 8, &q8)
}

#[test]
fn tensors_config_and_tokenizer_are_read() {
    let checkpoint = open_bytes(llama().bytes()).unwrap();
    assert_eq!(checkpoint.format, "gguf");
    let values = |at: usize| {
        let tensor = &checkpoint.tensors[at];
        tensor.read_elements(0..tensor.n_elements()).unwrap()
    };
    assert_eq!(checkpoint.tensors[0].shape(), [8, 1]);
    // Two heads of four rows for q, one for k: evens first, then odds.
    assert_eq!(values(0), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(values(1), [0.0, 2.0, 1.0, 3.0]);
    assert_eq!(checkpoint.tensors[2].shape(), [1, 32]);
    assert_eq!(values(2)[31], 31.0);
    let config = checkpoint.config.unwrap();
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["num_key_value_heads"], 1);
    let tokenizer = checkpoint.tokenizer.unwrap();
    assert_eq!(tokenizer.kind, "sentencepiece");
    assert_eq!(tokenizer.tokens, ["<unk>", "<s>", "▁a", "b"]);
    assert_eq!(tokenizer.special["bos_token"], "<s>");
    let added: Vec<(u32, bool)> = tokenizer.added.iter().map(|t| (t.id, t.special)).collect();
    assert_eq!(added, [(0, true), (1, true), (3, false)]);
    assert_eq!(checkpoint.metadata["llama.block_count"], "1");
    assert!(checkpoint.notes.is_empty(), "{:?}", checkpoint.notes);
}

#[test]
fn only_architectures_that_are_interleaved_are_put_back() {
    let made = Made::default()
        .text("general.architecture", "qwen2")
        .u32("qwen2.attention.head_count", 2)
        .f32("blk.0.attn_q.weight", &[1, 8]);
    let checkpoint = open_bytes(made.bytes()).unwrap();
    let q = checkpoint.tensors[0].read_elements(0..8).unwrap();
    assert_eq!(q, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    // Heads that do not divide the rows are told, and the rows left as they are.
    let made = Made::default()
        .text("general.architecture", "llama")
        .u32("llama.attention.head_count", 3)
        .f32("blk.0.attn_q.weight", &[1, 8]);
    let checkpoint = open_bytes(made.bytes()).unwrap();
    assert_eq!(checkpoint.tensors[0].read_elements(1..2).unwrap(), [1.0]);
    assert!(
        checkpoint.notes[0].contains("head_count"),
        "{:?}",
        checkpoint.notes
    );
}

#[test]
fn other_versions_byte_orders_and_files_are_refused_by_name() {
    let with = |version: [u8; 4]| {
        let mut bytes = llama().bytes();
        bytes[4..8].copy_from_slice(&version);
        open_bytes(bytes).unwrap_err().to_string()
    };
    assert!(with([1, 0, 0, 0]).contains("version 1"));
    assert!(with([0, 0, 0, 3]).contains("big-endian"));
    assert!(with([9, 0, 0, 0]).contains("version 9"));
    assert!(
        open_bytes(b"tjgg\x03\0\0\0".to_vec())
            .unwrap_err()
            .to_string()
            .contains("before GGUF")
    );
    assert!(
        open_bytes(b"PK\x03\x04....".to_vec())
            .unwrap_err()
            .to_string()
            .contains("PK")
    );
    let mut second = llama().bytes();
    second[4] = 2;
    assert!(open_bytes(second).is_ok());
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_it() {
    let bytes = llama().bytes();
    for n in 0..bytes.len() {
        let message = open_bytes(bytes[..n].to_vec()).unwrap_err().to_string();
        assert!(message.starts_with("m.gguf: "), "{n}: {message}");
    }
    assert!(open_bytes(bytes).is_ok());
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused() {
    for at in [8, 16, 24] {
        for value in [1u64 << 40, u64::MAX, u64::MAX / 24] {
            let mut bytes = llama().bytes();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let message = open_bytes(bytes).unwrap_err().to_string();
            assert!(message.contains(&value.to_string()), "{message}");
        }
    }
    let mut huge = 4u32.to_le_bytes().to_vec();
    huge.extend(u64::MAX.to_le_bytes());
    assert!(error(&Made::default().raw("a.list", 9, &huge)).contains("a.list"));
}

#[test]
fn entries_that_contradict_themselves_or_the_file_are_refused_by_name() {
    let base = || Made::default().f32("whole", &[8]);
    for (made, told) in [
        (base().entry("whole", &[1], 0, 0), "twice"),
        (
            base().entry("t", &[1], 0, 0),
            "where t ends, found 4 bytes of both",
        ),
        (base().entry("t", &[1], 0, 4), "multiple of 32"),
        (base().entry("t", &[1], 0, 32), "bytes at 32"),
        (base().entry("t", &[1], 0, u64::MAX - 31), "bytes at"),
        (base().entry("t", &[1 << 33, 1 << 33], 0, 32), "2⁶⁴"),
        (base().entry("t", &[u64::MAX], 0, 32), "2⁶⁴"),
        (base().entry("t", &[33], 8, 32), "whole blocks of 32"),
        (base().entry("t", &[1], 99, 32), "type 99"),
        (base().entry("t", &[1], 31, 32), "gave up"),
    ] {
        let message = error(&made);
        assert!(message.contains(told), "{message}");
    }
    assert!(error(&base().entry("t", &[1; 5], 0, 32)).contains("dimensions of t"));
}

#[test]
fn metadata_that_is_none_is_refused_by_key() {
    for (made, told) in [
        (Made::default().u32("a", 1).u32("a", 2), "the key twice"),
        (Made::default().raw("a", 77, &[]), "type 77"),
        (Made::default().raw("a", 7, &[2]), "0 or 1 for a"),
        (
            Made::default().u32("general.alignment", 12),
            "general.alignment",
        ),
        (
            Made::default().u32("general.alignment", 0),
            "general.alignment",
        ),
        (
            Made::default().text("general.alignment", "x"),
            "general.alignment",
        ),
    ] {
        let message = error(&made);
        assert!(message.contains(told), "{message}");
    }
    // Arrays in arrays, deeper than any file has them.
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    assert!(error(&Made::default().raw("deep", 9, &nested)).contains("deep"));
    let mut bytes = Made::default().text("key", "v").bytes();
    let at = bytes.windows(3).position(|w| w == b"key").unwrap();
    bytes[at] = 0xff;
    assert!(open_bytes(bytes).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn strings_that_are_not_utf8_are_kept_and_told() {
    let made = Made::default()
        .text("tokenizer.ggml.model", "gpt2")
        .array(
            "tokenizer.ggml.tokens",
            8,
            &[string(b"a"), string(b"\xff\xfe")],
        )
        .u32("tokenizer.ggml.eos_token_id", 7);
    let checkpoint = open_bytes(made.bytes()).unwrap();
    assert_eq!(checkpoint.tokenizer.unwrap().tokens[1], "\u{fffd}\u{fffd}");
    let notes = checkpoint.notes.join("\n");
    assert!(notes.contains("tokenizer.ggml.tokens: 1 strings") && notes.contains("first at 1"));
    assert!(
        notes.contains("eos_token_id: expected the id of one of 2 tokens, found 7"),
        "{notes}"
    );
}

#[test]
fn wordpiece_tokens_get_their_own_spelling_back() {
    let tokens = ["[CLS]", "▁the", "ing"].map(|t| string(t.as_bytes()));
    let made = Made::default().text("tokenizer.ggml.model", "bert").array(
        "tokenizer.ggml.tokens",
        8,
        &tokens,
    );
    let tokenizer = open_bytes(made.bytes()).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.tokens, ["[CLS]", "the", "##ing"]);
}

#[test]
fn bytes_that_belong_to_no_tensor_are_told() {
    let mut made = Made::default().f32("t", &[8]);
    made.data.extend([7; 100]);
    let notes = open_bytes(made.bytes()).unwrap().notes.join("\n");
    assert!(
        notes.contains("100 bytes of data belong to no tensor"),
        "{notes}"
    );
}

fn part(number: u32, count: u32, total: u32) -> Made {
    let name = format!("blk.{number}.ffn_up.weight");
    Made::default()
        .raw("split.no", 2, &(number as u16).to_le_bytes())
        .raw("split.count", 2, &(count as u16).to_le_bytes())
        .raw("split.tensors.count", 5, &total.to_le_bytes())
        .f32(&name, &[4])
}

#[test]
fn a_split_model_is_read_whole_or_not_at_all() {
    let files = |parts: &[(&str, Made)]| -> Result<Checkpoint, CheckpointError> {
        let files: Vec<CheckpointFile> = parts
            .iter()
            .map(|(path, made)| file(path, made.bytes()))
            .collect();
        super::super::open(&files)
    };
    let (first, second) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let whole = files(&[(second, part(1, 2, 2)), (first, part(0, 2, 2))]).unwrap();
    let names: Vec<&str> = whole.tensors.iter().map(|t| t.name()).collect();
    assert_eq!(names, ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"]);
    for (parts, told) in [
        (vec![(first, part(0, 2, 2))], "m-00002-of-00002.gguf"),
        (
            vec![(first, part(0, 2, 3)), (second, part(1, 2, 3))],
            "split.tensors.count",
        ),
        (
            vec![(first, part(1, 2, 2)), (second, part(0, 2, 2))],
            "split.no",
        ),
        (
            vec![(first, part(0, 3, 2)), (second, part(1, 3, 2))],
            "split.count",
        ),
        (
            vec![("m-00001-of-99999999999.gguf", part(0, 2, 2))],
            "missing",
        ),
        (
            vec![("a.gguf", llama()), ("b.gguf", llama())],
            "name the file that is meant",
        ),
    ] {
        let message = files(&parts).unwrap_err().to_string();
        assert!(message.contains(told), "{message}");
    }
    for (addition, told) in [("mmproj-a.gguf", "mmproj"), ("adapter.gguf", "an adapter")] {
        let beside = files(&[("model.gguf", llama()), (addition, llama())]).unwrap();
        assert_eq!(beside.tensors.len(), 3);
        assert!(beside.notes[0].contains(told), "{:?}", beside.notes);
    }
}

/// A small generator, so that the mutations are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn mutated_files_are_read_or_refused_and_nothing_else() {
    let original = llama().bytes();
    let mut random = Random(0x5eed);
    let (mut n_read, mut n_refused) = (0, 0);
    for _ in 0..6_000 {
        let mut bytes = original.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => {
                    bytes.remove(at);
                }
                _ => {
                    let end = bytes.len().min(at + 8);
                    bytes[at..end].fill([0, 0xff, 0x7f][random.below(3)]);
                }
            }
        }
        match open_bytes(bytes) {
            Ok(checkpoint) => {
                n_read += 1;
                for tensor in &checkpoint.tensors {
                    tensor.read_elements(0..tensor.n_elements()).unwrap();
                }
            }
            Err(_) => n_refused += 1,
        }
    }
    // Both must occur, or the mutations would test nothing.
    assert!(
        n_read > 100 && n_refused > 100,
        "{n_read} read, {n_refused} refused"
    );
}

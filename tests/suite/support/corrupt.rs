//! Hostile files: what a broken download or a malicious upload may put where a checkpoint is expected.

use super::safetensors_file::{encode, with_header};
use ndarray::{ArrayD, IxDyn};
use safetensors::Dtype;
use serde_json::{Value, json};

/// One hostile file.
pub struct Hostile {
    pub label: &'static str,
    pub bytes: Vec<u8>,
    /// Whether the format itself forbids it; the others are well formed and only their content is bad.
    pub malformed: bool,
}

const SHARD: &str = "model-00001-of-00001.safetensors";

/// Weight files, each to stand in for `model.safetensors`.
pub fn weight_files() -> Vec<Hostile> {
    let good = sound();
    let header_end = 8 + u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let longer_than_file = [(good.len() as u64 * 2).to_le_bytes().as_slice(), &good[8..]].concat();
    let huge = [u64::MAX.to_le_bytes().as_slice(), &good[8..]].concat();
    let mut not_utf8 = good.clone();
    not_utf8[header_end - 16..header_end].fill(0xff);
    let mut name_not_utf8 = good.clone();
    let name = good.windows(3).position(|w| w == b"\"a\"").expect("a name");
    name_not_utf8[name + 1] = 0xff;
    let mut files = vec![
        malformed("empty file", Vec::new()),
        malformed("eight bytes only", good[..8].to_vec()),
        malformed("truncated header", good[..header_end / 2].to_vec()),
        malformed("truncated data", good[..good.len() - 3].to_vec()),
        malformed("header longer than the file", longer_than_file),
        malformed("header length 2^64 - 1", huge),
        malformed(
            "header not JSON",
            with_header("these are not the weights", &[0; 16]),
        ),
        malformed("header not UTF-8", not_utf8),
        malformed("a name that is not UTF-8", name_not_utf8),
        malformed(
            "bytes after the last tensor",
            [good.as_slice(), &[0; 9]].concat(),
        ),
        malformed(
            "deep nesting",
            with_header(&format!("{{\"a\":{}", "[".repeat(100_000)), &[]),
        ),
        malformed("header a list", with_header("[1, 2, 3]", &[])),
    ];
    files.extend(header_faults());
    let filled = |value: f32| encode(&[tensor("a", value), tensor("b", value)], Dtype::F32);
    for (label, value) in [
        ("NaN-filled weights", f32::NAN),
        ("Inf-filled weights", f32::INFINITY),
    ] {
        files.push(Hostile {
            label,
            bytes: filled(value),
            malformed: false,
        });
    }
    files
}

/// Files with 32 bytes of data and a header that lies about them.
fn header_faults() -> Vec<Hostile> {
    let one = |dtype: &str, shape: Value, start: u64, end: u64| {
        json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}).to_string()
    };
    let two = |first: [u64; 2], second: [u64; 2]| {
        let entry = |offsets: [u64; 2]| {
            let values = offsets[1].saturating_sub(offsets[0]) / 4;
            json!({"dtype": "F32", "shape": [values], "data_offsets": offsets})
        };
        json!({"a": entry(first), "b": entry(second)}).to_string()
    };
    let duplicate = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"#.to_owned()
        + r#""a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}"#;
    let largest = u64::MAX;
    [
        ("overlapping tensors", two([0, 24], [16, 32])),
        ("hole between tensors", two([0, 12], [16, 32])),
        ("end before begin", two([0, 32], [32, 16])),
        ("data beyond the file", two([0, 16], [16, 4096])),
        ("offset 2^64 - 1", two([0, 16], [16, largest])),
        (
            "shape and type do not fill the range",
            one("F32", json!([7]), 0, 32),
        ),
        (
            "shape product over 2^64",
            one("F32", json!([1_u64 << 33, 1_u64 << 33]), 0, 32),
        ),
        // Eight times 2^61 + 1 is eight again in 64 bits, which the 32 bytes hold.
        (
            "shape product that wraps to the size",
            one("F32", json!([8, (1_u64 << 61) + 1]), 0, 32),
        ),
        ("negative shape", one("F32", json!([-8]), 0, 32)),
        ("fractional shape", one("F32", json!([8.5]), 0, 32)),
        ("unknown type", one("F31", json!([8]), 0, 32)),
        ("duplicate names", duplicate),
    ]
    .into_iter()
    .map(|(label, header)| malformed(label, with_header(&header, &[0; 32])))
    .collect()
}

/// Index files, each to stand in for `model.safetensors.index.json` beside a sound shard (`sound_shard`).
pub fn index_files() -> Vec<Hostile> {
    let pointing =
        |file: &str| json!({"metadata": {"total_size": 32}, "weight_map": {"a": file, "b": file}});
    let absent = json!({"metadata": {}, "weight_map": {"a": SHARD, "b": SHARD, "absent": SHARD}});
    [
        (
            "index names a file above the folder",
            pointing("../../etc/passwd").to_string(),
        ),
        (
            "index names an absolute path",
            pointing("/etc/passwd").to_string(),
        ),
        (
            "index names a missing shard",
            pointing("model-00002-of-00002.safetensors").to_string(),
        ),
        (
            "index places a tensor in a shard without it",
            absent.to_string(),
        ),
        ("index not JSON", "weight_map: everything".to_owned()),
        (
            "index without a weight_map",
            json!({"metadata": {}}).to_string(),
        ),
        (
            "weight_map not a map",
            json!({"weight_map": [SHARD]}).to_string(),
        ),
        (
            "weight_map to numbers",
            json!({"weight_map": {"a": 1}}).to_string(),
        ),
    ]
    .into_iter()
    .map(|(label, text)| malformed(label, text.into_bytes()))
    .collect()
}

/// Name and bytes of the shard that the index files may name.
pub fn sound_shard() -> (&'static str, Vec<u8>) {
    (SHARD, sound())
}

fn sound() -> Vec<u8> {
    encode(&[tensor("a", 0.5), tensor("b", -0.25)], Dtype::F32)
}

fn tensor(name: &str, value: f32) -> (String, ArrayD<f64>) {
    (
        name.to_owned(),
        ArrayD::from_elem(IxDyn(&[2, 2]), f64::from(value)),
    )
}

fn malformed(label: &'static str, bytes: Vec<u8>) -> Hostile {
    Hostile {
        label,
        bytes,
        malformed: true,
    }
}

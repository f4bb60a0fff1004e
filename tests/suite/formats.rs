//! One model in every format that people publish: each is told from the original for what it is.
//!
//! Packed files come from independent writers (`tests/scripts/make_formats.py`, `make_gguf_zoo.py`,
//! `make_quantized.py`). The wide model is of numbers that the script computes as well, so that formats
//! which hold every value whole are put together here, behind the head that the writer made. What was learned
//! is kept through coarse codes is asked of a trained model (`tests/scripts/make_trained_formats.py`).

use crate::audits::{compare, record, summary};
use crate::support::safetensors_file::{Named, encode};
use crate::support::{quantized, zoo};
use half::{bf16, f16};
use modelkin::evidence::record::Detail;
use modelkin::report::Report;
use modelkin::verdict::{Relation, Strength};
use ndarray::{ArrayD, IxDyn};
use safetensors::Dtype;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const HIDDEN: usize = 256;
const N_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const MLP: usize = 32;
const VOCABULARY: usize = 32;

fn data(folder: &str, name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    root.join(folder).join(name)
}

/// SplitMix64: value `index` of stream `seed`.
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The wide model, or the same moved a little everywhere. All values are exact in bf16 and f16.
fn wide(tuned: bool) -> Named {
    let inner = N_HEADS * HEAD_DIM;
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![inner, HIDDEN]),
            ("self_attn.k_proj", vec![inner, HIDDEN]),
            ("self_attn.v_proj", vec![inner, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, inner]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![MLP, HIDDEN]),
            ("mlp.up_proj", vec![MLP, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, MLP]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    shapes.push(("model.norm".to_owned(), vec![HIDDEN]));
    shapes.push(("lm_head".to_owned(), vec![VOCABULARY, HIDDEN]));
    // Near Gaussian, as weights are.
    let value = |seed: u64, i: u64| {
        let sum: i64 = mix(seed, i).to_le_bytes().into_iter().map(i64::from).sum();
        let moved = (mix(seed + 1000, i) % 17) as i64 - 8;
        let whole = (sum - 1020).div_euclid(8) + if tuned { moved } else { 0 };
        whole as f64 / 2048.0
    };
    (0u64..)
        .zip(shapes)
        .map(|(seed, (name, shape))| {
            let n = shape.iter().product::<usize>() as u64;
            let values = (0..n).map(|i| value(seed, i)).collect();
            let values = ArrayD::from_shape_vec(IxDyn(&shape), values).expect("the shape's size");
            (format!("{name}.weight"), values)
        })
        .collect()
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_hidden_layers": 2, "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCABULARY,
        "tie_word_embeddings": false, "rms_norm_eps": 1e-5,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    folder
}

fn single(model: &Named) -> TempDir {
    let folder = folder();
    let bytes = encode(model, Dtype::BF16);
    fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    folder
}

fn sharded(model: &Named) -> TempDir {
    let folder = folder();
    let mut map = serde_json::Map::new();
    for (i, part) in model.chunks(model.len().div_ceil(3)).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", i + 1);
        let bytes = encode(part, Dtype::BF16);
        fs::write(folder.path().join(&file), bytes).expect("written");
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    let path = folder.path().join("model.safetensors.index.json");
    fs::write(path, index).expect("written");
    folder
}

/// The archive of `torch.save`, with torch's own pickle and the values as its storages.
fn bin(model: &Named) -> TempDir {
    let mut entries = vec![(
        "wide/data.pkl".to_owned(),
        fs::read(data("formats", "wide.pkl")).expect("committed"),
    )];
    for (key, (_, values)) in model.iter().enumerate() {
        let bytes = values
            .iter()
            .flat_map(|v| bf16::from_f64(*v).to_le_bytes())
            .collect();
        entries.push((format!("wide/data/{key}"), bytes));
    }
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let short = |n: usize| (n as u16).to_le_bytes();
    let long = |n: usize| (n as u32).to_le_bytes();
    for (name, data) in &entries {
        let start = long(bytes.len());
        let sizes = [long(data.len()); 2].concat();
        let common = [&[0; 12][..], &sizes, &short(name.len()), &[0; 2]].concat();
        bytes.extend([&b"PK\x03\x04\x14\0"[..], &common, name.as_bytes(), data].concat());
        let place = [&[0; 10][..], &start, name.as_bytes()].concat();
        directory.extend([&b"PK\x01\x02\0\0\x14\0"[..], &common, &place].concat());
    }
    let (start, size) = (long(bytes.len()), long(directory.len()));
    let counts = [short(entries.len()); 2].concat();
    bytes.extend(directory);
    bytes.extend([&b"PK\x05\x06\0\0\0\0"[..], &counts, &size, &start, &[0; 2]].concat());
    let folder = folder();
    fs::write(folder.path().join("pytorch_model.bin"), bytes).expect("written");
    folder
}

/// The GGUF of F16 matrices and F32 vectors, behind the head that the `gguf` package wrote.
fn gguf_f16(model: &Named) -> TempDir {
    let mut bytes = fs::read(data("formats", "f16.gguf.head")).expect("committed");
    for (name, values) in model {
        if values.ndim() == 1 {
            bytes.extend(values.iter().flat_map(|v| (*v as f32).to_le_bytes()));
            continue;
        }
        let turned = name.contains("q_proj") || name.contains("k_proj");
        for row in 0..values.shape()[0] {
            // llama.cpp rotates neighbours, so that its converter interleaves the halves of a head.
            let (head, within) = (row / HEAD_DIM, row % HEAD_DIM);
            let original = head * HEAD_DIM + within / 2 + within % 2 * (HEAD_DIM / 2);
            let row = if turned { original } else { row };
            let row = values.index_axis(ndarray::Axis(0), row);
            bytes.extend(row.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()));
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("wide-f16.gguf"), bytes).expect("written");
    folder
}

/// Whether the report names a scheme of the candidate.
fn names_scheme(report: &Report, scheme: &str) -> bool {
    let details = &record(report, "tensor-identity").details;
    details.iter().any(|detail| match detail {
        Detail::Observations(seen) => seen
            .iter()
            .any(|o| o.message.contains(&format!("stored as {scheme}"))),
        _ => false,
    })
}

fn relation(reference: &Path, candidate: &Path) -> (Relation, Report) {
    let report = compare(reference, candidate);
    (report.finding.overall.relation, report)
}

#[test]
fn whole_values_in_another_format_are_the_same_model() {
    let model = wide(false);
    let original = single(&model);
    for (format, other, expected) in [
        ("sharded", sharded(&model), Relation::Repackaged),
        (".bin", bin(&model), Relation::Repackaged),
        // Other names and another dtype.
        ("GGUF F16", gguf_f16(&model), Relation::Repackaged),
    ] {
        for (a, b) in [(&original, &other), (&other, &original)] {
            let (found, report) = relation(a.path(), b.path());
            assert_eq!(found, expected, "{format}: {}", summary(&report));
        }
        let tuned = single(&wide(true));
        let (found, report) = relation(tuned.path(), other.path());
        assert!(
            ![
                Relation::Identical,
                Relation::Repackaged,
                Relation::Quantized
            ]
            .contains(&found),
            "{format}: {}",
            summary(&report)
        );
    }
}

#[test]
fn a_quantized_copy_is_called_so_with_its_scheme_in_every_format() {
    let wide_model = single(&wide(false));
    let wide_path = |name: &str| data("formats", name);
    let assembled = ["gptq-4", "awq-4", "nf4-nested", "fp8-blocks"].map(quantized::assemble);
    let [gptq, awq, nf4, fp8] = assembled.each_ref().map(|folder| folder.path().to_owned());
    let (llama, gpt2) = (zoo("llama-a"), zoo("gpt2-a"));
    let wide_model = wide_model.path().to_owned();
    for (original, copy, schemes) in [
        (&llama, data("gguf", "llama-a-q8_0.gguf"), &["Q8_0"][..]),
        (&llama, data("gguf", "llama-a-q4_0.gguf"), &["Q4_0"]),
        // The converter turns its linear weights; q, k and v are one tensor in both.
        (&gpt2, data("gguf", "gpt2-a-q4_0.gguf"), &["Q4_0"]),
        (&llama, gptq, &["GPTQ 4-bit"]),
        (&llama, awq, &["AWQ 4-bit"]),
        (&llama, nf4, &["bitsandbytes nf4"]),
        (&llama, fp8, &["FP8 E4M3"]),
        (&wide_model, wide_path("q4_k_m.gguf"), &["Q4_K", "Q6_K"]),
        (&wide_model, wide_path("q2_k.gguf"), &["Q2_K"]),
        (&wide_model, wide_path("iq4_xs.gguf"), &["IQ4_XS"]),
    ] {
        let (found, report) = relation(original, &copy);
        let label = format!("{}: {}", copy.display(), summary(&report));
        assert_eq!(found, Relation::Quantized, "{label}");
        for scheme in schemes {
            assert!(names_scheme(&report, scheme), "{scheme}: {label}");
        }
        let (found, report) = relation(&copy, original);
        let label = format!("{}, reversed: {}", copy.display(), summary(&report));
        // Half of the codes of two bits lie at the ends of their range, where bounds are wide: values that fill
        // them cannot be asked for, and backwards no copy is told from a lightly tuned model.
        if schemes == ["Q2_K"] {
            assert_ne!(found, Relation::Independent, "{label}");
        } else {
            assert_eq!(found, Relation::Quantized, "{label}");
        }
    }
}

#[test]
fn a_scheme_without_bounds_is_named_and_its_copy_is_not_called_independent() {
    let original = single(&wide(false));
    let (found, report) = relation(original.path(), &data("formats", "iq2_xxs.gguf"));
    assert!(names_scheme(&report, "IQ2_XXS"), "{}", summary(&report));
    assert_ne!(found, Relation::Independent, "{}", summary(&report));
    println!("IQ2_XXS: {}", summary(&report));
}

#[test]
fn a_tuned_model_in_another_format_is_a_quantized_copy_of_itself_alone() {
    let (original, tuned) = (single(&wide(false)), single(&wide(true)));
    for name in ["q4_k_m", "q2_k", "iq4_xs"] {
        let file = data("formats", &format!("{name}-tuned.gguf"));
        let (found, report) = relation(tuned.path(), &file);
        assert_eq!(found, Relation::Quantized, "{name}: {}", summary(&report));
        let (found, report) = relation(original.path(), &file);
        println!("{name}, tuned: {}", summary(&report));
        assert_ne!(found, Relation::Quantized, "{name}: {}", summary(&report));
        assert_ne!(found, Relation::Independent, "{name}: {}", summary(&report));
    }
}

#[test]
fn a_trained_model_that_was_tuned_and_then_packed_is_derived_in_every_scheme() {
    let reference = data("formats", "trained");
    for name in ["q4_k_m", "iq4_xs", "q2_k", "iq2_xxs"] {
        let file = reference.join(format!("{name}-tuned.gguf"));
        for (a, b) in [(&reference, &file), (&file, &reference)] {
            let (found, report) = relation(a, b);
            assert_eq!(found, Relation::FineTuned, "{name}: {}", summary(&report));
            let strength = report.finding.overall.strength;
            assert_eq!(strength, Strength::ExtremelyStrong, "{name}");
        }
    }
}

#[test]
fn codes_too_coarse_to_tell_a_copy_from_a_tuned_one_are_said_to_be_so() {
    let reference = data("formats", "trained");
    let packed = |name: &str| reference.join(format!("{name}.gguf"));
    let (_, report) = relation(&reference, &packed("q2_k"));
    assert_eq!(report.finding.overall.relation, Relation::Quantized);
    for (a, b, in_candidate) in [
        (&reference, &packed("iq2_xxs"), 1.0),
        (&packed("iq2_xxs"), &reference, 0.0),
        (&packed("q2_k"), &reference, 0.0),
    ] {
        let (found, report) = relation(a, b);
        assert_eq!(found, Relation::Derived, "{}", summary(&report));
        let steps = &report.finding.overall.operations;
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].parameters["rounded_in_candidate"], in_candidate);
    }
}

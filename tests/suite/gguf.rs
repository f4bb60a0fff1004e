//! GGUF files from end to end: vocabularies as published, and zoo models as llama.cpp's converter writes them.

use crate::audits::{compare, model_ref, record, summary};
use crate::support::{shared, zoo};
use modelkin::arch::{Role, RoleKind};
use modelkin::audit::{self, Unwatched};
use modelkin::evidence::record::{Status, TestRecord};
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use std::path::{Path, PathBuf};

fn made(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/gguf")
        .join(name)
}

/// Folder of the published vocabularies, if it is there.
fn vocabularies() -> Option<PathBuf> {
    let folder = shared()?.join("data/vocabularies");
    if !folder.is_dir() {
        eprintln!("skipped: no vocabularies at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// What the audit says of two tokenizers.
fn tokenizers(folder: &Path, a: &str, b: &str) -> TestRecord {
    let path = |name: &str| folder.join(format!("ggml-vocab-{name}.gguf"));
    let report = compare(&path(a), &path(b));
    let found = record(&report, "tokenizer-comparison").clone();
    assert_eq!(
        found.status,
        Status::Measured,
        "{a}, {b}: {:?}",
        found.reason
    );
    // Tokenizers alone never make one model the other's child.
    assert_eq!(report.finding.overall.relation.related(), None, "{a}, {b}");
    found
}

#[test]
fn published_vocabularies_are_compared_as_they_are() {
    let Some(folder) = vocabularies() else { return };
    let kept = "fraction-of-reference-tokens-kept";
    let ids = "fraction-ids-kept";

    let equal = tokenizers(&folder, "mpt", "gpt-neox");
    assert_eq!(
        (equal.effect(kept), equal.effect(ids)),
        (Some(1.0), Some(1.0))
    );

    let contained = tokenizers(&folder, "llama-spm", "phi-3");
    assert_eq!(
        contained.effect("vocabulary-size-reference"),
        Some(32_000.0)
    );
    assert_eq!(
        (contained.effect(kept), contained.effect(ids)),
        (Some(1.0), Some(1.0))
    );
    assert!(!contained.has_observation("vocabulary-equal"));

    let permuted = tokenizers(&folder, "refact", "starcoder");
    assert!(permuted.effect(kept) > Some(0.99), "{:?}", permuted.effects);
    assert!(permuted.effect(ids) < Some(0.5), "{:?}", permuted.effects);

    let different = tokenizers(&folder, "gpt-2", "llama-spm");
    assert!(
        different.effect(kept) < Some(0.9),
        "{:?}",
        different.effects
    );
}

#[test]
fn vocabularies_that_were_decoded_as_text_are_refused_by_key() {
    let Some(folder) = vocabularies() else { return };
    for (name, key) in [
        ("bert-bge", "bert.embedding_length"),
        ("gpt-2", "gpt2.attention"),
    ] {
        let path = folder.join(format!("ggml-vocab-{name}.utf8-mangled.gguf"));
        let error = audit::open(&model_ref(&path), &FetchOptions::default(), &Unwatched)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(key) && error.contains("decoded as text"),
            "{error}"
        );
    }
}

#[test]
fn a_quantized_copy_is_called_quantized() {
    let original = zoo("llama-a");
    for name in ["llama-a-q8_0.gguf", "llama-a-q4_0.gguf"] {
        for (a, b, in_candidate) in [
            (original.clone(), made(name), 1.0),
            (made(name), original.clone(), 0.0),
        ] {
            let report = compare(&a, &b);
            let found = summary(&report);
            assert_eq!(
                report.finding.overall.relation,
                Relation::Quantized,
                "{name}: {found}"
            );
            let step = &report.finding.overall.operations[0];
            assert_eq!(
                step.parameters["rounded_in_candidate"], in_candidate,
                "{name}"
            );
            let identity = record(&report, "tensor-identity");
            assert_eq!(
                identity.has_observation("block-quantized"),
                in_candidate == 1.0
            );
            let tokenizer = record(&report, "tokenizer-comparison");
            assert_eq!(tokenizer.effect("fraction-ids-kept"), Some(1.0));
            assert_eq!(tokenizer.effect("fraction-merges-kept-in-order"), Some(1.0));
        }
    }
    let report = compare(&made("llama-a-q8_0.gguf"), &made("llama-a-q4_0.gguf"));
    assert_eq!(
        report.finding.overall.relation,
        Relation::Quantized,
        "{}",
        summary(&report)
    );
}

#[test]
fn a_fine_tuned_model_that_was_quantized_is_not_called_a_quantized_copy() {
    let tuned = made("llama-a-tuned-q4_0.gguf");
    for reference in [
        zoo("llama-a"),
        made("llama-a-q8_0.gguf"),
        made("llama-a-q4_0.gguf"),
    ] {
        for (a, b) in [(&reference, &tuned), (&tuned, &reference)] {
            let report = compare(a, b);
            let overall = &report.finding.overall;
            assert_eq!(
                overall.relation.related(),
                Some(true),
                "{}",
                summary(&report)
            );
            assert_ne!(
                overall.relation,
                Relation::Quantized,
                "{}",
                summary(&report)
            );
        }
    }
    // Of its own original it is one.
    let report = compare(&zoo("llama-a-tuned"), &tuned);
    assert_eq!(
        report.finding.overall.relation,
        Relation::Quantized,
        "{}",
        summary(&report)
    );
}

#[test]
fn an_independent_model_stays_independent_when_it_is_quantized() {
    let report = compare(&zoo("llama-a-other-seed"), &made("llama-a-q4_0.gguf"));
    assert_eq!(
        report.finding.overall.relation.related(),
        Some(false),
        "{}",
        summary(&report)
    );
}

/// The mean relative distance of a role in the two models.
fn distance(a: &Path, b: &Path, role: Role) -> f64 {
    let open = |path: &Path| {
        audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched)
            .unwrap()
            .0
    };
    let values = |path: &Path| {
        let model = open(path);
        let matrix = model.components[0].role(role);
        matrix
            .unwrap_or_else(|| panic!("{role} of {}", path.display()))
            .all()
            .unwrap()
    };
    let (x, y) = (values(a), values(b));
    assert_eq!(x.dim(), y.dim(), "{role}");
    let sum = |values: ndarray::Array2<f32>| f64::from(values.mapv(f32::abs).sum());
    sum(&x - &y) / sum(x)
}

#[test]
fn roles_hold_the_rows_of_the_original_whatever_the_converter_did() {
    use RoleKind as K;
    let in_layers = |kinds: &[K]| -> Vec<Role> {
        let layers = 0..4;
        layers
            .flat_map(|l| kinds.iter().map(move |k| Role::in_layer(*k, l)))
            .collect()
    };
    let both = [
        K::Query,
        K::Key,
        K::Value,
        K::AttentionOutput,
        K::Up,
        K::Down,
    ];
    let norms = [K::AttentionNorm, K::MlpNorm];
    let outside = [K::TokenEmbedding, K::FinalNorm].map(Role::outside);
    let mut llama = in_layers(&both);
    llama.extend(in_layers(&[K::Gate]));
    llama.extend(in_layers(&norms));
    llama.extend(outside);
    llama.push(Role::outside(K::OutputHead));
    for role in llama {
        let found = distance(&zoo("llama-a"), &made("llama-a-q8_0.gguf"), role);
        assert!(found < 0.02, "{role}: {found}");
    }
    // GPT-2: the converter turned the linear weights; q, k, v are fused in both.
    let mut gpt2 = in_layers(&both);
    gpt2.extend(in_layers(&norms));
    gpt2.extend(in_layers(&both[..4]).into_iter().map(Role::bias));
    gpt2.extend(outside);
    gpt2.push(Role::outside(K::PositionEmbedding));
    for role in gpt2 {
        let found = distance(&zoo("gpt2-a"), &made("gpt2-a-q4_0.gguf"), role);
        assert!(found < 0.15, "{role}: {found}");
    }
}

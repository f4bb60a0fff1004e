//! Quantized safetensors from end to end: published layouts, packed by scripts that know nothing of the reader.

use crate::audits::{compare, model_ref, record, summary};
use crate::support::quantized::{assemble, reference, stated, variant, variants, with_parts};
use crate::support::zoo;
use modelkin::audit::{self, Unwatched};
use modelkin::evidence::record::Detail;
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::Path;

fn open(path: &Path) -> modelkin::arch::Model {
    audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .0
}

/// What the dtypes of a variant's weights are called.
fn scheme(variant: &str) -> &'static str {
    match variant.trim_end_matches("-tuned") {
        "gptq-2" => "GPTQ 2-bit",
        "gptq-3" => "GPTQ 3-bit",
        "gptq-4" | "gptq-4-compensated" => "GPTQ 4-bit",
        "gptq-8" => "GPTQ 8-bit",
        "awq-4" => "AWQ 4-bit",
        "fp8-blocks" | "fp8-tensor" => "FP8 E4M3",
        "nf4-nested" => "bitsandbytes nf4",
        "fp4-plain" => "bitsandbytes fp4",
        "int8" => "bitsandbytes int8",
        "hqq-3" => "HQQ 3-bit",
        "hqq-4" => "HQQ 4-bit",
        "ct-pack-3" => "compressed-tensors packed 3-bit",
        "ct-pack-4" => "compressed-tensors packed 4-bit",
        "ct-int8" => "compressed-tensors int8",
        "ct-float8" => "FP8 E4M3",
        "ct-nvfp4" => "NVFP4",
        "ct-mxfp4" => "MXFP4",
        other => panic!("no scheme of {other}"),
    }
}

#[test]
fn values_are_those_of_the_independent_unpackers() {
    for name in variants() {
        let folder = assemble(&name);
        let model = open(folder.path());
        let original = open(&zoo(&stated(&name).0));
        let names = |model: &modelkin::arch::Model| {
            let mut names: Vec<(String, Vec<usize>)> = model
                .tensors
                .iter()
                .map(|t| (t.name().to_owned(), t.shape().to_vec()))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&model), names(&original), "{name}");
        let n = model.dtypes().get(scheme(&name)).copied();
        assert_eq!(n, Some(14), "{name}: {:?}", model.dtypes());
        for (weight, (shape, expected)) in reference(&name) {
            let tensor = model.tensors.iter().find(|t| t.name() == weight).unwrap();
            assert_eq!(tensor.shape()[1], shape[1], "{name}: {weight}");
            let found = tensor.read_elements(0..expected.len()).unwrap();
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let close = (found - expected).abs() <= 1e-6 * expected.abs();
                assert!(close, "{name}: {weight} {i}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_quantized_copy_is_called_quantized_by_its_scheme() {
    for name in variants() {
        let (model, _) = stated(&name);
        let folder = assemble(&name);
        let report = compare(&zoo(&model), folder.path());
        let overall = &report.finding.overall;
        let found = summary(&report);
        // GPTQ moves rounding errors on to the weights that follow: no bound holds, and a copy cannot be told
        // from a tuned model.
        if name.contains("compensated") {
            assert_eq!(overall.relation.related(), Some(true), "{name}: {found}");
        } else {
            assert_eq!(overall.relation, Relation::Quantized, "{name}: {found}");
        }
        let identity = record(&report, "tensor-identity");
        let says = identity.details.iter().any(|detail| match detail {
            Detail::Observations(seen) => seen.iter().any(|o| o.message.contains(scheme(&name))),
            _ => false,
        });
        assert!(says, "{name}: {:?}", identity.details);
    }
}

#[test]
fn a_fine_tuned_model_that_was_quantized_is_derived_and_no_quantized_copy() {
    for name in variants().iter().filter(|name| name.ends_with("-tuned")) {
        let folder = assemble(name);
        let report = compare(&zoo("llama-a"), folder.path());
        let relation = report.finding.overall.relation;
        let found = summary(&report);
        assert_eq!(relation.related(), Some(true), "{name}: {found}");
        assert_ne!(relation, Relation::Quantized, "{name}: {found}");
    }
}

/// The error for a variant whose parts and config were changed: `edit` gives a part's name its new one, and its new
/// shape, or drops it.
fn error_of(
    name: &str,
    config: impl Fn(&mut Value),
    edit: impl Fn(&str, &[usize]) -> Option<Vec<usize>>,
) -> String {
    let (model, mut quantization) = stated(name);
    config(&mut quantization);
    let bytes = std::fs::read(variant(name).join("parts.safetensors")).unwrap();
    let parts = SafeTensors::deserialize(&bytes).unwrap();
    let kept = parts.tensors().into_iter().filter_map(|(name, view)| {
        let shape = edit(&name, view.shape())?;
        let n: usize = shape.iter().product();
        let size = view.data().len() / view.shape().iter().product::<usize>().max(1);
        let data = view.data().get(..n * size)?.to_vec();
        Some((name, view.dtype(), shape, data))
    });
    let kept: Vec<_> = kept.collect();
    let views = kept.iter().map(|(name, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let folder = with_parts(&model, &bytes, &quantization);
    let opened = audit::open(
        &model_ref(folder.path()),
        &FetchOptions::default(),
        &Unwatched,
    );
    match opened {
        Ok(_) => panic!("{name}: opened"),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    }
}

#[test]
fn parts_that_are_missing_or_contradict_each_other_are_errors_that_name_them() {
    let same = |_: &str, shape: &[usize]| Some(shape.to_vec());
    let unchanged = |_: &mut Value| {};
    let without = |end: &'static str| {
        move |name: &str, shape: &[usize]| (!name.ends_with(end)).then(|| shape.to_vec())
    };
    let halved = |end: &'static str| {
        move |name: &str, shape: &[usize]| {
            let mut shape = shape.to_vec();
            if name.ends_with(end) {
                shape[0] /= 2;
            }
            Some(shape)
        }
    };
    let set =
        |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    let cases = [
        (error_of("gptq-4", unchanged, without(".qzeros")), "qzeros"),
        (error_of("gptq-4", unchanged, without(".scales")), "scales"),
        (error_of("gptq-4", unchanged, halved(".scales")), "n_groups"),
        (error_of("gptq-4", set("bits", json!(5)), same), "bits"),
        (error_of("gptq-4", set("bits", json!(8)), same), "8 bits"),
        (
            error_of("gptq-4", set("group_size", json!(-7)), same),
            "group_size",
        ),
        (
            error_of("gptq-4", set("desc_act", json!(true)), same),
            "g_idx",
        ),
        (
            error_of("gptq-4", set("checkpoint_format", json!("marlin")), same),
            "checkpoint_format",
        ),
        (error_of("awq-4", unchanged, halved(".qzeros")), "zeros"),
        (
            error_of("awq-4", set("version", json!("gemv")), same),
            "version",
        ),
        (
            error_of("fp8-blocks", unchanged, without("_scale_inv")),
            "weight_scale",
        ),
        (
            error_of("fp8-blocks", set("weight_block_size", json!([0, 48])), same),
            "weight_block_size",
        ),
        (
            error_of(
                "fp8-blocks",
                set("weight_block_size", json!([16, 48])),
                same,
            ),
            "16 × 48",
        ),
        (
            error_of("ct-pack-4", unchanged, without(".weight_shape")),
            "weight_shape",
        ),
        (
            error_of("ct-pack-4", unchanged, halved(".weight_zero_point")),
            "zero points",
        ),
        (
            error_of("ct-pack-4", set("config_groups", json!([])), same),
            "config_groups",
        ),
        (
            error_of(
                "ct-pack-4",
                set("config_groups", json!({"a": {"weights": {"num_bits": 8}}})),
                same,
            ),
            "as the config states ([8])",
        ),
        (
            error_of(
                "ct-pack-4",
                set("sparsity_config", json!({"format": "dense"})),
                same,
            ),
            "sparsity_config",
        ),
        (
            error_of("ct-int8", unchanged, without(".weight_scale")),
            "weight_scale",
        ),
        (
            error_of("ct-float8", unchanged, halved(".weight_scale")),
            "one for each of",
        ),
        (
            error_of("ct-nvfp4", unchanged, without(".weight_global_scale")),
            "U8",
        ),
        (
            error_of("ct-mxfp4", unchanged, halved(".weight_scale")),
            "scales of 32 inputs",
        ),
        (
            error_of("nf4-nested", unchanged, without(".quant_map")),
            "quant_map",
        ),
        (
            error_of("nf4-nested", unchanged, halved(".absmax")),
            "elements of U8",
        ),
        (error_of("nf4-nested", unchanged, halved("__nf4")), "JSON"),
        (
            error_of("int8", unchanged, halved(".SCB")),
            "elements of F32",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}: names no {expected}");
    }
}

#[test]
fn a_scheme_that_is_not_known_leaves_the_parts_as_they_are_and_says_so() {
    let parts = std::fs::read(variant("gptq-4").join("parts.safetensors")).unwrap();
    let folder = with_parts("llama-a", &parts, &json!({"quant_method": "of-tomorrow"}));
    let model = open(folder.path());
    assert!(model.tensors.iter().any(|t| t.name().ends_with(".qweight")));
    let said = model.notes.iter().any(|note| note.contains("of-tomorrow"));
    assert!(said, "{:?}", model.notes);
}

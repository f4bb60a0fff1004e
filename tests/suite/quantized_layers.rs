//! Single weights in every packing of a scheme, made by `tests/scripts/make_quantized.py` with the schemes' own
//! packages.

use crate::adapters::bf16;
use crate::audits::model_ref;
use crate::support::quantized::variant;
use modelkin::arch::Model;
use modelkin::audit::{self, Unwatched};
use modelkin::source::FetchOptions;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn open(path: &Path) -> Result<Model, String> {
    let opened = audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched);
    let opened = opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    opened.map(|(model, _)| model)
}

/// Holds every weight of a folder to what the package makes of it, and to what it was made of.
fn check(folder: &str, n_weights: usize) {
    let model = open(&variant(folder)).unwrap();
    assert_eq!(model.tensors.len(), n_weights, "{:?}", model.dtypes());
    let bytes = fs::read(variant(folder).join("reference.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let schemes = header.metadata().clone().unwrap();
    assert_eq!(schemes.len(), n_weights);
    for (weight, scheme) in schemes {
        let tensor = model.tensors.iter().find(|t| t.name() == weight).unwrap();
        assert_eq!(tensor.dtype().name(), scheme, "{folder}: {weight}");
        let view = reference.tensor(&weight).unwrap();
        assert_eq!(tensor.shape(), view.shape(), "{folder}: {weight}");
        let values = view.data().as_chunks::<4>().0.iter();
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
        let n = values.len();
        let found = tensor.read_elements(0..n).unwrap();
        for (i, (found, expected)) in found.iter().zip(&values).enumerate() {
            let close = (found - expected).abs() <= 2e-6 * expected.abs() + 1e-9;
            assert!(close, "{folder}: {weight} {i}: {found}, not {expected}");
        }
        // Any part of it is what the whole holds, whatever groups and words it cuts.
        for range in [0..1, 5..70, 63..64, 100..333, n - 7..n, 9..9] {
            let part = tensor.read_elements(range.clone()).unwrap();
            assert_eq!(part, found[range], "{folder}: {weight}");
        }
        let codes = tensor.read_codes(0..n).unwrap();
        if let Some(codes) = codes {
            let distinct: std::collections::BTreeSet<i32> = codes.iter().copied().collect();
            assert!(distinct.len() > 1, "{folder}: {weight}");
        }
        // What was rounded lies within the bounds; what is unrelated does not.
        let name = weight.replace(".weight", ".original");
        let original = bf16(reference.tensor(&name).unwrap().data());
        let bounds = tensor.read_rounding_bounds(0..n).unwrap();
        let bounds = bounds.unwrap_or_else(|| panic!("{folder}: {weight} states no bounds"));
        let within = |values: &[f32]| {
            let pairs = values.iter().zip(&found).zip(&bounds);
            let within = pairs.filter(|((value, found), bound)| (*value - *found).abs() <= **bound);
            within.count()
        };
        // At one bit HQQ clips more than half of a step, and its bounds say nothing of that.
        if scheme == "HQQ 1-bit" {
            assert!(within(&original) * 10 > 9 * n, "{folder}: {weight}");
            continue;
        }
        assert_eq!(within(&original), n, "{folder}: {weight} {scheme}");
        let mut other = original.clone();
        other.reverse();
        let share = within(&other) as f64 / n as f64;
        println!(
            "{folder}: {weight} {scheme}: {share:.3} of unrelated values are within the bounds"
        );
        assert!(share < 0.9, "{folder}: {weight} {scheme}: {share}");
    }
}

#[test]
fn hqq_is_read_in_every_packing_over_both_axes_though_no_config_states_it() {
    check("hqq-layers", 13);
}

#[test]
fn compressed_tensors_are_read_in_every_width_and_strategy_of_new_and_older_files() {
    check("ct-layers", 17);
}

/// A folder with some stored tensors replaced or dropped: bytes of the same type, in another shape.
fn edited(folder: &str, edit: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> TempDir {
    let bytes = fs::read(variant(folder).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = stored.tensors().into_iter().collect();
    let kept = kept.iter().filter_map(|(name, view)| {
        let data = edit(name, view.data().to_vec())?;
        let mut shape = view.shape().to_vec();
        if data.len() != view.data().len() {
            let item = view.data().len() / shape.iter().product::<usize>().max(1);
            shape = vec![data.len() / item];
        }
        Some((name.clone(), view.dtype(), shape, data))
    });
    let kept: Vec<_> = kept.collect();
    let views = kept.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("model.safetensors"), file).unwrap();
    let config = variant(folder).join("config.json");
    fs::copy(config, out.path().join("config.json")).unwrap();
    out
}

#[test]
fn settings_of_hqq_that_are_missing_or_contradict_the_codes_are_errors_that_name_them() {
    let set = |end: &'static str, value: Vec<u8>| {
        let edited = edited("hqq-layers", |name, data| {
            Some(if name.ends_with(&format!(".4.mlp.up_proj.{end}")) {
                value.clone()
            } else {
                data
            })
        });
        open(edited.path())
            .err()
            .unwrap_or_else(|| panic!("{end}: opened"))
    };
    let int = |n: i32| n.to_le_bytes().to_vec();
    let long = |sizes: [i64; 2]| {
        sizes
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    for (end, value, expected) in [
        ("nbits", int(7), "nbits"),
        ("nbits", int(-4), "nbits"),
        ("nbits", int(2), "packing"),
        ("packing", b"5bit_u8".to_vec(), "packing"),
        ("packing", vec![b'x'; 100], "1 to 32 bytes"),
        ("axis", int(2), "axis"),
        ("axis", int(0), "along the axis"),
        ("group_size", int(0), "group_size"),
        ("group_size", int(48), "group_size"),
        ("group_size", int(32), "one for each group"),
        ("shape", long([16, 65]), "group"),
        ("shape", long([16, 0]), "shape"),
        ("shape", long([i64::MAX, i64::MAX]), "shape"),
        ("shape", long([-16, 64]), "shape"),
        ("quant_scale", vec![1], "quant_scale"),
        ("quant_zero", vec![1], "quant_zero"),
        ("W_q", vec![0; 100], "512 bytes of codes"),
        ("scale", vec![0; 34], "16 floats"),
        ("zero", vec![0; 2], "16 floats"),
    ] {
        let error = set(end, value);
        assert!(error.contains(expected), "{end}: {error}");
        assert!(error.contains(".4.mlp.up_proj."), "{end}: {error}");
    }
    for end in [
        "scale",
        "zero",
        "axis",
        "shape",
        "packing",
        "group_size",
        "nbits",
    ] {
        let edited = edited("hqq-layers", |name, data| {
            (!name.ends_with(&format!(".4.mlp.up_proj.{end}"))).then_some(data)
        });
        let error = open(edited.path()).unwrap_err();
        assert!(
            error.contains(&format!("mlp.up_proj.{end}")),
            "{end}: {error}"
        );
    }
}

#[test]
fn packed_codes_of_another_width_than_the_config_states_are_errors() {
    let config = variant("ct-layers").join("config.json");
    let text = fs::read_to_string(config).unwrap();
    for (from, to) in [
        ("\"num_bits\": 5", "\"num_bits\": 9"),
        ("\"num_bits\": 7", "\"num_bits\": 4"),
    ] {
        let folder = edited("ct-layers", |_, data| Some(data));
        fs::write(folder.path().join("config.json"), text.replace(from, to)).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(error.contains("as the config states"), "{to}: {error}");
    }
}

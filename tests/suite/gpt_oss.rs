//! gpt-oss: experts in bf16 as transformers saves them, and in MXFP4 as they are published, made by
//! `tests/scripts/make_quantized.py`.

use crate::adapters::bf16;
use crate::audits::{compare, model_ref, summary};
use crate::support::quantized::variant;
use modelkin::arch::Model;
use modelkin::audit::{self, Unwatched};
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn open(path: &Path) -> Model {
    let opened = audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched);
    opened
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .0
}

/// What transformers makes of the blocks: `[expert, in, row]`, gate and up in turn.
fn reference() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(variant("gpt-oss").join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, (view.shape().to_vec(), bf16(view.data()))))
        .collect()
}

/// The model in bf16 with weights of experts changed.
fn changed(edit: impl Fn(&str, usize, f32) -> f32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = variant("gpt-oss-bf16");
    fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let is_expert = name.contains("experts") && !name.ends_with("bias");
            let data = match is_expert {
                false => view.data().to_vec(),
                true => {
                    let values = bf16(view.data()).into_iter().enumerate();
                    let values = values.map(|(i, value)| edit(&name, i, value));
                    let values = values.map(half::bf16::from_f32);
                    values.flat_map(half::bf16::to_le_bytes).collect()
                }
            };
            (name, view.shape().to_vec(), data)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

#[test]
fn experts_in_mxfp4_are_those_of_transformers_with_gate_before_up() {
    let model = open(&variant("gpt-oss"));
    let dtypes = model.dtypes();
    assert_eq!(dtypes.get("MXFP4"), Some(&4), "{dtypes:?}");
    let reference = reference();
    assert_eq!(reference.len(), 4);
    for (name, (shape, values)) in reference {
        let tensor = model.tensors.iter().find(|t| t.name() == name).unwrap();
        // transformers turns the matrices: [expert, in, row], gate and up in turn.
        let [n_experts, n_in, n_rows] = shape[..] else {
            panic!("{name}: {shape:?}");
        };
        assert_eq!(tensor.shape(), [n_experts, n_rows, n_in], "{name}");
        let found = tensor.read_elements(0..tensor.n_elements()).unwrap();
        for expert in 0..n_experts {
            for row in 0..n_rows {
                let half = n_rows / 2;
                let theirs = match (name.contains("gate_up"), row < half) {
                    (false, _) => row,
                    (true, true) => 2 * row,
                    (true, false) => 2 * (row - half) + 1,
                };
                for column in 0..n_in {
                    let expected = values[(expert * n_in + column) * n_rows + theirs];
                    let value = found[(expert * n_rows + row) * n_in + column];
                    // The sign of zero is lost in their table of values.
                    assert!(value == expected, "{name} {expert} {row} {column}");
                }
            }
        }
        // Parts of rows are what whole rows hold.
        assert_eq!(tensor.read_elements(37..101).unwrap(), found[37..101]);
    }
}

#[test]
fn roles_of_experts_are_found_in_both_layouts_and_hold_the_same_units() {
    let values = reference();
    let dequantized = changed(|name, i, _| values[name].1[i]);
    let plain = open(dequantized.path());
    let packed = open(&variant("gpt-oss"));
    let [plain, packed] = [&plain, &packed].map(|model| &model.components[0].roles);
    let names = |roles: &BTreeMap<modelkin::arch::Role, modelkin::tensor::Matrix>| {
        let names: Vec<String> = roles.keys().map(|role| role.to_string()).collect();
        names
    };
    assert_eq!(names(plain), names(packed));
    for wanted in [
        "layers.1.experts.1.gate_proj",
        "layers.1.experts.0.up_proj.bias",
        "layers.0.experts.0.down_proj",
        "layers.0.experts.1.down_proj.bias",
        "layers.0.router",
    ] {
        assert!(names(plain).iter().any(|name| name == wanted), "{wanted}");
    }
    for (role, matrix) in plain {
        let (ours, theirs) = (matrix.all().unwrap(), packed[role].all().unwrap());
        assert_eq!(ours, theirs, "{role}");
        // Rows asked for one by one, and into a buffer, are those of the whole.
        let last = matrix.n_rows() - 1;
        assert_eq!(matrix.gather(&[last]).unwrap().row(0), ours.row(last));
        let mut row = vec![f32::NAN; matrix.n_cols()];
        matrix.read_rows(last..last + 1, &mut row).unwrap();
        assert_eq!(ours.row(last).to_vec(), row, "{role}");
    }
    // Gate and up in turn, as modeling_gpt_oss cuts them apart.
    let bytes = fs::read(variant("gpt-oss-bf16").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |name: &str| bf16(file.tensor(name).unwrap().data());
    let biases = stored("model.layers.1.mlp.experts.gate_up_proj_bias");
    let original = open(&variant("gpt-oss-bf16"));
    let roles = &original.components[0].roles;
    let role = |name: &str| roles.iter().find(|(role, _)| role.to_string() == name);
    let all = |name: &str| role(name).unwrap().1.all().unwrap();
    let up = all("layers.1.experts.1.up_proj.bias");
    assert_eq!(up.shape(), [64, 1]);
    assert_eq!(up[[3, 0]], biases[128 + 2 * 3 + 1]);
    let weights = stored("model.layers.0.mlp.experts.gate_up_proj");
    let gate = all("layers.0.experts.1.gate_proj");
    assert_eq!(gate.shape(), [64, 32]);
    assert_eq!(gate[[5, 7]], weights[(32 + 7) * 128 + 2 * 5]);
    let down = stored("model.layers.0.mlp.experts.down_proj");
    assert_eq!(
        all("layers.0.experts.1.down_proj")[[5, 7]],
        down[(64 + 7) * 32 + 5]
    );
}

#[test]
fn a_release_in_mxfp4_is_a_quantized_copy_of_the_model_in_bf16_and_the_dequantized_one_is_repackaged()
 {
    let (plain, packed) = (variant("gpt-oss-bf16"), variant("gpt-oss"));
    let relation = |reference: &Path, candidate: &Path| {
        let report = compare(reference, candidate);
        (report.finding.overall.relation, summary(&report))
    };
    let (found, told) = relation(&plain, &packed);
    assert_eq!(found, Relation::Quantized, "{told}");
    let reference = reference();
    let dequantized = changed(|name, i, _| reference[name].1[i]);
    for [a, b] in [[dequantized.path(), &packed], [&packed, dequantized.path()]] {
        let (found, told) = relation(a, b);
        assert_eq!(found, Relation::Repackaged, "{told}");
    }
    // What was trained on is neither. (So small a model without training might also share but its first values.)
    let tuned = changed(|_, i, value| {
        let noise = (i as f32 * 0.618_034).fract() - 0.5;
        value + 0.01 * noise
    });
    for [a, b] in [[tuned.path(), &packed], [&packed, tuned.path()]] {
        let (found, told) = relation(a, b);
        assert_ne!(found, Relation::Independent, "{told}");
        assert_ne!(found, Relation::Quantized, "{told}");
        assert_ne!(found, Relation::Repackaged, "{told}");
    }
}

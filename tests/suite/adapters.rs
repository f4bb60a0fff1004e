//! Adapters from end to end: trained, saved and merged by peft (`tests/scripts/make_adapters.py`).

use crate::audits::{compare, compare_added, model_ref, record, summary};
use crate::support::zoo;
use modelkin::arch::Model;
use modelkin::audit::{self, Unwatched};
use modelkin::evidence::record::Status;
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Variants that are read, and the zoo model that each was trained on.
const VARIANTS: &[(&str, &str)] = &[
    ("lora", "llama-a"),
    ("lora-bin", "llama-a"),
    ("lora-turned", "llama-a"),
    ("rslora-patterns", "llama-a"),
    ("dora", "llama-a"),
    ("gpt2", "gpt2-a"),
    ("gpt2-dora", "gpt2-a"),
    ("embedding-and-norm", "llama-a"),
];

pub fn variant(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/adapters");
    folder.join(name)
}

pub fn added(adapter: &Path, base: &Path) -> Result<Model, String> {
    let base = model_ref(base);
    let opened = audit::inspect(
        &model_ref(adapter),
        Some(&base),
        &FetchOptions::default(),
        &Unwatched,
    );
    let opened = opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    opened.map(|(model, _)| model)
}

pub fn alone(adapter: &Path) -> Result<Model, String> {
    let opened = audit::open(&model_ref(adapter), &FetchOptions::default(), &Unwatched);
    let opened = opened.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    opened.map(|(model, _)| model)
}

/// bf16 values of a tensor that peft merged.
pub fn bf16(bytes: &[u8]) -> Vec<f32> {
    let pairs = bytes.as_chunks::<2>().0.iter();
    let widened = pairs.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
    widened.collect()
}

/// The zoo model with the weights that peft merged: what people publish.
pub fn merged(name: &str, base: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(zoo(base).join(file), folder.path().join(file)).expect("a copy");
    }
    let rows = fs::read(variant(name).join("merged/rows.safetensors")).expect("committed");
    let changed = SafeTensors::deserialize(&rows).expect("a safetensors file");
    let bytes = fs::read(zoo(base).join("model.safetensors")).expect("the zoo's weights");
    let whole = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensors = whole.tensors().into_iter().map(|(name, view)| {
        let view = changed.tensor(&name).unwrap_or(view);
        (name, view)
    });
    let bytes = safetensors::serialize(tensors, None).expect("serialized");
    fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    folder
}

#[test]
fn merged_weights_are_those_of_peft_within_the_stated_bounds() {
    for (name, base) in VARIANTS {
        let model = added(&variant(name), &zoo(base)).unwrap();
        let plain = alone(&zoo(base)).unwrap();
        let rows = fs::read(variant(name).join("merged/rows.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&rows).unwrap();
        assert!(expected.len() >= 4, "{name}");
        let (mut n_values, mut n_unchanged_within) = (0, 0);
        for (weight, view) in expected.tensors() {
            let find = |model: &Model| {
                let tensor = model.tensors.iter().find(|t| t.name() == weight);
                tensor
                    .unwrap_or_else(|| panic!("{name}: no {weight}"))
                    .clone()
            };
            let (tensor, before) = (find(&model), find(&plain));
            assert_eq!(tensor.shape(), before.shape(), "{name}: {weight}");
            let expected = bf16(view.data());
            let range = 0..expected.len();
            let found = tensor.read_elements(range.clone()).unwrap();
            // What is stored whole is what it is.
            let bounds = tensor.read_rounding_bounds(range.clone()).unwrap();
            let bounds = bounds.unwrap_or_else(|| vec![0.0; expected.len()]);
            let unchanged = before.read_elements(range).unwrap();
            n_values += expected.len();
            for i in 0..expected.len() {
                let difference = (found[i] - expected[i]).abs();
                assert!(
                    difference <= bounds[i],
                    "{name}: {weight} {i}: {} is not {} within {}",
                    found[i],
                    expected[i],
                    bounds[i]
                );
                let sizes = expected[i].abs() + unchanged[i].abs();
                assert!(bounds[i] <= 0.008 * sizes + 1e-6, "{name}: {weight}");
                n_unchanged_within += usize::from((unchanged[i] - expected[i]).abs() <= bounds[i]);
            }
        }
        // The bounds would not let the base pass for the merged model.
        assert!(
            2 * n_unchanged_within < n_values,
            "{name}: {n_unchanged_within} of {n_values}"
        );
        let n_changed = model
            .tensors
            .iter()
            .filter(|t| t.dtype().name().ends_with("merged"))
            .count();
        assert!(n_changed >= 4, "{name}: {:?}", model.dtypes());
    }
}

#[test]
fn a_published_merge_is_its_base_with_the_adapter_but_for_rounding() {
    let published = merged("lora", "llama-a");
    let bases = [None, Some(zoo("llama-a"))];
    let report = compare_added(published.path(), &variant("lora"), &bases);
    let relation = report.finding.overall.relation;
    assert_eq!(relation, Relation::Quantized, "{}", summary(&report));
    // And the other way round.
    let report = compare_added(
        &variant("lora"),
        published.path(),
        &[Some(zoo("llama-a")), None],
    );
    assert_eq!(
        report.finding.overall.relation,
        Relation::Quantized,
        "{}",
        summary(&report)
    );
    // Another adapter of the same base is another model.
    let report = compare_added(published.path(), &variant("lora-other"), &bases);
    let found = summary(&report);
    assert_ne!(
        report.finding.overall.relation,
        Relation::Quantized,
        "{found}"
    );
    assert_eq!(
        report.finding.overall.relation.related(),
        Some(true),
        "{found}"
    );
}

#[test]
fn an_adapter_with_its_base_is_derived_from_it_and_not_from_a_stranger() {
    for (name, base) in VARIANTS {
        let bases = [None, Some(zoo(base))];
        let report = compare_added(&zoo(base), &variant(name), &bases);
        let found = summary(&report);
        assert_eq!(
            report.finding.overall.relation.related(),
            Some(true),
            "{name}: {found}"
        );
        assert_ne!(
            report.finding.overall.relation,
            Relation::Identical,
            "{name}: {found}"
        );
        assert_ne!(
            report.finding.overall.relation,
            Relation::Quantized,
            "{name}: {found}"
        );
    }
    let bases = [None, Some(zoo("llama-a"))];
    let report = compare_added(&zoo("llama-a-other-seed"), &variant("lora"), &bases);
    let relation = report.finding.overall.relation;
    assert_eq!(relation, Relation::Independent, "{}", summary(&report));
}

#[test]
fn adapters_that_make_the_same_changes_are_one_whatever_their_factors() {
    let relation = |a: &str, b: &str| {
        let report = compare(&variant(a), &variant(b));
        let told = record(&report, "adapter-updates");
        assert_eq!(told.status, Status::Measured, "{a}, {b}");
        println!("{a} {b}: {} {:?}", summary(&report), told.effects);
        report.finding.overall.relation
    };
    assert_eq!(relation("lora", "lora"), Relation::Identical);
    assert_eq!(relation("lora", "lora-turned"), Relation::Repackaged);
    assert_eq!(relation("lora", "lora-continued"), Relation::Derived);
    // Equal factors to begin with, and other data: neither is claimed.
    assert_eq!(relation("lora", "lora-same-seed"), Relation::Inconclusive);
    // Independent adapters of one base are not derived from each other.
    for other in ["lora-other", "lora-other-base", "dora"] {
        let found = relation("lora", other);
        assert_ne!(found.related(), Some(true), "{other}");
        assert_ne!(found, Relation::SharedInitialisation, "{other}");
    }
    assert_eq!(relation("lora", "lora-other-base"), Relation::Independent);
}

#[test]
fn the_same_factors_at_another_scale_are_another_change() {
    let folder = copied("lora", |config| config["lora_alpha"] = json!(16));
    let report = compare(&variant("lora"), folder.path());
    let relation = report.finding.overall.relation;
    assert!(
        ![Relation::Identical, Relation::Repackaged].contains(&relation),
        "{}",
        summary(&report)
    );
}

#[test]
fn an_adapter_alone_is_no_model_and_the_verdict_asks_for_its_base() {
    for (reference, candidate) in [
        (zoo("llama-a"), variant("lora")),
        (variant("dora"), zoo("llama-a-other-seed")),
    ] {
        let report = compare(&reference, &candidate);
        let overall = &report.finding.overall;
        assert_eq!(
            overall.relation,
            Relation::Inconclusive,
            "{}",
            summary(&report)
        );
        let asked = overall
            .does_not_prove
            .iter()
            .any(|caveat| caveat.contains("--base"));
        assert!(asked, "{:?}", overall.does_not_prove);
        let with_p = report.records.iter().filter(|record| record.p.is_some());
        assert_eq!(with_p.count(), 0);
    }
}

/// A variant with its config changed.
pub fn copied(name: &str, edit: impl Fn(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = "adapter_model.safetensors";
    fs::copy(variant(name).join(weights), folder.path().join(weights)).expect("a copy");
    let text = fs::read_to_string(variant(name).join("adapter_config.json")).expect("committed");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    edit(&mut config);
    fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )
    .expect("written");
    folder
}

#[test]
fn what_would_change_weights_and_is_not_understood_is_an_error_that_names_it() {
    let cases = [
        ("peft_type", json!(null)),
        ("r", json!(0)),
        ("r", json!(5)),
        ("r", json!("4")),
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!("NaN")),
        ("rank_pattern", json!({"q_proj": 3})),
        ("rank_pattern", json!({"q_proj": "x"})),
        ("rank_pattern", json!({"(?=q)": 3})),
        ("rank_pattern", json!([1])),
        ("alpha_pattern", json!({"q_proj": "x"})),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("loftq")),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("layer_replication", json!([[0, 2], [1, 4]])),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("trainable_token_indices", json!([1])),
        ("alora_invocation_tokens", json!([1])),
        ("of_tomorrow", json!({"twist": 1})),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!("yes")),
        ("base_model_name_or_path", json!(["/"])),
    ];
    for (key, value) in cases {
        let folder = copied("lora", |config| config[key] = value.clone());
        let Err(error) = alone(folder.path()) else {
            panic!("{key} = {value}: opened");
        };
        let names = ["adapter_config.json", "adapter_model.safetensors"];
        assert!(
            names.iter().any(|name| error.starts_with(name)),
            "{key}: {error}"
        );
        assert!(error.contains("expected"), "{key}: {error}");
    }
    let folder = copied("lora", |_| {});
    fs::write(
        folder.path().join("adapter_config.json"),
        "[".repeat(200_000),
    )
    .unwrap();
    assert!(alone(folder.path()).unwrap_err().contains("a JSON object"));
}

#[test]
fn a_base_that_does_not_fit_is_an_error_that_names_the_module() {
    let error = added(&variant("lora"), &zoo("gpt2-a")).unwrap_err();
    assert!(
        error.contains("_proj") && error.contains("in the base model"),
        "{error}"
    );
    let error = added(&variant("lora"), &zoo("qwen2-b")).unwrap_err();
    assert!(error.contains("_proj"), "{error}");
    let folder = copied("gpt2", |config| config["fan_in_fan_out"] = json!(false));
    let error = added(folder.path(), &zoo("gpt2-a")).unwrap_err();
    assert!(error.contains("c_attn") && error.contains("192"), "{error}");
    // A base for a model, and an adapter as a base.
    let error = added(&zoo("llama-a"), &zoo("llama-a")).unwrap_err();
    assert!(error.contains("expected an adapter"), "{error}");
    let error = added(&variant("lora"), &variant("lora")).unwrap_err();
    assert!(error.contains("expected a model with weights"), "{error}");
}

#[test]
fn factors_that_do_not_fit_each_other_are_errors() {
    let bytes = fs::read(variant("lora").join("adapter_model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    type Edit = fn(String, Vec<usize>) -> Option<(String, Vec<usize>)>;
    let cases: [(Edit, &str); 4] = [
        (
            |name, shape| {
                (!name.ends_with("0.self_attn.q_proj.lora_B.weight")).then_some((name, shape))
            },
            "both factors",
        ),
        (
            |name, mut shape| {
                if name.ends_with("0.mlp.up_proj.lora_B.weight") {
                    shape.reverse();
                }
                Some((name, shape))
            },
            "4 columns",
        ),
        (
            |name, mut shape| {
                if name.ends_with("0.mlp.up_proj.lora_A.weight") {
                    shape.push(1);
                }
                Some((name, shape))
            },
            "a matrix",
        ),
        (
            |name, shape| {
                Some((
                    name.replace("1.mlp.up_proj.lora_A.weight", "1.mlp.up_proj.lora_C"),
                    shape,
                ))
            },
            "LoRA",
        ),
    ];
    for (edit, expected) in cases {
        let folder = copied("lora", |_| {});
        let kept = stored.tensors().into_iter().filter_map(|(name, view)| {
            let (name, shape) = edit(name, view.shape().to_vec())?;
            let view = safetensors::tensor::TensorView::new(view.dtype(), shape, view.data());
            Some((name, view.unwrap()))
        });
        let bytes = safetensors::serialize(kept, None).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
        let error = alone(folder.path()).unwrap_err();
        assert!(error.contains(expected), "{error}: not {expected}");
    }
}

#[test]
fn factors_whose_product_no_model_has_are_refused_though_they_are_small() {
    use safetensors::tensor::{Dtype, TensorView};
    let bytes = vec![0u8; 4 * 200_000];
    let factors = [("lora_A", vec![1, 200_000]), ("lora_B", vec![200_000, 1])];
    let factors = factors.map(|(part, shape)| {
        let view = TensorView::new(Dtype::F32, shape, &bytes).unwrap();
        let module = "base_model.model.model.layers.0.mlp.up_proj";
        (format!("{module}.{part}.weight"), view)
    });
    let file = safetensors::serialize(factors, None).unwrap();
    let folder = copied("lora", |config| config["r"] = json!(1));
    fs::write(folder.path().join("adapter_model.safetensors"), file).unwrap();
    let error = alone(folder.path()).unwrap_err();
    assert!(error.contains("200000 × 200000"), "{error}");
}

#[test]
fn other_methods_are_left_as_they_are_stored_and_said() {
    let folder = copied("lora", |config| config["peft_type"] = json!("IA3"));
    let model = alone(folder.path()).unwrap();
    assert!(
        model.notes.iter().any(|note| note.contains("IA3")),
        "{:?}",
        model.notes
    );
    assert!(model.tensors.iter().any(|t| t.name().contains("lora_A")));
    assert!(added(folder.path(), &zoo("llama-a")).is_err());
}

//! The derivations do what their names say: those that claim to keep the function keep it, the others change it.

use crate::support::forward::{logits, relative_change};
use crate::support::linear::{generator, permutation, select, std};
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use crate::support::{corrupt, derive, shared, zoo};
use ndarray::ArrayD;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::fs;

const SEED: u64 = 7;
/// What `f64` rounding may move a logit by, relative to the largest: far below any real change.
const EXACT: f64 = 1e-6;
const TOKENS: [usize; 12] = [450, 221, 12, 285, 3, 77, 199, 31, 400, 5, 285, 128];

type Derivation = fn(&TestModel, u64) -> TestModel;

fn model(id: &str) -> TestModel {
    TestModel::load(&zoo(id))
}

fn change(before: &TestModel, after: &TestModel) -> f64 {
    relative_change(&logits(before, &TOKENS), &logits(after, &TOKENS))
}

/// Asserts that weights moved but the function did not.
fn assert_disguises(id: &str, derivations: &[(&str, Derivation)]) {
    let original = model(id);
    for (name, derivation) in derivations {
        let derived = derivation(&original, SEED);
        let moved = derived
            .tensors
            .iter()
            .filter(|(name, array)| !original.has(name) || original.get(name) != array);
        assert!(
            moved.count() >= Shape::of(&original).layers,
            "{name} of {id} moved too little"
        );
        let change = change(&original, &derived);
        println!("{id} {name}: largest relative change of a logit {change:.1e}");
        assert!(
            change < EXACT,
            "{name} of {id} changes logits by {change:.1e}"
        );
    }
}

/// Greedy continuation of a prompt given as vocabulary pieces, decoded.
fn continued(model: &TestModel, prompt: &[&str], n: usize) -> String {
    let (_, bytes) = model
        .other_files
        .iter()
        .find(|(name, _)| name == "tokenizer.json")
        .unwrap();
    let tokenizer: Value = serde_json::from_slice(bytes).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<usize> = prompt
        .iter()
        .map(|piece| vocabulary[*piece].as_u64().unwrap() as usize)
        .collect();
    for _ in 0..n {
        let all = logits(model, &tokens);
        let last = all.row(tokens.len() - 1);
        let best = (0..last.len())
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        tokens.push(best);
    }
    let piece = |&token: &usize| {
        vocabulary
            .iter()
            .find(|(_, id)| **id == token)
            .unwrap()
            .0
            .as_str()
    };
    tokens
        .iter()
        .map(piece)
        .collect::<String>()
        .replace('Ġ', " ")
        .replace('Ċ', "\n")
}

#[test]
fn the_plain_forward_pass_continues_text_as_the_training_record_says() {
    let prompts: [(&str, &[&str]); 3] = [
        ("llama-a", &["def", "Ġ"]),
        ("gpt2-a", &["def", "Ġ"]),
        ("qwen2-b", &["A", "nd", "Ġthe", "Ġ"]),
    ];
    for (id, prompt) in prompts {
        let record = fs::read(zoo("training").join(format!("{id}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let text = continued(&model(id), prompt, 20);
        let sample = record["sample"].as_str().unwrap();
        assert!(
            sample.starts_with(&text),
            "{id} wrote {text:?}, its record {sample:?}"
        );
    }
}

#[test]
fn symmetries_of_llama_and_qwen2_leave_logits_unchanged() {
    let derivations: [(&str, Derivation); 7] = [
        ("permuted_units", derive::permuted_units),
        ("permuted_heads", derive::permuted_heads),
        ("scaled_units", derive::scaled_units),
        ("rotated_residual", derive::rotated_residual),
        ("rotated_rope_pairs", derive::rotated_rope_pairs),
        ("mixed_v_o", derive::mixed_v_o),
        ("turned", derive::turned),
    ];
    assert_disguises("llama-a", &derivations);
    assert_disguises("qwen2-b", &derivations);
}

#[test]
fn permutations_of_gpt2_leave_logits_unchanged() {
    let derivations: [(&str, Derivation); 2] = [
        ("permuted_units", derive::permuted_units),
        ("permuted_heads", derive::permuted_heads),
    ];
    assert_disguises("gpt2-a", &derivations);
}

#[test]
fn a_gate_permuted_without_its_up_matrix_changes_logits() {
    let original = model("llama-a");
    let shape = Shape::of(&original);
    let order = permutation(shape.units, &mut generator(SEED, 0));
    let mut wrong = original.clone();
    let gate = wrong.get_mut(&shape.name(1, "mlp.gate_proj.weight"));
    *gate = select(gate, 0, &order);
    assert!(change(&original, &wrong) > 0.01);
}

#[test]
fn a_key_turned_without_its_queries_changes_logits() {
    let original = model("llama-a");
    let mut wrong = derive::rotated_rope_pairs(&original, SEED);
    let query = Shape::of(&original).name(1, "self_attn.q_proj.weight");
    *wrong.get_mut(&query) = original.get(&query).clone();
    assert!(change(&original, &wrong) > 0.01);
}

#[test]
fn a_seed_decides_a_derivation_and_another_seed_makes_another() {
    let original = model("llama-a");
    let disguised = derive::disguised(&original, SEED);
    assert_eq!(
        disguised.tensors,
        derive::disguised(&original, SEED).tensors
    );
    assert_ne!(
        disguised.tensors,
        derive::disguised(&original, SEED + 1).tensors
    );
}

#[test]
fn a_disguise_leaves_no_name_and_no_matrix_but_nearly_the_function() {
    let original = model("llama-a");
    let disguised = derive::disguised(&original, SEED);
    assert_eq!(disguised.dtype, Dtype::BF16);
    for ((name, old), (new_name, new)) in original.tensors.iter().zip(&disguised.tensors) {
        assert!(!original.has(new_name), "{new_name} is a usual name");
        assert_eq!(old.shape(), new.shape());
        if old.ndim() == 2 {
            let cosine = (old * new).sum() / (norm(old) * norm(new));
            assert!(
                cosine.abs() < 0.2,
                "{name} still points the way it did: {cosine}"
            );
        }
    }
    let names: Vec<String> = original
        .tensors
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let position = |name: &str| name.strip_prefix("t.").unwrap().parse::<usize>().unwrap();
    let change = change(
        &original,
        &disguised.rename(|name| names[position(name)].clone()),
    );
    println!("llama-a disguised: largest relative change of a logit {change:.1e}");
    assert!((EXACT..0.5).contains(&change), "{change}");
}

fn norm(array: &ArrayD<f64>) -> f64 {
    array.mapv(|value| value * value).sum().sqrt()
}

#[test]
fn renamed_reordered_and_resharded_checkpoints_keep_every_value() {
    for id in ["llama-a", "qwen2-b", "gpt2-a"] {
        let original = model(id);
        let renamed = derive::renamed(&original);
        assert!(
            original
                .tensors
                .iter()
                .zip(&renamed.tensors)
                .all(|(old, new)| old.1 == new.1 && old.0 != new.0)
        );
        assert_eq!(renamed.tensors[12].0, "t.012");

        let prefixed = derive::renamed_prefix(&original, "base.");
        assert!(
            original
                .tensors
                .iter()
                .all(|(name, array)| prefixed.get(&format!("base.{name}")) == array)
        );

        let reordered = derive::reordered(&original, SEED);
        assert_ne!(names(&original), names(&reordered));
        assert_same_values(&original, &reordered);

        let folder = tempfile::tempdir().unwrap();
        reordered.save(&folder.path().join("single"));
        assert_eq!(
            TestModel::load(&folder.path().join("single")).tensors,
            reordered.tensors
        );
        original.save_sharded(&folder.path().join("sharded"), 3);
        assert!(
            folder
                .path()
                .join("sharded/model-00002-of-00003.safetensors")
                .exists()
        );
        let resharded = TestModel::load(&folder.path().join("sharded"));
        assert_eq!(resharded.tensors, original.tensors);
        assert_eq!(
            (resharded.config, resharded.other_files),
            (original.config, original.other_files)
        );
    }
}

fn names(model: &TestModel) -> Vec<&str> {
    model
        .tensors
        .iter()
        .map(|(name, _)| name.as_str())
        .collect()
}

fn assert_same_values(a: &TestModel, b: &TestModel) {
    assert_eq!(a.tensors.len(), b.tensors.len());
    for (name, array) in &a.tensors {
        assert_eq!(array, b.get(name), "{name}");
    }
}

#[test]
fn casts_round_to_the_type_and_survive_its_file() {
    let original = derive::scaled_units(&model("llama-a"), SEED);
    for (dtype, relative) in [
        (Dtype::F64, 0.0),
        (Dtype::F32, 6e-8),
        (Dtype::F16, 5e-4),
        (Dtype::BF16, 4e-3),
    ] {
        let cast = derive::cast_to(&original, dtype);
        for ((_, old), (_, new)) in original.tensors.iter().zip(&cast.tensors) {
            // Half precision loses relative accuracy below 2^-14.
            let close = |(&a, &b): (&f64, &f64)| (a - b).abs() <= relative * a.abs().max(6.2e-5);
            assert!(old.iter().zip(new).all(close), "{dtype:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        cast.save(folder.path());
        let again = TestModel::load(folder.path());
        assert_eq!(
            (again.dtype, again.tensors, again.config),
            (dtype, cast.tensors, cast.config)
        );
    }
}

#[test]
fn noise_has_the_size_asked_for() {
    let original = model("llama-a");
    let noised = derive::noised(&original, 0.1, SEED);
    for (name, array) in original
        .tensors
        .iter()
        .filter(|(_, array)| array.ndim() == 2)
    {
        let ratio = std(&(noised.get(name) - array)) / std(array);
        assert!((0.095..0.105).contains(&ratio), "{name}: {ratio}");
    }
}

#[test]
fn a_merge_of_full_weight_is_its_parent_and_of_half_weight_is_neither() {
    let (a, b) = (model("llama-a"), model("llama-a-other-seed"));
    assert_same_values(&derive::merged(&a, &b, 1.0), &a);
    assert_same_values(&derive::merged(&a, &b, 0.0), &b);
    let half = derive::merged(&a, &b, 0.5);
    assert!(change(&a, &half) > 0.01 && change(&b, &half) > 0.01);
}

#[test]
fn layers_are_copied_dropped_and_swapped_whole() {
    for id in ["llama-a", "qwen2-b", "gpt2-a"] {
        let original = model(id);
        let cases = [
            (
                derive::depth_up_scaled(&original, &[0, 1, 2, 1, 2, 3]),
                vec![0, 1, 2, 1, 2, 3],
            ),
            (derive::depth_pruned(&original, 2), vec![0, 1, 3]),
            (derive::layers_swapped(&original, 1, 2), vec![0, 2, 1, 3]),
        ];
        for (derived, sources) in cases {
            let shape = Shape::of(&derived);
            assert_eq!(shape.layers, sources.len());
            let per_layer = original
                .tensors
                .iter()
                .filter(|(name, _)| name.starts_with(&shape.name(0, "")));
            let per_layer: Vec<&str> = per_layer
                .map(|(name, _)| &name[shape.name(0, "").len()..])
                .collect();
            let layers = 4;
            let outside = original.tensors.len() - layers * per_layer.len();
            assert_eq!(
                derived.tensors.len(),
                outside + sources.len() * per_layer.len()
            );
            for (to, &from) in sources.iter().enumerate() {
                for part in &per_layer {
                    assert_eq!(
                        derived.get(&shape.name(to, part)),
                        original.get(&shape.name(from, part))
                    );
                }
            }
            if let Some(types) = derived.config.get("layer_types") {
                assert_eq!(types.as_array().unwrap().len(), sources.len());
            }
            assert!(
                change(&original, &derived) > 0.01,
                "{id}"
            );
        }
    }
}

#[test]
fn width_pruning_keeps_three_quarters_of_the_units_whole() {
    let original = model("llama-a");
    let pruned = derive::width_pruned(&original, 0.75, SEED);
    let shape = Shape::of(&pruned);
    assert_eq!(shape.units, 120);
    for layer in 0..shape.layers {
        let part = |model: &TestModel, name: &str| {
            model.matrix(&shape.name(layer, &format!("mlp.{name}.weight")))
        };
        let (up, down) = (part(&pruned, "up_proj"), part(&pruned, "down_proj"));
        let (old_up, old_down) = (part(&original, "up_proj"), part(&original, "down_proj"));
        let gate_rows = part(&pruned, "gate_proj").nrows();
        assert_eq!((up.nrows(), gate_rows, down.ncols()), (120, 120, 120));
        for unit in 0..shape.units {
            let source = (0..old_up.nrows())
                .find(|&row| old_up.row(row) == up.row(unit))
                .unwrap();
            assert_eq!(down.column(unit), old_down.column(source));
        }
    }
    assert!(change(&original, &pruned) > 0.01);
}

#[test]
fn the_reference_reader_refuses_every_malformed_weight_file_and_no_other() {
    let files = corrupt::weight_files();
    assert!(files.len() >= 20);
    for file in files {
        let refused = SafeTensors::deserialize(&file.bytes).is_err();
        assert_eq!(refused, file.malformed, "{}", file.label);
    }
}

#[test]
fn hostile_indexes_stand_beside_a_sound_shard() {
    let (name, bytes) = corrupt::sound_shard();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 2);
    for file in corrupt::index_files() {
        let index = serde_json::from_slice::<Value>(&file.bytes).unwrap_or_default();
        let sound = index["weight_map"].as_object().is_some_and(|map| {
            map.iter()
                .all(|(tensor, shard)| *shard == name && ["a", "b"].contains(&tensor.as_str()))
        });
        assert!(file.malformed && !sound, "{}", file.label);
    }
}

#[test]
fn published_checkpoints_are_found_where_they_are_or_said_to_be_absent() {
    if let Some(folder) = shared() {
        assert!(folder.is_dir());
    }
}

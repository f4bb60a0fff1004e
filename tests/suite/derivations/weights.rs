//! Derivations of names, files, precision and size keep, or change, exactly the values that they should.

use super::{SEED, change, model};
use crate::support::derive;
use crate::support::linear::std;
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use safetensors::Dtype;

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
            assert!(change(&original, &derived) > 0.01, "{id}");
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

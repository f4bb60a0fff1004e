//! Derivations that change the size or the order of the stack. They change the function.

use crate::support::linear::{generator, permutation, select};
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use serde_json::{Value, json};

/// Layers copied into a taller stack: `stack` names the source of each new layer, such as `[0, 1, 2, 1, 2, 3]`.
pub fn depth_up_scaled(model: &TestModel, stack: &[usize]) -> TestModel {
    assert!(stack.len() > Shape::of(model).layers, "a taller stack");
    restacked(model, stack)
}

/// One layer dropped, the later ones moved down.
pub fn depth_pruned(model: &TestModel, dropped: usize) -> TestModel {
    let layers = Shape::of(model).layers;
    assert!(dropped < layers, "layer {dropped} of {layers}");
    let stack: Vec<usize> = (0..layers).filter(|&layer| layer != dropped).collect();
    restacked(model, &stack)
}

/// Two layers exchanged.
pub fn layers_swapped(model: &TestModel, first: usize, second: usize) -> TestModel {
    let mut stack: Vec<usize> = (0..Shape::of(model).layers).collect();
    stack.swap(first, second);
    restacked(model, &stack)
}

/// A random `keep` share of the units of every layer's MLP, in their old order.
pub fn width_pruned(model: &TestModel, keep: f64, seed: u64) -> TestModel {
    let shape = Shape::of(model).expect_llama();
    let kept = (keep * shape.units as f64).round() as usize;
    let mut pruned = model.clone();
    let mut rng = generator(seed, 3);
    for layer in 0..shape.layers {
        let mut units = permutation(shape.units, &mut rng);
        units.truncate(kept);
        units.sort_unstable();
        for (part, axis) in [("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)] {
            let tensor = pruned.get_mut(&shape.name(layer, &format!("mlp.{part}.weight")));
            *tensor = select(tensor, axis, &units);
        }
    }
    pruned.config["intermediate_size"] = json!(kept);
    pruned
}

/// The model with layer `stack[i]` as its layer `i`; all else where it was.
fn restacked(model: &TestModel, stack: &[usize]) -> TestModel {
    let shape = Shape::of(model);
    let in_stack = |name: &str| name.starts_with(shape.layer_prefix());
    let mut restacked = model.clone();
    let at = model
        .tensors
        .iter()
        .position(|(name, _)| in_stack(name))
        .expect("a model has layers");
    restacked.tensors.retain(|(name, _)| !in_stack(name));
    let layers = stack.iter().enumerate().flat_map(|(to, &from)| {
        let (old, new) = (shape.name(from, ""), shape.name(to, ""));
        model.tensors.iter().filter_map(move |(name, array)| {
            let part = name.strip_prefix(&old)?;
            Some((format!("{new}{part}"), array.clone()))
        })
    });
    restacked.tensors.splice(at..at, layers);
    let key = if shape.gpt2 {
        "n_layer"
    } else {
        "num_hidden_layers"
    };
    restacked.config[key] = json!(stack.len());
    if let Some(types) = model.config.get("layer_types").and_then(Value::as_array) {
        restacked.config["layer_types"] = stack.iter().map(|&from| types[from].clone()).collect();
    }
    restacked
}

//! Derivations that touch names, order, precision, or every value a little.

use crate::support::linear::{generator, normals, permutation, std};
use crate::support::model::TestModel;
use safetensors::Dtype;

/// Names that say nothing: `t.000`, `t.001`, … in file order.
pub fn renamed(model: &TestModel) -> TestModel {
    let mut renamed = model.clone();
    for (position, (name, _)) in renamed.tensors.iter_mut().enumerate() {
        *name = format!("t.{position:03}");
    }
    renamed
}

/// The usual names behind a prefix, as a wrapping module gives them.
pub fn renamed_prefix(model: &TestModel, prefix: &str) -> TestModel {
    model.rename(|name| format!("{prefix}{name}"))
}

/// The same tensors in another file order.
pub fn reordered(model: &TestModel, seed: u64) -> TestModel {
    let order = permutation(model.tensors.len(), &mut generator(seed, 1));
    let tensors = order
        .iter()
        .map(|&from| model.tensors[from].clone())
        .collect();
    TestModel {
        tensors,
        ..model.clone()
    }
}

/// Stored in another type, values rounded to it.
pub fn cast_to(model: &TestModel, dtype: Dtype) -> TestModel {
    model.cast(dtype)
}

/// Normal noise of `sigma` times each tensor's own standard deviation. A constant tensor, such as a gain folded to one,
/// stays constant.
pub fn noised(model: &TestModel, sigma: f64, seed: u64) -> TestModel {
    let mut noised = model.clone();
    let mut rng = generator(seed, 2);
    for (_, array) in &mut noised.tensors {
        let scale = sigma * std(array);
        let noise = normals(array.shape(), &mut rng);
        array.scaled_add(scale, &noise);
    }
    noised
}

/// `weight` of `a` and the rest of `b`, tensor by tensor; the files are those of `a`.
pub fn merged(a: &TestModel, b: &TestModel, weight: f64) -> TestModel {
    let mut merged = a.clone();
    for (name, array) in &mut merged.tensors {
        *array = &*array * weight + b.get(name) * (1.0 - weight);
    }
    merged
}

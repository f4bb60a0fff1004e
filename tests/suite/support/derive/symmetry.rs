//! Derivations that keep the function exactly: the symmetries of a transformer.

use crate::support::linear::{
    angle, expand, generator, invertible, log_uniform, orthogonal, permutation, select,
};
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use ndarray::{Array2, ArrayD, ArrayViewMut1, Axis, Slice};
use serde_json::json;

/// Hidden units of every MLP in another order: what makes a unit and what reads it move together.
pub fn permuted_units(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model);
    let parts: &[(&str, usize)] = if shape.gpt2 {
        &[
            ("mlp.c_fc.weight", 1),
            ("mlp.c_fc.bias", 0),
            ("mlp.c_proj.weight", 0),
        ]
    } else {
        &[
            ("mlp.gate_proj.weight", 0),
            ("mlp.up_proj.weight", 0),
            ("mlp.down_proj.weight", 1),
        ]
    };
    let mut permuted = model.clone();
    let mut rng = generator(seed, 11);
    for layer in 0..shape.layers {
        let order = permutation(shape.units, &mut rng);
        for &(part, axis) in parts {
            let tensor = permuted.get_mut(&shape.name(layer, part));
            *tensor = select(tensor, axis, &order);
        }
    }
    permuted
}

/// Key-value groups in another order, and the query heads within each group.
pub fn permuted_heads(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model);
    let mut permuted = model.clone();
    let mut rng = generator(seed, 12);
    for layer in 0..shape.layers {
        let groups = permutation(shape.groups, &mut rng);
        let mut heads = Vec::new();
        for &group in &groups {
            let within = permutation(shape.per_group(), &mut rng);
            heads.extend(within.iter().map(|&head| group * shape.per_group() + head));
        }
        let (groups, heads) = (
            expand(&groups, shape.head_dim),
            expand(&heads, shape.head_dim),
        );
        if shape.gpt2 {
            // One matrix holds queries, keys and values side by side; each third takes the same order.
            let thirds: Vec<usize> = (0..3)
                .flat_map(|third| heads.iter().map(move |at| third * shape.hidden + at))
                .collect();
            for (part, axis, order) in [
                ("c_attn.weight", 1, &thirds),
                ("c_attn.bias", 0, &thirds),
                ("c_proj.weight", 0, &heads),
            ] {
                let tensor = permuted.get_mut(&shape.name(layer, &format!("attn.{part}")));
                *tensor = select(tensor, axis, order);
            }
            continue;
        }
        for (part, order) in [("q", &heads), ("k", &groups), ("v", &groups)] {
            edit_rows(&mut permuted, &shape, layer, part, |rows| {
                *rows = select(rows, 0, order)
            });
        }
        let output = permuted.get_mut(&shape.name(layer, "self_attn.o_proj.weight"));
        *output = select(output, 1, &heads);
    }
    permuted
}

/// Each unit's up row times s and down column over s, s log-uniform in [1/4, 4]; the gate is not linear and stays.
pub fn scaled_units(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model).expect_llama();
    let mut scaled = model.clone();
    let mut rng = generator(seed, 13);
    for layer in 0..shape.layers {
        for unit in 0..shape.units {
            let s = log_uniform(4.0, &mut rng);
            let up = scaled.get_mut(&shape.name(layer, "mlp.up_proj.weight"));
            up.index_axis_mut(Axis(0), unit)
                .mapv_inplace(|value| value * s);
            let down = scaled.get_mut(&shape.name(layer, "mlp.down_proj.weight"));
            down.index_axis_mut(Axis(1), unit)
                .mapv_inplace(|value| value / s);
        }
    }
    scaled
}

/// The residual stream in another basis: gains folded into what reads the stream, then one random rotation of it all.
/// A tied model becomes untied, for its two uses of the embedding no longer agree.
pub fn rotated_residual(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model).expect_llama();
    let q = orthogonal(shape.hidden, &mut generator(seed, 14));
    let mut rotated = model.clone();
    if !rotated.has("lm_head.weight") {
        let tied = rotated.get("model.embed_tokens.weight").clone();
        rotated.tensors.push(("lm_head.weight".to_owned(), tied));
        rotated.config["tie_word_embeddings"] = json!(false);
    }
    turn(&mut rotated, "model.embed_tokens.weight", |weight| {
        weight.dot(&q)
    });
    fold_and_read(
        &mut rotated,
        "model.norm.weight",
        &["lm_head.weight".to_owned()],
        &q,
    );
    for layer in 0..shape.layers {
        let name = |part: &str| shape.name(layer, &format!("{part}.weight"));
        let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(name);
        fold_and_read(&mut rotated, &name("input_layernorm"), &attention, &q);
        let mlp = ["mlp.gate_proj", "mlp.up_proj"].map(name);
        fold_and_read(&mut rotated, &name("post_attention_layernorm"), &mlp, &q);
        for writer in ["self_attn.o_proj", "mlp.down_proj"] {
            turn(&mut rotated, &name(writer), |weight| q.t().dot(weight));
        }
    }
    rotated
}

/// Each rotary pair (i, i + head_dim / 2) turned by one random angle per key-value group, in the key and in all
/// queries of the group. Position turns the same plane, and turns of one plane commute.
pub fn rotated_rope_pairs(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model).expect_llama();
    let half = shape.head_dim / 2;
    let mut rotated = model.clone();
    let mut rng = generator(seed, 15);
    for layer in 0..shape.layers {
        let angles: Vec<f64> = (0..shape.groups * half).map(|_| angle(&mut rng)).collect();
        for (part, heads, per_group) in [
            ("q", shape.heads, shape.per_group()),
            ("k", shape.groups, 1),
        ] {
            edit_rows(&mut rotated, &shape, layer, part, |rows| {
                for head in 0..heads {
                    for pair in 0..half {
                        let first = head * shape.head_dim + pair;
                        turn_rows(
                            rows,
                            first,
                            first + half,
                            angles[head / per_group * half + pair],
                        );
                    }
                }
            });
        }
    }
    rotated
}

/// Values of each key-value head mixed by a random invertible matrix, undone where the output reads them: attention
/// weights average values linearly and cannot tell.
pub fn mixed_v_o(model: &TestModel, seed: u64) -> TestModel {
    let shape = Shape::of(model).expect_llama();
    let d = shape.head_dim;
    let mut mixed = model.clone();
    let mut rng = generator(seed, 16);
    for layer in 0..shape.layers {
        for group in 0..shape.groups {
            let (matrix, inverse) = invertible(d, &mut rng);
            edit_rows(&mut mixed, &shape, layer, "v", |rows| {
                let columns = rows.len() / rows.shape()[0];
                let mut block =
                    rows.slice_axis_mut(Axis(0), Slice::from(group * d..(group + 1) * d));
                // A bias is a block of one column.
                let old = Array2::from_shape_vec((d, columns), block.iter().copied().collect());
                let new = matrix.dot(&old.expect("a block of rows of one head"));
                block
                    .iter_mut()
                    .zip(&new)
                    .for_each(|(value, &mixed)| *value = mixed);
            });
            let name = shape.name(layer, "self_attn.o_proj.weight");
            for head in group * shape.per_group()..(group + 1) * shape.per_group() {
                turn(&mut mixed, &name, |weight| {
                    let columns = Slice::from(head * d..(head + 1) * d);
                    let mut new = weight.clone();
                    let block = weight.slice_axis(Axis(1), columns).dot(&inverse);
                    new.slice_axis_mut(Axis(1), columns).assign(&block);
                    new
                });
            }
        }
    }
    mixed
}

/// Replaces a matrix by what `change` makes of it.
fn turn(model: &mut TestModel, name: &str, change: impl Fn(&Array2<f64>) -> Array2<f64>) {
    let new = change(&model.matrix(name));
    *model.get_mut(name) = new.into_dyn();
}

/// Multiplies the gain into its readers, leaves ones in its place, and turns the readers to the new basis.
fn fold_and_read(model: &mut TestModel, gain: &str, readers: &[String], q: &Array2<f64>) {
    let gamma = model.vector(gain);
    for reader in readers {
        turn(model, reader, |weight| (weight * &gamma).dot(q));
    }
    model.get_mut(gain).fill(1.0);
}

/// Applies one edit of output rows to a projection (`q`, `k` or `v`) and to its bias, where it has one.
fn edit_rows(
    model: &mut TestModel,
    shape: &Shape,
    layer: usize,
    part: &str,
    edit: impl Fn(&mut ArrayD<f64>),
) {
    for kind in ["weight", "bias"] {
        let name = shape.name(layer, &format!("self_attn.{part}_proj.{kind}"));
        if kind == "weight" || model.has(&name) {
            edit(model.get_mut(&name));
        }
    }
}

/// Turns two rows in their plane.
fn turn_rows(rows: &mut ArrayD<f64>, first: usize, second: usize, by: f64) {
    let (sin, cos) = by.sin_cos();
    // A row of a bias is one number.
    for lane in rows.lanes_mut(Axis(0)) {
        let mut lane: ArrayViewMut1<'_, f64> = lane;
        let (a, b) = (lane[first], lane[second]);
        lane[first] = cos * a - sin * b;
        lane[second] = sin * a + cos * b;
    }
}

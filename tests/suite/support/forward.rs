//! A plain forward pass in `f64`, to prove that a derivation keeps the function. Slow, short, and nobody else's code.

use super::model::TestModel;
use super::shape::Shape;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use std::f64::consts::PI;

/// Logits of every position, tokens × vocabulary, of a Llama, a Qwen2 or a GPT-2.
pub fn logits(model: &TestModel, tokens: &[usize]) -> Array2<f64> {
    let shape = Shape::of(model);
    if shape.gpt2 {
        gpt2(model, &shape, tokens)
    } else {
        llama(model, &shape, tokens)
    }
}

/// Largest change of a logit, relative to the largest logit of the first model.
pub fn relative_change(before: &Array2<f64>, after: &Array2<f64>) -> f64 {
    let largest = |values: &Array2<f64>| {
        values.iter().fold(0.0, |most: f64, value| {
            assert!(value.is_finite(), "a logit is {value}");
            most.max(value.abs())
        })
    };
    largest(&(after - before)) / largest(before)
}

fn llama(model: &TestModel, shape: &Shape, tokens: &[usize]) -> Array2<f64> {
    let eps = number(model, "rms_norm_eps");
    let theta = model.config["rope_parameters"]["rope_theta"]
        .as_f64()
        .expect("a rotary base");
    let normed = |x: &Array2<f64>, gain: &str| {
        let gamma = model.vector(gain);
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            let scale = (row.dot(&row) / row.len() as f64 + eps).sqrt().recip();
            row.zip_mut_with(&gamma, |value, g| *value *= scale * g);
        }
        y
    };
    let embedding = model.matrix("model.embed_tokens.weight");
    let mut stream = embedding.select(Axis(0), tokens);
    for layer in 0..shape.layers {
        let linear = |x: &Array2<f64>, part: &str| {
            let y = x.dot(
                &model
                    .matrix(&shape.name(layer, &format!("{part}.weight")))
                    .t(),
            );
            let bias = shape.name(layer, &format!("{part}.bias"));
            if model.has(&bias) {
                y + model.vector(&bias)
            } else {
                y
            }
        };
        let x = normed(&stream, &shape.name(layer, "input_layernorm.weight"));
        let mut q = linear(&x, "self_attn.q_proj");
        let mut k = linear(&x, "self_attn.k_proj");
        let v = linear(&x, "self_attn.v_proj");
        rope(&mut q, shape.head_dim, theta);
        rope(&mut k, shape.head_dim, theta);
        stream += &linear(&attention(&q, &k, &v, shape), "self_attn.o_proj");
        let x = normed(
            &stream,
            &shape.name(layer, "post_attention_layernorm.weight"),
        );
        let gate = linear(&x, "mlp.gate_proj").mapv(|value| value / (1.0 + (-value).exp()));
        stream += &linear(&(gate * linear(&x, "mlp.up_proj")), "mlp.down_proj");
    }
    let x = normed(&stream, "model.norm.weight");
    if model.has("lm_head.weight") {
        x.dot(&model.matrix("lm_head.weight").t())
    } else {
        x.dot(&embedding.t())
    }
}

fn gpt2(model: &TestModel, shape: &Shape, tokens: &[usize]) -> Array2<f64> {
    let eps = number(model, "layer_norm_epsilon");
    let normed = |x: &Array2<f64>, norm: &str| {
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            let mean = row.sum() / row.len() as f64;
            row -= mean;
            let scale = (row.dot(&row) / row.len() as f64 + eps).sqrt().recip();
            row *= scale;
        }
        y * model.vector(&format!("{norm}.weight")) + model.vector(&format!("{norm}.bias"))
    };
    let embedding = model.matrix("transformer.wte.weight");
    let positions = model.matrix("transformer.wpe.weight");
    let mut stream = embedding.select(Axis(0), tokens) + positions.slice(s![..tokens.len(), ..]);
    for layer in 0..shape.layers {
        let linear = |x: &Array2<f64>, part: &str| {
            let weight = model.matrix(&shape.name(layer, &format!("{part}.weight")));
            x.dot(&weight) + model.vector(&shape.name(layer, &format!("{part}.bias")))
        };
        let qkv = linear(&normed(&stream, &shape.name(layer, "ln_1")), "attn.c_attn");
        let third = |at: usize| {
            qkv.slice(s![.., at * shape.hidden..(at + 1) * shape.hidden])
                .to_owned()
        };
        stream += &linear(
            &attention(&third(0), &third(1), &third(2), shape),
            "attn.c_proj",
        );
        let inner = linear(&normed(&stream, &shape.name(layer, "ln_2")), "mlp.c_fc").mapv(gelu_new);
        stream += &linear(&inner, "mlp.c_proj");
    }
    normed(&stream, "transformer.ln_f").dot(&embedding.t())
}

fn number(model: &TestModel, key: &str) -> f64 {
    model.config[key]
        .as_f64()
        .unwrap_or_else(|| panic!("config.json has no number {key}"))
}

/// Turns the pairs (i, i + head_dim / 2) of every head by position times frequency.
fn rope(x: &mut Array2<f64>, head_dim: usize, theta: f64) {
    let half = head_dim / 2;
    for (position, mut row) in x.rows_mut().into_iter().enumerate() {
        for start in (0..row.len()).step_by(head_dim) {
            for pair in 0..half {
                let frequency = theta.powf(-(2.0 * pair as f64) / head_dim as f64);
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (row[start + pair], row[start + pair + half]);
                row[start + pair] = a * cos - b * sin;
                row[start + pair + half] = b * cos + a * sin;
            }
        }
    }
}

/// Causal attention, heads side by side, each query head with its group's keys and values.
fn attention(q: &Array2<f64>, k: &Array2<f64>, v: &Array2<f64>, shape: &Shape) -> Array2<f64> {
    let d = shape.head_dim;
    let mut out = Array2::zeros(q.dim());
    for head in 0..shape.heads {
        let group = head / shape.per_group();
        let own = |x: &Array2<f64>, at: usize| x.slice(s![.., at * d..(at + 1) * d]).to_owned();
        let scores = own(q, head).dot(&own(k, group).t()) / (d as f64).sqrt();
        let mixed = causal_softmax(scores.view()).dot(&own(v, group));
        out.slice_mut(s![.., head * d..(head + 1) * d])
            .assign(&mixed);
    }
    out
}

fn causal_softmax(scores: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut weights = Array2::zeros(scores.dim());
    for (position, row) in scores.rows().into_iter().enumerate() {
        let seen = row.slice(s![..=position]);
        let most = seen.fold(f64::NEG_INFINITY, |most, &value| most.max(value));
        let exp: Array1<f64> = seen.mapv(|value| (value - most).exp());
        let total = exp.sum();
        weights
            .slice_mut(s![position, ..=position])
            .assign(&(exp / total));
    }
    weights
}

/// GPT-2's approximation of the Gaussian error linear unit.
fn gelu_new(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

//! The derivations do what their names say: those that claim to keep the function keep it, the others change it.

mod hostile;
mod weights;

use crate::support::forward::{logits, relative_change};
use crate::support::linear::{generator, permutation, select};
use crate::support::model::TestModel;
use crate::support::shape::Shape;
use crate::support::{derive, zoo};
use ndarray::ArrayD;
use safetensors::Dtype;
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

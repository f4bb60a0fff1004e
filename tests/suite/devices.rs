//! Evidence from weights with its large products on a graphics card: the same finding as on the CPU.

use crate::audits::{compare_on, record};
use crate::support::model::TestModel;
use modelkin::evidence::record::Status;
use ndarray::{Array, ArrayD, IxDyn};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::json;

/// Sizes at which products are large enough for a card.
const HIDDEN: usize = 256;
const UNITS: usize = 768;

/// A Llama-shaped model of two layers with random weights.
fn random_llama(seed: u64) -> TestModel {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = |shape: &[usize]| -> ArrayD<f64> {
        Array::from_shape_fn(IxDyn(shape), |_| random.random_range(-0.1..0.1))
    };
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            weights(&[64, HIDDEN]),
        ),
        ("lm_head.weight".to_owned(), weights(&[64, HIDDEN])),
    ];
    let ones = |n: usize| ArrayD::from_elem(IxDyn(&[n]), 1.0);
    tensors.push(("model.norm.weight".to_owned(), ones(HIDDEN)));
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            let name = name(&format!("self_attn.{part}"));
            tensors.push((name, weights(&[HIDDEN, HIDDEN])));
        }
        for part in ["gate_proj", "up_proj"] {
            tensors.push((name(&format!("mlp.{part}")), weights(&[UNITS, HIDDEN])));
        }
        tensors.push((name("mlp.down_proj"), weights(&[HIDDEN, UNITS])));
        for part in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((name(part), ones(HIDDEN)));
        }
    }
    TestModel {
        config: json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN,
            "intermediate_size": UNITS, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 64, "rms_norm_eps": 1e-5,
        }),
        tensors,
        other_files: Vec::new(),
        dtype: Dtype::F32,
    }
}

/// The model with its hidden units in another order, and noise on them.
fn permuted(model: &TestModel) -> TestModel {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut permuted = TestModel {
        config: model.config.clone(),
        tensors: model.tensors.clone(),
        other_files: Vec::new(),
        dtype: model.dtype,
    };
    for (name, tensor) in &mut permuted.tensors {
        let axis = match name {
            name if name.contains("gate_proj") || name.contains("up_proj") => 0,
            name if name.contains("down_proj") => 1,
            _ => continue,
        };
        tensor.invert_axis(ndarray::Axis(axis));
        tensor.mapv_inplace(|x| x + random.random_range(-0.005..0.005));
    }
    permuted
}

#[test]
fn a_card_multiplies_and_the_finding_is_that_of_the_cpu() {
    let name = std::env::var("MODELKIN_TEST_DEVICE").unwrap_or_else(|_| "vulkan".to_owned());
    if let Err(why) = modelkin::fingerprint::product::Products::on(&name) {
        assert!(std::env::var_os("MODELKIN_REQUIRE_GPU").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = random_llama(1);
    for (what, candidate, derived) in [
        ("permuted", permuted(&model), true),
        ("independent", random_llama(2), false),
    ] {
        let [reference, candidate] =
            [("reference", &model), (what, &candidate)].map(|(id, model)| {
                let path = folder.path().join(id);
                model.save(&path);
                path
            });
        let cpu = compare_on("cpu", &reference, &candidate);
        let card = compare_on(&name, &reference, &candidate);
        assert_eq!(cpu.options.device, "cpu");
        assert_ne!(card.options.device, "cpu");
        let relation = |report: &modelkin::report::Report| report.finding.overall.relation;
        assert_eq!(relation(&card), relation(&cpu), "{what}");
        for test in ["gate-up-matching", "unit-permutation"] {
            let [cpu, card] = [&cpu, &card].map(|report| record(report, test));
            assert_eq!(card.status, Status::Measured, "{what}: {test}");
            let [cpu, card] = [cpu, card].map(|record| record.p.unwrap().ln_p());
            // Sums are rounded in another order: where similarities are close, units may change partners.
            assert!(
                (cpu - card).abs() <= 0.5 + 1e-3 * cpu.abs(),
                "{what}: {test}: {cpu} {card}"
            );
            if test == "gate-up-matching" {
                assert_eq!(card < -20.0, derived, "{what}: {card}");
            }
        }
    }
}

#[test]
fn a_device_that_cannot_be_had_is_refused_before_anything_is_read() {
    for (device, says) in [
        ("abacus", "abacus"),
        ("cpu-f64", "f32"),
        ("cuda-bf16", "f32"),
    ] {
        // An empty folder is no model, which opening it would find.
        let empty = tempfile::tempdir().unwrap();
        let error = crate::audits::try_compare_on(device, empty.path(), empty.path()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(device) && error.contains(says), "{error}");
    }
}

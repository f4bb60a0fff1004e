//! A budget that holds rows and no whole matrices: what is served stays within it, both models are read
//! alike, and the verdict is that of the whole.

use crate::audits::{compare, compare_within};
use crate::hub::options;
use crate::support::derive::{as_phi3, layers_swapped, noised, permuted_units};
use crate::support::hub_server::HubServer;
use crate::support::linear::{generator, normals};
use crate::support::model::TestModel;
use modelkin::report::Report;
use modelkin::source::FetchOptions;
use modelkin::verdict::Relation;
use ndarray::{ArrayD, Ix2};
use safetensors::Dtype;
use serde_json::json;

const HIDDEN: usize = 256;
const UNITS: usize = 1024;
const VOCABULARY: usize = 2048;
const N_LAYERS: usize = 3;
/// Of two models of 8 MB each: enough for a good part of the first MLP.
const BUDGET: u64 = 7_000_000;
const SPREAD: f64 = 0.02;

/// A product of rank four, which stands out of the noise of a matrix as what was learned does.
fn learned(shape: &[usize], height: f64, seed: u64, stream: u64) -> ArrayD<f64> {
    let (n, m) = (shape[0], shape[1]);
    let mut rng = generator(seed, stream);
    let side = |n: usize, rng: &mut _| {
        let values = normals(&[n, 4], rng);
        values.into_dimensionality::<Ix2>().expect("two dimensions")
    };
    let (left, right) = (side(n, &mut rng), side(m, &mut rng));
    let scale = height * SPREAD * ((n as f64).powf(-0.5) + (m as f64).powf(-0.5));
    (left.dot(&right.t()) * scale).into_dyn()
}

/// Names and shapes of a model of Llama's shape.
fn shapes(
    hidden: usize,
    units: usize,
    n_tokens: usize,
    n_layers: usize,
) -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![n_tokens, hidden])];
    for layer in 0..n_layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden, hidden]),
            ("self_attn.v_proj", vec![hidden, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![units, hidden]),
            ("mlp.up_proj", vec![units, hidden]),
            ("mlp.down_proj", vec![hidden, units]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    shapes.push(("model.norm".to_owned(), vec![hidden]));
    shapes.push(("lm_head".to_owned(), vec![n_tokens, hidden]));
    shapes
}

fn config(hidden: usize, units: usize, n_tokens: usize, n_layers: usize) -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": units, "num_hidden_layers": n_layers, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": n_tokens, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16"
    })
}

/// A model of Llama's shape, random but for four directions in each matrix.
fn model(seed: u64) -> TestModel {
    trained(seed, seed)
}

/// A model that began at the random numbers of one seed and learned the directions of another.
fn trained(seed: u64, learned_seed: u64) -> TestModel {
    let shapes = shapes(HIDDEN, UNITS, VOCABULARY, N_LAYERS);
    let tensors = (100..).zip(shapes).map(|(stream, (name, shape))| {
        let noise = normals(&shape, &mut generator(seed, stream));
        let values = match shape.len() {
            1 => noise * 0.1 + 1.0,
            _ => noise * SPREAD + learned(&shape, 3.0, learned_seed, 10_000 + stream),
        };
        (format!("{name}.weight"), values)
    });
    TestModel {
        tensors: tensors.collect(),
        config: config(HIDDEN, UNITS, VOCABULARY, N_LAYERS),
        other_files: Vec::new(),
        dtype: Dtype::BF16,
    }
}

/// Every matrix moves in four directions, and a little everywhere.
fn tuned(model: &TestModel) -> TestModel {
    let mut tuned = noised(model, 0.02, 3);
    for (stream, (_, values)) in (0..).zip(&mut tuned.tensors) {
        if values.ndim() == 2 {
            let change = learned(values.shape(), 0.2, 77, stream);
            *values += &change;
        }
    }
    tuned
}

/// Models on a hub and in folders of the same bytes.
struct Models {
    server: HubServer,
    folder: tempfile::TempDir,
}

impl Models {
    fn new() -> Self {
        Self {
            server: HubServer::start(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Publishes a model, in so many files.
    fn put(&self, id: &str, model: &TestModel, n_files: usize) {
        let folder = self.folder.path().join(id);
        match n_files {
            1 => model.save(&folder),
            n => model.save_sharded(&folder, n),
        }
        self.server.put_folder(&format!("budget/{id}"), &folder);
    }

    /// Within a budget, from the hub; also the bytes of weights that it sent of each.
    fn within(&self, ids: [&str; 2], budget: u64) -> (Report, [u64; 2]) {
        self.server.seen();
        let cache = tempfile::tempdir().unwrap();
        let fetch = FetchOptions {
            in_parts: true,
            ..options(&self.server, cache.path())
        };
        let names = ids.map(|id| format!("hf:budget/{id}"));
        let names = names.each_ref().map(String::as_str);
        let report = compare_within(fetch, names, [None, None], Some(budget));
        let seen = self.server.seen();
        let sent = ids.map(|id| {
            let of = |path: &str| {
                path.contains(&format!("budget/{id}/")) && path.contains(".safetensors?")
            };
            let weights = seen.iter().filter(|s| of(&s.path));
            weights.map(|s| s.n_sent as u64).sum()
        });
        (report, sent)
    }

    fn whole(&self, ids: [&str; 2]) -> Report {
        let [reference, candidate] = ids.map(|id| self.folder.path().join(id));
        compare(&reference, &candidate)
    }
}

fn effect(report: &Report, test: &str, name: &str) -> Option<f64> {
    report.records.iter().find(|r| r.test == test)?.effect(name)
}

#[test]
fn within_a_budget_of_rows_the_verdict_is_that_of_the_whole() {
    let models = Models::new();
    let reference = model(1);
    let cases = [
        ("tuned", tuned(&reference), 1, Relation::FineTuned),
        ("noised", noised(&reference, 0.05, 4), 3, Relation::Noised),
        (
            "permuted",
            permuted_units(&noised(&reference, 0.02, 5), 6),
            2,
            Relation::Disguised,
        ),
        ("fused", as_phi3(&tuned(&reference)), 1, Relation::FineTuned),
        (
            "moved",
            layers_swapped(&noised(&reference, 0.02, 7), 0, 2),
            1,
            Relation::Disguised,
        ),
        ("twin", trained(1, 9), 1, Relation::SharedInitialisation),
        ("other", model(2), 2, Relation::Independent),
    ];
    models.put("reference", &reference, 3);
    for (id, candidate, n_files, expected) in cases {
        models.put(id, &candidate, n_files);
        let ids = ["reference", id];
        let whole = models.whole(ids);
        let (within, sent) = models.within(ids, BUDGET);
        println!(
            "{id}: {sent:?} of {BUDGET} bytes; {}",
            within.reference.notes.join("\n")
        );
        assert_eq!(whole.finding.overall.relation, expected, "{id}, whole");
        assert_eq!(
            within.finding.overall.relation, expected,
            "{id}, within the budget: {within:#?}"
        );
        for n_sent in sent {
            assert!(
                n_sent > BUDGET / 4 && n_sent <= BUDGET / 2,
                "{id}: {sent:?} of {BUDGET}"
            );
        }
        // What was read is told, and is the same rows of both.
        let rows = |notes: &[String]| {
            let note = notes
                .iter()
                .find_map(|n| n.split_once("equally for both: "));
            note.expect("a note of what was read").1.to_owned()
        };
        let told = rows(&within.reference.notes);
        assert_eq!(told, rows(&within.candidate.notes), "{id}");
        assert!(
            told.contains(&format!("of {UNITS} rows of up_proj")),
            "{told}"
        );
        assert!(
            told.contains(&format!("of {VOCABULARY} rows of embed_tokens")),
            "{told}"
        );
        let compared = effect(&within, "tensor-identity", "fraction-tensors-compared");
        assert!(
            compared.is_some_and(|share| share < 1.0),
            "{id}: {compared:?}"
        );
    }
}

#[test]
fn rows_of_a_copy_are_equal_and_are_not_taken_for_the_copy() {
    let models = Models::new();
    models.put("reference", &model(1), 2);
    let (report, _) = models.within(["reference", "reference"], BUDGET);
    assert_eq!(
        effect(&report, "tensor-identity", "fraction-values-equal"),
        Some(1.0)
    );
    assert_eq!(report.finding.overall.relation, Relation::Derived);
    // Lens, order and agreement each see all units that were read.
    for test in [
        "unit-permutation",
        "gate-up-matching",
        "token-lens-matching",
    ] {
        assert_eq!(effect(&report, test, "agreement"), Some(1.0), "{test}");
    }
}

#[test]
fn where_too_few_units_fit_nothing_is_called_unrelated() {
    let models = Models::new();
    let reference = model(1);
    models.put("reference", &reference, 1);
    models.put("permuted", &permuted_units(&reference, 6), 1);
    models.put("other", &model(2), 1);
    models.put("tuned", &tuned(&reference), 1);
    // The smallest budget that holds some units of an MLP.
    let (budget, partners) = (10..40)
        .find_map(|n_blocks| {
            let budget = 2 * n_blocks * 65_536;
            let (report, sent) = models.within(["reference", "permuted"], budget);
            assert!(
                sent.iter().all(|n| *n <= budget / 2),
                "{sent:?} of {budget}"
            );
            assert_ne!(
                report.finding.overall.relation.related(),
                Some(false),
                "{report:#?}"
            );
            Some((
                budget,
                effect(&report, "gate-up-matching", "n-partners-if-reordered")?,
            ))
        })
        .expect("a budget that holds units");
    println!("{budget} bytes: {partners} partners");
    assert!(partners < 20.0, "{partners}");
    for (id, expected) in [
        ("permuted", Relation::Inconclusive),
        ("other", Relation::Inconclusive),
        // In place they are enough.
        ("tuned", Relation::FineTuned),
    ] {
        let (report, _) = models.within(["reference", id], budget);
        assert_eq!(
            report.finding.overall.relation, expected,
            "{id}: {report:#?}"
        );
    }
}

/// One layer of many units and little else.
fn wide(seed: u64) -> TestModel {
    let shapes = shapes(32, 4096, 128, 1);
    let tensors = (500..).zip(shapes).map(|(stream, (name, shape))| {
        let values = normals(&shape, &mut generator(seed, stream)) * SPREAD;
        (format!("{name}.weight"), values)
    });
    TestModel {
        tensors: tensors.collect(),
        config: config(32, 4096, 128, 1),
        other_files: Vec::new(),
        dtype: Dtype::F32,
    }
}

#[test]
fn parts_of_independent_models_are_not_linked_more_often_than_chance_links_them() {
    let tests = [
        "unit-permutation",
        "gate-up-matching",
        "token-lens-matching",
        "shared-initialisation",
    ];
    let models = Models::new();
    let mut ps: Vec<f64> = Vec::new();
    for pair in 0..15 {
        let ids = [format!("a{pair}"), format!("b{pair}")];
        let folders = [0, 1].map(|side: usize| {
            let folder = models.folder.path().join(&ids[side]);
            wide(1000 + 2 * pair + side as u64).save(&folder);
            folder.to_string_lossy().into_owned()
        });
        let names = folders.each_ref().map(String::as_str);
        let here = FetchOptions::default();
        let report = compare_within(here, names, [None, None], Some(1_800_000));
        let partners = effect(&report, "gate-up-matching", "n-partners-if-reordered");
        assert!(
            partners.is_some_and(|n| n < 4000.0),
            "units are read in part: {partners:?}"
        );
        assert_ne!(report.finding.overall.relation.related(), Some(true));
        let of_pair = report.records.iter().filter(|r| tests.contains(&r.test));
        ps.extend(of_pair.filter_map(|r| Some(r.p?.ln_p().exp())));
    }
    assert!(ps.len() >= 45, "{}", ps.len());
    // Of 60 a twentieth is 3; 10 and more come up once in a thousand.
    let n_small = ps.iter().filter(|p| **p <= 0.05).count();
    assert!(n_small < 10, "{ps:?}");
    assert!(ps.iter().all(|p| *p > 1e-4), "{ps:?}");
}

//! Are the p-values of independent models uniform? The whole path from tensors to records, on pairs
//! of randomly initialised models of several shapes.
//!
//! For each test with a p: Kolmogorov–Smirnov against the uniform distribution, and, what validity
//! needs, P(p ≤ α) ≤ α at three levels within binomial error. Larger p's than uniform ones are
//! allowed (Šidák over dependent looks, bounds, ties); smaller ones would be false accusations.
//!
//! Variables: `MODELKIN_BENCH_PAIRS` (over all shapes, default 2000), `MODELKIN_BENCH_SEED`.

mod support;

use modelkin::arch::Model;
use modelkin::arch::artefact::Artefacts;
use modelkin::audit::Unwatched;
use modelkin::checkpoint::Checkpoint;
use modelkin::evidence::context::Settings;
use modelkin::evidence::pair::Pair;
use modelkin::evidence::record::Status;
use modelkin::stats::{self, special};
use modelkin::tensor::{DType, Tensor, TensorBytes, TensorError};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use support::{Normals, Report, mix};

const VOCABULARY: usize = 160;
const TESTS: &[&str] = &[
    "unit-permutation",
    "gate-up-matching",
    "token-lens-matching",
    "shared-initialisation",
];
const LEVELS: [f64; 3] = [0.05, 0.01, 0.001];
/// A share of small p's that chance exceeds less often than this is called too many.
const TOO_MANY: f64 = 1e-3;

/// Sizes of a model and how its MLP is made.
#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    units: usize,
    n_layers: usize,
    kv: usize,
    gated: bool,
    /// Units at the end without any weight: padding.
    padding: usize,
    /// What the MLP writes begins at zero, as some initialisers have it.
    zero_down: bool,
}

const LLAMA: Shape = Shape {
    hidden: 64,
    units: 160,
    n_layers: 3,
    kv: 64,
    gated: true,
    padding: 0,
    zero_down: false,
};
const PLAIN: Shape = Shape {
    hidden: 48,
    units: 192,
    gated: false,
    kv: 48,
    ..LLAMA
};

/// Every case: a name, and the shapes of the two models.
fn cases() -> Vec<(&'static str, Shape, Shape)> {
    let both = |name, shape| (name, shape, shape);
    vec![
        both("gated, 3 layers, 160 units", LLAMA),
        both(
            "gated, grouped queries, 1 layer, 100 units",
            Shape {
                kv: 16,
                n_layers: 1,
                units: 100,
                ..LLAMA
            },
        ),
        both(
            "gated, 2 layers, 24 units",
            Shape {
                hidden: 32,
                units: 24,
                kv: 32,
                n_layers: 2,
                ..LLAMA
            },
        ),
        (
            "gated, 2 against 4 layers",
            Shape {
                n_layers: 2,
                ..LLAMA
            },
            Shape {
                n_layers: 4,
                ..LLAMA
            },
        ),
        (
            "gated, 160 against 224 units",
            LLAMA,
            Shape {
                units: 224,
                ..LLAMA
            },
        ),
        (
            "gated, width 64 against 96",
            LLAMA,
            Shape {
                hidden: 96,
                units: 224,
                kv: 96,
                ..LLAMA
            },
        ),
        both(
            "gated, 10 layers (4 of them taken)",
            Shape {
                hidden: 32,
                units: 64,
                kv: 32,
                n_layers: 10,
                ..LLAMA
            },
        ),
        both(
            "gated, 40 of 160 units padding in both",
            Shape {
                padding: 40,
                ..LLAMA
            },
        ),
        both("plain, 3 layers, 192 units", PLAIN),
        both(
            "plain, 32 of 192 units padding in both",
            Shape {
                padding: 32,
                ..PLAIN
            },
        ),
        (
            "plain against gated",
            Shape {
                hidden: 64,
                kv: 64,
                ..PLAIN
            },
            LLAMA,
        ),
        both(
            "plain, what the MLP writes all zero",
            Shape {
                zero_down: true,
                ..PLAIN
            },
        ),
    ]
}

/// A tensor's values in memory.
#[derive(Debug)]
struct InMemory(Vec<u8>);

impl TensorBytes for InMemory {
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError> {
        self.0
            .get(range.start as usize..range.end as usize)
            .map(Cow::Borrowed)
            .ok_or_else(|| TensorError::Io {
                file: self.file().to_owned(),
                error: std::io::ErrorKind::UnexpectedEof.into(),
            })
    }

    fn file(&self) -> &str {
        "memory"
    }
}

/// A randomly initialised model.
fn model(shape: Shape, seed: u64, normals: &Normals) -> Model {
    let mut tensors = Vec::new();
    let mut push = |name: String, dims: &[usize], constant: Option<f32>| {
        let n: usize = dims.iter().product();
        let stream = mix(seed, tensors.len() as u64);
        let mut bytes = Vec::with_capacity(n * 4);
        for quad in 0..n.div_ceil(4) {
            for draw in normals.four(mix(stream, quad as u64)) {
                bytes.extend(constant.unwrap_or(0.02 * draw).to_le_bytes());
            }
        }
        bytes.truncate(n * 4);
        // Units are the rows of what reads the stream and the columns of what writes to it.
        if let (true, &[rows, cols]) = (name.contains("mlp"), dims) {
            let is_row = rows == shape.units;
            for element in 0..n {
                let unit = if is_row {
                    element / cols
                } else {
                    element % cols
                };
                if unit >= shape.units - shape.padding {
                    bytes[element * 4..element * 4 + 4].fill(0);
                }
            }
        }
        let tensor = Tensor::new(
            name,
            DType::F32,
            dims.to_vec(),
            Arc::new(InMemory(bytes)),
            0,
        );
        tensors.push(tensor.expect("the shape is small"));
    };
    let (d, h) = (shape.hidden, shape.units);
    let down = shape.zero_down.then_some(0.0);
    let config = if shape.gated {
        push("model.embed_tokens.weight".into(), &[VOCABULARY, d], None);
        for layer in 0..shape.n_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            push(name("input_layernorm"), &[d], Some(1.0));
            push(name("self_attn.q_proj"), &[d, d], None);
            push(name("self_attn.k_proj"), &[shape.kv, d], None);
            push(name("self_attn.v_proj"), &[shape.kv, d], None);
            push(name("self_attn.o_proj"), &[d, d], None);
            push(name("post_attention_layernorm"), &[d], Some(1.0));
            push(name("mlp.gate_proj"), &[h, d], None);
            push(name("mlp.up_proj"), &[h, d], None);
            push(name("mlp.down_proj"), &[d, h], down);
        }
        push("model.norm.weight".into(), &[d], Some(1.0));
        push("lm_head.weight".into(), &[VOCABULARY, d], None);
        serde_json::json!({"model_type": "llama", "hidden_size": d, "intermediate_size": h,
            "num_hidden_layers": shape.n_layers, "num_attention_heads": 4,
            "num_key_value_heads": shape.kv * 4 / d, "vocab_size": VOCABULARY})
    } else {
        push("wte.weight".into(), &[VOCABULARY, d], None);
        push("wpe.weight".into(), &[32, d], None);
        for layer in 0..shape.n_layers {
            let name = |part: &str| format!("h.{layer}.{part}");
            push(name("ln_1.weight"), &[d], Some(1.0));
            push(name("ln_1.bias"), &[d], Some(0.0));
            push(name("attn.c_attn.weight"), &[d, 3 * d], None);
            push(name("attn.c_attn.bias"), &[3 * d], Some(0.0));
            push(name("attn.c_proj.weight"), &[d, d], None);
            push(name("attn.c_proj.bias"), &[d], Some(0.0));
            push(name("ln_2.weight"), &[d], Some(1.0));
            push(name("ln_2.bias"), &[d], Some(0.0));
            push(name("mlp.c_fc.weight"), &[d, h], None);
            push(name("mlp.c_fc.bias"), &[h], Some(0.0));
            push(name("mlp.c_proj.weight"), &[h, d], down);
            push(name("mlp.c_proj.bias"), &[d], Some(0.0));
        }
        push("ln_f.weight".into(), &[d], Some(1.0));
        push("ln_f.bias".into(), &[d], Some(0.0));
        serde_json::json!({"model_type": "gpt2", "n_embd": d, "n_layer": shape.n_layers,
            "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 32})
    };
    let mut artefacts = Artefacts::default();
    artefacts
        .contents
        .insert("config.json".to_owned(), config.to_string().into_bytes());
    let checkpoint = Checkpoint {
        format: "safetensors",
        tensors,
        ..Checkpoint::default()
    };
    Model::new("random", checkpoint, artefacts).expect("names and shapes agree")
}

/// p of each test on one independent pair.
fn p_values(a: Shape, b: Shape, seed: u64, normals: &Normals) -> Vec<(&'static str, f64)> {
    let settings = Settings {
        seed,
        ..Settings::default()
    };
    let (a, b) = (
        model(a, mix(seed, 1), normals),
        model(b, mix(seed, 2), normals),
    );
    let pair = Pair::new(&a, &b, &settings).expect("the tensors are finite");
    let selected = |id: &str| TESTS.contains(&id);
    modelkin::evidence::run(&pair, &settings, &selected, &Unwatched)
        .into_iter()
        .filter(|record| TESTS.contains(&record.test))
        .inspect(|record| assert_ne!(record.status, Status::Failed, "{record:?}"))
        .filter_map(|record| Some((record.test, record.p?.ln_p().exp())))
        .collect()
}

/// P(K ≥ k) for a binomial K of n trials at α.
fn upper_tail(n: usize, k: usize, alpha: f64) -> f64 {
    if k == 0 {
        return 1.0;
    }
    special::ln_regularized_beta(alpha, k as f64, (n - k + 1) as f64).exp()
}

/// One line of the table; whether some level has too many small p's.
fn line(report: &mut Report, case: &str, test: &str, ps: &[f64]) -> bool {
    let Some(ks) = stats::ks_uniform(ps) else {
        return false;
    };
    let n = ps.len();
    let mut cells = String::new();
    let mut bad = false;
    for alpha in LEVELS {
        let k = ps.iter().filter(|p| **p <= alpha).count();
        let tail = upper_tail(n, k, alpha);
        bad |= tail < TOO_MANY;
        cells.push_str(&format!(
            " {:.4}{} |",
            k as f64 / n as f64,
            if tail < TOO_MANY { " **too many**" } else { "" }
        ));
    }
    let mean = ps.iter().sum::<f64>() / n as f64;
    let least = ps.iter().copied().fold(1.0, f64::min);
    report.line(&format!(
        "| {case} | {test} | {n} | {mean:.3} | {:.4} | {:.2e} |{cells} {least:.1e} |",
        ks.d,
        ks.ln_p.exp()
    ));
    bad
}

fn main() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
    };
    let cases = cases();
    let n_pairs = number("MODELKIN_BENCH_PAIRS", 2000).div_ceil(cases.len() as u64) as usize;
    let seed = number("MODELKIN_BENCH_SEED", 0);
    let normals = Normals::new();
    let mut report = Report::new("null_uniformity", "p-values of independent models");
    report.line(&format!(
        "{n_pairs} pairs of randomly initialised models for each of {} shapes. D and its p: \
         Kolmogorov–Smirnov against uniform (two-sided, so that conservative p-values are called not \
         uniform too). Then the share of p ≤ α; \"too many\" where chance reaches that share less often \
         than {TOO_MANY}.\n",
        cases.len()
    ));
    report.line(
        "| shape | test | n | mean p | D | p of D | α = 0.05 | 0.01 | 0.001 | least p |\n\
         |---|---|---|---|---|---|---|---|---|---|",
    );
    let started = Instant::now();
    let mut pooled: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (number, (case, a, b)) in cases.iter().enumerate() {
        let found: Vec<Vec<(&'static str, f64)>> = (0..n_pairs)
            .into_par_iter()
            .map(|i| p_values(*a, *b, mix(seed, (number * 1_000_000 + i) as u64), &normals))
            .collect();
        let mut by_test: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for (test, p) in found.into_iter().flatten() {
            by_test.entry(test).or_default().push(p);
            pooled.entry(test).or_default().push(p);
        }
        for test in TESTS {
            if let Some(ps) = by_test.get(test)
                && line(&mut report, case, test, ps)
            {
                bad.push(format!("{test} on {case}"));
            }
        }
    }
    for test in TESTS {
        if let Some(ps) = pooled.get(test)
            && line(&mut report, "all shapes", test, ps)
        {
            bad.push(format!("{test} over all shapes"));
        }
    }
    report.line(&format!(
        "\n{} pairs in {:.0} s. Too many small p-values: {}.",
        n_pairs * cases.len(),
        started.elapsed().as_secs_f64(),
        if bad.is_empty() {
            "nowhere".to_owned()
        } else {
            bad.join("; ")
        }
    ));
    report.finish();
}

//! Synthetic reports for the renderers' tests: a full one, a hostile one and an empty one.
//!
//! The numbers are made up and say nothing about any real model.

use super::{ComponentSection, FileLine, MachineClass, ModelSection, Report, RunOptions, Tool};
use crate::evidence::record::{
    Detail, Histogram, LayerCell, LayerGrid, Observation, Renaming, TestRecord,
};
use crate::evidence::spec::{Need, Scope, TestSpec};
use crate::stats::{PKind, PValue};
use crate::verdict::{Conclusion, Finding, Operation, Relation, Strength};
use std::collections::BTreeMap;

/// Far below what a double can hold as p; its last digits are there to be lost.
pub(super) const LN_P_TINY: f64 = -5_000.123_456_789_013;

/// A parameter whose last bit matters.
pub(super) const NOISE_STD: f64 = 0.001_412_429_378_531_073_4;

/// Strings that attack each medium.
pub(super) const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "\x1b[2J\x1b[1;1H\x1b]0;owned\x07cleared",
    "\u{9b}31mred",
    "a|b`c*d_e[f](javascript:alert(1))#g",
    "line\none\r\n\n# heading\n| a | b |",
    "\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}",
    "\" onmouseover=\"alert(1)' x='",
    "&amp;<img src=x onerror=alert(1)>",
    "</style></svg><iframe src=https://example.org>",
    "]]><!-- --> <?php ?>",
    "@everyone http://example.org/track.png",
    "",
];

const fn spec(
    id: &'static str,
    title: &'static str,
    question: &'static str,
    null: Option<&'static str>,
    needs: &'static [Need],
) -> TestSpec {
    TestSpec {
        id,
        title,
        question,
        scope: if null.is_some() {
            Scope::Component
        } else {
            Scope::Model
        },
        needs,
        null,
        p_value: match null {
            Some(_) => Some("Rank correlation of two assignments, exact under the null."),
            None => None,
        },
        survives: "renaming, re-sharding, noise up to two standard deviations of the tensor",
        defeated_by: "training from scratch",
        citation: "Zhu et al., Independence Tests for Language Models, ICML 2025",
    }
}

static SPECS: [TestSpec; 7] = [
    spec(
        "file-identity",
        "Equal files",
        "Are files of both models equal, byte for byte?",
        None,
        &[Need::Files],
    ),
    spec(
        "tokenizer-comparison",
        "Tokenizers",
        "Do the tokenizers share choices that nothing forced?",
        None,
        &[Need::Files],
    ),
    spec(
        "tensor-correspondence",
        "Renaming map",
        "Which tensor of the candidate is which of the reference?",
        None,
        &[Need::Weights],
    ),
    spec(
        "weight-similarity",
        "Weights side by side",
        "How alike are the weights, layer by layer?",
        None,
        &[Need::Weights],
    ),
    spec(
        "unit-permutation",
        "Order of the units",
        "Do the hidden units stand in the same order?",
        Some("Both models were initialised independently."),
        &[Need::Weights],
    ),
    spec(
        "gate-up-matching",
        "Gate and up agree",
        "Do two matchings of the hidden units, made from different matrices, agree?",
        Some("Both models were initialised independently."),
        &[Need::Weights],
    ),
    spec(
        "residual-noise",
        "Noise",
        "Is the difference of the weights plain Gaussian noise?",
        None,
        &[Need::Weights],
    ),
];

const ROLES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// A number in 0..1 that depends on its arguments alone.
fn wobble(a: u32, b: u32) -> f64 {
    f64::from(
        a.wrapping_mul(2_654_435_761)
            .wrapping_add(b.wrapping_mul(40_503))
            >> 8,
    ) / f64::from(1u32 << 24)
}

fn similarity_grid() -> LayerGrid {
    let mut cells = Vec::new();
    for layer in 0..32u32 {
        for (i, role) in ROLES.iter().enumerate() {
            let drop = if (14..18).contains(&layer) {
                0.55
            } else {
                0.06
            };
            cells.push(LayerCell {
                reference_layer: Some(layer),
                candidate_layer: Some(layer),
                role: (*role).to_owned(),
                value: 1.0 - drop * wobble(layer + 3, i as u32 + 11),
                ln_p: None,
            });
        }
    }
    for role in ["embed_tokens", "final_norm", "lm_head"] {
        cells.push(LayerCell {
            reference_layer: None,
            candidate_layer: None,
            role: role.to_owned(),
            value: 0.9987,
            ln_p: None,
        });
    }
    LayerGrid {
        quantity: "centred cosine".to_owned(),
        range: (0.0, 1.0),
        cells,
    }
}

fn pair_grid() -> LayerGrid {
    let mut cells = Vec::new();
    for a in 0..24u32 {
        for b in 0..20u32 {
            let origin = if b < 8 { b } else { b + 4 };
            let hit = a == origin;
            cells.push(LayerCell {
                reference_layer: Some(a),
                candidate_layer: Some(b),
                role: "up_proj".to_owned(),
                value: if hit {
                    0.93
                } else {
                    0.04 * wobble(a + 1, b + 7)
                },
                ln_p: Some(if hit { -812.25 } else { -1.5 }),
            });
        }
    }
    LayerGrid {
        quantity: "Spearman correlation of the two matchings".to_owned(),
        range: (0.0, 1.0),
        cells,
    }
}

fn histogram() -> Histogram {
    let counts = (0..61).map(|i| {
        let z = (f64::from(i) - 30.0) / 8.0;
        (1_000_000.0 * (-0.5 * z * z).exp()) as u64
    });
    Histogram {
        quantity: "candidate − reference weight, all compared tensors".to_owned(),
        range: (-0.0053, 0.0053),
        counts: counts.collect(),
    }
}

fn renamings() -> Vec<Renaming> {
    [
        ("llm.", "language_model.", 291),
        ("vpm.", "vison.", 437),
        ("resampler.", "projection.", 13),
    ]
    .map(|(reference, candidate, n_tensors)| Renaming {
        reference: reference.to_owned(),
        candidate: candidate.to_owned(),
        n_tensors,
        basis: "order".to_owned(),
    })
    .to_vec()
}

fn records() -> Vec<TestRecord> {
    let p = |ln_p, kind| PValue::new(ln_p, kind).expect("a p-value of the fixture");
    vec![
        TestRecord::measured("unit-permutation", "language-model")
            .with_p(p(LN_P_TINY, PKind::Exact))
            .with_effect_interval("spearman-median", 0.9312, Some((0.9285, 0.9341)))
            .with_detail(Detail::Selection(
                "every fourth layer, first and last included".to_owned(),
            )),
        TestRecord::measured("gate-up-matching", "language-model")
            .with_p(p(-812.25, PKind::Exact))
            .with_effect("layers-matched", 20.0)
            .with_detail(Detail::Grid(pair_grid())),
        TestRecord::measured("weight-similarity", "language-model")
            .with_effect("centred-cosine-median", 0.999_62)
            .with_effect("relative-difference-median", 0.0276)
            .with_detail(Detail::Grid(similarity_grid())),
        TestRecord::measured("residual-noise", "language-model")
            .with_p(p(
                -(1000f64.ln()),
                PKind::Permutation {
                    n_permutations: 999,
                    n_combined: 1,
                },
            ))
            .with_effect_interval("noise-std", NOISE_STD, Some((0.001_410, 0.001_415)))
            .with_effect("excess-kurtosis", -0.0021)
            .with_detail(Detail::Histogram(histogram())),
        TestRecord::measured("tokenizer-comparison", "model")
            .with_p(p(-3.2, PKind::Calibrated { n_reference: 141 }))
            .with_effect("ids-kept-fraction", 1.0)
            .with_reason("Equal tokenizers are common: 212 published models share this one.")
            .with_detail(Detail::Observations(vec![Observation {
                code: "dangling-module".to_owned(),
                message: "The tokenizer names the class `modeling_other.FastWrapper`, in a module \
                          that this repository does not contain."
                    .to_owned(),
                file: Some("tokenizer_config.json".to_owned()),
            }])),
        TestRecord::measured("tensor-correspondence", "model")
            .with_effect("tensors-matched", 741.0)
            .with_detail(Detail::Renamings(renamings())),
        TestRecord::not_applicable("gate-up-matching", "vision-tower", "The MLP has no gate."),
        TestRecord::failed(
            "file-identity",
            "model",
            "model-00002-of-00004.safetensors: expected 4976698592 bytes, found 102400",
        ),
    ]
}

fn conclusion(
    component: &str,
    relation: Relation,
    strength: Strength,
    summary: &str,
) -> Conclusion {
    Conclusion {
        component: component.to_owned(),
        relation,
        operations: Vec::new(),
        strength,
        summary: summary.to_owned(),
        carried_by: vec!["unit-permutation".to_owned(), "gate-up-matching".to_owned()],
        does_not_prove: vec![
            "It does not prove who made the copy, or when.".to_owned(),
            "It does not prove that the licence was broken.".to_owned(),
        ],
    }
}

fn finding() -> Finding {
    let mut overall = conclusion(
        "model",
        Relation::Noised,
        Strength::ExtremelyStrong,
        "The language model of the candidate holds the weights of the reference under other names, \
         with Gaussian noise of one standard deviation added to every tensor. Two tests whose \
         probability under independent training is known exactly point the same way.",
    );
    overall.operations = vec![
        Operation {
            relation: Relation::Repackaged,
            parameters: BTreeMap::from([("n_renamed_tensors".to_owned(), 741.0)]),
            description: "Every tensor was renamed; the order was kept.".to_owned(),
        },
        Operation {
            relation: Relation::Noised,
            parameters: BTreeMap::from([("noise_std".to_owned(), NOISE_STD)]),
            description: "Gaussian noise was added to every tensor.".to_owned(),
        },
    ];
    Finding {
        overall,
        components: vec![
            conclusion(
                "language-model",
                Relation::Noised,
                Strength::ExtremelyStrong,
                "A copy with noise.",
            ),
            conclusion(
                "projector",
                Relation::Derived,
                Strength::Strong,
                "Trained further from the projector of the reference.",
            ),
            conclusion(
                "vision-tower",
                Relation::Inconclusive,
                Strength::Weak,
                "Both use one public vision tower; that proves nothing.",
            ),
        ],
    }
}

fn model(label: &str, model_ref: &str, digit: char) -> ModelSection {
    let file = |path: &str, size_bytes, hashed: bool| FileLine {
        path: path.to_owned(),
        size_bytes,
        sha256: hashed.then(|| digit.to_string().repeat(64)),
        git_blob: Some(digit.to_string().repeat(40)),
    };
    let component =
        |id: &str, family: &str, n_layers, hidden_size, n_tensors, n_parameters| ComponentSection {
            id: id.to_owned(),
            family: family.to_owned(),
            n_layers,
            hidden_size,
            n_tensors,
            n_parameters,
            role_basis: "names and config".to_owned(),
        };
    ModelSection {
        label: label.to_owned(),
        model_ref: model_ref.to_owned(),
        revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        files: vec![
            file("config.json", 1_204, true),
            file("model-00001-of-00002.safetensors", 4_976_698_672, true),
            file("model-00002-of-00002.safetensors", 4_999_802_720, false),
            file("tokenizer.json", 9_085_698, true),
        ],
        format: Some("safetensors".to_owned()),
        n_tensors: 741,
        n_parameters: 8_537_092_336,
        dtypes: BTreeMap::from([("BF16".to_owned(), 740), ("F32".to_owned(), 1)]),
        components: vec![
            component("language-model", "llama", 32, 4096, 291, 8_030_261_248),
            component("vision-tower", "siglip", 27, 1152, 437, 412_442_352),
            component("projector", "resampler", 0, 4096, 13, 94_388_736),
        ],
        notes: vec!["One shard was not read whole; its digest is unknown.".to_owned()],
    }
}

/// A full report: several components, every status, every kind of p, every kind of detail.
pub(super) fn report() -> Report {
    let command = "modelkin compare hf:org-a/base-vl hf:org-b/new-vl --seed 7 --report report.html";
    Report {
        tool: Tool {
            name: "modelkin".to_owned(),
            version: "0.1.0".to_owned(),
        },
        command: command.split(' ').map(str::to_owned).collect(),
        seed: 7,
        threads: 2,
        options: RunOptions {
            tests: SPECS.iter().map(|s| s.id.to_owned()).collect(),
            layer_rule: "eight layers, evenly spaced, first and last included".to_owned(),
            all_layers: false,
            device: "cpu".to_owned(),
        },
        machine: MachineClass {
            arch: "x86_64".to_owned(),
            cpu_features: vec!["avx2".to_owned(), "fma".to_owned()],
        },
        reference: model("org-a/base-vl", "hf:org-a/base-vl", 'a'),
        candidate: model("org-b/new-vl", "hf:org-b/new-vl", 'b'),
        finding: finding(),
        records: records(),
        catalogue: SPECS.iter().collect(),
    }
}

/// The full report with attacks in every string that may come from outside.
pub(super) fn hostile() -> Report {
    let mut report = report();
    let strings = || HOSTILE.iter().map(|s| (*s).to_owned());
    let joined = HOSTILE.join(" ");
    report.command.extend(strings());
    for model in [&mut report.reference, &mut report.candidate] {
        model.label.clone_from(&joined);
        model.model_ref.clone_from(&joined);
        model.revision = Some(joined.clone());
        model.format = Some(joined.clone());
        model.notes = strings().collect();
        model.files = strings()
            .map(|path| FileLine {
                path,
                size_bytes: u64::MAX,
                ..Default::default()
            })
            .collect();
        model.dtypes = strings().map(|d| (d, 1)).collect();
        model.components[0].id.clone_from(&joined);
        model.components[0].family.clone_from(&joined);
        model.components[0].role_basis.clone_from(&joined);
    }
    let Finding {
        overall,
        components,
    } = &mut report.finding;
    for c in components.iter_mut().chain([overall]) {
        c.component.clone_from(&joined);
        c.summary.clone_from(&joined);
        c.does_not_prove = strings().collect();
        c.carried_by = strings().collect();
        c.operations = vec![Operation {
            relation: Relation::Noised,
            parameters: strings().map(|k| (k, 1.0)).collect(),
            description: joined.clone(),
        }];
    }
    for (i, record) in report.records.iter_mut().enumerate() {
        record.component = HOSTILE[i % HOSTILE.len()].to_owned();
        if record.reason.is_some() {
            record.reason = Some(joined.clone());
        }
        for detail in &mut record.details {
            attack(detail, &joined);
        }
    }
    let mut extra = TestRecord::measured("weight-similarity", joined.clone());
    for name in HOSTILE {
        extra = extra.with_effect(name, -0.5);
    }
    report.records.push(extra);
    report
}

fn attack(detail: &mut Detail, joined: &str) {
    match detail {
        Detail::Grid(grid) => {
            grid.quantity = joined.to_owned();
            for (cell, s) in grid.cells.iter_mut().zip(HOSTILE.iter().cycle()) {
                cell.role = (*s).to_owned();
            }
        }
        Detail::Histogram(h) => {
            h.quantity = joined.to_owned();
            h.counts.push(u64::MAX);
            h.range = (1.0, 1.0);
        }
        Detail::Renamings(lines) => {
            let line = |s: &&str| Renaming {
                reference: (*s).to_owned(),
                candidate: s.repeat(2000),
                n_tensors: u64::MAX,
                basis: (*s).to_owned(),
            };
            *lines = HOSTILE.iter().map(line).collect();
        }
        Detail::Observations(seen) => {
            let one = |s: &&str| Observation {
                code: (*s).to_owned(),
                message: (*s).to_owned(),
                file: Some((*s).to_owned()),
            };
            *seen = HOSTILE.iter().map(one).collect();
        }
        Detail::Selection(rule) => *rule = joined.to_owned(),
    }
}

/// A report with nothing in it: no records, no files, nothing decided.
pub(super) fn empty() -> Report {
    let mut overall = conclusion(
        "model",
        Relation::Inconclusive,
        Strength::None,
        "Nothing was measured.",
    );
    overall.carried_by.clear();
    overall.does_not_prove.clear();
    Report {
        command: Vec::new(),
        options: RunOptions::default(),
        machine: MachineClass::default(),
        reference: ModelSection::default(),
        candidate: ModelSection::default(),
        finding: Finding {
            overall,
            components: Vec::new(),
        },
        records: Vec::new(),
        catalogue: Vec::new(),
        ..report()
    }
}

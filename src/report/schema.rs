//! The JSON contract as types: the order of the fields here is the order of the keys.
//!
//! A view of [`Report`] that borrows everything; `json.rs` writes it. The published schema
//! (`docs/schema/report-v1.schema.json`) and `docs/src/report-format.md` say the same in their own
//! languages, and a test holds the three together. Computes nothing.

use super::words::NO_REASON;
use super::{ModelSection, Report};
use crate::evidence::record::{Detail, Effect, Status, TestRecord};
use crate::evidence::spec::{Need, Scope, TestSpec};
use crate::stats::PKind;
use crate::verdict::{Conclusion, Finding};
use serde::ser::{Error, Serialize, Serializer};
use std::collections::BTreeMap;

/// Version of the contract: `major.minor`.
pub const SCHEMA_VERSION: &str = "1.0";

/// A number that JSON can hold. Serializing NaN or an infinity is an error, never `null`.
#[derive(Clone, Copy)]
pub(super) struct Finite(f64);

impl Serialize for Finite {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if !self.0.is_finite() {
            return Err(S::Error::custom(format!(
                "{} is not a finite number",
                self.0
            )));
        }
        s.serialize_f64(self.0)
    }
}

#[derive(serde::Serialize)]
pub(super) struct Document<'a> {
    schema_version: &'static str,
    tool: ToolDoc<'a>,
    run: RunDoc<'a>,
    reference: ModelDoc<'a>,
    candidate: ModelDoc<'a>,
    finding: FindingDoc<'a>,
    records: Vec<RecordDoc<'a>>,
    catalogue: Vec<SpecDoc>,
}

#[derive(serde::Serialize)]
struct ToolDoc<'a> {
    name: &'a str,
    version: &'a str,
}

#[derive(serde::Serialize)]
struct RunDoc<'a> {
    command: &'a [String],
    seed: u64,
    threads: usize,
    machine: MachineDoc<'a>,
    options: OptionsDoc<'a>,
}

#[derive(serde::Serialize)]
struct MachineDoc<'a> {
    arch: &'a str,
    cpu_features: &'a [String],
}

#[derive(serde::Serialize)]
struct OptionsDoc<'a> {
    tests: &'a [String],
    layer_rule: &'a str,
    all_layers: bool,
    device: &'a str,
}

#[derive(serde::Serialize)]
struct ModelDoc<'a> {
    label: &'a str,
    model_ref: &'a str,
    revision: Option<&'a str>,
    format: Option<&'a str>,
    n_tensors: u64,
    n_parameters: u64,
    dtypes: &'a BTreeMap<String, u64>,
    components: Vec<ComponentDoc<'a>>,
    notes: &'a [String],
    files: Vec<FileDoc<'a>>,
}

#[derive(serde::Serialize)]
struct ComponentDoc<'a> {
    id: &'a str,
    family: &'a str,
    n_layers: u64,
    hidden_size: u64,
    n_tensors: u64,
    n_parameters: u64,
    role_basis: &'a str,
}

#[derive(serde::Serialize)]
struct FileDoc<'a> {
    path: &'a str,
    size_bytes: u64,
    sha256: Option<&'a str>,
    git_blob: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct FindingDoc<'a> {
    #[serde(flatten)]
    overall: ConclusionDoc<'a>,
    components: Vec<ComponentFindingDoc<'a>>,
}

#[derive(serde::Serialize)]
struct ComponentFindingDoc<'a> {
    component: &'a str,
    #[serde(flatten)]
    conclusion: ConclusionDoc<'a>,
}

#[derive(serde::Serialize)]
struct ConclusionDoc<'a> {
    related: Option<bool>,
    relation: &'static str,
    operations: Vec<OperationDoc<'a>>,
    strength: &'static str,
    summary: &'a str,
    carried_by: &'a [String],
    does_not_prove: &'a [String],
}

#[derive(serde::Serialize)]
struct OperationDoc<'a> {
    relation: &'static str,
    parameters: BTreeMap<&'a str, Finite>,
    description: &'a str,
}

#[derive(serde::Serialize)]
struct RecordDoc<'a> {
    test: &'a str,
    component: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ln_p: Option<Finite>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_permutations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_combined: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_reference: Option<u64>,
    effects: BTreeMap<&'a str, EffectDoc>,
    reason: Option<&'a str>,
    details: Vec<DetailDoc<'a>>,
}

#[derive(serde::Serialize)]
struct EffectDoc {
    value: Finite,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<[Finite; 2]>,
}

#[derive(serde::Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum DetailDoc<'a> {
    Grid {
        quantity: &'a str,
        range: [Finite; 2],
        cells: Vec<CellDoc<'a>>,
    },
    Histogram {
        quantity: &'a str,
        range: [Finite; 2],
        counts: &'a [u64],
    },
    Renamings {
        renamings: Vec<RenamingDoc<'a>>,
    },
    Observations {
        observations: Vec<ObservationDoc<'a>>,
    },
    Selection {
        rule: &'a str,
    },
}

#[derive(serde::Serialize)]
struct CellDoc<'a> {
    reference_layer: Option<u32>,
    candidate_layer: Option<u32>,
    role: &'a str,
    value: Finite,
    #[serde(skip_serializing_if = "Option::is_none")]
    ln_p: Option<Finite>,
}

#[derive(serde::Serialize)]
struct RenamingDoc<'a> {
    reference: &'a str,
    candidate: &'a str,
    n_tensors: u64,
    basis: &'a str,
}

#[derive(serde::Serialize)]
struct ObservationDoc<'a> {
    code: &'a str,
    message: &'a str,
    file: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct SpecDoc {
    id: &'static str,
    title: &'static str,
    question: &'static str,
    scope: &'static str,
    needs: Vec<&'static str>,
    null: Option<&'static str>,
    p_value: Option<&'static str>,
    survives: &'static str,
    defeated_by: &'static str,
    citation: &'static str,
}

impl<'a> Document<'a> {
    /// The whole report as the contract shows it.
    pub(super) fn new(report: &'a Report) -> Self {
        Document {
            schema_version: SCHEMA_VERSION,
            tool: ToolDoc {
                name: &report.tool.name,
                version: &report.tool.version,
            },
            run: RunDoc {
                command: &report.command,
                seed: report.seed,
                threads: report.threads,
                machine: MachineDoc {
                    arch: &report.machine.arch,
                    cpu_features: &report.machine.cpu_features,
                },
                options: OptionsDoc {
                    tests: &report.options.tests,
                    layer_rule: &report.options.layer_rule,
                    all_layers: report.options.all_layers,
                    device: &report.options.device,
                },
            },
            reference: model(&report.reference),
            candidate: model(&report.candidate),
            finding: finding(&report.finding),
            records: report.records.iter().map(record).collect(),
            catalogue: report.catalogue.iter().map(|s| spec(s)).collect(),
        }
    }
}

fn model(m: &ModelSection) -> ModelDoc<'_> {
    let components = m.components.iter().map(|c| ComponentDoc {
        id: &c.id,
        family: &c.family,
        n_layers: c.n_layers,
        hidden_size: c.hidden_size,
        n_tensors: c.n_tensors,
        n_parameters: c.n_parameters,
        role_basis: &c.role_basis,
    });
    let files = m.files.iter().map(|f| FileDoc {
        path: &f.path,
        size_bytes: f.size_bytes,
        sha256: f.sha256.as_deref(),
        git_blob: f.git_blob.as_deref(),
    });
    ModelDoc {
        label: &m.label,
        model_ref: &m.model_ref,
        revision: m.revision.as_deref(),
        format: m.format.as_deref(),
        n_tensors: m.n_tensors,
        n_parameters: m.n_parameters,
        dtypes: &m.dtypes,
        components: components.collect(),
        notes: &m.notes,
        files: files.collect(),
    }
}

fn finding(f: &Finding) -> FindingDoc<'_> {
    let components = f.components.iter();
    FindingDoc {
        overall: conclusion(&f.overall),
        components: components
            .map(|c| ComponentFindingDoc {
                component: &c.component,
                conclusion: conclusion(c),
            })
            .collect(),
    }
}

fn conclusion(c: &Conclusion) -> ConclusionDoc<'_> {
    let operations = c.operations.iter().map(|o| OperationDoc {
        relation: o.relation.name(),
        parameters: o
            .parameters
            .iter()
            .map(|(k, &v)| (k.as_str(), Finite(v)))
            .collect(),
        description: &o.description,
    });
    ConclusionDoc {
        related: c.relation.related(),
        relation: c.relation.name(),
        operations: operations.collect(),
        strength: c.strength.name(),
        summary: &c.summary,
        carried_by: &c.carried_by,
        does_not_prove: &c.does_not_prove,
    }
}

fn record(r: &TestRecord) -> RecordDoc<'_> {
    // A record without a measurement has a reason and no number, whatever else it was given.
    let measured = r.status == Status::Measured;
    let p = r.p.filter(|_| measured);
    let kind = p.map(|p| p.kind());
    let effects = r.effects.iter().filter(|_| measured);
    RecordDoc {
        test: r.test,
        component: &r.component,
        status: r.status.name(),
        ln_p: p.map(|p| Finite(p.ln_p())),
        p_kind: kind.map(|k| k.name()),
        n_permutations: match kind {
            Some(PKind::Permutation { n_permutations, .. }) => Some(n_permutations),
            _ => None,
        },
        n_combined: match kind {
            Some(PKind::Permutation { n_combined, .. }) => Some(n_combined),
            _ => None,
        },
        n_reference: match kind {
            Some(PKind::Calibrated { n_reference }) => Some(n_reference),
            _ => None,
        },
        effects: effects
            .map(|(name, e)| (name.as_str(), effect(*e)))
            .collect(),
        reason: r.reason.as_deref().or((!measured).then_some(NO_REASON)),
        details: r.details.iter().filter(|_| measured).map(detail).collect(),
    }
}

fn effect(e: Effect) -> EffectDoc {
    EffectDoc {
        value: Finite(e.value),
        interval: e.interval.map(pair),
    }
}

fn pair((a, b): (f64, f64)) -> [Finite; 2] {
    [Finite(a), Finite(b)]
}

fn detail(d: &Detail) -> DetailDoc<'_> {
    match d {
        Detail::Grid(g) => {
            let cells = g.cells.iter().map(|c| CellDoc {
                reference_layer: c.reference_layer,
                candidate_layer: c.candidate_layer,
                role: &c.role,
                value: Finite(c.value),
                ln_p: c.ln_p.map(Finite),
            });
            DetailDoc::Grid {
                quantity: &g.quantity,
                range: pair(g.range),
                cells: cells.collect(),
            }
        }
        Detail::Histogram(h) => DetailDoc::Histogram {
            quantity: &h.quantity,
            range: pair(h.range),
            counts: &h.counts,
        },
        Detail::Renamings(lines) => {
            let renamings = lines.iter().map(|r| RenamingDoc {
                reference: &r.reference,
                candidate: &r.candidate,
                n_tensors: r.n_tensors,
                basis: &r.basis,
            });
            DetailDoc::Renamings {
                renamings: renamings.collect(),
            }
        }
        Detail::Observations(seen) => {
            let observations = seen.iter().map(|o| ObservationDoc {
                code: &o.code,
                message: &o.message,
                file: o.file.as_deref(),
            });
            DetailDoc::Observations {
                observations: observations.collect(),
            }
        }
        Detail::Selection(rule) => DetailDoc::Selection { rule },
    }
}

fn spec(s: &TestSpec) -> SpecDoc {
    SpecDoc {
        id: s.id,
        title: s.title,
        question: s.question,
        scope: match s.scope {
            Scope::Model => "model",
            Scope::Component => "component",
        },
        needs: s.needs.iter().map(|n| need(*n)).collect(),
        null: s.null,
        p_value: s.p_value,
        survives: s.survives,
        defeated_by: s.defeated_by,
        citation: s.citation,
    }
}

/// The kebab-case name of what a test reads.
pub(super) fn need(need: Need) -> &'static str {
    match need {
        Need::Files => "files",
        Need::Weights => "weights",
        Need::Tokenizer => "tokenizer",
        Need::Adapters => "adapters",
    }
}

//! The report: everything a renderer needs, and the renderers.
//!
//! Last step of the flow: `[TestRecord] → Finding → Report → renderer`. A [`Report`] is plain data
//! that `audit` fills in; one file per output format turns it into bytes.
//!
//! Nothing here computes evidence: no statistic, no p-value, no threshold, no verdict. Renderers lay
//! out, round for the eye, and escape. Nothing here holds a time or a machine's name, so two runs of
//! one command on one machine class give one report, byte for byte.

mod document;
mod grid;
mod html;
mod json;
mod markdown;
mod schema;
mod terminal;
mod text;
mod words;

#[cfg(test)]
mod fixture;

pub use html::Html;
pub use json::{Json, SCHEMA, SCHEMA_VERSION};
pub use markdown::Markdown;
pub use terminal::Terminal;
pub use text::visible;

use crate::evidence::record::{Detail, TestRecord};
use crate::evidence::spec::TestSpec;
use crate::verdict::Finding;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// All that is known at the end of an audit. Strings are held as they were found: most come from
/// files that strangers wrote, and every renderer escapes them for its own medium.
#[derive(Debug, Clone)]
pub struct Report {
    /// Name and version of the program.
    pub tool: Tool,
    /// The command line, one argument per entry, that repeats this audit.
    pub command: Vec<String>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Number of worker threads. It changes no number; it is here because the run is described whole.
    pub threads: usize,
    /// What was asked for.
    pub options: RunOptions,
    /// The class of machine on which the numbers repeat bit for bit.
    pub machine: MachineClass,
    /// The model that the candidate is held against.
    pub reference: ModelSection,
    /// The model in question.
    pub candidate: ModelSection,
    /// What is concluded.
    pub finding: Finding,
    /// One record per registered test and component.
    pub records: Vec<TestRecord>,
    /// Descriptions of the tests, in the order of the registry.
    pub catalogue: Vec<&'static TestSpec>,
}

/// The program that wrote the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Name, `modelkin`.
    pub name: String,
    /// Semantic version.
    pub version: String,
}

/// The options that decided what was measured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Ids of the selected tests, in the order of the registry.
    pub tests: Vec<String>,
    /// The rule by which layers were chosen, in words.
    pub layer_rule: String,
    /// Whether every layer was taken.
    pub all_layers: bool,
    /// Where large products were computed: `cpu`, or the name of a card.
    pub device: String,
}

/// Numbers repeat bit for bit on machines of one class. It names no particular machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineClass {
    /// Instruction set, e.g. `x86_64`.
    pub arch: String,
    /// Features of the processor that change the order of floating-point sums, e.g. `avx2`.
    pub cpu_features: Vec<String>,
}

/// One of the two models.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelSection {
    /// Short name for sentences and tables.
    pub label: String,
    /// The model as it was named on the command line.
    pub model_ref: String,
    /// Commit or revision, where the source has one.
    pub revision: Option<String>,
    /// Every file, sorted by path.
    pub files: Vec<FileLine>,
    /// Weight format, e.g. `safetensors`; `None` when there are no weights.
    pub format: Option<String>,
    /// Number of tensors.
    pub n_tensors: u64,
    /// Number of parameters (elements of all tensors).
    pub n_parameters: u64,
    /// Number of tensors of each dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// Components found in the model.
    pub components: Vec<ComponentSection>,
    /// What the reader should know about this model, one sentence each.
    pub notes: Vec<String>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileLine {
    /// Path relative to the model's root, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the content, lower-case hexadecimal; of a file that was read in parts the one that its
    /// source states, if it does (a note of the model says so).
    pub sha256: Option<String>,
    /// Git blob id (SHA-1), where it was computed or published.
    pub git_blob: Option<String>,
}

/// One component of a model: the language model, a vision tower, a projector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComponentSection {
    /// Component id, as in the records.
    pub id: String,
    /// Architecture family, e.g. `llama`.
    pub family: String,
    /// Number of layers; 0 when the component is no stack of layers.
    pub n_layers: u64,
    /// Width of the residual stream; 0 when the component has none.
    pub hidden_size: u64,
    /// Number of tensors.
    pub n_tensors: u64,
    /// Number of parameters.
    pub n_parameters: u64,
    /// How the roles of its tensors were found, in words.
    pub role_basis: String,
}

/// How a renderer may use the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenderOptions {
    /// Whether ANSI colours may be written (terminal only).
    pub colour: bool,
    /// Columns of the terminal; 100 when unknown.
    pub width: Option<u16>,
    /// Wall time for the last line of the terminal page. Never part of a file.
    pub wall_time: Option<Duration>,
}

/// One output format.
pub trait Renderer: Sync {
    /// Stable name, as on the command line.
    fn id(&self) -> &'static str;

    /// Extension of the file, without the dot.
    fn extension(&self) -> &'static str;

    /// Writes the whole report, or nothing.
    ///
    /// # Errors
    /// When the report holds a number that is not finite (see [`check`]): nothing is written then,
    /// so that no partial report looks whole. When `out` cannot be written to.
    fn render(
        &self,
        report: &Report,
        out: &mut dyn Write,
        options: &RenderOptions,
    ) -> io::Result<()>;
}

/// Every output format.
pub static RENDERERS: &[&dyn Renderer] = &[&Terminal, &Json, &Html, &Markdown];

/// The renderer with this id (`html`) or this file extension (`htm`, `md`).
pub fn renderer(name: &str) -> Option<&'static dyn Renderer> {
    let name = name.to_ascii_lowercase();
    let name = if name == "htm" { "html" } else { name.as_str() };
    RENDERERS
        .iter()
        .copied()
        .find(|r| r.id() == name || r.extension() == name)
}

/// A number in a report that is not finite.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{place}: {what} is {value}, expected a finite number")]
pub struct NotFinite {
    /// The record (`test/component`) or the part of the finding.
    pub place: String,
    /// The quantity.
    pub what: String,
    /// NaN or an infinity.
    pub value: f64,
}

/// Refuses a record that holds a number which is not finite, in its effects or in its pictures.
///
/// `audit` turns such a record into a failed one before the verdict sees it.
///
/// # Errors
/// Names the first such number.
pub fn check_record(record: &TestRecord) -> Result<(), NotFinite> {
    let finite = |what: &str, value: f64| {
        if value.is_finite() {
            return Ok(());
        }
        let place = format!("{}/{}", record.test, record.component);
        Err(NotFinite {
            place,
            what: what.to_owned(),
            value,
        })
    };
    let pair = |what: &str, (a, b): (f64, f64)| finite(what, a).and_then(|()| finite(what, b));
    for (name, effect) in &record.effects {
        finite(&format!("effect {name}"), effect.value)?;
        effect
            .interval
            .map_or(Ok(()), |i| pair(&format!("interval of {name}"), i))?;
    }
    for detail in &record.details {
        match detail {
            Detail::Grid(grid) => {
                pair(&format!("range of {}", grid.quantity), grid.range)?;
                for cell in &grid.cells {
                    finite(&format!("{} of {}", grid.quantity, cell.role), cell.value)?;
                    cell.ln_p
                        .map_or(Ok(()), |v| finite(&format!("ln p of {}", cell.role), v))?;
                }
            }
            Detail::Histogram(h) => pair(&format!("range of {}", h.quantity), h.range)?,
            Detail::Renamings(_) | Detail::Observations(_) | Detail::Selection(_) => {}
        }
    }
    Ok(())
}

/// Refuses a report that holds a number which is not finite. Every renderer calls it first.
///
/// # Errors
/// Names the first such number.
pub fn check(report: &Report) -> Result<(), NotFinite> {
    report.records.iter().try_for_each(check_record)?;
    for conclusion in std::iter::once(&report.finding.overall).chain(&report.finding.components) {
        for operation in &conclusion.operations {
            for (name, &value) in &operation.parameters {
                if !value.is_finite() {
                    let place = format!("finding of {}", conclusion.component);
                    return Err(NotFinite {
                        place,
                        what: format!("parameter {name}"),
                        value,
                    });
                }
            }
        }
    }
    Ok(())
}

/// [`check`] as renderers use it.
fn checked(report: &Report) -> io::Result<()> {
    check(report).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::record::Effect;

    fn bytes(renderer: &dyn Renderer, report: &Report) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        renderer.render(report, &mut out, &RenderOptions::default())?;
        Ok(out)
    }

    #[test]
    fn every_renderer_is_found_by_id_and_by_extension() {
        for r in RENDERERS {
            assert_eq!(renderer(r.id()).unwrap().id(), r.id());
            assert_eq!(renderer(r.extension()).unwrap().extension(), r.extension());
        }
        assert_eq!(renderer("HTM").unwrap().id(), "html");
        assert!(renderer("docx").is_none());
    }

    #[test]
    fn one_report_gives_one_sequence_of_bytes() {
        for r in RENDERERS {
            let (a, b) = (fixture::report(), fixture::report());
            assert_eq!(bytes(*r, &a).unwrap(), bytes(*r, &b).unwrap(), "{}", r.id());
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_by_every_renderer_before_the_first_byte() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut in_effect = fixture::report();
            in_effect.records[0].effects.insert(
                "x".to_owned(),
                Effect {
                    value: bad,
                    interval: None,
                },
            );
            let mut in_finding = fixture::report();
            in_finding.finding.overall.operations[0]
                .parameters
                .insert("x".to_owned(), bad);
            let mut in_picture = fixture::report();
            for record in &mut in_picture.records {
                for detail in &mut record.details {
                    if let Detail::Grid(grid) = detail {
                        grid.cells[0].value = bad;
                    }
                }
            }
            for report in [in_effect, in_finding, in_picture] {
                for r in RENDERERS {
                    let mut out = Vec::new();
                    let e = r
                        .render(&report, &mut out, &RenderOptions::default())
                        .unwrap_err();
                    assert_eq!(e.kind(), io::ErrorKind::InvalidData);
                    assert!(out.is_empty(), "{} wrote a partial report", r.id());
                }
            }
        }
    }

    #[test]
    fn every_record_is_in_every_format_whatever_its_status() {
        let report = fixture::report();
        for r in RENDERERS {
            let text = String::from_utf8(bytes(*r, &report).unwrap()).unwrap();
            for record in &report.records {
                assert!(text.contains(record.test), "{}: {}", r.id(), record.test);
            }
        }
    }

    #[test]
    fn hostile_strings_never_reach_any_format_as_control_characters() {
        let report = fixture::hostile();
        for r in RENDERERS {
            let text = String::from_utf8(bytes(*r, &report).unwrap()).unwrap();
            for c in text.chars() {
                assert!(
                    c == '\n' || !text::is_unsafe(c),
                    "{}: {:?} got through",
                    r.id(),
                    c
                );
            }
        }
    }

    #[test]
    fn an_empty_report_is_rendered_by_every_format() {
        for r in RENDERERS {
            assert!(
                !bytes(*r, &fixture::empty()).unwrap().is_empty(),
                "{}",
                r.id()
            );
        }
    }
}

//! The report as a document: headings, sentences, tables and pictures in the order in which a person
//! reads them. HTML and Markdown are two ways to write it down.
//!
//! Every string here has passed [`text`]: nothing in it acts on a medium, but it is not escaped for
//! one yet. Backticks mark code, as in the sentences of the evidence. Computes nothing.

use super::text::{self, name, plural, prose};
use super::{FileLine, ModelSection, Report, words};
use crate::evidence::record::{Detail, Histogram, LayerGrid, Status, TestRecord};
use crate::evidence::spec::TestSpec;
use crate::verdict::{Conclusion, Strength};

/// Lines of a long list before the document refers to the JSON report, which has all of them.
const MAX_LINES: usize = 400;

/// One piece of the document.
pub(super) enum Block<'a> {
    /// The finding: sentence, strength, and whether the two are related.
    Finding {
        /// The whole sentence.
        sentence: String,
        /// The strength, for a meter.
        strength: Strength,
        /// Whether the two are related; `None` when undecided.
        related: Option<bool>,
        /// Strength, answer and relation in words.
        words: String,
    },
    /// A heading of level 2 or 3.
    Heading(u8, String),
    /// A paragraph.
    Paragraph(String),
    /// A list, numbered or not.
    List(bool, Vec<String>),
    /// A table: titles of the columns, and rows of as many cells.
    Table(Vec<&'static str>, Vec<Vec<String>>),
    /// A command line.
    Code(String),
    /// A heat map under a title.
    HeatMap(String, &'a LayerGrid),
    /// A histogram under a title.
    Histogram(String, &'a Histogram),
}

/// The whole document.
pub(super) fn of(report: &Report) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    finding(report, &mut blocks);
    components(&report.finding.components, &mut blocks);
    limits(report, &mut blocks);
    pictures(&report.records, &mut blocks);
    evidence(&report.records, &mut blocks);
    seen(&report.records, &mut blocks);
    models(report, &mut blocks);
    repeat(report, &mut blocks);
    catalogue(&report.catalogue, &mut blocks);
    blocks
}

fn heading<'a>(text: &str) -> Block<'a> {
    Block::Heading(2, text.to_owned())
}

fn finding<'a>(report: &'a Report, blocks: &mut Vec<Block<'a>>) {
    let overall = &report.finding.overall;
    let (predicate, end) = words::sentence(overall);
    let (candidate, reference) = (name(&report.candidate.label), name(&report.reference.label));
    blocks.push(Block::Finding {
        sentence: format!("{candidate} {predicate} {reference}{end}"),
        strength: overall.strength,
        related: overall.relation.related(),
        words: format!(
            "{} · {} · {}",
            words::strength(overall.strength),
            words::related(overall.relation),
            words::title(overall.relation).to_lowercase()
        ),
    });
    blocks.push(Block::Paragraph(prose(&overall.summary)));
    if !overall.carried_by.is_empty() {
        let tests: Vec<String> = overall
            .carried_by
            .iter()
            .map(|id| format!("`{}`", name(id)))
            .collect();
        blocks.push(Block::Paragraph(format!(
            "Carried by {}.",
            tests.join(", ")
        )));
    }
    if !overall.operations.is_empty() {
        blocks.push(heading(
            "How one was made of the other, as far as it can be told",
        ));
        let steps = overall.operations.iter().map(|operation| {
            let parameters = operation.parameters.iter();
            let parameters: Vec<String> = parameters
                .map(|(key, value)| format!("{} = {}", text::words(key), text::number(*value)))
                .collect();
            let end = match parameters.is_empty() {
                true => String::new(),
                false => format!(" ({})", parameters.join(", ")),
            };
            format!(
                "{}: {}{end}",
                words::title(operation.relation),
                prose(&operation.description)
            )
        });
        blocks.push(Block::List(true, steps.collect()));
    }
}

fn components<'a>(components: &'a [Conclusion], blocks: &mut Vec<Block<'a>>) {
    if components.is_empty() {
        return;
    }
    blocks.push(heading("Each component on its own"));
    let rows = components.iter().map(|c| {
        vec![
            name(&c.component),
            words::title(c.relation).to_owned(),
            words::related(c.relation).to_owned(),
            words::strength(c.strength).to_owned(),
            c.carried_by
                .iter()
                .map(|id| name(id))
                .collect::<Vec<_>>()
                .join(", "),
        ]
    });
    let titles = vec![
        "component",
        "relation",
        "related?",
        "strength",
        "carried by",
    ];
    blocks.push(Block::Table(titles, rows.collect()));
}

fn limits<'a>(report: &'a Report, blocks: &mut Vec<Block<'a>>) {
    let caveats = &report.finding.overall.does_not_prove;
    if !caveats.is_empty() {
        blocks.push(heading("What this does not prove"));
        blocks.push(Block::List(
            false,
            caveats.iter().map(|s| prose(s)).collect(),
        ));
    }
    blocks.push(heading("What to do next"));
    blocks.push(Block::List(false, words::next_steps(report)));
    blocks.push(heading("How to read the numbers"));
    let sentences = words::HOW_TO_READ.iter().map(|s| (*s).to_owned());
    blocks.push(Block::List(false, sentences.collect()));
}

fn measured(records: &[TestRecord]) -> impl Iterator<Item = &TestRecord> {
    records.iter().filter(|r| r.status == Status::Measured)
}

fn subject(record: &TestRecord) -> String {
    format!("{} · {}", name(record.test), name(&record.component))
}

fn pictures<'a>(records: &'a [TestRecord], blocks: &mut Vec<Block<'a>>) {
    let mut found = Vec::new();
    for record in measured(records) {
        for detail in &record.details {
            match detail {
                Detail::Grid(grid) if !grid.cells.is_empty() => {
                    found.push(Block::HeatMap(subject(record), grid));
                }
                Detail::Histogram(histogram) if histogram.counts.iter().any(|&n| n > 0) => {
                    found.push(Block::Histogram(subject(record), histogram));
                }
                _ => {}
            }
        }
    }
    if !found.is_empty() {
        blocks.push(heading("Layers at a glance"));
        blocks.append(&mut found);
    }
}

fn effects(record: &TestRecord) -> String {
    let one = record.effects.iter().map(|(key, effect)| {
        format!(
            "{} {}",
            text::words(key),
            text::with_interval(effect.value, effect.interval)
        )
    });
    one.collect::<Vec<_>>().join("; ")
}

fn evidence<'a>(records: &'a [TestRecord], blocks: &mut Vec<Block<'a>>) {
    blocks.push(heading("Evidence"));
    let rows: Vec<Vec<String>> = measured(records)
        .map(|record| {
            let (p, ln_p, kind) = match record.p {
                Some(p) => (
                    p.to_string(),
                    text::number(p.ln_p()),
                    text::p_kind(p.kind()),
                ),
                None => ("–".to_owned(), "–".to_owned(), "effect only".to_owned()),
            };
            vec![
                name(record.test),
                name(&record.component),
                p,
                ln_p,
                kind,
                effects(record),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => blocks.push(Block::Paragraph(
            "No test has measured anything.".to_owned(),
        )),
        false => {
            let titles = vec![
                "test",
                "component",
                "p",
                "ln p",
                "how p was found",
                "effects",
            ];
            blocks.push(Block::Table(titles, rows));
        }
    }
    let mut notes = Vec::new();
    for record in measured(records) {
        if let Some(reason) = &record.reason {
            notes.push(format!("{}: {}", subject(record), prose(reason)));
        }
        for detail in &record.details {
            if let Detail::Selection(rule) = detail {
                notes.push(format!("{}: measured on {}", subject(record), prose(rule)));
            }
        }
    }
    if !notes.is_empty() {
        blocks.push(Block::Heading(3, "What was looked at".to_owned()));
        blocks.push(Block::List(false, notes));
    }
    let rest = records.iter().filter(|r| r.status != Status::Measured);
    let rows: Vec<Vec<String>> = rest
        .map(|record| {
            let reason = record.reason.as_deref().unwrap_or(words::NO_REASON);
            vec![
                name(record.test),
                name(&record.component),
                words::status(record.status).to_owned(),
                prose(reason),
            ]
        })
        .collect();
    if !rows.is_empty() {
        blocks.push(Block::Heading(
            3,
            "Not measured (counts neither for nor against)".to_owned(),
        ));
        blocks.push(Block::Table(
            vec!["test", "component", "status", "reason"],
            rows,
        ));
    }
}

/// The first lines of a list, and a line that counts the rest.
fn cut(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > MAX_LINES {
        let rest = text::count((lines.len() - MAX_LINES) as u64);
        lines.truncate(MAX_LINES);
        lines.push(format!(
            "… and {rest} more: the JSON report has all of them."
        ));
    }
    lines
}

fn seen<'a>(records: &'a [TestRecord], blocks: &mut Vec<Block<'a>>) {
    let (mut sentences, mut renamings) = (Vec::new(), Vec::new());
    for record in measured(records) {
        for detail in &record.details {
            match detail {
                Detail::Observations(seen) => sentences.extend(seen.iter().map(|o| {
                    let place = o.file.as_deref().map(|f| format!(" ({})", name(f)));
                    format!("{}{}", prose(&o.message), place.unwrap_or_default())
                })),
                Detail::Renamings(lines) => renamings.extend(lines.iter().map(|line| {
                    vec![
                        name(&line.reference),
                        name(&line.candidate),
                        text::count(line.n_tensors),
                        name(&line.basis),
                        subject(record),
                    ]
                })),
                _ => {}
            }
        }
    }
    if !sentences.is_empty() {
        blocks.push(heading("Seen in the files"));
        blocks.push(Block::List(false, cut(sentences)));
    }
    if !renamings.is_empty() {
        blocks.push(heading("Renaming map"));
        let n = renamings.len();
        renamings.truncate(MAX_LINES);
        let titles = vec!["reference", "candidate", "tensors", "found by", "test"];
        blocks.push(Block::Table(titles, renamings));
        if n > MAX_LINES {
            let rest = text::count((n - MAX_LINES) as u64);
            blocks.push(Block::Paragraph(format!(
                "{rest} more lines are in the JSON report."
            )));
        }
    }
}

fn models<'a>(report: &'a Report, blocks: &mut Vec<Block<'a>>) {
    blocks.push(heading("The two models"));
    for (title, model) in [
        ("Reference", &report.reference),
        ("Candidate", &report.candidate),
    ] {
        blocks.push(Block::Heading(
            3,
            format!("{title}: {}", name(&model.label)),
        ));
        blocks.push(Block::Table(vec!["", "value"], facts(model)));
        if !model.components.is_empty() {
            let rows = model.components.iter().map(|c| {
                vec![
                    name(&c.id),
                    name(&c.family),
                    text::count(c.n_layers),
                    text::count(c.hidden_size),
                    text::count(c.n_tensors),
                    text::parameters(c.n_parameters),
                    prose(&c.role_basis),
                ]
            });
            let titles = vec![
                "component",
                "family",
                "layers",
                "width",
                "tensors",
                "parameters",
                "roles from",
            ];
            blocks.push(Block::Table(titles, rows.collect()));
        }
        if !model.files.is_empty() {
            let mut rows: Vec<Vec<String>> =
                model.files.iter().take(MAX_LINES).map(file_row).collect();
            if model.files.len() > MAX_LINES {
                let rest = text::count((model.files.len() - MAX_LINES) as u64);
                rows.push(vec![
                    format!("… and {rest} more"),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
            }
            blocks.push(Block::Table(
                vec!["file", "size", "sha256", "git blob"],
                rows,
            ));
        }
    }
}

fn facts(model: &ModelSection) -> Vec<Vec<String>> {
    let none = || "none".to_owned();
    let dtypes: Vec<String> = model
        .dtypes
        .iter()
        .map(|(dtype, n)| format!("{} × {}", text::count(*n), name(dtype)))
        .collect();
    let mut rows = vec![
        vec!["named".to_owned(), name(&model.model_ref)],
        vec![
            "revision".to_owned(),
            model.revision.as_deref().map_or_else(none, name),
        ],
        vec![
            "weights".to_owned(),
            model.format.as_deref().map_or_else(none, name),
        ],
        vec![
            "size".to_owned(),
            format!(
                "{}, {} parameters",
                plural(model.n_tensors, "tensor", "tensors"),
                text::parameters(model.n_parameters)
            ),
        ],
        vec!["dtypes".to_owned(), dtypes.join(", ")],
    ];
    rows.extend(
        model
            .notes
            .iter()
            .map(|note| vec!["note".to_owned(), prose(note)]),
    );
    rows
}

fn file_row(file: &FileLine) -> Vec<String> {
    let digest = |d: &Option<String>| d.as_deref().map_or_else(|| "–".to_owned(), name);
    vec![
        name(&file.path),
        text::bytes(file.size_bytes),
        digest(&file.sha256),
        digest(&file.git_blob),
    ]
}

fn repeat<'a>(report: &'a Report, blocks: &mut Vec<Block<'a>>) {
    blocks.push(heading("To repeat"));
    blocks.push(Block::Code(text::command_line(&report.command)));
    let machine = std::iter::once(&report.machine.arch).chain(&report.machine.cpu_features);
    let tests: Vec<String> = report.options.tests.iter().map(|id| name(id)).collect();
    let row = |title: &str, value: String| vec![title.to_owned(), value];
    blocks.push(Block::Table(
        vec!["", "value"],
        vec![
            row(
                "tool",
                format!("{} {}", name(&report.tool.name), name(&report.tool.version)),
            ),
            row("seed", report.seed.to_string()),
            row("threads", report.threads.to_string()),
            row("layers", prose(&report.options.layer_rule)),
            row("tests", tests.join(", ")),
            row(
                "machine class",
                machine.map(|s| name(s)).collect::<Vec<_>>().join(" "),
            ),
        ],
    ));
    blocks.push(Block::Paragraph(
        "Every number repeats bit for bit on a machine of this class, and p-values to the printed \
         digits on any."
            .to_owned(),
    ));
}

fn catalogue<'a>(specs: &[&'static TestSpec], blocks: &mut Vec<Block<'a>>) {
    if specs.is_empty() {
        return;
    }
    blocks.push(heading("The tests"));
    let rows = specs.iter().map(|spec| {
        let or = |text: Option<&str>, otherwise: &str| prose(text.unwrap_or(otherwise));
        vec![
            name(spec.id),
            prose(spec.question),
            or(spec.null, "none: effects or observations only"),
            or(spec.p_value, "no p-value"),
            prose(spec.survives),
            prose(spec.defeated_by),
            prose(spec.citation),
        ]
    });
    let titles = vec![
        "test",
        "question",
        "null hypothesis",
        "p-value",
        "survives",
        "defeated by",
        "source",
    ];
    blocks.push(Block::Table(titles, rows.collect()));
}

//! The terminal page: the finding first, then what carries it, then everything else.
//!
//! Tables by `comfy-table`; pictures in `picture.rs`. Everything is readable without colour: shades
//! are characters, and colour only repeats what they say. Strings from outside pass `text` before
//! they meet an escape code of ours. Does not print whole file lists or long maps: the files of a
//! report do.

mod page;
mod picture;

use super::text::{self, name, plural, prose};
use super::{ModelSection, RenderOptions, Renderer, Report, checked, words};
use crate::evidence::record::{Detail, Status, TestRecord};
use crate::verdict::{Conclusion, Strength};
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, Table};
use page::{BOLD, DIM, Page};
use std::io::{self, Write};

/// Columns when the width of the terminal is not known.
const DEFAULT_WIDTH: u16 = 100;

/// Lines of a list (files, renamings, observations) before the page refers to the whole report.
const MAX_LIST: usize = 16;

/// The terminal renderer.
#[derive(Debug, Clone, Copy)]
pub struct Terminal;

impl Renderer for Terminal {
    fn id(&self) -> &'static str {
        "terminal"
    }

    fn extension(&self) -> &'static str {
        "txt"
    }

    fn render(
        &self,
        report: &Report,
        out: &mut dyn Write,
        options: &RenderOptions,
    ) -> io::Result<()> {
        checked(report)?;
        let mut page = Page::new(options.colour, options.width.unwrap_or(DEFAULT_WIDTH));
        finding(&mut page, report);
        picture::at_a_glance(&mut page, report);
        components(&mut page, &report.finding.components);
        evidence(&mut page, &report.records);
        unmeasured(&mut page, &report.records);
        seen(&mut page, &report.records);
        renamings(&mut page, &report.records);
        models(&mut page, report);
        limits(&mut page, report);
        repeat(&mut page, report, options);
        out.write_all(page.text().as_bytes())
    }
}

fn strength_colour(strength: Strength) -> Color {
    match strength {
        Strength::None | Strength::Weak => Color::DarkGrey,
        Strength::Moderate => Color::DarkYellow,
        Strength::Strong | Strength::VeryStrong | Strength::ExtremelyStrong => Color::Cyan,
    }
}

fn meter(strength: Strength) -> String {
    let full = words::strength_step(strength);
    "■".repeat(full) + &"□".repeat(words::STRENGTH_STEPS - full)
}

fn finding(page: &mut Page, report: &Report) {
    let overall = &report.finding.overall;
    let (predicate, end) = words::sentence(overall);
    let (candidate, reference) = (name(&report.candidate.label), name(&report.reference.label));
    page.blank();
    page.paragraph(
        BOLD,
        0,
        "",
        &format!("{candidate} {predicate} {reference}{end}"),
    );
    page.paragraph(
        DIM,
        0,
        "",
        &format!(
            "{} {} · {} · {}",
            meter(overall.strength),
            words::strength(overall.strength),
            words::related(overall.relation),
            overall.relation.name(),
        ),
    );
    page.blank();
    page.paragraph("", 0, "", &prose(&overall.summary));
    if !overall.operations.is_empty() {
        page.heading("How the candidate was made, as far as it can be told");
        for (i, operation) in overall.operations.iter().enumerate() {
            let parameters = operation.parameters.iter();
            let parameters: Vec<_> = parameters
                .map(|(k, v)| format!("{} = {}", text::words(k), text::number(*v)))
                .collect();
            let sentence = prose(&operation.description);
            let body = format!(
                "{}: {sentence} {}",
                operation.relation.name(),
                parameters.join(", ")
            );
            page.paragraph("", 2, &format!("{}. ", i + 1), body.trim_end());
        }
    }
}

fn components(page: &mut Page, components: &[Conclusion]) {
    if components.is_empty() {
        return;
    }
    page.heading("Each component on its own");
    let mut table = page.table(&["component", "relation", "strength", "carried by"]);
    for c in components {
        let strength = Cell::new(format!("{} {}", meter(c.strength), c.strength.name()));
        table.add_row(vec![
            Cell::new(name(&c.component)),
            Cell::new(format!(
                "{} ({})",
                c.relation.name(),
                words::related(c.relation)
            )),
            strength.fg(strength_colour(c.strength)),
            Cell::new(
                c.carried_by
                    .iter()
                    .map(|t| name(t))
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
        ]);
    }
    page.add_table(&table);
}

fn effects(record: &TestRecord) -> String {
    let one = record.effects.iter().map(|(key, e)| {
        format!(
            "{} {}",
            text::words(key),
            text::with_interval(e.value, e.interval)
        )
    });
    one.collect::<Vec<_>>().join("\n")
}

fn evidence(page: &mut Page, records: &[TestRecord]) {
    page.heading("Evidence");
    if !records.iter().any(|r| r.status == Status::Measured) {
        page.paragraph("", 2, "", "No test has measured anything.");
        return;
    }
    let mut table = page.table(&["test", "component", "p-value", "how p was found", "effects"]);
    keep_ids_whole(&mut table);
    for record in records.iter().filter(|r| r.status == Status::Measured) {
        let p = record
            .p
            .map_or_else(|| "–".to_owned(), |p| text::p_value(&p));
        let kind = record
            .p
            .map_or_else(|| "effect only".to_owned(), |p| text::p_kind(p.kind()));
        table.add_row(vec![
            Cell::new(name(record.test)).add_attribute(Attribute::Bold),
            Cell::new(name(&record.component)),
            Cell::new(p),
            Cell::new(kind),
            Cell::new(effects(record)),
        ]);
    }
    page.add_table(&table);
    for record in records.iter().filter(|r| r.status == Status::Measured) {
        let title = format!("{} · {}: ", name(record.test), name(&record.component));
        if let Some(reason) = &record.reason {
            page.paragraph("", 2, &title, &prose(reason));
        }
        for detail in &record.details {
            if let Detail::Selection(rule) = detail {
                page.paragraph(DIM, 2, &title, &format!("measured on {}", prose(rule)));
            }
        }
    }
}

/// Ids of tests are there to be copied: the first column is never wrapped.
fn keep_ids_whole(table: &mut Table) {
    if let Some(ids) = table.column_mut(0) {
        ids.set_constraint(ColumnConstraint::ContentWidth);
    }
}

fn unmeasured(page: &mut Page, records: &[TestRecord]) {
    let rest: Vec<_> = records
        .iter()
        .filter(|r| r.status != Status::Measured)
        .collect();
    if rest.is_empty() {
        return;
    }
    page.heading("Not measured (counts neither for nor against)");
    let mut table = page.table(&["test", "component", "status", "reason"]);
    keep_ids_whole(&mut table);
    for record in rest {
        let dim = |s: String| Cell::new(s).add_attribute(Attribute::Dim);
        let status = Cell::new(words::status(record.status));
        table.add_row(vec![
            dim(name(record.test)),
            dim(name(&record.component)),
            match record.status {
                Status::Failed => status.fg(Color::Red),
                Status::NotApplicable | Status::Measured => status.add_attribute(Attribute::Dim),
            },
            dim(prose(record.reason.as_deref().unwrap_or(words::NO_REASON))),
        ]);
    }
    page.add_table(&table);
}

fn seen(page: &mut Page, records: &[TestRecord]) {
    let measured = records.iter().filter(|r| r.status == Status::Measured);
    let all: Vec<_> = measured
        .flat_map(|r| &r.details)
        .filter_map(|d| {
            if let Detail::Observations(seen) = d {
                Some(seen)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    if all.is_empty() {
        return;
    }
    page.heading("Seen in the files");
    for o in all.iter().take(MAX_LIST) {
        let place = o
            .file
            .as_deref()
            .map(|f| format!(" ({})", name(f)))
            .unwrap_or_default();
        page.paragraph("", 2, "• ", &format!("{}{place}", prose(&o.message)));
    }
    more(page, all.len());
}

fn renamings(page: &mut Page, records: &[TestRecord]) {
    let measured = records.iter().filter(|r| r.status == Status::Measured);
    let all: Vec<_> = measured
        .flat_map(|r| &r.details)
        .filter_map(|d| {
            if let Detail::Renamings(lines) = d {
                Some(lines)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    if all.is_empty() {
        return;
    }
    page.heading("Renaming map");
    let mut table = page.table(&["reference", "candidate", "tensors", "found by"]);
    for line in all.iter().take(MAX_LIST) {
        table.add_row(vec![
            Cell::new(name(&line.reference)),
            Cell::new(name(&line.candidate)),
            page.right(text::count(line.n_tensors)),
            Cell::new(name(&line.basis)),
        ]);
    }
    page.add_table(&table);
    more(page, all.len());
}

fn more(page: &mut Page, n: usize) {
    if n > MAX_LIST {
        let rest = text::count((n - MAX_LIST) as u64);
        page.paragraph(
            DIM,
            2,
            "",
            &format!("… and {rest} more: the JSON report has all of them."),
        );
    }
}

fn models(page: &mut Page, report: &Report) {
    page.heading("The two models");
    let mut table = page.table(&["", "reference", "candidate"]);
    let (a, b) = (&report.reference, &report.candidate);
    let mut row = |title: &str, f: &dyn Fn(&ModelSection) -> String| {
        table.add_row(vec![
            Cell::new(title).add_attribute(Attribute::Dim),
            Cell::new(f(a)),
            Cell::new(f(b)),
        ]);
    };
    row("named", &|m| name(&m.model_ref));
    row("revision", &|m| {
        m.revision
            .as_deref()
            .map_or_else(|| "none".to_owned(), name)
    });
    row("weights", &|m| {
        m.format.as_deref().map_or_else(|| "none".to_owned(), name)
    });
    row("size", &|m| {
        let tensors = plural(m.n_tensors, "tensor", "tensors");
        format!("{tensors}, {} parameters", text::parameters(m.n_parameters))
    });
    row("dtypes", &|m| {
        let each = m
            .dtypes
            .iter()
            .map(|(d, n)| format!("{} × {}", text::count(*n), name(d)));
        each.collect::<Vec<_>>().join("\n")
    });
    row("components", &|m| {
        let each = m.components.iter().map(|c| {
            let layers = plural(c.n_layers, "layer", "layers");
            format!(
                "{} ({}, {layers}, width {})",
                name(&c.id),
                name(&c.family),
                c.hidden_size
            )
        });
        each.collect::<Vec<_>>().join("\n")
    });
    row("files", &|m| {
        let hashed = m.files.iter().filter(|f| f.sha256.is_some()).count() as u64;
        let files = plural(m.files.len() as u64, "file", "files");
        format!("{files}, {} with sha256", text::count(hashed))
    });
    row("notes", &|m| {
        m.notes
            .iter()
            .map(|n| prose(n))
            .collect::<Vec<_>>()
            .join("\n")
    });
    page.add_table(&table);
}

fn limits(page: &mut Page, report: &Report) {
    if !report.finding.overall.does_not_prove.is_empty() {
        page.heading("What this does not prove");
        for sentence in &report.finding.overall.does_not_prove {
            page.paragraph("", 2, "• ", &prose(sentence));
        }
    }
    page.heading("What to do next");
    for step in words::next_steps(report) {
        page.paragraph("", 2, "• ", &step);
    }
}

fn repeat(page: &mut Page, report: &Report, options: &RenderOptions) {
    page.heading("To repeat");
    page.paragraph(BOLD, 2, "", &text::command_line(&report.command));
    let machine = std::iter::once(&report.machine.arch).chain(&report.machine.cpu_features);
    let machine = machine.map(|s| name(s)).collect::<Vec<_>>().join(" ");
    let mut line = format!(
        "{} {} · seed {} · {} · {machine} · layers: {}",
        name(&report.tool.name),
        name(&report.tool.version),
        report.seed,
        plural(report.threads as u64, "thread", "threads"),
        if report.options.all_layers {
            "all".to_owned()
        } else {
            prose(&report.options.layer_rule)
        },
    );
    if report.options.device != "cpu" {
        line.push_str(&format!(" · {}", name(&report.options.device)));
    }
    if let Some(t) = options.wall_time {
        line.push_str(&format!(" · {:.1} s", t.as_secs_f64()));
    }
    page.paragraph(DIM, 2, "", &line);
    page.blank();
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, text::is_unsafe};
    use super::*;
    use std::time::Duration;

    fn rendered(report: &Report, options: RenderOptions) -> String {
        let mut out = Vec::new();
        Terminal.render(report, &mut out, &options).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn plain(report: &Report) -> String {
        rendered(
            report,
            RenderOptions {
                width: Some(100),
                ..Default::default()
            },
        )
    }

    /// The text without the escape codes that the page itself writes: `ESC [ digits ; m`.
    fn without_styles(s: &str) -> String {
        let mut parts = s.split("\x1b[");
        let mut out = parts.next().unwrap().to_owned();
        for part in parts {
            let end = part
                .find(|c: char| !(c.is_ascii_digit() || c == ';'))
                .unwrap();
            assert_eq!(&part[end..=end], "m", "a code that is no style: {part:?}");
            out.push_str(&part[end + 1..]);
        }
        out
    }

    #[test]
    fn the_finding_comes_first_with_its_strength() {
        let text = plain(&fixture::report());
        let first = text.lines().find(|l| !l.trim().is_empty()).unwrap();
        assert!(
            first.starts_with(
                "org-b/new-vl is, but for added noise, the same model as org-a/base-vl"
            )
        );
        assert!(text.find("extremely strong evidence").unwrap() < text.find("Evidence\n").unwrap());
    }

    #[test]
    fn a_p_value_below_the_smallest_double_is_printed_with_its_kind() {
        let text = plain(&fixture::report());
        assert!(text.contains("p = 3.0e-2172"), "{text}");
        assert!(text.contains("calibrated on 141"));
        assert!(!text.contains("p = 0 "));
    }

    #[test]
    fn without_colour_there_is_no_escape_code_and_the_picture_is_still_there() {
        let text = plain(&fixture::report());
        assert!(!text.contains('\x1b'));
        for shade in ["█", "▒"] {
            assert!(text.contains(shade), "{shade}");
        }
    }

    #[test]
    fn with_colour_only_styles_are_written_whatever_the_names_hold() {
        for report in [fixture::report(), fixture::hostile()] {
            let coloured = rendered(
                &report,
                RenderOptions {
                    colour: true,
                    width: Some(100),
                    ..Default::default()
                },
            );
            assert!(coloured.contains("\x1b["));
            let text = without_styles(&coloured);
            assert!(text.chars().all(|c| c == '\n' || !is_unsafe(c)));
        }
    }

    #[test]
    fn a_failed_test_is_shown_with_its_reason_and_never_with_a_number() {
        let text = plain(&fixture::report());
        let (_, after) = text.split_once("Not measured").unwrap();
        assert!(after.contains("file-identity") && after.contains("102400"));
        assert!(after.contains("not applicable") && after.contains("The MLP has no gate."));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [60, 80, 100, 160] {
            let options = RenderOptions {
                width: Some(width),
                ..Default::default()
            };
            let text = rendered(&fixture::report(), options);
            for line in text.lines() {
                // The command is one line, so that it can be copied.
                if line.contains("modelkin compare") {
                    continue;
                }
                assert!(
                    line.chars().count() <= usize::from(width),
                    "{width}: {line}"
                );
            }
        }
    }

    #[test]
    fn the_wall_time_is_printed_only_on_request() {
        let asked = RenderOptions {
            wall_time: Some(Duration::from_millis(1234)),
            ..Default::default()
        };
        assert!(rendered(&fixture::report(), asked).contains("1.2 s"));
        assert!(!plain(&fixture::report()).contains(" s\n"));
    }

    #[test]
    fn absurd_widths_do_not_break_the_page() {
        for width in [0, 1, 7, u16::MAX] {
            let options = RenderOptions {
                width: Some(width),
                ..Default::default()
            };
            assert!(rendered(&fixture::report(), options).contains("org-b"));
        }
    }
}

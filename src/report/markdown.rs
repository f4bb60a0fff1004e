//! The report as Markdown: reads well raw, and renders on any forge.
//!
//! Strings from outside are escaped so that none becomes markup, a link or a mention. Pictures become
//! tables of numbers. Content and order come from [`super::document`].

use super::document::{self, Block};
use super::grid::{self, Layout};
use super::text::{self, name, number, prose, segments};
use super::{RenderOptions, Renderer, Report, checked, words};
use crate::evidence::record::{Histogram, LayerGrid};
use std::io::{self, Write};

/// Columns of a table of numbers; wider pictures are in the HTML and the JSON report.
const MAX_COLUMNS: usize = 40;

/// The Markdown renderer.
#[derive(Debug, Clone, Copy)]
pub struct Markdown;

impl Renderer for Markdown {
    fn id(&self) -> &'static str {
        "markdown"
    }

    fn extension(&self) -> &'static str {
        "md"
    }

    fn render(&self, report: &Report, out: &mut dyn Write, _: &RenderOptions) -> io::Result<()> {
        checked(report)?;
        let mut page = String::from("# modelkin report\n");
        for block in document::of(report) {
            page.push('\n');
            write_block(&block, &mut page);
        }
        out.write_all(page.as_bytes())
    }
}

/// Plain text with every character escaped that Markdown could act on where it stands.
fn escape(s: &str) -> String {
    let chars: Vec<char> = s.chars().collect();
    let is_word = |i: Option<usize>| {
        i.and_then(|i| chars.get(i))
            .is_some_and(|c| c.is_alphanumeric())
    };
    let mut out = String::with_capacity(s.len() + 8);
    for (i, &c) in chars.iter().enumerate() {
        match c {
            // Entities, since forges read `@name` and `<tag>` behind a backslash too.
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            // Before slashes it would make a link.
            ':' if chars.get(i + 1) == Some(&'/') => out.push_str("&#58;"),
            // A bracket before it would make a link.
            '(' if i > 0 && chars[i - 1] == ']' => out.push_str("\\("),
            // Within a word it emphasises nothing.
            '_' if is_word(i.checked_sub(1)) && is_word(Some(i + 1)) => out.push(c),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '!' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    // A list or a rule begins at the start of a line only.
    if out.starts_with(['-', '+', '=']) {
        out.insert(0, '\\');
    }
    out
}

/// Prose with its backticked parts as code.
fn inline(s: &str) -> String {
    let parts = segments(s).into_iter().map(|(part, is_code)| {
        // A bar would end a table cell even within code; the rest some forges act on in code too.
        if is_code && !part.contains(['|', '<', '@']) && !part.contains("://") {
            format!("`{part}`")
        } else {
            escape(part)
        }
    });
    parts.collect()
}

fn table(titles: &[String], rows: &[Vec<String>], out: &mut String) {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    out.push_str(&line(titles));
    out.push_str(&line(&vec!["---".to_owned(); titles.len()]));
    for row in rows {
        out.push_str(&line(row));
    }
}

fn write_block(block: &Block<'_>, out: &mut String) {
    match block {
        Block::Finding {
            sentence,
            strength,
            words: line,
            ..
        } => {
            let full = words::strength_step(*strength);
            let meter = "■".repeat(full) + &"□".repeat(words::STRENGTH_STEPS - full);
            out.push_str(&format!(
                "**{}**\n\n{meter} {}\n",
                escape(sentence),
                escape(line)
            ));
        }
        Block::Heading(level, title) => {
            let hashes = "#".repeat(usize::from(*level));
            out.push_str(&format!("{hashes} {}\n", escape(title)));
        }
        Block::Paragraph(line) => out.push_str(&format!("{}\n", inline(line))),
        Block::List(numbered, items) => {
            for (i, item) in items.iter().enumerate() {
                let mark = match numbered {
                    true => format!("{}.", i + 1),
                    false => "-".to_owned(),
                };
                out.push_str(&format!("{mark} {}\n", inline(item)));
            }
        }
        Block::Table(titles, rows) => {
            let titles: Vec<String> = titles.iter().map(|t| escape(t)).collect();
            let rows: Vec<Vec<String>> = rows
                .iter()
                .map(|row| row.iter().map(|cell| inline(cell)).collect())
                .collect();
            table(&titles, &rows, out);
        }
        // Indented: no run of backticks in the command can end it.
        Block::Code(line) => out.push_str(&format!("    {line}\n")),
        Block::HeatMap(title, grid) => heat_map(title, grid, out),
        Block::Histogram(title, histogram) => bars(title, histogram, out),
    }
}

fn heat_map(title: &str, grid: &LayerGrid, out: &mut String) {
    let quantity = prose(&grid.quantity);
    out.push_str(&format!("**{}** {}\n", escape(title), escape(&quantity)));
    for layout in grid::layouts(grid) {
        out.push('\n');
        layers(&layout, out);
    }
}

fn layers(layout: &Layout<'_>, out: &mut String) {
    let n = layout.columns.len().min(MAX_COLUMNS);
    let corner = match &layout.pairs_of {
        Some(role) => format!("{}: reference ↓ candidate →", name(role)),
        None => "layer".to_owned(),
    };
    let mut titles = vec![escape(&corner)];
    titles.extend(
        layout.columns[..n]
            .iter()
            .map(|column| match column.label() {
                label if label.is_empty() => "outside".to_owned(),
                label => escape(&label),
            }),
    );
    let rows: Vec<Vec<String>> =
        layout
            .rows
            .iter()
            .map(|row| {
                let mut cells = vec![escape(&name(&row.label))];
                cells.extend(row.cells[..n].iter().map(|cell| {
                    cell.map_or_else(String::new, |c| escape(&number(round(c.value))))
                }));
                cells
            })
            .collect();
    table(&titles, &rows, out);
    let hidden = layout.n_left_out + layout.rows.len() * (layout.columns.len() - n);
    if hidden > 0 {
        let rest = text::plural(hidden as u64, "cell", "cells");
        out.push_str(&format!("\n{rest} more in the JSON report.\n"));
    }
}

/// Three decimals are what a table of many cells can show.
fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

fn bars(title: &str, histogram: &Histogram, out: &mut String) {
    const WIDTH: f64 = 40.0;
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let (start, end) = histogram.range;
    let step = (end - start) / histogram.counts.len().max(1) as f64;
    out.push_str(&format!(
        "**{}** {}\n\n",
        escape(title),
        escape(&prose(&histogram.quantity))
    ));
    let titles = ["from", "to", "count", ""].map(str::to_owned);
    let rows: Vec<Vec<String>> = histogram
        .counts
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count > 0)
        .map(|(i, &count)| {
            let edge = |i: usize| escape(&number(round(start + step * i as f64)));
            let length = (count as f64 / most * WIDTH).ceil() as usize;
            vec![edge(i), edge(i + 1), text::count(count), "█".repeat(length)]
        })
        .collect();
    table(&titles, &rows, out);
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn rendered(report: &Report) -> String {
        let mut out = Vec::new();
        Markdown
            .render(report, &mut out, &RenderOptions::default())
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_strangers_wrote_becomes_neither_markup_nor_a_link_nor_a_mention() {
        let text = rendered(&fixture::hostile());
        // A code block is shown as it is.
        let lines = text.lines().filter(|line| !line.starts_with("    "));
        let text = lines.collect::<Vec<_>>().join("\n");
        for bad in [
            "<script",
            "<img",
            "<iframe",
            "@everyone",
            "](javascript",
            "http://",
        ] {
            assert!(!text.contains(bad), "{bad}");
        }
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        for report in [fixture::report(), fixture::hostile()] {
            let mut width = None;
            for line in rendered(&report).lines() {
                if !line.starts_with('|') {
                    width = None;
                    continue;
                }
                let bars = line.replace("\\|", "").matches('|').count();
                assert_eq!(*width.get_or_insert(bars), bars, "{line}");
            }
        }
    }

    #[test]
    fn the_finding_comes_first_and_the_command_is_whole() {
        let text = rendered(&fixture::report());
        let first = text.lines().find(|l| l.starts_with("**")).unwrap();
        assert!(
            first.contains("is, but for added noise, the same model as"),
            "{first}"
        );
        assert!(text.contains("    modelkin compare"));
    }
}

//! The layer × role and layer × layer pictures of the terminal, one character or two per layer.
//!
//! Shades are characters, from `·` to `█`; with colour the background repeats them. Values are laid
//! out by `grid.rs`. Does not draw more layer × layer pictures than fit on a page.

use super::super::grid::{self, Column, Layout, fraction};
use super::super::text::{name, number, prose, shorten};
use super::super::{Report, text};
use super::page::{DIM, Page};
use crate::evidence::record::{Detail, LayerGrid, Status};

/// Shades from the start of the scale to its end.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];

/// Foreground and background of each shade among the 256 colours, dark to bright.
const COLOURS: [&str; 5] = [
    "38;5;250;48;5;236",
    "38;5;254;48;5;24",
    "38;5;255;48;5;30",
    "38;5;16;48;5;71",
    "38;5;16;48;5;185",
];

/// Layer × layer pictures printed for one grid.
const MAX_PAIR_PICTURES: usize = 1;

/// Longest role name beside a picture, in characters.
const MAX_LABEL: usize = 22;

/// Every grid of every measured record.
pub(super) fn at_a_glance(page: &mut Page, report: &Report) {
    let mut first = true;
    for record in report
        .records
        .iter()
        .filter(|r| r.status == Status::Measured)
    {
        for detail in &record.details {
            let Detail::Grid(g) = detail else { continue };
            if g.cells.is_empty() {
                continue;
            }
            if first {
                page.heading("At a glance: layers of the candidate, left to right");
                first = false;
            } else {
                page.blank();
            }
            let title = format!("{} · {}", name(record.test), name(&record.component));
            one_grid(page, &title, g);
        }
    }
}

fn one_grid(page: &mut Page, title: &str, g: &LayerGrid) {
    let (start, end) = g.range;
    let shades: Vec<String> = (0..SHADES.len())
        .map(|level| shade(page, level, 1))
        .collect();
    page.paragraph("", 2, "", &format!("{title} · {}", prose(&g.quantity)));
    page.line(&format!(
        "  {} {} {}",
        number(start),
        shades.join(""),
        number(end)
    ));
    let mut n_pairs = 0;
    let mut n_not_drawn = 0;
    for layout in grid::layouts(g) {
        if let Some(role) = &layout.pairs_of {
            n_pairs += 1;
            if n_pairs > MAX_PAIR_PICTURES {
                n_not_drawn += 1;
                continue;
            }
            let role = shorten(&name(role), MAX_LABEL);
            page.line(&page.styled(DIM, &format!("  {role}: reference layers, top to bottom")));
        }
        bands(page, g, &layout);
        if layout.n_left_out > 0 {
            let n = text::plural(layout.n_left_out as u64, "cell", "cells");
            page.line(&page.styled(DIM, &format!("  {n} more in the JSON report")));
        }
    }
    if n_not_drawn > 0 {
        let n = text::plural(
            n_not_drawn,
            "picture of layer pairs",
            "pictures of layer pairs",
        );
        page.line(&page.styled(DIM, &format!("  {n} more in the HTML report")));
    }
}

/// A shade, `n` columns wide.
fn shade(page: &Page, level: usize, n: usize) -> String {
    page.styled(COLOURS[level], &SHADES[level].to_string().repeat(n))
}

/// The picture, cut into bands where the layers do not fit beside one another.
fn bands(page: &mut Page, g: &LayerGrid, layout: &Layout<'_>) {
    let label_width = layout
        .rows
        .iter()
        .map(|r| shorten(&name(&r.label), MAX_LABEL).chars().count())
        .max()
        .unwrap_or(0);
    let room = page.width.saturating_sub(label_width + 6).max(8);
    let cell_width = if layout.columns.len() * 2 <= room {
        2
    } else {
        1
    };
    let per_band = room / cell_width;
    for start in (0..layout.columns.len()).step_by(per_band) {
        let end = (start + per_band).min(layout.columns.len());
        let columns = &layout.columns[start..end];
        let axis = axis(columns, cell_width);
        page.line(&page.styled(DIM, &format!("  {} {axis}", " ".repeat(label_width))));
        for row in &layout.rows {
            let cells = &row.cells[start..end];
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let mut line = String::new();
            for (column, cell) in columns.iter().zip(cells) {
                if *column == Column::Outside {
                    line.push(' ');
                }
                match cell {
                    Some(c) => {
                        let level =
                            (fraction(c.value, g.range) * (SHADES.len() - 1) as f64).round();
                        line.push_str(&shade(page, level as usize, cell_width));
                    }
                    None => line.push_str(&" ".repeat(cell_width)),
                }
            }
            let label = shorten(&name(&row.label), MAX_LABEL);
            page.line(&format!("  {label:<label_width$} {line}"));
        }
    }
}

/// Numbers of the layers above their columns, as many as fit.
fn axis(columns: &[Column], cell_width: usize) -> String {
    let mut axis = String::new();
    for (i, column) in columns.iter().enumerate() {
        let at = i * cell_width + usize::from(*column == Column::Outside);
        let due = match column {
            Column::Layer(n) => n % 4 == 0 || i == 0,
            Column::Missing(_) | Column::Outside => true,
        };
        let used = axis.chars().count();
        if due && (used < at || used == 0) {
            let label = if *column == Column::Outside {
                "–".to_owned()
            } else {
                column.label()
            };
            axis.push_str(&" ".repeat(at - used));
            axis.push_str(&label);
        }
    }
    axis
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    fn drawn(colour: bool, width: u16) -> String {
        let mut page = Page::new(colour, width);
        at_a_glance(&mut page, &fixture::report());
        page.text()
    }

    #[test]
    fn a_layer_that_differs_has_another_character() {
        let text = drawn(false, 120);
        let row = text
            .lines()
            .find(|l| l.trim_start().starts_with("q_proj"))
            .unwrap();
        assert!(
            row.contains('█') && (row.contains('▒') || row.contains('▓')),
            "{row}"
        );
    }

    #[test]
    fn dropped_layers_shift_the_diagonal_of_a_layer_by_layer_picture() {
        let text = drawn(false, 120);
        let (_, pairs) = text.split_once("reference layers, top to bottom").unwrap();
        let row = |n: &str| {
            let line = pairs
                .lines()
                .find(|l| l.trim_start().starts_with(n))
                .unwrap();
            line.chars().position(|c| c == '█')
        };
        assert!(row("9 ").is_none(), "layer 9 of the reference was dropped");
        assert!(row("23 ").is_some());
    }

    #[test]
    fn bands_follow_the_width() {
        assert!(drawn(false, 48).lines().count() > drawn(false, 160).lines().count());
    }
}

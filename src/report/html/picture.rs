//! Heat maps and histograms as inline SVG.
//!
//! Colours run from dark blue to yellow, told apart by the colour-blind and in grey; each cell also
//! holds its number, for the eye where there is room and for the pointer always. Cells are placed by
//! `grid.rs`.

use super::super::grid::{self, Layout, cell_place, fraction};
use super::super::text::{name, number, plural, prose, shorten};
use super::escape;
use crate::evidence::record::{Histogram, LayerCell, LayerGrid};

/// Side of a cell in pixels, and the least number of columns above which cells shrink.
const CELL: usize = 34;
const SMALL_CELL: usize = 14;
const MANY_COLUMNS: usize = 28;
/// Longest label beside a row, in characters, and the width of one.
const MAX_LABEL: usize = 34;
const CHARACTER: usize = 7;
/// Height of the axis above a picture.
const AXIS: usize = 18;

/// Stops of the colour scale: start to end.
const SCALE: [[f64; 3]; 5] = [
    [38.0, 43.0, 84.0],
    [43.0, 95.0, 138.0],
    [38.0, 145.0, 140.0],
    [112.0, 194.0, 98.0],
    [250.0, 226.0, 75.0],
];

/// The colour at a fraction of the scale, and one that can be read on it.
fn colour(at: f64) -> (String, &'static str) {
    let position = at * (SCALE.len() - 1) as f64;
    let stop = (position as usize).min(SCALE.len() - 2);
    let part = position - stop as f64;
    let [r, g, b] =
        [0, 1, 2].map(|i| SCALE[stop][i] + part * (SCALE[stop + 1][i] - SCALE[stop][i]));
    let ink = if 0.3 * r + 0.6 * g + 0.1 * b > 130.0 {
        "#111"
    } else {
        "#fff"
    };
    (format!("rgb({r:.0},{g:.0},{b:.0})"), ink)
}

/// Three digits of a value for a small square.
fn short(value: f64) -> String {
    match value.abs() {
        a if a == value.trunc().abs() && a < 1000.0 => number(value),
        a if a < 10.0 => number((value * 100.0).round() / 100.0),
        _ => number(value.round()),
    }
}

/// A grid as one picture for each of its layouts, with a legend.
pub(super) fn heat_map(title: &str, grid: &LayerGrid, id: usize, out: &mut String) {
    let (start, end) = grid.range;
    out.push_str(&format!(
        "<figure>\n<figcaption>{}: {}</figcaption>\n",
        escape(title),
        escape(&prose(&grid.quantity))
    ));
    legend(start, end, out);
    for (i, layout) in grid::layouts(grid).iter().enumerate() {
        picture(layout, grid, &format!("p{id}-{i}"), out);
        if layout.n_left_out > 0 {
            let rest = plural(layout.n_left_out as u64, "cell", "cells");
            out.push_str(&format!("<p>{rest} more in the JSON report.</p>\n"));
        }
    }
    out.push_str("</figure>\n");
}

fn legend(start: f64, end: f64, out: &mut String) {
    const STEPS: usize = 24;
    out.push_str(&format!(
        "<svg width=\"360\" height=\"18\" role=\"img\"><desc>colour scale from {} to {}</desc>\n",
        escape(&number(start)),
        escape(&number(end))
    ));
    out.push_str(&format!(
        "<text x=\"0\" y=\"13\" class=\"axis\">{}</text>\n",
        escape(&number(start))
    ));
    for step in 0..STEPS {
        let (fill, _) = colour(step as f64 / (STEPS - 1) as f64);
        out.push_str(&format!(
            "<rect x=\"{}\" y=\"3\" width=\"9\" height=\"12\" fill=\"{fill}\"/>\n",
            60 + step * 9
        ));
    }
    out.push_str(&format!(
        "<text x=\"{}\" y=\"13\" class=\"axis\">{}</text>\n</svg>\n",
        60 + STEPS * 9 + 6,
        escape(&number(end))
    ));
}

fn picture(layout: &Layout<'_>, grid: &LayerGrid, id: &str, out: &mut String) {
    let side = if layout.columns.len() > MANY_COLUMNS {
        SMALL_CELL
    } else {
        CELL
    };
    let height = if side == CELL { 22 } else { SMALL_CELL };
    let labels: Vec<String> = layout
        .rows
        .iter()
        .map(|row| shorten(&name(&row.label), MAX_LABEL))
        .collect();
    let left = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0) * CHARACTER + 10;
    let caption = match &layout.pairs_of {
        Some(role) => format!(
            "{}: reference layers down, candidate layers across",
            name(role)
        ),
        None => "layers of the candidate across".to_owned(),
    };
    out.push_str(&format!(
        "<svg id=\"{id}\" width=\"{}\" height=\"{}\" role=\"img\"><desc>{}</desc>\n",
        left + layout.columns.len() * side + 60,
        AXIS + layout.rows.len() * height + AXIS + 4,
        escape(&caption)
    ));
    let every = if side == CELL { 1 } else { 4 };
    for (i, column) in layout.columns.iter().enumerate() {
        let label = match column.label() {
            label if label.is_empty() => "–".to_owned(),
            label => label,
        };
        if i % every == 0 || i + 1 == layout.columns.len() {
            out.push_str(&format!(
                "<text x=\"{}\" y=\"12\" class=\"axis\">{}</text>\n",
                left + i * side + 2,
                escape(&label)
            ));
        }
    }
    for (r, (row, label)) in layout.rows.iter().zip(&labels).enumerate() {
        let y = AXIS + r * height;
        out.push_str(&format!(
            "<text x=\"0\" y=\"{}\">{}</text>\n",
            y + height * 2 / 3 + 1,
            escape(label)
        ));
        for (c, cell) in row.cells.iter().enumerate() {
            if let Some(cell) = cell {
                square(cell, grid, (left + c * side, y), (side, height), out);
            }
        }
    }
    out.push_str(&format!(
        "<text x=\"0\" y=\"{}\" class=\"axis\">{}</text>\n</svg>\n",
        AXIS + layout.rows.len() * height + AXIS - 4,
        escape(&caption)
    ));
}

fn square(
    cell: &LayerCell,
    grid: &LayerGrid,
    (x, y): (usize, usize),
    (w, h): (usize, usize),
    out: &mut String,
) {
    let (fill, ink) = colour(fraction(cell.value, grid.range));
    let p = cell
        .ln_p
        .map_or_else(String::new, |ln_p| format!(", ln p {}", number(ln_p)));
    let hint = format!(
        "{} {}: {}{p}",
        name(&cell.role),
        cell_place(cell),
        number(cell.value)
    );
    out.push_str(&format!(
        "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"/>",
        escape(&hint),
        w - 1,
        h - 1
    ));
    if w == CELL {
        out.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" class=\"value\" style=\"fill:{ink}\">{}</text>",
            x + 3,
            y + h * 2 / 3,
            escape(&short(cell.value))
        ));
    }
    out.push_str("</g>\n");
}

/// Counts as bars, the edges of the range below.
pub(super) fn histogram(title: &str, histogram: &Histogram, id: usize, out: &mut String) {
    const WIDTH: usize = 720;
    const HEIGHT: usize = 160;
    let n = histogram.counts.len().max(1);
    let bar = (WIDTH / n).max(1);
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let (start, end) = histogram.range;
    out.push_str(&format!(
        "<figure>\n<figcaption>{}: {}</figcaption>\n<svg id=\"p{id}\" width=\"{}\" height=\"{}\" role=\"img\">\
         <desc>histogram of {} values</desc>\n",
        escape(title),
        escape(&prose(&histogram.quantity)),
        bar * n + 40,
        HEIGHT + 24,
        histogram.counts.iter().fold(0u64, |sum, &count| sum.saturating_add(count))
    ));
    for (i, &count) in histogram
        .counts
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count > 0)
    {
        // A bar that is there is seen, however small.
        let height = ((count as f64 / most * HEIGHT as f64).round() as usize).max(1);
        let edge = |i: usize| number(start + (end - start) * i as f64 / n as f64);
        out.push_str(&format!(
            "<g><title>{} to {}: {count}</title><rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{height}\"/></g>\n",
            escape(&edge(i)),
            escape(&edge(i + 1)),
            i * bar,
            HEIGHT - height,
            bar.saturating_sub(1).max(1)
        ));
    }
    for (at, value) in [
        (0, start),
        (bar * n / 2, f64::midpoint(start, end)),
        (bar * n, end),
    ] {
        out.push_str(&format!(
            "<text x=\"{at}\" y=\"{}\" class=\"axis\">{}</text>\n",
            HEIGHT + 16,
            escape(&number(value))
        ));
    }
    out.push_str("</svg>\n</figure>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_runs_from_dark_to_bright_and_its_ink_can_be_read() {
        assert_eq!(colour(0.0), ("rgb(38,43,84)".to_owned(), "#fff"));
        assert_eq!(colour(1.0), ("rgb(250,226,75)".to_owned(), "#111"));
    }

    #[test]
    fn numbers_in_cells_are_short() {
        for (value, text) in [
            (0.123_456, "0.12"),
            (1.0, "1"),
            (0.999_9, "1"),
            (-2.0, "−2"),
            (123.4, "123"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}

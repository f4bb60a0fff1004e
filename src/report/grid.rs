//! Where each cell of a layer grid goes on the page: shared by the terminal and the HTML pictures.
//!
//! Columns are candidate layers, because the candidate is what is being asked about. A role that was
//! measured once per candidate layer is one row of a common map; a role that was measured against
//! several reference layers is a map of its own, reference layers down, so that layers which were
//! moved, dropped or repeated are seen. Does not compute: values are placed, not changed.

use crate::evidence::record::{LayerCell, LayerGrid};
use std::collections::{BTreeMap, BTreeSet};

/// Largest picture, in columns and in rows: a hostile model may claim any number of layers.
const MAX_SIDE: usize = 160;

/// What a column stands for, in the order in which columns are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    /// A layer of the candidate.
    Layer(u32),
    /// A layer of the reference that has no counterpart in the candidate.
    Missing(u32),
    /// Outside the stack of layers: embeddings, final norm, head.
    Outside,
}

impl Column {
    fn of(cell: &LayerCell) -> Self {
        match (cell.candidate_layer, cell.reference_layer) {
            (Some(layer), _) => Column::Layer(layer),
            (None, Some(layer)) => Column::Missing(layer),
            (None, None) => Column::Outside,
        }
    }

    /// A label that fits above a cell; empty outside the stack.
    pub(super) fn label(self) -> String {
        match self {
            Column::Layer(n) => n.to_string(),
            Column::Missing(n) => format!("({n})"),
            Column::Outside => String::new(),
        }
    }
}

/// One row of a picture; `cells` run along the columns.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// Role, or number of the reference layer.
    pub(super) label: String,
    /// A cell for each column, where there is one.
    pub(super) cells: Vec<Option<&'a LayerCell>>,
}

/// One picture.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The role, when the rows are reference layers; `None` when the rows are roles.
    pub(super) pairs_of: Option<String>,
    /// What stands above the columns.
    pub(super) columns: Vec<Column>,
    /// Rows from top to bottom.
    pub(super) rows: Vec<Row<'a>>,
    /// Cells that did not fit.
    pub(super) n_left_out: usize,
}

/// Lays out a grid: the common map first, then one picture for each role with several reference
/// layers per candidate layer. Roles keep the order in which they first appear.
pub(super) fn layouts(grid: &LayerGrid) -> Vec<Layout<'_>> {
    let mut roles: Vec<&str> = Vec::new();
    let mut by_role: BTreeMap<&str, Vec<&LayerCell>> = BTreeMap::new();
    for cell in &grid.cells {
        let cells = by_role.entry(&cell.role).or_default();
        if cells.is_empty() {
            roles.push(&cell.role);
        }
        cells.push(cell);
    }
    let (pairs, single): (Vec<&str>, Vec<&str>) = roles
        .into_iter()
        .partition(|role| has_layer_pairs(&by_role[role]));
    let mut out = Vec::new();
    if !single.is_empty() {
        let labelled = single
            .iter()
            .flat_map(|role| by_role[role].iter().map(|cell| ((*role).to_owned(), *cell)));
        out.push(place(None, labelled.collect()));
    }
    for role in pairs {
        let mut cells = by_role[role].clone();
        cells.sort_by_key(|c| (c.reference_layer.is_none(), c.reference_layer));
        let label = |c: &LayerCell| {
            c.reference_layer
                .map_or_else(|| "none".to_owned(), |n| n.to_string())
        };
        out.push(place(
            Some(role.to_owned()),
            cells.into_iter().map(|c| (label(c), c)).collect(),
        ));
    }
    out
}

/// Whether one candidate layer was held against several reference layers.
fn has_layer_pairs(cells: &[&LayerCell]) -> bool {
    let mut partner: BTreeMap<u32, Option<u32>> = BTreeMap::new();
    cells.iter().any(|c| {
        c.candidate_layer.is_some_and(|layer| {
            partner
                .insert(layer, c.reference_layer)
                .is_some_and(|p| p != c.reference_layer)
        })
    })
}

/// Puts labelled cells into rows and columns. A label whose place is taken gets a further row, so
/// that no cell hides another.
fn place(pairs_of: Option<String>, cells: Vec<(String, &LayerCell)>) -> Layout<'_> {
    let all: BTreeSet<Column> = cells.iter().map(|(_, c)| Column::of(c)).collect();
    let columns: Vec<Column> = all.into_iter().take(MAX_SIDE).collect();
    let index: BTreeMap<Column, usize> = columns.iter().copied().zip(0..).collect();
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut rows_of: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut n_left_out = 0;
    for (label, cell) in cells {
        let Some(&column) = index.get(&Column::of(cell)) else {
            n_left_out += 1;
            continue;
        };
        let of_label = rows_of.entry(label.clone()).or_default();
        let free = of_label
            .iter()
            .copied()
            .find(|&r| rows[r].cells[column].is_none());
        let row = match free {
            Some(row) => row,
            None if rows.len() < MAX_SIDE => {
                rows.push(Row {
                    label,
                    cells: vec![None; columns.len()],
                });
                of_label.push(rows.len() - 1);
                rows.len() - 1
            }
            None => {
                n_left_out += 1;
                continue;
            }
        };
        rows[row].cells[column] = Some(cell);
    }
    Layout {
        pairs_of,
        columns,
        rows,
        n_left_out,
    }
}

/// Position of a value on the colour scale, 0 to 1. The scale may run downwards; a scale of no
/// length puts everything at its end.
pub(super) fn fraction(value: f64, (start, end): (f64, f64)) -> f64 {
    let f = (value - start) / (end - start);
    if f.is_finite() {
        f.clamp(0.0, 1.0)
    } else {
        1.0
    }
}

/// "reference layer 3 → candidate layer 5", for labels and tooltips.
pub(super) fn cell_place(cell: &LayerCell) -> String {
    match (cell.reference_layer, cell.candidate_layer) {
        (Some(a), Some(b)) if a == b => format!("layer {a}"),
        (Some(a), Some(b)) => format!("reference layer {a} → candidate layer {b}"),
        (Some(a), None) => format!("reference layer {a}, no counterpart"),
        (None, Some(b)) => format!("candidate layer {b}, no counterpart"),
        (None, None) => "outside the layers".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(reference: Option<u32>, candidate: Option<u32>, role: &str, value: f64) -> LayerCell {
        LayerCell {
            reference_layer: reference,
            candidate_layer: candidate,
            role: role.to_owned(),
            value,
            ln_p: None,
        }
    }

    fn grid(cells: Vec<LayerCell>) -> LayerGrid {
        LayerGrid {
            quantity: "q".to_owned(),
            range: (0.0, 1.0),
            cells,
        }
    }

    #[test]
    fn roles_measured_once_per_layer_share_one_map() {
        let g = grid(vec![
            cell(Some(0), Some(0), "q_proj", 0.1),
            cell(Some(0), Some(0), "k_proj", 0.2),
            cell(Some(1), Some(1), "q_proj", 0.3),
            cell(None, None, "embed", 0.4),
        ]);
        let layouts = layouts(&g);
        assert_eq!(layouts.len(), 1);
        assert_eq!(
            layouts[0].columns,
            [Column::Layer(0), Column::Layer(1), Column::Outside]
        );
        let labels: Vec<_> = layouts[0].rows.iter().map(|r| r.label.as_str()).collect();
        assert_eq!(labels, ["q_proj", "k_proj", "embed"]);
        assert_eq!(layouts[0].rows[0].cells[1].unwrap().value, 0.3);
        assert!(layouts[0].rows[1].cells[1].is_none());
    }

    #[test]
    fn all_layer_pairs_become_a_map_of_reference_against_candidate() {
        let mut cells = Vec::new();
        for a in 0..3 {
            for b in 0..2 {
                cells.push(cell(Some(a), Some(b), "up", f64::from(10 * a + b)));
            }
        }
        let g = grid(cells);
        let layouts = layouts(&g);
        assert_eq!(layouts.len(), 1);
        assert_eq!(layouts[0].pairs_of.as_deref(), Some("up"));
        assert_eq!((layouts[0].rows.len(), layouts[0].columns.len()), (3, 2));
        assert_eq!(layouts[0].rows[2].cells[1].unwrap().value, 21.0);
    }

    #[test]
    fn no_cell_hides_another_and_none_is_dropped_silently() {
        let twice = grid(vec![
            cell(None, None, "embed", 0.1),
            cell(None, None, "embed", 0.9),
        ]);
        assert_eq!(layouts(&twice)[0].rows.len(), 2);
        let wide = grid(
            (0..1000)
                .map(|i| cell(Some(i), Some(i), "q", 0.5))
                .collect(),
        );
        let l = &layouts(&wide)[0];
        let drawn = l.rows.iter().flat_map(|r| &r.cells).flatten().count();
        assert_eq!(drawn + l.n_left_out, 1000);
        assert!(l.n_left_out > 0);
    }

    #[test]
    fn the_scale_clamps_runs_both_ways_and_never_divides_by_zero() {
        assert_eq!(fraction(2.0, (0.0, 1.0)), 1.0);
        assert_eq!(fraction(-2.0, (0.0, 1.0)), 0.0);
        assert_eq!(fraction(0.25, (1.0, 0.0)), 0.75);
        assert_eq!(fraction(0.5, (0.5, 0.5)), 1.0);
    }
}

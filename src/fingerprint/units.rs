//! Two independent views of the hidden units of an MLP, by which units are matched.
//!
//! A gated MLP is seen through its gate rows and its up rows; a plain one, or a gated one that stands
//! against a plain one, through its up rows (what a unit reads) and its down columns (what it
//! writes). Each view is `[n_units, width]`, one row a unit; rows are compared by cosine, which no
//! positive per-unit scale changes.
//!
//! Where only some rows of the matrices are at hand, the units are those whose rows are there; what is
//! written is then seen in the residual coordinates whose rows are there.

use super::folded;
use crate::arch::{Component, Role, RoleKind};
use crate::tensor::{Matrix, RowRuns, TensorError};
use ndarray::Array2;

/// Which side of the MLP a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Gate rows, or the up rows of a plain MLP.
    First,
    /// Up rows, or the down columns of a plain MLP.
    Second,
}

/// The MLP of one layer (or of one expert of it).
#[derive(Debug, Clone)]
pub struct Mlp<'a> {
    /// The component it belongs to.
    pub component: &'a Component,
    /// Layer, from 0.
    pub layer: u32,
    /// Expert, in a mixture.
    pub expert: Option<u32>,
    gate: Option<&'a Matrix>,
    up: &'a Matrix,
    down: &'a Matrix,
    /// Which units are at hand, if not all are.
    part: Option<RowRuns>,
}

impl<'a> Mlp<'a> {
    /// The MLP of a layer, if its up and down projections are known.
    pub fn find(component: &'a Component, layer: u32, expert: Option<u32>) -> Option<Self> {
        let role = |kind| Role::in_layer(kind, layer).of_expert(expert);
        let gate = component.role(role(RoleKind::Gate));
        let up = component.role(role(RoleKind::Up))?;
        let part = match (gate.and_then(Matrix::part), up.part()) {
            (Some(gate), Some(up)) => Some(gate.intersection(up)),
            (part, None) | (None, part) => part.cloned(),
        };
        Some(Self {
            component,
            layer,
            expert,
            gate,
            up,
            down: component.role(role(RoleKind::Down))?,
            part,
        })
        .filter(|mlp| {
            let n = mlp.n_units_of_whole();
            mlp.gate.is_none_or(|gate| gate.n_rows_of_whole() == n) && mlp.down.n_cols() == n
        })
    }

    /// Number of hidden units that are at hand.
    pub fn n_units(&self) -> usize {
        self.part.as_ref().map_or(self.up.n_rows(), RowRuns::len)
    }

    /// Number of hidden units of the model, at hand or not.
    pub fn n_units_of_whole(&self) -> usize {
        self.up.n_rows_of_whole()
    }

    /// Which unit of the model one at hand is.
    pub fn unit_of_whole(&self, unit: usize) -> Option<usize> {
        match &self.part {
            Some(part) => part.row(unit),
            None => Some(unit).filter(|&unit| unit < self.n_units()),
        }
    }

    /// Which unit at hand is this one of the model, if it is.
    pub fn unit_at_hand(&self, unit_of_whole: usize) -> Option<usize> {
        match &self.part {
            Some(part) => part.position(unit_of_whole),
            None => Some(unit_of_whole).filter(|&unit| unit < self.n_units()),
        }
    }

    /// Whether some units are not at hand.
    pub fn is_part(&self) -> bool {
        self.n_units() < self.n_units_of_whole()
    }

    /// Whether what the units write is at hand in all coordinates.
    pub fn writes_whole(&self) -> bool {
        self.down.part().is_none()
    }

    /// Places of units in a matrix with a row for each unit.
    fn places(&self, matrix: &Matrix, units: &[usize]) -> Result<Vec<usize>, TensorError> {
        let Some(part) = &self.part else {
            return Ok(units.to_vec());
        };
        let place = |&unit: &usize| {
            let row = part.row(unit).and_then(|row| matrix.position(row));
            row.ok_or_else(|| TensorError::index(matrix.tensor(), unit, part.len()))
        };
        units.iter().map(place).collect()
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.up.n_cols()
    }

    /// Whether the MLP is seen as gated.
    pub fn is_gated(&self) -> bool {
        self.gate.is_some()
    }

    /// The same MLP seen as a plain one: up and down only.
    pub fn as_plain(self) -> Self {
        Self { gate: None, ..self }
    }

    /// The view that shows the up projection.
    pub fn up_view(&self) -> View {
        if self.is_gated() {
            View::Second
        } else {
            View::First
        }
    }

    /// Whether the rows of a view are read from the residual stream (or written to it).
    pub fn reads(&self, view: View) -> bool {
        self.is_gated() || view == View::First
    }

    /// Rows of a view for the given of the units at hand: `[units.len(), hidden_size]`, γ folded, not
    /// normalised.
    ///
    /// # Errors
    /// When the weights cannot be read or are not finite.
    pub fn rows(&self, view: View, units: &[usize]) -> Result<Array2<f32>, TensorError> {
        let (kind, matrix) = match (self.gate, view) {
            (Some(gate), View::First) => (RoleKind::Gate, gate),
            (Some(_), View::Second) | (None, View::First) => (RoleKind::Up, self.up),
            (None, View::Second) => {
                let written = self.down.clone().transposed();
                return written.gather(&self.places(&written, units)?);
            }
        };
        let role = Role::in_layer(kind, self.layer).of_expert(self.expert);
        folded::gather(self.component, role, matrix, &self.places(matrix, units)?)
    }
}

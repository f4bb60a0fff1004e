//! Two independent views of the hidden units of an MLP, by which units are matched.
//!
//! A gated MLP is seen through its gate rows and its up rows; a plain one, or a gated one that stands
//! against a plain one, through its up rows (what a unit reads) and its down columns (what it
//! writes). Each view is `[n_units, width]`, one row a unit; rows are compared by cosine, which no
//! positive per-unit scale changes.

use super::folded;
use crate::arch::{Component, Role, RoleKind};
use crate::tensor::{Matrix, TensorError};
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
}

impl<'a> Mlp<'a> {
    /// The MLP of a layer, if its up and down projections are known.
    pub fn find(component: &'a Component, layer: u32, expert: Option<u32>) -> Option<Self> {
        let role = |kind| Role::in_layer(kind, layer).of_expert(expert);
        Some(Self {
            component,
            layer,
            expert,
            gate: component.role(role(RoleKind::Gate)),
            up: component.role(role(RoleKind::Up))?,
            down: component.role(role(RoleKind::Down))?,
        })
        .filter(|mlp| mlp.gate.is_none_or(|gate| gate.n_rows() == mlp.up.n_rows()))
        .filter(|mlp| mlp.down.n_cols() == mlp.up.n_rows())
    }

    /// Number of hidden units.
    pub fn n_units(&self) -> usize {
        self.up.n_rows()
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

    /// Rows of a view for the given units: `[units.len(), hidden_size]`, γ folded, not normalised.
    ///
    /// # Errors
    /// When the weights cannot be read or are not finite.
    pub fn rows(&self, view: View, units: &[usize]) -> Result<Array2<f32>, TensorError> {
        let (kind, matrix) = match (self.gate, view) {
            (Some(gate), View::First) => (RoleKind::Gate, gate),
            (Some(_), View::Second) | (None, View::First) => (RoleKind::Up, self.up),
            (None, View::Second) => {
                return self.down.clone().transposed().gather(units);
            }
        };
        let role = Role::in_layer(kind, self.layer).of_expert(self.expert);
        folded::gather(self.component, role, matrix, units)
    }
}

//! Matrices with the norm before them folded in: W ← W·diag(γ), so that what a model *computes* is
//! compared and moving a scale from γ into W changes nothing.
//!
//! LayerNorm also removes the mean of its input, so the rows of W·diag(γ) are centred: the part of a
//! row along (1, …, 1) never sees any input.

use crate::arch::{Component, Norm, Part, Role, RoleKind};
use crate::tensor::{Matrix, TensorError};
use ndarray::{Array1, Array2};

/// Gains of the norm that feeds `kind`, `[hidden_size]`; `None` when the model has no such norm.
///
/// # Errors
/// When the gains cannot be read or are not finite.
pub fn gains(
    component: &Component,
    layer: Option<u32>,
    kind: RoleKind,
) -> Result<Option<Array1<f32>>, TensorError> {
    let Some(norm) = kind.reads_norm() else {
        return Ok(None);
    };
    let role = Role {
        layer,
        kind: norm,
        expert: None,
        part: Part::Weight,
    };
    let Some(stored) = component.role(role) else {
        return Ok(None);
    };
    let mut gains = stored.all()?.column(0).to_owned();
    if component.norm == Norm::RmsPlusOne {
        gains += 1.0;
    }
    Ok(Some(gains))
}

/// Folds gains into rows that read the residual stream, in place. `rows` is `[n, hidden_size]`.
pub fn fold(rows: &mut Array2<f32>, gains: Option<&Array1<f32>>, norm: Norm) {
    if let Some(gains) = gains
        && gains.len() == rows.ncols()
    {
        *rows *= gains;
    }
    if norm == Norm::Layer {
        for mut row in rows.rows_mut() {
            let mean = row.sum() / row.len() as f32;
            row -= mean;
        }
    }
}

/// Rows of a matrix that reads the residual stream, folded: `[rows.len(), hidden_size]`, f32.
///
/// # Errors
/// When the weights cannot be read or are not finite.
pub fn gather(
    component: &Component,
    role: Role,
    matrix: &Matrix,
    rows: &[usize],
) -> Result<Array2<f32>, TensorError> {
    let gains = gains(component, role.layer, role.kind)?;
    let mut rows = matrix.gather(rows)?;
    fold(&mut rows, gains.as_ref(), component.norm);
    Ok(rows)
}

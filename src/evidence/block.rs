//! Sub-blocks of corresponding matrices: what spectral tests read of a large matrix.

use super::context::{EvidenceError, Settings};
use super::layers;
use super::pair::ComponentPair;
use crate::arch::{Part, Role};
use crate::stats;
use crate::tensor::Matrix;
use ndarray::{Array2, Axis};

/// Rows and columns read of a matrix at most.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// The same sub-block of two matrices of equal role.
pub struct Block {
    /// The role.
    pub role: Role,
    /// Stored tensor of the reference; several roles of a fused one share it.
    pub tensor: String,
    /// Whether only some rows of the matrices were at hand.
    pub is_part: bool,
    /// Of the reference, within the limit, f64.
    pub reference: Array2<f64>,
    /// Of the candidate.
    pub candidate: Array2<f64>,
}

/// Reads the sub-block that the seed draws for a role.
fn read(
    role: Role,
    a: &Matrix,
    b: &Matrix,
    limit: Limit,
    settings: &Settings,
) -> Result<Block, EvidenceError> {
    let pick = |n: usize, limit: usize, what: &str| {
        stats::choose(
            n,
            n.min(limit),
            settings.seed,
            &format!("block/{what}/{role}"),
        )
    };
    let rows = pick(a.n_rows(), limit.rows, "rows");
    let cols = pick(a.n_cols(), limit.cols, "columns");
    let gather = |matrix: &Matrix| -> Result<Array2<f64>, EvidenceError> {
        Ok(matrix.gather(&rows)?.select(Axis(1), &cols).mapv(f64::from))
    };
    Ok(Block {
        role,
        tensor: a.tensor().name().to_owned(),
        is_part: a.part().is_some(),
        reference: gather(a)?,
        candidate: gather(b)?,
    })
}

/// Weight matrices in the chosen layers (no embeddings, no vectors), one block each, given to `f`.
///
/// # Errors
/// When a weight cannot be read or is not finite.
pub fn for_each(
    pair: &ComponentPair,
    limit: Limit,
    settings: &Settings,
    mut f: impl FnMut(Block) -> Result<(), EvidenceError>,
) -> Result<usize, EvidenceError> {
    let chosen = layers::chosen(pair.reference.n_layers, settings);
    let mut n = 0;
    for (role, a, b) in pair.common_roles() {
        let in_chosen = role.layer.is_some_and(|layer| chosen.contains(&layer));
        let matrix = role.part == Part::Weight && a.n_rows() >= 16 && a.n_cols() >= 16;
        if in_chosen && matrix {
            f(read(role, a, b, limit, settings)?)?;
            n += 1;
        }
    }
    if n == 0 {
        // No roles: corresponding tensors of two or more dimensions, addressed by their order.
        for (index, found) in pair.correspondence.pairs.iter().enumerate() {
            let a = &pair.reference.tensors[found.reference];
            let b = &pair.candidate.tensors[found.candidate];
            if a.shape().len() < 2 || !a.dtype().is_float() || !b.dtype().is_float() {
                continue;
            }
            let (a, b) = (Matrix::new(a.clone())?, Matrix::new(b.clone())?);
            if a.n_rows() >= 16 && a.n_cols() >= 9 {
                let role = Role::in_layer(crate::arch::RoleKind::Up, index as u32);
                f(read(role, &a, &b, limit, settings)?)?;
                n += 1;
            }
        }
    }
    Ok(n)
}

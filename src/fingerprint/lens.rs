//! The token lens: what each hidden unit says to each token's embedding, without a forward pass.
//!
//! H = W·diag(γ)·X, where column t of X is the normalised embedding of token t. A rotation Q of the
//! residual stream turns embeddings into Q·e and rows into w·Qᵀ: their products stay. For what a
//! plain MLP writes, the output head takes the place of the embeddings. Columns are tokens, shared
//! by both models, so the two widths need not agree.

use super::folded;
use super::product::{self, Products};
use super::units::{Mlp, View};
use crate::arch::{Component, Norm, Part, Role, RoleKind};
use crate::engine::EngineError;
use crate::tensor::{Matrix, TensorError};
use ndarray::Array2;

/// Normalised embeddings and folded output rows of the shared tokens of one model.
#[derive(Debug, Clone)]
pub struct Lens {
    /// `[n_tokens, hidden_size]`: embeddings as the first norm would pass them on, without γ.
    pub embeddings: Array2<f32>,
    /// `[n_tokens, hidden_size]`: rows of the output head with the final γ folded in.
    pub outputs: Array2<f32>,
}

/// RMS over the row, or LayerNorm's mean and variance.
fn normalise_as_norm(rows: &mut Array2<f32>, norm: Norm) {
    if norm == Norm::Layer {
        product::centre_rows(rows);
    }
    // Unit length instead of unit RMS: the factor √d is common to all tokens.
    product::normalise_rows(rows);
}

impl Lens {
    /// A lens from rows that were read already: embeddings, and output rows with the gains of the
    /// final norm folded in (or without any).
    pub fn of_rows(mut embeddings: Array2<f32>, outputs: Array2<f32>, norm: Norm) -> Self {
        normalise_as_norm(&mut embeddings, norm);
        Self {
            embeddings,
            outputs,
        }
    }

    /// Reads the rows of the given tokens.
    ///
    /// # Errors
    /// When the weights cannot be read or are not finite; `None` without embeddings, with some of
    /// another width than the stream, or with a token whose row is not at hand.
    pub fn read(component: &Component, tokens: &[usize]) -> Result<Option<Self>, TensorError> {
        let embedding = Role::outside(RoleKind::TokenEmbedding);
        let (Some(stored), Some(head)) = (component.role(embedding), component.output_head())
        else {
            return Ok(None);
        };
        // Embeddings that are projected into the stream are no rows of it.
        let of_stream = |m: &Matrix| component.hidden_size.is_none_or(|d| d == m.n_cols());
        if !of_stream(stored) || !of_stream(head) {
            return Ok(None);
        }
        let rows = |of: &Matrix| -> Option<Vec<usize>> {
            tokens.iter().map(|&token| of.position(token)).collect()
        };
        let (Some(rows), Some(rows_of_head)) = (rows(stored), rows(head)) else {
            return Ok(None);
        };
        let mut embeddings = stored.gather(&rows)?;
        normalise_as_norm(&mut embeddings, component.norm);
        let mut outputs = head.gather(&rows_of_head)?;
        let final_norm = Role {
            part: Part::Weight,
            ..Role::outside(RoleKind::FinalNorm)
        };
        if component.role(final_norm).is_some() {
            let gains = folded::gains(component, None, RoleKind::OutputHead)?;
            folded::fold(&mut outputs, gains.as_ref(), component.norm);
        }
        Ok(Some(Self {
            embeddings,
            outputs,
        }))
    }

    /// A view of an MLP through the lens: `[units.len(), n_tokens]`, each row centred over tokens.
    ///
    /// # Errors
    /// When the weights cannot be read or are not finite, and when the device fails.
    pub fn rows(
        &self,
        mlp: &Mlp<'_>,
        view: View,
        units: &[usize],
        products: &Products,
    ) -> Result<Array2<f32>, EngineError> {
        let rows = mlp.rows(view, units)?;
        let tokens = if mlp.reads(view) {
            &self.embeddings
        } else {
            &self.outputs
        };
        let mut seen = products.rows_by_rows(rows.view(), tokens.view())?;
        product::centre_rows(&mut seen);
        Ok(seen)
    }
}

impl Lens {
    /// The lens of the first `n_tokens` tokens only.
    pub fn head(&self, n_tokens: usize) -> Self {
        let n = n_tokens.min(self.embeddings.nrows());
        Self {
            embeddings: self.embeddings.slice(ndarray::s![..n, ..]).to_owned(),
            outputs: self.outputs.slice(ndarray::s![..n, ..]).to_owned(),
        }
    }
}

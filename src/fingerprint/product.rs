//! Matrix products and row normalisation, split into fixed blocks so that results depend neither on
//! the number of threads nor on how the work is scheduled; large products on a graphics card, if one is asked for.

use crate::engine::EngineError;
use crate::engine::row_products::{self, RowProducts};
use ndarray::{Array2, ArrayView2, Axis, Zip};
use rayon::prelude::*;
use std::fmt;
use std::sync::Arc;

/// Rows per block. Fixed: it is part of the numerical result.
const BLOCK_ROWS: usize = 128;

/// Multiply-adds from which on a product goes to the card: below, the way there takes longer than the CPU.
const CARD_FROM: usize = 1 << 26;

/// Where large products of rows are computed: the CPU, unless a card is chosen.
#[derive(Clone, Default)]
pub struct Products(Option<Arc<dyn RowProducts>>);

impl fmt::Debug for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Products").field(&self.describe()).finish()
    }
}

impl Products {
    /// On a device by its name, as for `run`.
    ///
    /// # Errors
    /// When there is no such device, or it is one that does not compute in f32.
    pub fn on(device: &str) -> Result<Self, EngineError> {
        row_products::open(device).map(Self)
    }

    /// What a person calls the device.
    pub fn describe(&self) -> String {
        self.0
            .as_ref()
            .map_or_else(|| "cpu".to_owned(), |card| card.describe())
    }

    /// `a · bᵀ`: `[n, k] × [m, k] → [n, m]`, in f32; on the card if the product is large.
    ///
    /// # Errors
    /// When the card fails.
    ///
    /// # Panics
    /// When the inner dimensions differ.
    pub fn rows_by_rows(
        &self,
        a: ArrayView2<f32>,
        b: ArrayView2<f32>,
    ) -> Result<Array2<f32>, EngineError> {
        let (n, m, width) = (a.nrows(), b.nrows(), a.ncols());
        let n_products = n.saturating_mul(m).saturating_mul(width);
        match &self.0 {
            Some(card) if n_products >= CARD_FROM => {
                assert_eq!(width, b.ncols(), "inner dimensions of a product differ");
                let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
                let (Some(x), Some(y)) = (a.as_slice(), b.as_slice()) else {
                    return Ok(rows_by_rows(a.view(), b.view()));
                };
                let products = card.rows_by_rows(x, y, width)?;
                Array2::from_shape_vec((n, m), products)
                    .map_err(|error| EngineError::Request(error.to_string()))
            }
            _ => Ok(rows_by_rows(a, b)),
        }
    }
}

/// `a · bᵀ`: `[n, k] × [m, k] → [n, m]`, f32 accumulated in f32 by blocks of rows of `a`.
///
/// # Panics
/// When the inner dimensions differ.
pub fn rows_by_rows(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    assert_eq!(a.ncols(), b.ncols(), "inner dimensions of a product differ");
    let mut out = Array2::<f32>::zeros((a.nrows(), b.nrows()));
    let transposed = b.t();
    out.axis_chunks_iter_mut(Axis(0), BLOCK_ROWS)
        .into_par_iter()
        .zip(a.axis_chunks_iter(Axis(0), BLOCK_ROWS).into_par_iter())
        .for_each(|(mut out, a)| {
            ndarray::linalg::general_mat_mul(1.0, &a, &transposed, 0.0, &mut out);
        });
    out
}

/// Scales each row to unit length, in place; a row of zeros stays zero.
pub fn normalise_rows(rows: &mut Array2<f32>) {
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if square > 0.0 {
            let scale = (1.0 / square.sqrt()) as f32;
            row *= scale;
        }
    });
}

/// Subtracts each row's mean, in place.
pub fn centre_rows(rows: &mut Array2<f32>) {
    Zip::from(rows.rows_mut()).par_for_each(|mut row| {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        row -= mean as f32;
    });
}

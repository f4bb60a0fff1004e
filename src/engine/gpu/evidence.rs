//! What evidence from weights asks of a device beyond a forward pass: sums, products and cosines of rows.

use super::backend::{Buffer, Gpu};
use super::kernels::{gram, reduce};
use crate::engine::EngineError;
use cubecl::prelude::Runtime;

impl<R: Runtime> Gpu<R> {
    /// The sum of all values; blocks in f32, their sums in f64.
    ///
    /// # Errors
    /// When the device fails.
    pub fn sum(&self, x: &Buffer) -> Result<f64, EngineError> {
        reduce::sum(&self.device, &x.words, None)
    }

    /// The sum of x · y over all values; the sum of squares where both are the same.
    ///
    /// # Errors
    /// When shapes differ or the device fails.
    pub fn dot(&self, x: &Buffer, y: &Buffer) -> Result<f64, EngineError> {
        self.same_shape(x, y)?;
        reduce::sum(&self.device, &x.words, Some(&y.words))
    }

    /// The cosine of x and y as vectors; NaN where one is zero.
    ///
    /// # Errors
    /// As [`Self::dot`].
    pub fn cosine(&self, x: &Buffer, y: &Buffer) -> Result<f64, EngineError> {
        Ok(self.dot(x, y)? / (self.dot(x, x)?.sqrt() * self.dot(y, y)?.sqrt()))
    }

    /// Products of all rows of x `[n, d]` with all of y `[m, d]`: `[n, m]`. The Gram matrix where both are
    /// the same.
    ///
    /// # Errors
    /// When widths differ or the device fails.
    pub fn products(&self, x: &Buffer, y: &Buffer) -> Result<Buffer, EngineError> {
        self.demand_pairs(x, y)?;
        let words = gram::products(&self.device, &x.words, &y.words, x.n_cols)?;
        Ok(Buffer {
            words,
            n_rows: x.n_rows,
            n_cols: y.n_rows,
        })
    }

    /// Cosines of all rows of x with all of y: `[n, m]`; NaN for rows that are zero.
    ///
    /// # Errors
    /// As [`Self::products`].
    pub fn cosines(&self, x: &Buffer, y: &Buffer) -> Result<Buffer, EngineError> {
        self.demand_pairs(x, y)?;
        let words = gram::cosines(&self.device, &x.words, &y.words, x.n_cols)?;
        Ok(Buffer {
            words,
            n_rows: x.n_rows,
            n_cols: y.n_rows,
        })
    }

    fn demand_pairs(&self, x: &Buffer, y: &Buffer) -> Result<(), EngineError> {
        let fits = x.n_cols == y.n_cols && x.words.len() > 0 && y.words.len() > 0;
        self.demand(fits, || {
            format!(
                "rows of [{}, {}] and [{}, {}] have no products",
                x.n_rows, x.n_cols, y.n_rows, y.n_cols
            )
        })
    }
}

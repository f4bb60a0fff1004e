//! What evidence from weights asks of a device beyond a forward pass: sums, products and cosines of rows.

use super::backend::{Buffer, Gpu};
use super::kernels::{gram, reduce};
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::row_products::RowProducts;
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

/// Bytes of each of the three matrices of a piece of a product: two pieces and their products stay small on
/// any card, and a transfer of this size is not bound by its start.
const PIECE_BYTES: u64 = 64 << 20;

impl<R: Runtime> RowProducts for Gpu<R> {
    fn describe(&self) -> String {
        Backend::describe(self)
    }

    fn rows_by_rows(&self, a: &[f32], b: &[f32], width: usize) -> Result<Vec<f32>, EngineError> {
        let n_bytes = PIECE_BYTES.min(self.device.limits().buffer_bytes);
        self.products_by_pieces(a, b, width, n_bytes)
    }
}

impl<R: Runtime> Gpu<R> {
    /// Products of rows by pieces of at most `n_bytes` of either side and of the result, so that any number of
    /// rows fits; a piece is at least a row.
    pub(super) fn products_by_pieces(
        &self,
        a: &[f32],
        b: &[f32],
        width: usize,
        n_bytes: u64,
    ) -> Result<Vec<f32>, EngineError> {
        let (n, m) = (a.len() / width, b.len() / width);
        let mut out = vec![0.0; n * m];
        let piece = n_bytes as usize / size_of::<f32>();
        let rows = (piece / width).max(1);
        let columns = (piece / rows.min(n).max(1)).clamp(1, rows);
        for (at_b, b) in b.chunks(columns * width).enumerate() {
            let first = at_b * columns;
            let y = self.upload(b, b.len() / width, width)?;
            for (at_a, a) in a.chunks(rows * width).enumerate() {
                let x = self.upload(a, a.len() / width, width)?;
                let products = self.download(&self.products(&x, &y)?)?;
                let n_columns = b.len() / width;
                let places = out.chunks_mut(m).skip(at_a * rows);
                for (products, place) in products.chunks(n_columns).zip(places) {
                    place[first..first + n_columns].copy_from_slice(products);
                }
            }
        }
        Ok(out)
    }
}

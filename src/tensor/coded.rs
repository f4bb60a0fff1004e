//! Tensors whose values are computed from codes, scales and zero points that other tensors hold.
//!
//! Published quantized checkpoints store one weight as several tensors (`qweight`, `qzeros`, `scales` …).
//! A [`Decoder`] knows how such parts make up the rows of the weight; [`super::Tensor::coded`] makes one
//! tensor of it, with the weight's own name and shape, and keeps the parts and the codes within reach.
//! Which layouts there are, and how they are found in a file, is not decided here.

use super::{Tensor, TensorError};
use std::ops::Range;

/// The scheme by which a weight was coded, by the name that people know it by, e.g. `GPTQ 4-bit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coding(pub &'static str);

impl Coding {
    /// The change that a LoRA adapter makes to a weight.
    pub const LORA_UPDATE: Self = Self("LoRA change");
    /// The change that a DoRA adapter makes to a weight before it sets lengths.
    pub const DORA_UPDATE: Self = Self("DoRA change");
    /// A weight with a LoRA adapter added.
    pub const LORA_MERGED: Self = Self("LoRA merged");
    /// A weight with a DoRA adapter added.
    pub const DORA_MERGED: Self = Self("DoRA merged");

    /// Whether values were rounded to codes: adapters compute theirs from numbers as they are.
    pub fn is_quantized(self) -> bool {
        ![Self::LORA_MERGED, Self::DORA_MERGED].contains(&self) && !self.is_change()
    }

    /// Whether the values are changes to weights, and no weights.
    pub fn is_change(self) -> bool {
        [Self::LORA_UPDATE, Self::DORA_UPDATE].contains(&self)
    }
}

/// One stored tensor of a coded one.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it holds: `codes`, `scales`, `zeros`, `groups` …
    pub kind: &'static str,
    /// The tensor as the file has it.
    pub tensor: Tensor,
}

/// Computes rows of a weight from its parts.
pub trait Decoder: Send + Sync + std::fmt::Debug {
    /// The scheme.
    fn coding(&self) -> Coding;

    /// The stored tensors, the codes first. Never empty.
    fn parts(&self) -> &[Part];

    /// Numbers that the values depend on and that are in no part, as bits: two tensors of equal parts and
    /// equal numbers have equal values.
    fn parameters(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Whether it knows how far rounding moved each value (see [`Elements::put`]).
    fn has_bounds(&self) -> bool {
        true
    }

    /// Puts the elements of a range of columns of one row, in their order. A row is the last dimension
    /// of the shape; rows of all other dimensions are counted through.
    ///
    /// # Errors
    /// When bytes cannot be had, or an index among them points nowhere.
    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError>;

    /// Puts whole rows of `n_columns` elements: for those that read several at the cost of one.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_rows(
        &self,
        mut rows: Range<usize>,
        n_columns: usize,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        rows.try_for_each(|row| self.decode(row, 0..n_columns, out))
    }
}

/// Where a decoder puts what it computes.
#[derive(Debug)]
pub struct Elements<'a> {
    values: &'a mut [f32],
    codes: Option<&'a mut [i32]>,
    bounds: Option<&'a mut [f32]>,
    at: usize,
}

impl<'a> Elements<'a> {
    /// Takes values alone.
    pub fn values(values: &'a mut [f32]) -> Self {
        Self {
            values,
            codes: None,
            bounds: None,
            at: 0,
        }
    }

    /// Takes codes as well.
    pub fn with_codes(self, codes: &'a mut [i32]) -> Self {
        Self {
            codes: Some(codes),
            ..self
        }
    }

    /// Takes bounds as well.
    pub fn with_bounds(self, bounds: &'a mut [f32]) -> Self {
        Self {
            bounds: Some(bounds),
            ..self
        }
    }

    /// The next element: its code as stored, the value that it stands for, and how far from it a value
    /// can have been that rounding to the nearest code brought there. What does not fit is dropped.
    pub fn put(&mut self, code: i32, value: f32, bound: f32) {
        if let Some(out) = self.values.get_mut(self.at) {
            *out = value;
        }
        if let Some(out) = self.codes.as_mut().and_then(|c| c.get_mut(self.at)) {
            *out = code;
        }
        if let Some(out) = self.bounds.as_mut().and_then(|b| b.get_mut(self.at)) {
            *out = bound;
        }
        self.at += 1;
    }

    /// Whether bounds are asked for: some cost a second read.
    pub fn wants_bounds(&self) -> bool {
        self.bounds.is_some()
    }

    /// Elements put so far.
    pub fn len(&self) -> usize {
        self.at
    }

    /// Whether none was put yet.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }
}

/// Decodes elements of a tensor whose rows have `n_columns` elements, row by row.
pub(super) fn decode(
    tensor: &Tensor,
    decoder: &dyn Decoder,
    n_columns: usize,
    range: Range<usize>,
    out: &mut Elements<'_>,
) -> Result<(), TensorError> {
    let (mut at, n_before) = (range.start, out.len());
    while at < range.end {
        let (row, column) = (at / n_columns, at % n_columns);
        let end = n_columns.min(column + (range.end - at));
        if column == 0 && end == n_columns {
            let rows = row..range.end / n_columns;
            at = rows.end * n_columns;
            decoder.decode_rows(rows, n_columns, out)?;
        } else {
            decoder.decode(row, column..end, out)?;
            at += end - column;
        }
        // A decoder that puts too little would leave zeros behind.
        if out.len() - n_before != at - range.start {
            return Err(TensorError::shape(tensor, "one value for every element"));
        }
    }
    Ok(())
}

//! A weight of the merged model: W + scale · B · A, and with DoRA each output of that at a stated length.
//!
//! Values are computed in f32 and not rounded. A published merge is rounded to the base's type, the change
//! before it is added as well: the bounds of [`crate::tensor::Tensor::read_rounding_bounds`] say how far that
//! may move each value. Where the base is quantized (QLoRA), they hold what its own rounding may have moved as
//! well, since merges are made with the published base; with DoRA they do not, as rounding changes the lengths of
//! outputs too.

use super::super::CheckpointError;
use super::update::Update;
use super::wrong;
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{Tensor, TensorError};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The weight and its change.
#[derive(Debug)]
pub(super) struct Merged {
    weight: Tensor,
    update: Update,
    /// Lengths of the outputs before DoRA sets them, where outputs are columns; computed once.
    lengths: OnceLock<Vec<f32>>,
    parts: Vec<Part>,
}

impl Merged {
    /// Checks the base's weight against the change.
    ///
    /// # Errors
    /// When it is of another shape, or no numbers.
    pub(super) fn new(weight: Tensor, update: Update) -> Result<Self, CheckpointError> {
        if weight.shape() != update.shape() || !weight.dtype().is_float() {
            let expected = format!(
                "floats {:?}, as {} changes",
                update.shape(),
                update.factor().name()
            );
            let found = format!("{} {:?}", weight.dtype().name(), weight.shape());
            return Err(wrong(&weight, expected, found));
        }
        let mut parts = vec![Part {
            kind: "weight",
            tensor: weight.clone(),
        }];
        parts.extend(update.stored().iter().cloned());
        Ok(Self {
            weight,
            update,
            lengths: OnceLock::new(),
            parts,
        })
    }

    /// The weight as a tensor, with the base's name.
    pub(super) fn tensor(self) -> Result<Tensor, CheckpointError> {
        let (name, shape) = (self.weight.name().to_owned(), self.weight.shape().to_vec());
        Ok(Tensor::coded(name, shape, Arc::new(self))?)
    }

    /// Some columns of a row of W + scale · B · A, and the rounding that a merge adds to each.
    fn sum(&self, row: usize, columns: Range<usize>) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        let start = row * self.update.shape()[1];
        let mut values = self
            .weight
            .read_elements(start + columns.start..start + columns.end)?;
        let (changes, mut bounds) = self.update.row(row, columns)?;
        let dtype = self.weight.dtype();
        for ((value, change), bound) in values.iter_mut().zip(changes).zip(&mut bounds) {
            *value += change;
            *bound += dtype.half_step(change) + dtype.half_step(*value);
        }
        Ok((values, bounds))
    }

    /// How far rounding of a quantized base may have moved some columns of a row; nothing where it is none.
    fn base_bounds(&self, row: usize, columns: Range<usize>) -> Result<Vec<f32>, TensorError> {
        if !self.weight.dtype().is_quantized() {
            return Ok(Vec::new());
        }
        let start = row * self.update.shape()[1];
        let range = start + columns.start..start + columns.end;
        Ok(self.weight.read_rounding_bounds(range)?.unwrap_or_default())
    }

    /// Lengths of all columns of W + scale · B · A.
    fn column_lengths(&self) -> Result<&[f32], TensorError> {
        if let Some(lengths) = self.lengths.get() {
            return Ok(lengths);
        }
        let [n_rows, n_columns] = self.update.shape();
        let mut squares = vec![0f64; n_columns];
        for row in 0..n_rows {
            let (values, _) = self.sum(row, 0..n_columns)?;
            for (square, value) in squares.iter_mut().zip(values) {
                *square += f64::from(value) * f64::from(value);
            }
        }
        let lengths = squares.into_iter().map(|square| square.sqrt() as f32);
        Ok(self.lengths.get_or_init(|| lengths.collect()))
    }

    /// As [`Self::sum`], with each output at its stated length.
    fn directed(
        &self,
        magnitude: &Tensor,
        row: usize,
        columns: Range<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        let [_, n_columns] = self.update.shape();
        let (values, noise, factors) = if self.update.is_turned() {
            let (values, _) = self.sum(row, columns.clone())?;
            let (_, noise) = self.update.row(row, columns.clone())?;
            let wanted = magnitude.read_elements(columns.clone())?;
            let lengths = &self.column_lengths()?[columns];
            let factors = wanted.iter().zip(lengths).map(|(m, length)| m / length);
            (values, noise, factors.collect::<Vec<f32>>())
        } else {
            let (all, _) = self.sum(row, 0..n_columns)?;
            let (_, noise) = self.update.row(row, columns.clone())?;
            let square: f64 = all.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let wanted = magnitude.read_elements(row..row + 1)?;
            let factor = wanted.first().copied().unwrap_or(f32::NAN) / square.sqrt() as f32;
            (
                all[columns.clone()].to_vec(),
                noise,
                vec![factor; columns.len()],
            )
        };
        let dtype = self.weight.dtype();
        let each = values.into_iter().zip(noise).zip(factors);
        Ok(each
            .map(|((value, noise), factor)| {
                let value = value * factor;
                // Lengths are sums of many squares, in an order of the merger's choice.
                let slack = noise * factor.abs() + 1e-5 * value.abs();
                (value, dtype.half_step(value) + slack)
            })
            .unzip())
    }
}

impl Decoder for Merged {
    fn coding(&self) -> Coding {
        match self.update.magnitude() {
            Some(_) => Coding::DORA_MERGED,
            None => Coding::LORA_MERGED,
        }
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn parameters(&self) -> Vec<u64> {
        self.update.parameters()
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let (values, bounds) = match self.update.magnitude() {
            Some(magnitude) => self.directed(magnitude, row, columns)?,
            None => {
                let (values, mut bounds) = self.sum(row, columns.clone())?;
                if out.wants_bounds() {
                    let of_base = self.base_bounds(row, columns)?;
                    for (bound, of_base) in bounds.iter_mut().zip(of_base) {
                        *bound += of_base;
                    }
                }
                (values, bounds)
            }
        };
        for (value, bound) in values.into_iter().zip(bounds) {
            out.put(0, value, bound);
        }
        Ok(())
    }
}

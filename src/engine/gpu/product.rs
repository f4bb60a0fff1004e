//! Products of activations and weights, exact or on tensor cores, for [`Gpu`].

use super::backend::{Buffer, Gpu};
use super::device::Words;
use super::kernels::linear::{self, padded};
use super::kernels::number::Stored;
use super::kernels::{grouped, round, tensor_core};
use super::weight::GpuWeight;
use crate::engine::EngineError;
use crate::engine::backend;
use cubecl::prelude::Runtime;
use std::ops::Range;

/// Activations `[n_rows, n_cols]` in bf16.
pub struct Rounded {
    halves: Words,
    n_rows: usize,
    n_cols: usize,
}

impl<R: Runtime> Gpu<R> {
    fn demand_product(
        &self,
        n_cols: usize,
        weight: &GpuWeight,
        bias: Option<&Buffer>,
    ) -> Result<(), EngineError> {
        self.demand(n_cols == weight.n_in(), || {
            format!(
                "a weight of {} columns takes no rows of {n_cols}",
                weight.n_in()
            )
        })?;
        self.demand(bias.is_none_or(|b| b.words.len() == weight.n_out()), || {
            format!("a bias for {} outputs has another length", weight.n_out())
        })
    }

    /// x Wᵀ + bias by a version of the kernel of the caller's choice.
    pub(super) fn linear_by(
        &self,
        x: &Buffer,
        weight: &GpuWeight,
        bias: Option<&Buffer>,
        version: linear::Version,
    ) -> Result<Buffer, EngineError> {
        self.demand_product(x.n_cols, weight, bias)?;
        let out = self.empty(x.n_rows, weight.n_out())?;
        if x.n_rows == 0 {
            return Ok(out);
        }
        let padded_x = linear::pad(&self.device, &x.words, x.n_rows, x.n_cols)?;
        weight.for_each_part(&self.device, |part| {
            linear::linear(
                &self.device,
                &padded_x,
                part,
                bias.map(|b| &b.words),
                &out.words,
                (x.n_rows, padded(x.n_cols), weight.n_out()),
                version,
            )
        })?;
        Ok(out)
    }

    /// Rows of each group times its weight, in one launch where the weights lie together and groups have few rows.
    pub(super) fn linear_of_groups(
        &self,
        x: &Buffer,
        groups: &[(Range<usize>, &GpuWeight)],
    ) -> Result<Buffer, EngineError> {
        let weights: Vec<&GpuWeight> = groups.iter().map(|(_, weight)| *weight).collect();
        let few = |(rows, _): &(Range<usize>, &GpuWeight)| {
            linear::version_for(rows.len()) == linear::Version::Vector
        };
        let stack = GpuWeight::stack_of(&weights).filter(|_| groups.iter().all(few));
        let Some((stack, numbers)) = stack else {
            return backend::one_by_one(self, x, groups);
        };
        let ends = groups.iter().map(|(rows, _)| rows.end);
        let starts = groups.iter().map(|(rows, _)| rows.start);
        let follow = starts.eq(std::iter::once(0).chain(ends).take(groups.len()));
        let n_rows = groups.last().map_or(0, |(rows, _)| rows.end);
        self.demand(follow && n_rows == x.n_rows, || {
            format!("groups do not cover {} rows in order", x.n_rows)
        })?;
        self.demand_product(x.n_cols, weights[0], None)?;
        let out = self.empty(x.n_rows, stack.n_out)?;
        let padded_x = linear::pad(&self.device, &x.words, x.n_rows, x.n_cols)?;
        let rows = groups.iter().map(|(rows, _)| rows.clone());
        let numbered: Vec<(Range<usize>, usize)> = rows.zip(numbers).collect();
        grouped::grouped(&self.device, &padded_x, &numbered, stack, &out.words)?;
        Ok(out)
    }

    /// Whether [`Precision::Bf16`](super::Precision::Bf16) does something for this weight.
    pub fn has_tensor_cores(&self, weight: &GpuWeight) -> bool {
        weight.stored() == Stored::Bf16 && tensor_core::is_supported(&self.device)
    }

    /// Activations rounded to bf16, ties to even, as tensor cores read them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn round(&self, x: &Buffer) -> Result<Rounded, EngineError> {
        let padded_x = linear::pad(&self.device, &x.words, x.n_rows, x.n_cols)?;
        Ok(Rounded {
            halves: round::round(&self.device, &padded_x)?,
            n_rows: x.n_rows,
            n_cols: x.n_cols,
        })
    }

    /// x Wᵀ + bias on tensor cores, in f32; only where [`Gpu::has_tensor_cores`].
    ///
    /// # Errors
    /// When shapes do not fit, or the weight cannot be read by tensor cores.
    pub fn linear_of_rounded(
        &self,
        x: &Rounded,
        weight: &GpuWeight,
        bias: Option<&Buffer>,
    ) -> Result<Buffer, EngineError> {
        let out = self.empty(x.n_rows, weight.n_out())?;
        self.demand(self.has_tensor_cores(weight), || {
            "tensor cores cannot read this weight".to_owned()
        })?;
        self.demand_product(x.n_cols, weight, bias)?;
        if x.n_rows == 0 {
            return Ok(out);
        }
        let sizes = (x.n_rows, padded(x.n_cols), weight.n_out());
        weight.for_each_part(&self.device, |part| {
            let bias = bias.map(|b| &b.words);
            tensor_core::linear(&self.device, &x.halves, part, bias, &out.words, sizes)
        })?;
        Ok(out)
    }

    /// [`Gpu::linear_of_rounded`] with a tile of the caller's choice, brought back.
    #[cfg(test)]
    pub(super) fn linear_by_tile(
        &self,
        x: &Rounded,
        weight: &GpuWeight,
        bias: &Buffer,
        tile: tensor_core::Tile,
    ) -> Result<Vec<f32>, EngineError> {
        let out = self.empty(x.n_rows, weight.n_out())?;
        let sizes = (x.n_rows, padded(x.n_cols), weight.n_out());
        weight.for_each_part(&self.device, |part| {
            let bias = Some(&bias.words);
            tensor_core::linear_by(&self.device, &x.halves, part, bias, &out.words, sizes, tile)
        })?;
        self.device.download(&out.words)
    }
}

//! Weights in 8-bit floats with scales beside them: DeepSeek's blocks, and one scale per tensor or output.
//!
//! Of a weight `[out, in]` in F8: `weight_scale_inv` `[⌈out / rows⌉, ⌈in / columns⌉]` for blocks of
//! `weight_block_size` (128 × 128), or `weight_scale`, one number, or one per output `[out]` or `[out, 1]`. Both
//! names are factors: value = scale · element. Scales of activations (`input_scale`) are left aside.
//! Layout: <https://huggingface.co/deepseek-ai/DeepSeek-V3>, `inference/kernel.py`.

use super::super::CheckpointError;
use super::super::error::wrong;
use super::bits::{SCALES, precision};
use super::stored::{Group, Stored, described};
use super::{Config, Scheme};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;
use std::sync::Arc;

/// The scheme.
pub(super) struct Float8;

impl Scheme for Float8 {
    fn methods(&self) -> &'static [&'static str] {
        &["fp8", "fbgemm_fp8"]
    }

    fn assemble(&self, config: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        let block = match config.get(&["weight_block_size"]) {
            None => None,
            Some(value) => {
                let sizes: Vec<Option<usize>> = value.as_array().map_or(Vec::new(), |sizes| {
                    sizes
                        .iter()
                        .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
                        .collect()
                });
                match sizes[..] {
                    [Some(rows @ 1..), Some(columns @ 1..)] => Some([rows, columns]),
                    _ => return Err(config.wrong("weight_block_size", "two sizes above 0")),
                }
            }
        };
        assemble(stored, block)
    }
}

/// Makes weights of all F8 tensors that are called `weight`.
pub(super) fn assemble(
    stored: &mut Stored,
    block: Option<[usize; 2]>,
) -> Result<(), CheckpointError> {
    for stem in stored.stems(".weight") {
        let name = format!("{stem}.weight");
        let is_float8 = |t: &Tensor| matches!(t.dtype(), DType::F8E4M3 | DType::F8E5M2);
        if !stored.get(&name).is_some_and(is_float8) {
            continue;
        }
        let Some(mut group) = stored.group(&name) else {
            continue;
        };
        let inverse = stored.take(&mut group, "scales", &format!("{name}_scale_inv"));
        if !inverse {
            stored.need(&mut group, "scales", &format!("{name}_scale"))?;
        }
        let (shape, decoder) = Weight::new(&group, inverse, block)?;
        stored.put(group.at(), name, shape, Arc::new(decoder))?;
    }
    stored.set_aside("scales of activations", |name| {
        name.ends_with(".input_scale") || name.ends_with(".input_scale_ub")
    });
    Ok(())
}

/// A weight, row by row.
#[derive(Debug)]
struct Weight {
    n_columns: usize,
    /// Rows and columns that share a scale, and scales of a row of blocks.
    block: [usize; 2],
    scales_per_row: usize,
    elements: Tensor,
    scales: Tensor,
    parts: Vec<Part>,
}

impl Weight {
    fn new(
        group: &Group,
        inverse: bool,
        block: Option<[usize; 2]>,
    ) -> Result<(Vec<usize>, Self), CheckpointError> {
        let dtypes = [DType::F8E4M3, DType::F8E5M2];
        let ([n_out, n_in], elements) = group.matrix("codes", &dtypes)?;
        let Some(scales) = group.part("scales") else {
            return Err(group.wrong("its scales", "none"));
        };
        // One scale, or one for each output, is what it is whatever blocks other weights have.
        let n_blocks = |[rows, columns]: [usize; 2]| [n_out.div_ceil(rows), n_in.div_ceil(columns)];
        let block = block
            .filter(|b| scales.shape().len() == 2 && scales.shape() == n_blocks(*b) || inverse);
        let (block, grid) = match (block, scales.shape()) {
            (Some([rows, columns]), &[high, wide])
                if (high, wide) == (n_out.div_ceil(rows), n_in.div_ceil(columns)) =>
            {
                ([rows, columns], wide)
            }
            (None, [] | [1] | [1, 1]) => ([n_out.max(1), n_in.max(1)], 1),
            (None, &[n] | &[n, 1]) if n == n_out => ([1, n_in.max(1)], 1),
            _ => {
                let expected = match block {
                    Some([r, c]) => format!("scales of blocks of {r} × {c} of [{n_out}, {n_in}]"),
                    None => format!("one scale, or one for each of {n_out} outputs"),
                };
                return Err(wrong(scales, expected, described(scales)));
            }
        };
        if !SCALES.contains(&scales.dtype()) {
            return Err(wrong(
                scales,
                "scales as F32, BF16 or F16",
                described(scales),
            ));
        }
        let decoder = Self {
            n_columns: n_in,
            block,
            scales_per_row: grid,
            elements: elements.clone(),
            scales: scales.clone(),
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }
}

impl Decoder for Weight {
    fn coding(&self) -> Coding {
        Coding(match (self.elements.dtype(), self.block[0]) {
            (DType::F8E5M2, _) => "FP8 E5M2",
            _ => "FP8 E4M3",
        })
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn decode(
        &self,
        at: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let start = at * self.n_columns;
        let range = start + columns.start..start + columns.end;
        let bytes = self
            .elements
            .read_bytes(self.elements.dtype().bytes_of(range.clone()))?;
        let elements = self.elements.read_elements(range)?;
        let first = at / self.block[0] * self.scales_per_row;
        let scales = self
            .scales
            .read_elements(first..first + self.scales_per_row)?;
        let (mantissa_bits, lowest) = match self.elements.dtype() {
            DType::F8E5M2 => (2, -14),
            _ => (3, -6),
        };
        // Quotients are computed in the type of the scales or better before they are rounded.
        let slack = 1.0 + 16.0 * precision(self.scales.dtype());
        for ((column, element), byte) in columns.zip(elements).zip(bytes.iter()) {
            let scale = scales[column / self.block[1]];
            let exponent = element.abs().log2().floor().max(lowest as f32);
            let step = (exponent - mantissa_bits as f32).exp2() * scale.abs();
            out.put(i32::from(*byte), element * scale, 0.5 * step * slack);
        }
        Ok(())
    }
}

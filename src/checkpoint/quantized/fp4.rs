//! Rows of 4-bit floats (E2M1), two in a byte, the first in its lower half, with a scale for each group of
//! neighbouring inputs. What the scales are stored as tells the schemes apart; which scheme it is, is decided
//! by those who find the parts.

use super::super::CheckpointError;
use super::super::error::wrong;
use super::stored::{Group, described};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;

/// Values of the codes without their sign.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
/// How far from each a value can have been, in units of the scale: half of the wider gap; 6 stands for all up to
/// 8, which a scale that was rounded down leaves.
const BOUNDS: [f32; 8] = [0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 1.0, 2.0];

/// What the scales are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// A power of two in a byte, 127 being 2⁰ (OCP MX), for 32 inputs.
    Powers,
    /// E4M3 for 16 inputs, over one number for the whole weight (NVFP4).
    Float8,
}

impl Scales {
    /// Inputs that share a scale.
    pub(super) fn group(self) -> usize {
        match self {
            Self::Powers => 32,
            Self::Float8 => 16,
        }
    }
}

/// Rows of a weight, or of a stack of them.
#[derive(Debug)]
pub(super) struct Fp4 {
    kind: Scales,
    /// Inputs of a row.
    n_in: usize,
    /// Rows of each matrix of a stack whose even rows come first, then the odd ones.
    interleaved: Option<usize>,
    codes: Tensor,
    scales: Tensor,
    global: Option<Tensor>,
    parts: Vec<Part>,
}

impl Fp4 {
    /// Checks `codes` and `scales` against each other: of `n_rows` rows in all of `n_in` inputs.
    ///
    /// # Errors
    /// When they are of other types or sizes.
    pub(super) fn new(
        group: &Group,
        kind: Scales,
        [n_rows, n_in]: [usize; 2],
        interleaved: Option<usize>,
    ) -> Result<Self, CheckpointError> {
        let codes = group.codes();
        let Some(scales) = group.part("scales") else {
            return Err(group.wrong("its scales", "none"));
        };
        let global = group.part("global scale");
        let wanted = match kind {
            Scales::Powers => DType::U8,
            Scales::Float8 => DType::F8E4M3,
        };
        let size = n_rows.checked_mul(n_in);
        let whole = n_in > 0 && n_in.is_multiple_of(kind.group());
        let fits = |tensor: &Tensor, per: usize| size == tensor.n_elements().checked_mul(per);
        if codes.dtype() != DType::U8 || !whole || !fits(codes, 2) {
            let expected = format!(
                "bytes of two codes for {n_rows} rows of {n_in} inputs in groups of {}",
                kind.group()
            );
            return Err(wrong(codes, expected, described(codes)));
        }
        if scales.dtype() != wanted || !fits(scales, kind.group()) {
            let expected = format!("scales of {} inputs as {}", kind.group(), wanted.name());
            return Err(wrong(scales, expected, described(scales)));
        }
        if let Some(global) = global
            && (global.n_elements() != 1 || global.dtype() != DType::F32)
        {
            return Err(wrong(global, "one number as F32", described(global)));
        }
        Ok(Self {
            kind,
            n_in,
            interleaved,
            codes: codes.clone(),
            scales: scales.clone(),
            global: global.cloned(),
            parts: group.parts.clone(),
        })
    }

    /// Where a row of the weight is stored.
    fn stored_row(&self, row: usize) -> usize {
        let Some(n) = self.interleaved else {
            return row;
        };
        let (matrix, within) = (row / n, row % n);
        let half = n / 2;
        matrix * n
            + match within < half {
                true => 2 * within,
                false => 2 * (within - half) + 1,
            }
    }
}

/// 2^(code − 127); 255 is NaN.
fn power(code: u8) -> f32 {
    match code {
        0 => 2f32.powi(-127),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

impl Decoder for Fp4 {
    fn coding(&self) -> Coding {
        Coding(match self.kind {
            Scales::Powers => "MXFP4",
            Scales::Float8 => "NVFP4",
        })
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn parameters(&self) -> Vec<u64> {
        vec![self.interleaved.unwrap_or(0) as u64]
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        // The constructor saw to it that all of these lie within the tensors.
        let row = self.stored_row(row);
        let (first, last) = (columns.start / 2, columns.end.div_ceil(2));
        let start = row * (self.n_in / 2);
        let codes = self
            .codes
            .read_bytes((start + first) as u64..(start + last) as u64)?;
        let size = self.kind.group();
        let first_group = columns.start / size;
        let start = row * (self.n_in / size);
        let groups = start + first_group..start + columns.end.div_ceil(size);
        let scales: Vec<f32> = match self.kind {
            Scales::Powers => {
                let bytes = self
                    .scales
                    .read_bytes(groups.start as u64..groups.end as u64)?;
                bytes.iter().map(|code| power(*code)).collect()
            }
            Scales::Float8 => self.scales.read_elements(groups)?,
        };
        let global = match &self.global {
            None => 1.0,
            Some(global) => global
                .read_elements(0..1)?
                .first()
                .copied()
                .unwrap_or(f32::NAN),
        };
        // Quotients are computed in bf16 or better; some packers divide by a scale and round it to E4M3
        // afterwards.
        let slack = match self.kind {
            Scales::Powers => 2f32.powi(-7),
            Scales::Float8 => 2f32.powi(-4),
        };
        for column in columns {
            let byte = codes.get(column / 2 - first).copied().unwrap_or(0);
            let code = byte >> (4 * (column % 2)) & 15;
            let scale = scales.get(column / size - first_group).copied();
            let scale = scale.unwrap_or(f32::NAN) / global;
            let at = usize::from(code & 7);
            let value = scale * if code & 8 == 0 { E2M1[at] } else { -E2M1[at] };
            let bound = scale.abs() * (BOUNDS[at] * (1.0 + slack) + E2M1[at] * slack) + 1e-12;
            out.put(i32::from(code), value, bound);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_the_ocp_specification() {
        assert_eq!(power(127), 1.0);
        assert_eq!(power(0), 2f32.powi(-127));
        assert_eq!(power(254), 2f32.powi(127));
        assert!(power(255).is_nan());
    }
}

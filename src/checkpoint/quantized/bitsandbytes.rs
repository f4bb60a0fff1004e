//! bitsandbytes: 4-bit floats in blocks (nf4, fp4), their scales quantized once more or not, and int8 rows.
//!
//! 4 bits, of a weight `[out, in]`: `weight` U8 `[⌈n / 2⌉, 1]`, two codes a byte, the first in the high half;
//! `weight.quant_map` F32 `[16]`, what a code stands for; `weight.absmax`, one scale per block, F32, or U8 codes
//! into `weight.nested_quant_map` times `weight.nested_absmax` plus an offset; and a JSON of the sizes in
//! `weight.quant_state.bitsandbytes__nf4` (or `__fp4`). value = `map[code]` · scale.
//! 8 bits: `weight` I8 `[out, in]` and `SCB` F32 `[out]`: value = code · SCB / 127.
//! Layout: <https://github.com/bitsandbytes-foundation/bitsandbytes>, `functional.py`, `QuantState`.

use super::super::CheckpointError;
use super::super::error::wrong;
use super::stored::{Group, Stored, described};
use super::{Config, Scheme};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// The scheme.
pub(super) struct BitsAndBytes;

/// Longest JSON of a state.
const MAX_STATE_BYTES: u64 = 64 << 10;

impl Scheme for BitsAndBytes {
    fn methods(&self) -> &'static [&'static str] {
        &["bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"]
    }

    fn assemble(&self, _: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        for kind in ["nf4", "fp4"] {
            let suffix = format!(".quant_state.bitsandbytes__{kind}");
            for name in stored.stems(&suffix) {
                let Some(mut group) = stored.group(&name) else {
                    continue;
                };
                stored.need(&mut group, "state", &format!("{name}{suffix}"))?;
                stored.need(&mut group, "map", &format!("{name}.quant_map"))?;
                stored.need(&mut group, "scales", &format!("{name}.absmax"))?;
                if stored.take(
                    &mut group,
                    "nested scales",
                    &format!("{name}.nested_absmax"),
                ) {
                    let map = format!("{name}.nested_quant_map");
                    stored.need(&mut group, "nested map", &map)?;
                }
                let (shape, decoder) = Four::new(&group, kind)?;
                stored.put(group.at(), name, shape, Arc::new(decoder))?;
            }
        }
        for stem in stored.stems(".SCB") {
            let name = format!("{stem}.weight");
            let Some(mut group) = stored.group(&name) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.SCB"))?;
            let (shape, decoder) = Eight::new(&group)?;
            stored.put(group.at(), name, shape, Arc::new(decoder))?;
        }
        stored.set_aside("how a runtime lays out its weights", |name| {
            name.ends_with(".weight_format")
        });
        Ok(())
    }
}

/// Scales of blocks.
#[derive(Debug)]
enum Scales {
    Plain(Tensor),
    /// `map[code]` · scale of the block of codes + offset.
    Nested {
        codes: Tensor,
        map: Vec<f32>,
        reach: Vec<f32>,
        scales: Tensor,
        block: usize,
        offset: f32,
    },
}

impl Scales {
    /// Scales of blocks, and how far from each it can have been before it was quantized itself.
    fn read(&self, blocks: Range<usize>) -> Result<Vec<(f32, f32)>, TensorError> {
        match self {
            Self::Plain(tensor) => {
                let scales = tensor.read_elements(blocks)?.into_iter();
                Ok(scales.map(|scale| (scale, 0.0)).collect())
            }
            Self::Nested {
                codes,
                map,
                reach,
                scales,
                block,
                offset,
            } => {
                let bytes = codes.read_bytes(blocks.start as u64..blocks.end as u64)?;
                let first = blocks.start / block;
                let outer = scales.read_elements(first..blocks.end.div_ceil(*block).max(first))?;
                Ok(blocks
                    .zip(bytes.iter())
                    .map(|(at, code)| {
                        let (code, outer) = (usize::from(*code), outer[at / block - first]);
                        (map[code] * outer + offset, reach[code] * outer.abs())
                    })
                    .collect())
            }
        }
    }
}

/// A weight in 4 bits, row by row.
#[derive(Debug)]
struct Four {
    kind: &'static str,
    n_columns: usize,
    block: usize,
    map: Vec<f32>,
    /// How far from a code's value what was rounded to it can lie, in scales.
    reach: Vec<f32>,
    codes: Tensor,
    scales: Scales,
    parts: Vec<Part>,
}

/// A part of so many elements of one type.
fn vector<'a>(
    group: &'a Group,
    kind: &str,
    dtype: DType,
    n: usize,
) -> Result<&'a Tensor, CheckpointError> {
    match group.part(kind) {
        Some(tensor) if tensor.dtype() == dtype && tensor.n_elements() == n => Ok(tensor),
        Some(tensor) => {
            let expected = format!("{n} elements of {}", dtype.name());
            Err(wrong(tensor, expected, described(tensor)))
        }
        None => Err(group.wrong(format!("its {kind}"), "none")),
    }
}

impl Four {
    fn new(group: &Group, kind: &'static str) -> Result<(Vec<usize>, Self), CheckpointError> {
        let state_tensor = group.part("state").unwrap_or(group.codes());
        if state_tensor.size_bytes() > MAX_STATE_BYTES {
            let expected = format!("a JSON of at most {MAX_STATE_BYTES} bytes");
            return Err(wrong(state_tensor, expected, described(state_tensor)));
        }
        let bytes = state_tensor.read_bytes(0..state_tensor.size_bytes())?;
        let state: Value = serde_json::from_slice(&bytes).map_err(|error| {
            wrong(
                state_tensor,
                "a JSON of the weight's sizes",
                error.to_string(),
            )
        })?;
        let whole = |key: &str| {
            let n = state[key].as_u64().and_then(|n| usize::try_from(n).ok());
            n.filter(|n| *n > 0).ok_or_else(|| {
                wrong(
                    state_tensor,
                    format!("{key} above 0"),
                    state[key].to_string(),
                )
            })
        };
        let block = whole("blocksize")?;
        let shape: Option<Vec<usize>> = state["shape"].as_array().and_then(|sizes| {
            let sizes = sizes.iter();
            sizes
                .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
                .collect()
        });
        let n = shape.as_ref().and_then(|shape| {
            let mut sizes = shape.iter();
            sizes.try_fold(1usize, |n, size| n.checked_mul(*size))
        });
        let (Some(shape), Some(n)) = (shape.filter(|s| s.len() == 2), n.filter(|n| *n > 0)) else {
            let found = state["shape"].to_string();
            return Err(wrong(state_tensor, "the shape of a matrix", found));
        };
        let n_blocks = n.div_ceil(block);
        let codes = vector(group, "codes", DType::U8, n.div_ceil(2))?;
        let map = vector(group, "map", DType::F32, 16)?.read_elements(0..16)?;
        let scales = match group.part("nested scales") {
            None => Scales::Plain(vector(group, "scales", DType::F32, n_blocks)?.clone()),
            Some(_) => {
                let inner = whole("nested_blocksize")?;
                let n_outer = n_blocks.div_ceil(inner);
                let nested = vector(group, "nested map", DType::F32, 256)?;
                let nested = nested.read_elements(0..256)?;
                let offset = state["nested_offset"].as_f64().ok_or_else(|| {
                    let found = state["nested_offset"].to_string();
                    wrong(state_tensor, "nested_offset as a number", found)
                })?;
                Scales::Nested {
                    codes: vector(group, "scales", DType::U8, n_blocks)?.clone(),
                    reach: reach(&nested),
                    map: nested,
                    scales: vector(group, "nested scales", DType::F32, n_outer)?.clone(),
                    block: inner,
                    offset: offset as f32,
                }
            }
        };
        let decoder = Self {
            kind,
            n_columns: shape[1],
            block,
            reach: reach(&map),
            map,
            codes: codes.clone(),
            scales,
            parts: group.parts.clone(),
        };
        Ok((shape, decoder))
    }
}

/// Half the distance to the farther neighbour on the map.
fn reach(map: &[f32]) -> Vec<f32> {
    map.iter()
        .map(|value| {
            let above = map
                .iter()
                .filter(|v| *v > value)
                .fold(f32::INFINITY, |a, v| a.min(*v));
            let below = map
                .iter()
                .filter(|v| *v < value)
                .fold(f32::NEG_INFINITY, |a, v| a.max(*v));
            let gaps = [above - value, value - below];
            gaps.into_iter()
                .filter(|gap| gap.is_finite())
                .fold(0.0, f32::max)
                / 2.0
        })
        .collect()
}

impl Decoder for Four {
    fn coding(&self) -> Coding {
        Coding(match self.kind {
            "nf4" => "bitsandbytes nf4",
            _ => "bitsandbytes fp4",
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
        let elements = start + columns.start..start + columns.end;
        if elements.is_empty() {
            return Ok(());
        }
        let first_byte = elements.start / 2;
        let bytes = self
            .codes
            .read_bytes(first_byte as u64..elements.end.div_ceil(2) as u64)?;
        let first_block = elements.start / self.block;
        let scales = self
            .scales
            .read(first_block..elements.end.div_ceil(self.block))?;
        for element in elements {
            let pair = bytes[element / 2 - first_byte];
            let code = if element % 2 == 0 {
                pair >> 4
            } else {
                pair & 15
            };
            let (scale, scale_reach) = scales[element / self.block - first_block];
            let (level, reach) = (self.map[usize::from(code)], self.reach[usize::from(code)]);
            // The quotient by the exact scale was rounded to a level, in f32 or the type of the weight.
            let widest = scale.abs() + scale_reach;
            let bound = reach * widest + level.abs() * scale_reach + 2e-3 * widest;
            out.put(i32::from(code), level * scale, bound);
        }
        Ok(())
    }
}

/// A weight in 8 bits, row by row.
#[derive(Debug)]
struct Eight {
    n_columns: usize,
    codes: Tensor,
    scales: Tensor,
    parts: Vec<Part>,
}

impl Eight {
    fn new(group: &Group) -> Result<(Vec<usize>, Self), CheckpointError> {
        let ([n_out, n_in], codes) = group.matrix("codes", &[DType::I8])?;
        let decoder = Self {
            n_columns: n_in,
            codes: codes.clone(),
            scales: vector(group, "scales", DType::F32, n_out)?.clone(),
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }
}

impl Decoder for Eight {
    fn coding(&self) -> Coding {
        Coding("bitsandbytes int8")
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
        let codes = self
            .codes
            .read_elements(start + columns.start..start + columns.end)?;
        let step = self.scales.read_elements(at..at + 1)?[0] / 127.0;
        for code in codes {
            let bound = step.abs() * (0.5 + (code.abs() + 1.0) / 1024.0);
            out.put(code as i32, code * step, bound);
        }
        Ok(())
    }
}

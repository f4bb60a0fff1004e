//! HQQ (half-quadratic quantization), as `HQQLinear.state_dict` and transformers store it.
//!
//! Of a weight `[out, in]` of n elements: `W_q`, packed codes; `scale` and `zero`, one number for a group each,
//! floats; and the settings, each a tensor of its own: `nbits`, `group_size`, `axis`, `shape`, `packing` (a text,
//! byte by byte) and others. value = scale · (code − zero).
//!
//! The weight is seen as a matrix whose rows (axis 1, `[n / group_size, group_size]`) or columns (axis 0,
//! `[group_size, n / group_size]`) are the groups, in the order of the weight's own elements. Packing cuts its
//! rows into as many equal parts as an item holds codes, and lays the parts over each other, the first in the
//! highest bits: code i is in item i mod P at place i div P, P being the number of items. An item is a byte, or a
//! word of ten codes of 3 bits, for which rows are filled up. Items may be stored as floats of the same bytes.
//! Layout: <https://github.com/mobiusml/hqq>, `hqq/core/quantize.py` and `bitpack.py`.
//!
//! Scales that are quantized themselves are an error: no version of the package writes them as safetensors.

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
pub(super) struct Hqq;

/// Settings that must be there: kind and name of the part.
const NEEDED: &[&str] = &["nbits", "group_size", "axis", "shape", "packing"];
/// Settings that must be 0 where they are there: scales and zero points as they are.
const ZERO: &[&str] = &["quant_scale", "quant_zero"];
/// Settings that say how the codes were found, or what a runtime does with them.
const OTHERS: &[&str] = &[
    "channel_wise",
    "view_as_float",
    "unpack_view_dtype",
    "compute_dtype",
    "optimize",
    "round_zero",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
];
/// The longest text of a setting.
const MAX_TEXT_BYTES: u64 = 32;

/// Whether a checkpoint is one of HQQ by its tensors alone: the package's own files need no config.
pub(super) fn states_itself(tensors: &[Tensor]) -> bool {
    let any = |end: &str| tensors.iter().any(|t| t.name().ends_with(end));
    any(".W_q") && any(".packing") && any(".nbits")
}

impl Scheme for Hqq {
    fn methods(&self) -> &'static [&'static str] {
        &["hqq"]
    }

    fn assemble(&self, _: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        for stem in stored.stems(".W_q") {
            let Some(mut group) = stored.group(&format!("{stem}.W_q")) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.scale"))?;
            stored.need(&mut group, "zeros", &format!("{stem}.zero"))?;
            for &name in NEEDED {
                stored.need(&mut group, name, &format!("{stem}.{name}"))?;
            }
            for name in ZERO.iter().chain(OTHERS) {
                stored.take(&mut group, name, &format!("{stem}.{name}"));
            }
            let (shape, decoder) = Weight::new(&group)?;
            let name = format!("{stem}.weight");
            stored.put(group.at(), name, shape, Arc::new(decoder))?;
        }
        Ok(())
    }
}

/// Which group an element belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Groups {
    /// So many elements in turn share one (axis 1).
    Runs(usize),
    /// Elements that are so far apart share one (axis 0).
    Strides(usize),
    /// All share one (`channel_wise` 0).
    One,
}

/// A weight, row by row.
#[derive(Debug)]
struct Weight {
    coding: Coding,
    n_in: usize,
    groups: Groups,
    /// Bytes of an item, its number of codes, and bits of each.
    item_bytes: usize,
    n_places: usize,
    n_bits: usize,
    n_items: usize,
    /// The highest code.
    top: i32,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    parts: Vec<Part>,
}

/// Bytes of a setting.
fn setting(group: &Group, name: &str) -> Result<Option<(Vec<u8>, DType)>, CheckpointError> {
    let Some(tensor) = group.part(name) else {
        return Ok(None);
    };
    if tensor.size_bytes() > MAX_TEXT_BYTES || tensor.n_elements() == 0 {
        let expected = format!("a setting of 1 to {MAX_TEXT_BYTES} bytes");
        return Err(wrong(tensor, expected, described(tensor)));
    }
    let bytes = tensor.read_bytes(0..tensor.size_bytes())?;
    Ok(Some((bytes.into_owned(), tensor.dtype())))
}

/// Whole numbers of a setting that is there; `None` where it is another thing.
fn wholes(bytes: &[u8], dtype: DType) -> Option<Vec<u64>> {
    let width = match dtype {
        DType::U8 => 1,
        DType::I32 => 4,
        DType::I64 => 8,
        _ => return None,
    };
    let numbers = bytes.chunks_exact(width).map(|bytes| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        let number = u64::from_le_bytes(wide);
        // A number below 0 is none of these settings.
        (number >> (8 * width - 1) == 0 || width == 1).then_some(number)
    });
    numbers.collect()
}

/// One whole number.
fn whole(group: &Group, name: &str, expected: &str) -> Result<Option<usize>, CheckpointError> {
    let Some((bytes, dtype)) = setting(group, name)? else {
        return Ok(None);
    };
    match wholes(&bytes, dtype).as_deref() {
        Some(&[number]) if usize::try_from(number).is_ok() => Ok(Some(number as usize)),
        _ => Err(wrong_setting(group, name, expected, &bytes)),
    }
}

/// An error about a setting's value.
fn wrong_setting(group: &Group, name: &str, expected: &str, bytes: &[u8]) -> CheckpointError {
    let tensor = group.part(name).unwrap_or(group.codes());
    let found = format!("the bytes {}", bytes.escape_ascii());
    wrong(tensor, format!("{expected} for {name}"), found)
}

/// The scheme's name, the highest code, and the packing, by the number of bits.
fn scheme(nbits: f32) -> Option<(&'static str, i32, &'static str)> {
    // 1.58 is stored as f32; three values in two bits.
    Some(match nbits {
        8.0 => ("HQQ 8-bit", 255, "8bit_u8"),
        6.0 => ("HQQ 6-bit", 63, "8bit_u8"),
        5.0 => ("HQQ 5-bit", 31, "8bit_u8"),
        4.0 => ("HQQ 4-bit", 15, "4bit_u8"),
        3.0 => ("HQQ 3-bit", 7, "3bit_32"),
        2.0 => ("HQQ 2-bit", 3, "2bit_u8"),
        1.58 => ("HQQ 1.58-bit", 2, "2bit_u8"),
        1.0 => ("HQQ 1-bit", 1, "1bit_u8"),
        _ => return None,
    })
}

impl Weight {
    /// Checks the parts against each other.
    fn new(group: &Group) -> Result<(Vec<usize>, Self), CheckpointError> {
        for name in ZERO {
            let expected = "0 (scales as they are)";
            let Some((bytes, dtype)) = setting(group, name)? else {
                continue;
            };
            if wholes(&bytes, dtype).as_deref() != Some(&[0]) {
                return Err(wrong_setting(group, name, expected, &bytes));
            }
        }
        let (bytes, dtype) = setting(group, "nbits")?.unwrap_or((Vec::new(), DType::I32));
        let nbits = match (dtype, wholes(&bytes, dtype).as_deref()) {
            (DType::F32, _) => bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes)),
            (_, Some(&[number])) => Some(number as f32),
            _ => None,
        };
        let Some((name, top, packing)) = nbits.and_then(scheme) else {
            let expected = "8, 6, 5, 4, 3, 2, 1.58 or 1";
            return Err(wrong_setting(group, "nbits", expected, &bytes));
        };
        let (text, _) = setting(group, "packing")?.unwrap_or((Vec::new(), DType::U8));
        if text != packing.as_bytes() {
            return Err(wrong_setting(group, "packing", packing, &text));
        }
        let (bytes, dtype) = setting(group, "shape")?.unwrap_or((Vec::new(), DType::I64));
        let sizes = match wholes(&bytes, dtype).as_deref() {
            Some(&[n_out, n_in]) if n_out > 0 && n_in > 0 => {
                usize::try_from(n_out).ok().zip(usize::try_from(n_in).ok())
            }
            _ => None,
        };
        let sizes = sizes.and_then(|(n_out, n_in)| Some((n_out, n_in, n_out.checked_mul(n_in)?)));
        let Some((n_out, n_in, n)) = sizes else {
            return Err(wrong_setting(group, "shape", "two sizes above 0", &bytes));
        };
        let channel_wise = whole(group, "channel_wise", "0 or 1")?;
        let axis = whole(group, "axis", "0 or 1")?;
        let size = whole(group, "group_size", "a number of elements")?;
        let size = size.filter(|size| *size > 0 && n.is_multiple_of(*size));
        let (rows, columns, groups) = match (channel_wise, axis, size) {
            (Some(0), ..) => (n_out, n_in, Groups::One),
            (_, Some(1), Some(size)) => (n / size, size, Groups::Runs(size)),
            (_, Some(0), Some(size)) => (size, n / size, Groups::Strides(n / size)),
            _ => {
                let expected = format!("axis 0 or 1, and groups that divide {n_out} × {n_in}");
                let found = format!("axis {axis:?}, group_size {size:?}");
                return Err(group.wrong(expected, found));
            }
        };
        let (item_bytes, n_places, n_bits) = match packing {
            "3bit_32" => (4, 10, 3),
            "4bit_u8" => (1, 2, 4),
            "2bit_u8" => (1, 4, 2),
            "1bit_u8" => (1, 8, 1),
            _ => (1, 1, 8),
        };
        // Only words are filled up.
        let fits = item_bytes == 4 || rows.is_multiple_of(n_places);
        let n_items = rows.div_ceil(n_places).checked_mul(columns);
        let n_bytes = n_items.and_then(|n| n.checked_mul(item_bytes));
        let codes = group.codes();
        let (Some(n_items), Some(n_bytes), true) = (n_items, n_bytes, fits) else {
            let expected = format!("rows that {n_places} codes of an item divide");
            return Err(group.wrong(expected, format!("{rows}")));
        };
        let is_known = [DType::U8, DType::I32, DType::F16, DType::BF16, DType::F32];
        if codes.size_bytes() != n_bytes as u64 || !is_known.contains(&codes.dtype()) {
            let expected = format!("{n_bytes} bytes of codes for {n_out} × {n_in} weights");
            return Err(group.wrong(expected, described(codes)));
        }
        let n_groups = match groups {
            Groups::Runs(size) => n / size,
            Groups::Strides(n_groups) => n_groups,
            Groups::One => 1,
        };
        // The shape says along which axis they lie, which must be the stated one.
        let along = |shape: &[usize]| match (groups, shape) {
            (Groups::Runs(_), &[_, across]) => across == 1,
            (Groups::Strides(_), &[across, _]) => across == 1,
            (_, shape) => shape.len() <= 2,
        };
        let numbers = |kind: &str| match group.part(kind) {
            Some(tensor)
                if tensor.n_elements() == n_groups
                    && along(tensor.shape())
                    && SCALES.contains(&tensor.dtype()) =>
            {
                Ok(tensor.clone())
            }
            Some(tensor) => {
                let expected = format!("{n_groups} floats along the axis, one for each group");
                Err(wrong(tensor, expected, described(tensor)))
            }
            None => Err(group.wrong(format!("its {kind}"), "none")),
        };
        let decoder = Self {
            coding: Coding(name),
            n_in,
            groups,
            item_bytes,
            n_places,
            n_bits,
            n_items,
            top,
            codes: codes.clone(),
            scales: numbers("scales")?,
            zeros: numbers("zeros")?,
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }

    /// Codes of a range of elements.
    fn codes(&self, range: Range<usize>) -> Result<Vec<i32>, TensorError> {
        let mut codes = Vec::with_capacity(range.len());
        let mut at = range.start;
        let mask = (1u32 << self.n_bits) - 1;
        while at < range.end {
            let (place, first) = (at / self.n_items, at % self.n_items);
            let n = (self.n_items - first).min(range.end - at);
            let bytes = first * self.item_bytes..(first + n) * self.item_bytes;
            let bytes = self
                .codes
                .read_bytes(bytes.start as u64..bytes.end as u64)?;
            // The constructor saw to it that no place is beyond the last.
            let shift = self.n_bits * (self.n_places - 1).saturating_sub(place);
            codes.extend(bytes.chunks_exact(self.item_bytes).map(|item| {
                let item = item
                    .iter()
                    .rev()
                    .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
                (item >> shift & mask) as i32
            }));
            at += n;
        }
        Ok(codes)
    }

    /// Numbers of the groups of a range of elements, and where that of an element lies among them.
    fn numbers(&self, tensor: &Tensor, range: &Range<usize>) -> Result<Vec<f32>, TensorError> {
        match self.groups {
            Groups::One => tensor.read_elements(0..1),
            Groups::Runs(size) => {
                tensor.read_elements(range.start / size..range.end.div_ceil(size))
            }
            Groups::Strides(stride) => {
                let first = range.start % stride;
                let last = first + range.len();
                if last <= stride {
                    tensor.read_elements(first..last)
                } else if range.len() >= stride {
                    tensor.read_elements(0..stride)
                } else {
                    let mut numbers = tensor.read_elements(first..stride)?;
                    numbers.extend(tensor.read_elements(0..last - stride)?);
                    Ok(numbers)
                }
            }
        }
    }

    /// Where the number of element `at` of a range lies in [`Self::numbers`].
    fn place(&self, range: &Range<usize>, at: usize) -> usize {
        match self.groups {
            Groups::One => 0,
            Groups::Runs(size) => at / size - range.start / size,
            Groups::Strides(stride) => {
                let all = range.start % stride + range.len() > stride && range.len() >= stride;
                match all {
                    true => at % stride,
                    false => at - range.start,
                }
            }
        }
    }
}

impl Decoder for Weight {
    fn coding(&self) -> Coding {
        self.coding
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let start = row * self.n_in;
        let range = start + columns.start..start + columns.end;
        let codes = self.codes(range.clone())?;
        let scales = self.numbers(&self.scales, &range)?;
        let zeros = self.numbers(&self.zeros, &range)?;
        let precision = precision(self.scales.dtype()).max(precision(self.zeros.dtype()));
        for (at, code) in range.clone().zip(codes) {
            let place = self.place(&range, at);
            let (scale, zero) = (scales[place], zeros[place]);
            let steps = code as f32 - zero;
            // A grid is laid over the extremes of a group, and its zero point is moved afterwards: rounded, by up to
            // half a step, or optimised. What then lies beyond the first and the last code is clipped to it. Of one
            // bit there are no other codes, and any value would do.
            let is_end = code == 0 || code == self.top;
            let reach = if is_end && self.top > 1 { 1.0 } else { 0.5 };
            let slack = (steps.abs() + zero.abs() + 1.0) * precision;
            out.put(code, scale * steps, scale.abs() * (reach + slack) + 3e-8);
        }
        Ok(())
    }
}

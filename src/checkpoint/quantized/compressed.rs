//! compressed-tensors, as llm-compressor and vLLM publish it.
//!
//! | Parts of a weight `[out, in]` | Format |
//! |---|---|
//! | `weight_packed` I32 `[out, ⌈in · bits / 32⌉]`, `weight_scale`, `weight_shape`, `weight_zero_point` I32 packed down the outputs `[⌈out · bits / 32⌉, n_groups]`, `weight_g_idx` `[in]` | `pack-quantized` |
//! | `weight` I8, `weight_scale`, `weight_zero_point` I8 | `int-quantized`, `naive-quantized` |
//! | `weight` F8, `weight_scale` | `float-quantized`, `naive-quantized` |
//! | `weight_packed` U8 `[out, in / 2]`, `weight_scale` F8 `[out, in / 16]`, `weight_global_scale` | `nvfp4-pack-quantized` |
//! | `weight_packed` U8 `[out, in / 2]`, `weight_scale` U8 `[out, in / 32]` | `mxfp4-pack-quantized` |
//!
//! Integers are stored with half of their range added; value = scale · (code − zero). Parts say which format
//! they are of; the config says bits and the sizes of blocks, and groups of modules may mix formats. Codes of 3, 5,
//! 6 and 7 bits cross words in files of newer versions, and leave the rest of a word empty in those of older ones
//! (up to 0.10): the number of words tells which.
//! Layout: <https://github.com/vllm-project/compressed-tensors>, `src/compressed_tensors/compressors`.

use super::super::CheckpointError;
use super::super::error::wrong;
use super::bits::{SCALES, bound, code, precision, row_bytes, word_code};
use super::fp4::{Fp4, Scales};
use super::stored::{Group, Stored, described};
use super::{Config, Scheme, float8};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The scheme.
pub(super) struct CompressedTensors;

/// What the groups of modules state of their weights.
struct Stated {
    bits: Vec<u64>,
    block: Option<[usize; 2]>,
}

impl Stated {
    fn read(config: &Config<'_>) -> Result<Self, CheckpointError> {
        let groups = config.get(&["config_groups"]).and_then(|v| v.as_object());
        let Some(groups) = groups else {
            return Err(config.wrong("config_groups", "groups of modules"));
        };
        if !config
            .get(&["sparsity_config"])
            .is_none_or(super::says_nothing)
        {
            return Err(config.wrong("sparsity_config", "nothing"));
        }
        let mut stated = Self {
            bits: Vec::new(),
            block: None,
        };
        for group in groups.values() {
            let weights = &group["weights"];
            if weights.is_null() {
                continue;
            }
            let Some(bits @ 1..=16) = weights["num_bits"].as_u64() else {
                return Err(config.wrong("config_groups", "num_bits from 1 to 16 of weights"));
            };
            stated.bits.push(bits);
            if let Some(sizes) = weights["block_structure"].as_array() {
                let sizes: Vec<u64> = sizes.iter().filter_map(|n| n.as_u64()).collect();
                let block = match sizes[..] {
                    [rows @ 1..=0xffff_ffff, columns @ 1..=0xffff_ffff] => {
                        [rows as usize, columns as usize]
                    }
                    _ => return Err(config.wrong("config_groups", "two sizes of a block above 0")),
                };
                if stated.block.is_some_and(|other| other != block) {
                    return Err(config.wrong("config_groups", "blocks of one size"));
                }
                stated.block = Some(block);
            }
        }
        stated.bits.sort_unstable();
        stated.bits.dedup();
        Ok(stated)
    }
}

impl Scheme for CompressedTensors {
    fn methods(&self) -> &'static [&'static str] {
        &["compressed-tensors"]
    }

    fn assemble(&self, config: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        let stated = Stated::read(config)?;
        for stem in stored.stems(".weight_packed") {
            let Some(mut group) = stored.group(&format!("{stem}.weight_packed")) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.weight_scale"))?;
            let name = format!("{stem}.weight");
            if group.codes().dtype() == DType::U8 {
                let global = format!("{stem}.weight_global_scale");
                let is_nv = stored.take(&mut group, "global scale", &global);
                let ([n_out, n_bytes], codes) = group.matrix("codes", &[DType::U8])?;
                let Some(n_in) = n_bytes.checked_mul(2) else {
                    return Err(group.wrong("sizes that can be addressed", described(codes)));
                };
                let kind = if is_nv {
                    Scales::Float8
                } else {
                    Scales::Powers
                };
                let decoder = Fp4::new(&group, kind, [n_out, n_in], None)?;
                stored.put(group.at(), name, vec![n_out, n_in], Arc::new(decoder))?;
                continue;
            }
            stored.need(&mut group, "shape", &format!("{stem}.weight_shape"))?;
            stored.take(&mut group, "zeros", &format!("{stem}.weight_zero_point"));
            stored.take(&mut group, "groups", &format!("{stem}.weight_g_idx"));
            let (shape, decoder) = Integers::packed(&group, &stated)?;
            stored.put(group.at(), name, shape, Arc::new(decoder))?;
        }
        for stem in stored.stems(".weight") {
            let name = format!("{stem}.weight");
            if stored.get(&name).is_none_or(|t| t.dtype() != DType::I8) {
                continue;
            }
            let Some(mut group) = stored.group(&name) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.weight_scale"))?;
            stored.take(&mut group, "zeros", &format!("{stem}.weight_zero_point"));
            stored.take(&mut group, "groups", &format!("{stem}.weight_g_idx"));
            let (shape, decoder) = Integers::bytes(&group)?;
            stored.put(group.at(), name, shape, Arc::new(decoder))?;
        }
        float8::assemble(stored, stated.block)?;
        stored.set_aside("scales of activations, caches and outputs", |name| {
            let ends = [
                "input_global_scale",
                "input_zero_point",
                "k_scale",
                "v_scale",
                "output_scale",
            ];
            ends.iter().any(|end| name.ends_with(&format!(".{end}")))
        });
        Ok(())
    }
}

/// How codes lie in words of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// Each in a byte, signed.
    Bytes,
    /// One after the other, across words.
    Dense,
    /// As many as fit whole into a word.
    Loose,
}

impl Packing {
    /// Words of `n` codes; `None` where they cannot be counted.
    fn words(self, n: usize, bits: usize) -> Option<usize> {
        match self {
            Self::Bytes => None,
            Self::Dense => n.checked_mul(bits).map(|n| n.div_ceil(32)),
            Self::Loose => Some(n.div_ceil(32 / bits)),
        }
    }

    /// A code of a row of them.
    fn code(self, bytes: &[u8], at: usize, bits: usize) -> i32 {
        match self {
            Self::Bytes => i32::from(bytes.get(at).copied().unwrap_or(0) as i8),
            Self::Dense => code(bytes, at, bits),
            Self::Loose => {
                let per_word = 32 / bits;
                word_code(bytes, 4 * (at / per_word), at % per_word, bits)
            }
        }
    }
}

/// Integers with scales of groups.
#[derive(Debug)]
struct Integers {
    n_in: usize,
    n_out: usize,
    bits: usize,
    /// Groups of a row, and whether all rows share their scales.
    n_groups: usize,
    shared: bool,
    packing: Packing,
    codes: Tensor,
    scales: Tensor,
    zeros: Option<Tensor>,
    /// Group of each input, where it is not the place that decides.
    groups: Option<Tensor>,
    read_groups: OnceLock<Vec<usize>>,
    parts: Vec<Part>,
}

impl Integers {
    fn packed(group: &Group, stated: &Stated) -> Result<(Vec<usize>, Self), CheckpointError> {
        let ([n_out, words], codes) = group.matrix("codes", &[DType::I32])?;
        let n_in = match group.part("shape") {
            Some(shape) if shape.n_elements() == 2 && shape.dtype() == DType::I64 => {
                let bytes = shape.read_bytes(0..16)?;
                let sizes = bytes.as_chunks::<8>().0.iter();
                let sizes: Vec<i64> = sizes.map(|b| i64::from_le_bytes(*b)).collect();
                match sizes[..] {
                    [rows, columns] if usize::try_from(rows) == Ok(n_out) => {
                        usize::try_from(columns).ok().filter(|n| *n > 0)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(n_in) = n_in else {
            return Err(group.wrong(
                format!("weight_shape as two sizes I64, the first of them {n_out}"),
                "another",
            ));
        };
        // Zero points are packed alike, down the outputs; few inputs may fill as many words either way.
        let zero_words = group.part("zeros").and_then(|zeros| match zeros.shape() {
            &[words, _] => Some(words),
            _ => None,
        });
        let fits = |bits: u64, packing: Packing| {
            let bits = bits as usize;
            packing.words(n_in, bits) == Some(words)
                && zero_words.is_none_or(|words| packing.words(n_out, bits) == Some(words))
        };
        // Loose codes of 7 bits fill as many words as codes of 8: where a config states both, they are the latter.
        let of = |packing: Packing| {
            let bits = stated.bits.iter().copied();
            let bits = bits.filter(move |bits| (1..=8).contains(bits) && fits(*bits, packing));
            bits.map(move |bits| (bits as usize, packing))
        };
        let mut dense = of(Packing::Dense).peekable();
        let mut found: Vec<(usize, Packing)> = match dense.peek() {
            Some(_) => dense.collect(),
            None => of(Packing::Loose).collect(),
        };
        let (Some((bits, packing)), true) = (found.pop(), found.is_empty()) else {
            let expected = format!(
                "codes of 1 to 8 bits as the config states ({:?}) for {n_in} inputs, and zero points for {n_out} outputs \
                 that are packed alike",
                stated.bits
            );
            return Err(wrong(codes, expected, described(codes)));
        };
        Self::new(group, [n_out, n_in], bits, packing)
    }

    fn bytes(group: &Group) -> Result<(Vec<usize>, Self), CheckpointError> {
        let (sizes, _) = group.matrix("codes", &[DType::I8])?;
        Self::new(group, sizes, 8, Packing::Bytes)
    }

    fn new(
        group: &Group,
        [n_out, n_in]: [usize; 2],
        bits: usize,
        packing: Packing,
    ) -> Result<(Vec<usize>, Self), CheckpointError> {
        let Some(scales) = group.part("scales") else {
            return Err(group.wrong("its scales", "none"));
        };
        let (n_groups, shared) = match scales.shape() {
            [] | [1] | [1, 1] => (1, true),
            &[n] if n == n_out => (1, false),
            &[n, n_groups] if n == n_out && (1..=n_in).contains(&n_groups) => (n_groups, false),
            _ => {
                let expected = format!("one scale, or some for each of {n_out} outputs");
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
        let groups = group.part("groups");
        if let Some(groups) = groups
            && (groups.shape() != [n_in] || groups.dtype() != DType::I32)
        {
            let expected = format!("the group of each of {n_in} inputs as I32");
            return Err(wrong(groups, expected, described(groups)));
        }
        let zeros = group.part("zeros");
        if let Some(zeros) = zeros {
            let rows = if shared { 1 } else { n_out };
            let packed = packing != Packing::Bytes && !shared;
            let (dtype, rows) = match packed {
                true => (DType::I32, packing.words(rows, bits)),
                false => (DType::I8, Some(rows)),
            };
            let size = rows.and_then(|rows| rows.checked_mul(n_groups));
            let wide = zeros.shape().last().copied().unwrap_or(1);
            let agree = !packed || wide == n_groups;
            if zeros.dtype() != dtype || size != Some(zeros.n_elements()) || !agree {
                let expected = format!("zero points of {n_groups} groups as {}", dtype.name());
                return Err(wrong(zeros, expected, described(zeros)));
            }
        }
        // Groups of one size, the last of which may be shorter.
        let size = n_in.div_ceil(n_groups);
        if groups.is_none() && n_in.div_ceil(size) != n_groups {
            let expected = format!("scales of groups of one size of {n_in} inputs");
            return Err(wrong(scales, expected, described(scales)));
        }
        let decoder = Self {
            n_in,
            n_out,
            bits,
            n_groups,
            shared,
            packing,
            codes: group.codes().clone(),
            scales: scales.clone(),
            zeros: zeros.cloned(),
            groups: groups.cloned(),
            read_groups: OnceLock::new(),
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }

    /// Group of each input, where a tensor states it.
    fn stated_groups(&self) -> Result<Option<&[usize]>, TensorError> {
        let Some(tensor) = &self.groups else {
            return Ok(None);
        };
        if let Some(groups) = self.read_groups.get() {
            return Ok(Some(groups));
        }
        let bytes = tensor.read_bytes(0..tensor.size_bytes())?;
        let mut groups = Vec::with_capacity(self.n_in);
        for bytes in bytes.as_chunks::<4>().0 {
            let stated = i32::from_le_bytes(*bytes);
            match usize::try_from(stated) {
                Ok(group) if group < self.n_groups => groups.push(group),
                _ => return Err(TensorError::index(tensor, stated as usize, self.n_groups)),
            }
        }
        Ok(Some(self.read_groups.get_or_init(|| groups)))
    }

    /// Zero points of a row's groups, as codes.
    fn zero_points(&self, row: usize) -> Result<Vec<i32>, TensorError> {
        let packed = self.packing != Packing::Bytes;
        let half = if packed { 1 << (self.bits - 1) } else { 0 };
        let Some(zeros) = &self.zeros else {
            return Ok(vec![half; self.n_groups]);
        };
        if !packed || self.shared {
            let row = if self.shared { 0 } else { row };
            let start = (row * self.n_groups) as u64;
            let bytes = zeros.read_bytes(start..start + self.n_groups as u64)?;
            return Ok(bytes.iter().map(|b| i32::from(*b as i8) + half).collect());
        }
        // Codes of a column lie in words one row apart, and a code that crosses words ends in the next row.
        let per_word = 32 / self.bits;
        let (word, shift) = match self.packing {
            Packing::Loose => (row / per_word, row % per_word * self.bits),
            _ => (row * self.bits / 32, row * self.bits % 32),
        };
        let low = row_bytes(zeros, word, 0..self.n_groups)?;
        let high = match shift + self.bits > 32 {
            true => row_bytes(zeros, word + 1, 0..self.n_groups)?,
            false => low.clone(),
        };
        let words = low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0);
        let mask = (1u64 << self.bits) - 1;
        Ok(words
            .map(|(low, high)| {
                let low = u64::from(u32::from_le_bytes(*low));
                let high = u64::from(u32::from_le_bytes(*high));
                ((low | high << 32) >> shift & mask) as i32
            })
            .collect())
    }
}

impl Decoder for Integers {
    fn coding(&self) -> Coding {
        Coding(match (self.packing, self.bits) {
            (Packing::Bytes, _) => "compressed-tensors int8",
            (_, 1) => "compressed-tensors packed 1-bit",
            (_, 2) => "compressed-tensors packed 2-bit",
            (_, 3) => "compressed-tensors packed 3-bit",
            (_, 4) => "compressed-tensors packed 4-bit",
            (_, 5) => "compressed-tensors packed 5-bit",
            (_, 6) => "compressed-tensors packed 6-bit",
            (_, 7) => "compressed-tensors packed 7-bit",
            _ => "compressed-tensors packed 8-bit",
        })
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn parameters(&self) -> Vec<u64> {
        let packing = match self.packing {
            Packing::Bytes => 0,
            Packing::Dense => 1,
            Packing::Loose => 2,
        };
        vec![self.bits as u64, self.n_out as u64, packing]
    }

    fn decode(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut Elements<'_>,
    ) -> Result<(), TensorError> {
        let words = self.codes.shape().last().copied().unwrap_or(0);
        let bytes = row_bytes(&self.codes, row, 0..words)?;
        let first = if self.shared { 0 } else { row * self.n_groups };
        let scales = self.scales.read_elements(first..first + self.n_groups)?;
        let zeros = self.zero_points(row)?;
        let groups = self.stated_groups()?;
        let size = self.n_in.div_ceil(self.n_groups);
        let precision = precision(self.scales.dtype());
        for column in columns {
            let group = match groups {
                Some(groups) => groups.get(column).copied().unwrap_or(usize::MAX),
                None => column / size,
            };
            let code = self.packing.code(&bytes, column, self.bits);
            let (Some(step), Some(zero)) = (scales.get(group), zeros.get(group)) else {
                return Err(TensorError::index(&self.scales, group, self.n_groups));
            };
            let steps = (code - zero) as f32;
            // The zero point is added to a quotient before it is rounded, in the type of the scales, signed. The
            // range of a group is as many steps as there are codes, up to what that type lost of a step: what lies
            // beyond its ends by that is clipped.
            let half = 1 << (self.bits - 1);
            let sum = match self.packing {
                Packing::Bytes => code,
                _ => code - half,
            };
            let is_end = self.zeros.is_some() && (sum == -half || sum == half - 1);
            let reach = if is_end { 2 * half } else { sum.abs() };
            let reach = steps.abs().max(reach as f32);
            out.put(code, step * steps, bound(reach, *step, precision));
        }
        Ok(())
    }
}

//! GPTQ, as AutoGPTQ and GPTQModel store it.
//!
//! Of a weight `[out, in]`: `qweight` `[in · bits / 32, out]` I32 holds codes as a stream of bits down each
//! column; `scales` `[n_groups, out]`; `qzeros` `[n_groups, out · bits / 32]` I32, a stream along each row;
//! `g_idx` `[in]` I32, the group of each input where inputs were quantized in the order of their activations.
//! value = scale · (code − zero). Files of the first version store zero − 1.
//! Layout: <https://github.com/ModelCloud/GPTQModel>, `nn_modules/qlinear`.

use super::super::CheckpointError;
use super::super::error::wrong;
use super::bits::{SCALES, bound, code, precision, row, row_bytes};
use super::stored::{Group, Stored, described};
use super::{Config, Scheme};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The scheme.
pub(super) struct Gptq;

impl Scheme for Gptq {
    fn methods(&self) -> &'static [&'static str] {
        &["gptq"]
    }

    fn assemble(&self, config: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        let settings = Settings::read(config)?;
        for stem in stored.stems(".qweight") {
            let Some(mut group) = stored.group(&format!("{stem}.qweight")) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.scales"))?;
            stored.need(&mut group, "zeros", &format!("{stem}.qzeros"))?;
            let sorted = stored.take(&mut group, "groups", &format!("{stem}.g_idx"));
            if settings.sorted && !sorted {
                let found = format!("no tensor {stem}.g_idx");
                return Err(group.wrong("the groups of its inputs (desc_act is true)", found));
            }
            let (shape, decoder) = Weight::new(&group, &settings, stored)?;
            let name = format!("{stem}.weight");
            stored.put(group.at(), name, shape, Arc::new(decoder))?;
        }
        Ok(())
    }
}

/// What the config states.
struct Settings {
    /// `None` where modules have bits of their own (`dynamic`).
    bits: Option<i64>,
    /// `None` for one group of all inputs.
    group_size: Option<usize>,
    sorted: bool,
    /// What is added to a stored zero point.
    zero_offset: i32,
}

impl Settings {
    fn read(config: &Config<'_>) -> Result<Self, CheckpointError> {
        let bits = config.whole(&["bits"])?;
        if !matches!(bits, Some(2 | 3 | 4 | 8)) {
            return Err(config.wrong("bits", "2, 3, 4 or 8"));
        }
        let dynamic = config.get(&["dynamic"]).is_some();
        let group_size = match config.whole(&["group_size"])? {
            None | Some(-1) => None,
            Some(n @ 1..=0xffff_ffff) => Some(n as usize),
            Some(_) => return Err(config.wrong("group_size", "-1 or a number of inputs")),
        };
        let format = config.word(&["checkpoint_format", "format"])?;
        let zero_offset = match format.as_str() {
            "" | "gptq" => 1,
            "gptq_v2" => 0,
            _ => return Err(config.wrong("checkpoint_format", "gptq or gptq_v2")),
        };
        Ok(Self {
            bits: bits.filter(|_| !dynamic),
            group_size,
            sorted: config.flag(&["desc_act"])?,
            zero_offset,
        })
    }
}

/// A weight, row by row.
#[derive(Debug)]
struct Weight {
    bits: usize,
    zero_offset: i32,
    n_groups: usize,
    group_size: usize,
    /// Groups of the inputs as stated, once they were read and found to exist.
    groups: Option<(Tensor, OnceLock<Vec<u32>>)>,
    /// `[out, words]`, `[out, n_groups]`, `[words, n_groups]`.
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    parts: Vec<Part>,
}

fn coding(bits: usize) -> Coding {
    Coding(match bits {
        2 => "GPTQ 2-bit",
        3 => "GPTQ 3-bit",
        4 => "GPTQ 4-bit",
        _ => "GPTQ 8-bit",
    })
}

impl Weight {
    /// Checks the parts against each other and the config.
    fn new(
        group: &Group,
        settings: &Settings,
        stored: &Stored,
    ) -> Result<(Vec<usize>, Self), CheckpointError> {
        let ([words, n_out], codes) = group.matrix("codes", &[DType::I32])?;
        let ([n_groups, scales_out], scales) = group.matrix("scales", SCALES)?;
        let ([zero_groups, zero_words], zeros) = group.matrix("zeros", &[DType::I32])?;
        let bits = [2, 3, 4, 8]
            .into_iter()
            .find(|bits| n_out.checked_mul(*bits) == zero_words.checked_mul(32))
            .filter(|bits| settings.bits.is_none_or(|stated| stated == *bits as i64));
        let agree = scales_out == n_out && zero_groups == n_groups && n_groups > 0;
        let n_in = bits.and_then(|bits| Some(words.checked_mul(32)? / bits));
        let (Some(bits), Some(n_in), true) = (bits, n_in, agree) else {
            let expected = format!(
                "scales [n_groups, {n_out}] and zeros [n_groups, {n_out} · bits / 32]{}",
                match settings.bits {
                    Some(bits) => format!(" of {bits} bits"),
                    None => String::new(),
                }
            );
            let found = format!("{} and {}", described(scales), described(zeros));
            return Err(group.wrong(expected, found));
        };
        if n_in * bits != words * 32 || n_in == 0 || n_out == 0 {
            let expected = format!("whole words of codes of {bits} bits");
            return Err(wrong(codes, expected, described(codes)));
        }
        let group_size = settings.group_size.unwrap_or(n_in);
        let groups = match group.part("groups") {
            Some(tensor) if tensor.dtype() != DType::I32 || tensor.shape() != [n_in] => {
                return Err(wrong(tensor, format!("I32 [{n_in}]"), described(tensor)));
            }
            Some(tensor) => Some((tensor.clone(), OnceLock::new())),
            None => None,
        };
        // A group that is not full has scales of its own.
        if groups.is_none() && n_groups != n_in.div_ceil(group_size) {
            let expected = format!("{n_in} inputs in groups of {group_size}");
            return Err(wrong(scales, expected, format!("{n_groups} groups")));
        }
        let decoder = Self {
            bits,
            zero_offset: settings.zero_offset,
            n_groups,
            group_size,
            groups,
            codes: group.turned(codes, [words, n_out], &stored.tiles)?,
            scales: group.turned(scales, [n_groups, n_out], &stored.tiles)?,
            zeros: group.turned(zeros, [n_groups, zero_words], &stored.tiles)?,
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }

    /// Zero points of one row, `[n_groups]`.
    fn zeros(&self, row: usize) -> Result<Vec<i32>, TensorError> {
        // The stream runs along the stored rows: one code may lie in two words.
        let first = row * self.bits / 32;
        let last = (row * self.bits + self.bits - 1) / 32;
        let low = row_bytes(&self.zeros, first, 0..self.n_groups)?;
        let high = row_bytes(&self.zeros, last, 0..self.n_groups)?;
        let mask = (1 << self.bits) - 1;
        let words = low.chunks_exact(4).zip(high.chunks_exact(4));
        Ok(words
            .map(|(low, high)| {
                let mut pair = [0; 8];
                pair[..4].copy_from_slice(low);
                pair[4..].copy_from_slice(high);
                let pair = u64::from_le_bytes(pair) >> (row * self.bits % 32);
                // The addition happens in as many bits as a code has.
                ((pair as i32 & mask) + self.zero_offset) & mask
            })
            .collect())
    }

    /// The group of each input where they are stated.
    fn groups(&self) -> Result<Option<&[u32]>, TensorError> {
        let Some((tensor, read)) = &self.groups else {
            return Ok(None);
        };
        if let Some(groups) = read.get() {
            return Ok(Some(groups));
        }
        let bytes = tensor.read_bytes(0..tensor.size_bytes())?;
        let groups: Vec<u32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        if let Some(wrong) = groups.iter().find(|g| **g as usize >= self.n_groups) {
            return Err(TensorError::index(tensor, *wrong as usize, self.n_groups));
        }
        Ok(Some(read.get_or_init(|| groups)))
    }
}

impl Decoder for Weight {
    fn coding(&self) -> Coding {
        coding(self.bits)
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
        let groups = self.groups()?;
        let codes = row_bytes(&self.codes, at, 0..self.codes.shape()[1])?;
        let scales = row(&self.scales, at, 0..self.n_groups)?;
        let zeros = self.zeros(at)?;
        let precision = precision(self.scales.dtype());
        for column in columns {
            let group = match groups {
                Some(groups) => groups[column] as usize,
                None => column / self.group_size,
            };
            let code = code(&codes, column, self.bits);
            let (step, steps) = (scales[group], (code - zeros[group]) as f32);
            out.put(code, step * steps, bound(steps, step, precision));
        }
        Ok(())
    }
}

//! AWQ, as AutoAWQ stores it (version `gemm`).
//!
//! Of a weight `[out, in]`: `qweight` `[in, out / 8]` I32, `scales` `[n_groups, out]` and `qzeros`
//! `[n_groups, out / 8]` I32. A word holds the codes of eight neighbouring outputs in the order 0, 2, 4, 6, 1,
//! 3, 5, 7 from its low end. value = scale · (code − zero).
//! Layout: <https://github.com/casper-hansen/AutoAWQ>, `awq/modules/linear/gemm.py`.
//!
//! What AWQ moves from a weight's inputs into the layer before it stays there: these weights are those of the
//! quantized model, not of its original.

use super::super::CheckpointError;
use super::bits::{SCALES, bound, precision, row, row_bytes, word_code};
use super::stored::{Group, Stored, described};
use super::{Config, Scheme};
use crate::tensor::coded::{Coding, Decoder, Elements, Part};
use crate::tensor::{DType, Tensor, TensorError};
use std::ops::Range;
use std::sync::Arc;

/// The scheme.
pub(super) struct Awq;

/// Codes of a word.
const PER_WORD: usize = 8;
/// Where in a word the code of output o mod 8 lies.
const PLACES: [usize; PER_WORD] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Scheme for Awq {
    fn methods(&self) -> &'static [&'static str] {
        &["awq"]
    }

    fn assemble(&self, config: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        if config.whole(&["bits", "w_bit"])? != Some(4) {
            return Err(config.wrong("bits", "4"));
        }
        if !matches!(config.word(&["version"])?.as_str(), "" | "gemm") {
            return Err(config.wrong("version", "gemm"));
        }
        for stem in stored.stems(".qweight") {
            let Some(mut group) = stored.group(&format!("{stem}.qweight")) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}.scales"))?;
            stored.need(&mut group, "zeros", &format!("{stem}.qzeros"))?;
            let (shape, decoder) = Weight::new(&group, config, stored)?;
            stored.put(
                group.at(),
                format!("{stem}.weight"),
                shape,
                Arc::new(decoder),
            )?;
        }
        Ok(())
    }
}

/// A weight, row by row.
#[derive(Debug)]
struct Weight {
    n_groups: usize,
    group_size: usize,
    /// `[out / 8, in]`, `[out, n_groups]`, `[out / 8, n_groups]`.
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    parts: Vec<Part>,
}

impl Weight {
    /// Checks the parts against each other and the config.
    fn new(
        group: &Group,
        config: &Config<'_>,
        stored: &Stored,
    ) -> Result<(Vec<usize>, Self), CheckpointError> {
        let ([n_in, words], codes) = group.matrix("codes", &[DType::I32])?;
        let ([n_groups, n_out], scales) = group.matrix("scales", SCALES)?;
        let ([zero_groups, zero_words], zeros) = group.matrix("zeros", &[DType::I32])?;
        let group_size = match config.whole(&["group_size", "q_group_size"])? {
            Some(-1) => n_in,
            Some(n @ 1..=0xffff_ffff) => n as usize,
            _ => return Err(config.wrong("group_size", "-1 or a number of inputs")),
        };
        let agree = words.checked_mul(PER_WORD) == Some(n_out)
            && (zero_groups, zero_words) == (n_groups, words)
            && n_in > 0
            && n_out > 0
            && n_groups == n_in.div_ceil(group_size);
        if !agree {
            let expected = format!(
                "scales [{}, {}] and zeros [{}, {words}] for groups of {group_size} inputs",
                n_in.div_ceil(group_size.max(1)),
                words.saturating_mul(PER_WORD),
                n_in.div_ceil(group_size.max(1)),
            );
            let found = format!("{} and {}", described(scales), described(zeros));
            return Err(group.wrong(expected, found));
        }
        let decoder = Self {
            n_groups,
            group_size,
            codes: group.turned(codes, [n_in, words], &stored.tiles)?,
            scales: group.turned(scales, [n_groups, n_out], &stored.tiles)?,
            zeros: group.turned(zeros, [n_groups, words], &stored.tiles)?,
            parts: group.parts.clone(),
        };
        Ok((vec![n_out, n_in], decoder))
    }
}

impl Decoder for Weight {
    fn coding(&self) -> Coding {
        Coding("AWQ 4-bit")
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
        let (word, place) = (at / PER_WORD, PLACES[at % PER_WORD]);
        let codes = row_bytes(&self.codes, word, columns.clone())?;
        let scales = row(&self.scales, at, 0..self.n_groups)?;
        let zeros = row_bytes(&self.zeros, word, 0..self.n_groups)?;
        let precision = precision(self.scales.dtype());
        for (i, column) in columns.enumerate() {
            let group = column / self.group_size;
            let code = word_code(&codes, 4 * i, place, 4);
            let steps = (code - word_code(&zeros, 4 * group, place, 4)) as f32;
            let step = scales[group];
            out.put(code, step * steps, bound(steps, step, precision));
        }
        Ok(())
    }
}

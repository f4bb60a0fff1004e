//! MXFP4 as gpt-oss publishes the experts of its mixtures.
//!
//! Of a stack of weights `[n_experts, rows, in]`: `<name>_blocks` `[n_experts, rows, in / 32, 16]` U8 and
//! `<name>_scales` `[n_experts, rows, in / 32]` U8. Rows of `gate_up_proj` are gate and up in turn; here gate
//! comes first, then up, as in other stacks of experts, so that roles find them. Files that hold these weights as
//! bf16 have them the other way round, `[n_experts, in, rows]`, and stay so: roles find the rows there as well.
//! Layout: <https://github.com/openai/gpt-oss>, `gpt_oss/torch/weights.py`.

use super::super::CheckpointError;
use super::fp4::{Fp4, Scales};
use super::stored::{Stored, described};
use super::{Config, Scheme};
use std::sync::Arc;

/// The scheme.
pub(super) struct Mxfp4;

impl Scheme for Mxfp4 {
    fn methods(&self) -> &'static [&'static str] {
        &["mxfp4"]
    }

    fn assemble(&self, _: &Config<'_>, stored: &mut Stored) -> Result<(), CheckpointError> {
        for stem in stored.stems("_blocks") {
            let Some(mut group) = stored.group(&format!("{stem}_blocks")) else {
                continue;
            };
            stored.need(&mut group, "scales", &format!("{stem}_scales"))?;
            let codes = group.codes();
            let sizes = match codes.shape() {
                &[n_experts, n_rows, n_blocks, 16] => n_experts
                    .checked_mul(n_rows)
                    .zip(n_blocks.checked_mul(32))
                    .map(|(all, n_in)| (n_experts, n_rows, all, n_in)),
                _ => None,
            };
            let Some((n_experts, n_rows, all, n_in)) = sizes else {
                let expected = "blocks as [n_experts, rows, in / 32, 16]";
                return Err(group.wrong(expected, described(codes)));
            };
            let interleaved = if stem.ends_with(".gate_up_proj") {
                if !n_rows.is_multiple_of(2) {
                    return Err(group.wrong("as many rows of gate as of up", described(codes)));
                }
                Some(n_rows)
            } else {
                None
            };
            let decoder = Fp4::new(&group, Scales::Powers, [all, n_in], interleaved)?;
            let shape = vec![n_experts, n_rows, n_in];
            stored.put(group.at(), stem, shape, Arc::new(decoder))?;
        }
        Ok(())
    }
}

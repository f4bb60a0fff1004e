//! `tensor-identity`: which bytes of the reference stand unchanged in the candidate?
//!
//! Corresponding tensors are compared byte by byte; where dtypes differ, values are compared after a
//! cast to the coarser of the two, which tells a lossless cast and plain rounding from training. Where
//! the candidate is block-quantized, a value counts as rounded if it lies within the bound that its own
//! block states: half a step, and the rounding of the scale.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, TestRecord};
use super::rounding::{self, Values};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::tensor::{DType, Tensor, TensorError};
use std::collections::BTreeMap;

static SPEC: TestSpec = TestSpec {
    id: "tensor-identity",
    title: "Tensor identity",
    question: "How much of the candidate is bit for bit the reference, whatever its tensors are called?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "renaming, re-sharding, lossless casts; rounding to a coarser dtype or to block-quantized codes is recognised",
    defeated_by: "any change of the values",
    citation: "modelkin; digests of chunks as in OpenSSF model signing",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Elements compared at a time; also the chunk that counts as equal or not. 64 KiB of bf16.
const CHUNK: usize = 32_768;

/// Counts over corresponding tensors.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    n_elements: u64,
    n_equal: u64,
    n_bytes: u64,
    n_equal_bytes: u64,
    n_tensors: u64,
    n_equal_tensors: u64,
    n_equal_rounded: u64,
    /// The reverse: the reference's values are the candidate's, rounded.
    n_equal_reversed: u64,
}

/// Compares two tensors of equal shape. `rounded` counts values equal after rounding to the candidate's dtype.
fn compare(a: &Tensor, b: &Tensor, counts: &mut Counts) -> Result<(), TensorError> {
    let n = a.n_elements();
    let dtype = b.dtype();
    let mut values = Values::default();
    // A chunk holds whole blocks.
    for start in (0..n).step_by(CHUNK) {
        let end = n.min(start + CHUNK);
        if a.dtype() == dtype {
            let range = dtype.bytes_of(start..end);
            let (x, y) = (a.read_bytes(range.clone())?, b.read_bytes(range)?);
            let len = (end - start) as u64;
            if x == y {
                counts.n_equal_bytes += x.len() as u64;
                values.add(Values::same(len));
                continue;
            }
            let width = dtype.size_bytes();
            let n_same = x
                .chunks(width)
                .zip(y.chunks(width))
                .filter(|(p, q)| p == q)
                .count()
                * dtype.block_elements();
            values.add(Values::same(n_same as u64));
        } else {
            values.add(rounding::compare(a, b, start..end)?);
        }
    }
    counts.n_equal_rounded += values.n_rounded();
    counts.n_equal_reversed += values.n_reversed();
    counts.n_elements += n as u64;
    counts.n_bytes += b.size_bytes();
    counts.n_equal += values.n_equal;
    counts.n_tensors += 1;
    counts.n_equal_tensors += u64::from(values.n_equal == n as u64);
    Ok(())
}

/// Whether a sample of both says that a whole comparison can find more than chance.
fn worth_reading(a: &Tensor, b: &Tensor) -> Result<bool, TensorError> {
    let n = a.n_elements();
    if n <= CHUNK {
        return Ok(true);
    }
    let mut equal = 0;
    for start in [0, n / 2, n - 256] {
        let found = rounding::compare(a, b, start..start + 256)?;
        equal += found.n_within();
    }
    Ok(equal >= 24)
}

fn run(pair: &ComponentPair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut counts = Counts::default();
    let mut n_skipped = 0u64;
    let mut by_scheme: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for found in &pair.correspondence.pairs {
        let a = &pair.reference.tensors[found.reference];
        let b = &pair.candidate.tensors[found.candidate];
        if let (DType::Block(block), true) = (b.dtype(), a.dtype() != b.dtype()) {
            let has_bounds = b.read_rounding_bounds(0..0)?.is_some();
            by_scheme.entry(block.name()).or_insert((0, has_bounds)).0 += 1;
        }
        if !worth_reading(a, b)? {
            n_skipped += 1;
            counts.n_tensors += 1;
            counts.n_elements += a.n_elements() as u64;
            counts.n_bytes += b.size_bytes();
            continue;
        }
        compare(a, b, &mut counts)?;
    }
    if counts.n_tensors == 0 {
        let reason = "no tensor of the candidate has the shape of one of the reference";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let n_all = pair
        .reference
        .tensors
        .len()
        .max(pair.candidate.tensors.len()) as f64;
    let share = |n: u64| n as f64 / counts.n_elements as f64;
    let mut record = TestRecord::measured(SPEC.id, &pair.id)
        .with_effect("fraction-values-equal", share(counts.n_equal))
        .with_effect(
            "fraction-values-equal-after-rounding",
            share(counts.n_equal_rounded),
        )
        .with_effect(
            "fraction-values-equal-after-rounding-reversed",
            share(counts.n_equal_reversed),
        )
        .with_effect(
            "fraction-chunk-bytes-equal",
            counts.n_equal_bytes as f64 / counts.n_bytes as f64,
        )
        .with_effect("n-tensors-equal", counts.n_equal_tensors as f64)
        .with_effect("fraction-tensors-paired", counts.n_tensors as f64 / n_all);
    if !by_scheme.is_empty() {
        record = record.with_detail(Detail::Observations(rounding::observations(&by_scheme)));
    }
    Ok(match n_skipped {
        0 => record,
        n => record.with_reason(format!(
            "{n} large tensors whose samples of 768 values share fewer than 24 were not read whole \
             and count as different"
        )),
    })
}

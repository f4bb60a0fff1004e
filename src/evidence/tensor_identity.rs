//! `tensor-identity`: which bytes of the reference stand unchanged in the candidate?
//!
//! Corresponding tensors are compared byte by byte; where dtypes differ, values are compared after a
//! cast to the coarser of the two, which tells a lossless cast and plain rounding from training. Where
//! the candidate is block-quantized, a value counts as rounded if it lies within the bound that its own
//! block states: half a step, and the rounding of the scale.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, Observation, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::tensor::{DType, Tensor, TensorError};
use std::collections::BTreeMap;
use std::ops::Range;

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

/// Counts over a range of one pair of tensors.
#[derive(Debug, Default, Clone, Copy)]
struct Values {
    n_equal: u64,
    n_rounded: u64,
    n_reversed: u64,
    /// Sum of |difference| ÷ bound, over the values of a block-quantized reference, and their number.
    spread: f64,
    n_spread: u64,
}

impl Values {
    fn add(&mut self, other: Self) {
        self.n_equal += other.n_equal;
        self.n_rounded += other.n_rounded;
        self.n_reversed += other.n_reversed;
        self.spread += other.spread;
        self.n_spread += other.n_spread;
    }
}

/// Whether the candidate's value is what rounding the reference's to its dtype gives (or equals it).
fn rounds_to(value: f32, found: f32, dtype: DType) -> bool {
    value.to_bits() == found.to_bits() || dtype.round(value).to_bits() == found.to_bits()
}

/// Above this share of the candidate's bound, the reference's own rounding is no excuse: a change of
/// less than its step could hide in it.
const FINER: f32 = 0.25;

/// How far the candidate's values may lie from those of the reference if they are their rounding;
/// `None` where the candidate is not block-quantized or its scheme states no bound.
fn bounds(a: &Tensor, b: &Tensor, range: Range<usize>) -> Result<Option<Vec<f32>>, TensorError> {
    let Some(mut bounds) = b.read_rounding_bounds(range.clone())? else {
        return Ok(None);
    };
    // Two quantizations of one original differ by the sum of what each of them lost.
    if let Some(finer) = a.read_rounding_bounds(range)? {
        for (bound, finer) in bounds.iter_mut().zip(finer) {
            *bound += if finer <= FINER * *bound { finer } else { 0.0 };
        }
    }
    Ok(Some(bounds))
}

/// What rounding loses fills the bounds: |difference| ÷ bound is ½ in the mean. Training that stays within
/// the bounds of every value does not: a Gaussian change does so for 10⁵ values only below 0.18.
const FILLS_THE_BOUNDS: f64 = 0.35;

/// Elements of a range that are equal, and those that are equal after rounding either of the two.
fn equal_values(a: &Tensor, b: &Tensor, range: Range<usize>) -> Result<Values, TensorError> {
    let (x, y) = (
        a.read_elements(range.clone())?,
        b.read_elements(range.clone())?,
    );
    let forward = bounds(a, b, range.clone())?;
    let backward = match b.dtype() {
        DType::Block(_) => None,
        _ => a.read_rounding_bounds(range)?,
    };
    let mut values = Values::default();
    for (i, (&p, &q)) in x.iter().zip(&y).enumerate() {
        let equal = p.to_bits() == q.to_bits();
        let difference = (p - q).abs();
        values.n_equal += u64::from(equal);
        values.n_rounded += u64::from(match &forward {
            Some(bounds) => equal || difference <= bounds[i],
            None => rounds_to(p, q, b.dtype()),
        });
        values.n_reversed += u64::from(match &backward {
            Some(bounds) => equal || difference <= bounds[i],
            None => rounds_to(q, p, a.dtype()),
        });
        // Blocks of zeros lose nothing when they are rounded.
        if let Some(bounds) = &backward
            && (p != 0.0 || q != 0.0)
        {
            values.spread += f64::from(difference / bounds[i]);
            values.n_spread += 1;
        }
    }
    Ok(values)
}

/// `n` values whose bytes are equal.
fn same(n: u64) -> Values {
    Values {
        n_equal: n,
        n_rounded: n,
        n_reversed: n,
        ..Values::default()
    }
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
                values.add(same(len));
                continue;
            }
            let width = dtype.size_bytes();
            let n_same = x
                .chunks(width)
                .zip(y.chunks(width))
                .filter(|(p, q)| p == q)
                .count()
                * dtype.block_elements();
            values.add(same(n_same as u64));
        } else {
            values.add(equal_values(a, b, start..end)?);
        }
    }
    let fills_the_bounds = values.spread >= FILLS_THE_BOUNDS * values.n_spread as f64;
    let is_change = values.n_equal < n as u64 && !fills_the_bounds;
    counts.n_equal_rounded += values.n_rounded;
    counts.n_equal_reversed += if is_change {
        values.n_equal
    } else {
        values.n_reversed
    };
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
        let found = equal_values(a, b, start..start + 256)?;
        equal += found.n_rounded.max(found.n_reversed);
    }
    Ok(equal >= 24)
}

/// What a reader should know of block-quantized tensors of the candidate.
fn quantized(n_by_scheme: &BTreeMap<&str, (u64, bool)>) -> Vec<Observation> {
    n_by_scheme
        .iter()
        .map(|(scheme, (n, has_bounds))| {
            let what = format!("{n} tensors of the candidate are stored as {scheme}");
            let (code, message) = if *has_bounds {
                (
                    "block-quantized",
                    format!(
                        "{what}; a value counts as rounding of the reference's if it lies within half \
                         a step of its block's codes and what the rounding of the scale adds."
                    ),
                )
            } else {
                (
                    "block-quantized-without-bound",
                    format!(
                        "{what}, whose codes stand for several values at once: how far rounding moves a \
                         value is not bounded, so that rounding cannot be told from a change."
                    ),
                )
            };
            Observation {
                code: code.to_owned(),
                message,
                file: None,
            }
        })
        .collect()
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
        record = record.with_detail(Detail::Observations(quantized(&by_scheme)));
    }
    Ok(match n_skipped {
        0 => record,
        n => record.with_reason(format!(
            "{n} large tensors whose samples of 768 values share fewer than 24 were not read whole \
             and count as different"
        )),
    })
}

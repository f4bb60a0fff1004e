//! `tensor-identity`: which bytes of the reference stand unchanged in the candidate?
//!
//! Corresponding tensors are compared byte by byte; where dtypes differ, values are compared after a
//! cast to the coarser of the two, which tells a lossless cast and plain rounding from training. Of a
//! block-quantized tensor a value counts as rounded if it lies within the bound that its own block
//! states: half a step, and the rounding of the scale (`rounding.rs`).
//!
//! Where one model stores in one tensor what the other stores in several (fused projections), the
//! matrices of equal role are compared instead.
//!
//! A large tensor is first compared in evenly spread chunks. Where they differ it is not the same
//! tensor, and its fractions are estimated from them: from two million values, to a thousandth for
//! changes all over the tensor, to a few hundredths for changes in some rows. Where they do not
//! differ it is read whole, so that "equal" is never an estimate.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, TestRecord};
use super::rounding::{self, Values};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::{Component, Role};
use crate::tensor::{Matrix, Tensor, TensorError};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

static SPEC: TestSpec = TestSpec {
    id: "tensor-identity",
    title: "Tensor identity",
    question: "How much of the candidate is bit for bit the reference, whatever its tensors are called?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "renaming, re-sharding, fused or split projections, lossless casts; rounding to a coarser dtype or to block-quantized codes is recognised",
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

/// Elements compared at a time where rows of one matrix are columns of the other's.
const TRANSPOSED_CHUNK: usize = 1 << 21;

/// Chunks of a large tensor that are compared first.
const N_SPREAD: usize = 64;

/// Counts over corresponding tensors. Whole numbers until a tensor is estimated.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    n_elements: f64,
    n_equal: f64,
    n_bytes: f64,
    n_equal_bytes: f64,
    n_tensors: u64,
    n_equal_tensors: u64,
    n_equal_rounded: f64,
    n_equal_reversed: f64,
    n_perhaps_rounded: f64,
    n_perhaps_reversed: f64,
    n_estimated: u64,
}

/// What some elements of a tensor came to.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    values: Values,
    /// Elements of chunks that are equal as a whole.
    n_in_equal_chunks: u64,
}

impl Seen {
    /// Whether one of the two can still be a copy of the other, or its rounding.
    fn may_be_whole(&self) -> bool {
        let n = self.values.n();
        self.values.n_rounded() == n || self.values.n_reversed() == n
    }
}

/// Compares elements from `start` on, one chunk of them, which holds whole blocks.
fn chunk(a: &Tensor, b: &Tensor, start: usize) -> Result<Seen, TensorError> {
    let end = a.n_elements().min(start + CHUNK);
    let mut seen = Seen::default();
    if a.dtype() != b.dtype() || !b.parts().is_empty() {
        seen.values = rounding::compare(a, b, start..end)?;
        return Ok(seen);
    }
    let n = (end - start) as u64;
    let dtype = b.dtype();
    let range = dtype.bytes_of(start..end);
    let (x, y) = (a.read_bytes(range.clone())?, b.read_bytes(range)?);
    if x == y {
        seen.values = Values::same(n, n);
        seen.n_in_equal_chunks = n;
    } else {
        let width = dtype.size_bytes();
        let same = x.chunks(width).zip(y.chunks(width)).filter(|(p, q)| p == q);
        let n_same = same.count() * dtype.block_elements();
        seen.values = Values::same(n_same as u64, n);
    }
    Ok(seen)
}

/// Compares chunks that begin at the given elements; added up in their order, whatever the threads.
fn chunks(a: &Tensor, b: &Tensor, starts: &[usize]) -> Result<Seen, TensorError> {
    let each: Vec<Seen> = starts
        .par_iter()
        .map(|&start| chunk(a, b, start))
        .collect::<Result<_, _>>()?;
    Ok(each.into_iter().fold(Seen::default(), |mut sum, seen| {
        sum.values.add(seen.values);
        sum.n_in_equal_chunks += seen.n_in_equal_chunks;
        sum
    }))
}

/// Whether two coded tensors are stored alike: the same parts with the same bytes.
fn stored_alike(a: &Tensor, b: &Tensor) -> Result<bool, TensorError> {
    let alike = a.is_coded_like(b);
    let (a, b) = (a.parts(), b.parts());
    if !alike || a.is_empty() || a.len() != b.len() {
        return Ok(false);
    }
    for (x, y) in a.iter().zip(b) {
        let same = x.kind == y.kind && x.tensor.dtype() == y.tensor.dtype();
        if !same || x.tensor.shape() != y.tensor.shape() {
            return Ok(false);
        }
        let (x, y) = (&x.tensor, &y.tensor);
        // The base of an adapter may be quantized itself.
        if !x.parts().is_empty() || !y.parts().is_empty() {
            if stored_alike(x, y)? {
                continue;
            }
            return Ok(false);
        }
        for start in (0..x.size_bytes()).step_by(CHUNK) {
            let range = start..x.size_bytes().min(start + CHUNK as u64);
            if x.read_bytes(range.clone())? != y.read_bytes(range)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Compares two tensors of equal shape.
fn compare(a: &Tensor, b: &Tensor, counts: &mut Counts) -> Result<(), TensorError> {
    let n = a.n_elements();
    if stored_alike(a, b)? {
        let (n, n_bytes) = (n as f64, b.size_bytes() as f64);
        counts.n_elements += n;
        counts.n_bytes += n_bytes;
        counts.n_equal += n;
        counts.n_equal_rounded += n;
        counts.n_equal_reversed += n;
        counts.n_perhaps_rounded += n;
        counts.n_perhaps_reversed += n;
        counts.n_equal_bytes += n_bytes;
        counts.n_tensors += 1;
        counts.n_equal_tensors += 1;
        return Ok(());
    }
    let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
    let n_chunks = starts.len();
    let spread: Vec<usize> = match n_chunks > N_SPREAD {
        true => (0..N_SPREAD)
            .map(|i| starts[i * (n_chunks - 1) / (N_SPREAD - 1)])
            .collect(),
        false => Vec::new(),
    };
    // Nothing speaks against a tensor of which nothing was seen: a small one is read whole.
    let mut seen = chunks(a, b, &spread)?;
    if seen.may_be_whole() {
        seen = chunks(a, b, &starts)?;
    } else {
        counts.n_estimated += 1;
    }
    let n = n as f64;
    let share = |count: u64| count as f64 / seen.values.n().max(1) as f64;
    let n_bytes = b.size_bytes() as f64;
    counts.n_elements += n;
    counts.n_bytes += n_bytes;
    counts.n_equal += n * share(seen.values.n_equal);
    counts.n_equal_rounded += n * share(seen.values.n_rounded());
    counts.n_equal_reversed += n * share(seen.values.n_reversed());
    counts.n_perhaps_rounded += n * share(seen.values.n_perhaps_rounded(false));
    counts.n_perhaps_reversed += n * share(seen.values.n_perhaps_rounded(true));
    counts.n_equal_bytes += n_bytes * share(seen.n_in_equal_chunks);
    counts.n_tensors += 1;
    counts.n_equal_tensors += u64::from(seen.values.n_equal == seen.values.n());
    Ok(())
}

/// Compares the values of two matrices of one role, which other layouts store in other tensors.
fn compare_role(a: &Matrix, b: &Matrix, counts: &mut Counts) -> Result<(), TensorError> {
    let (n_rows, n_cols) = (a.n_rows(), a.n_cols());
    let mut values = Values::default();
    let at_once = match a.is_transposed() || b.is_transposed() {
        true => TRANSPOSED_CHUNK,
        false => CHUNK,
    };
    let step = (at_once / n_cols.max(1)).max(1);
    for start in (0..n_rows).step_by(step) {
        values.add(rounding::compare_rows(
            a,
            b,
            start..n_rows.min(start + step),
        )?);
    }
    let n = values.n() as f64;
    counts.n_elements += n;
    // Their bytes lie elsewhere: none of them counts as equal in place.
    counts.n_bytes += n * b.tensor().size_bytes() as f64 / b.tensor().n_elements() as f64;
    counts.n_equal += values.n_equal as f64;
    counts.n_equal_rounded += values.n_rounded() as f64;
    counts.n_equal_reversed += values.n_reversed() as f64;
    counts.n_perhaps_rounded += values.n_perhaps_rounded(false) as f64;
    counts.n_perhaps_reversed += values.n_perhaps_rounded(true) as f64;
    Ok(())
}

/// Names of the tensors of a side that were compared: paired, or cut into roles all of which were.
fn n_covered(component: &Component, paired: &HashSet<&str>, roles: &HashSet<Role>) -> usize {
    let mut open: HashSet<&str> = HashSet::new();
    let mut cut: HashSet<&str> = HashSet::new();
    for (role, matrix) in &component.roles {
        let name = matrix.tensor().name();
        if roles.contains(role) {
            cut.insert(name);
        } else {
            open.insert(name);
        }
    }
    let covered =
        |name: &str| paired.contains(name) || (cut.contains(name) && !open.contains(name));
    let tensors = component.tensors.iter();
    tensors.filter(|t| covered(t.name())).count()
}

/// Roles of each tensor that has any.
fn roles_by_tensor(component: &Component) -> HashMap<&str, Vec<Role>> {
    let mut roles: HashMap<&str, Vec<Role>> = HashMap::new();
    for (role, matrix) in &component.roles {
        roles.entry(matrix.tensor().name()).or_default().push(*role);
    }
    roles
}

/// Whether two tensors of equal shape can be compared as they are: where both have roles, these must
/// be the same in the same layout. A square matrix that is stored transposed has not.
fn agree(pair: &ComponentPair, roles: [Option<&Vec<Role>>; 2]) -> bool {
    let [Some(of_a), Some(of_b)] = roles else {
        return true;
    };
    let same = |role: &Role| match (pair.reference.role(*role), pair.candidate.role(*role)) {
        (Some(x), Some(y)) => x.has_layout_of(y),
        _ => false,
    };
    of_a == of_b && of_a.iter().all(same)
}

/// Compares the roles whose tensors have no counterpart of their shape (fused or split projections)
/// or layout. `paired`: names of the tensors that were compared as they are, on each side. Returns
/// the smaller of the fractions of tensors that were compared in all.
fn compare_roles(
    pair: &ComponentPair,
    paired: &[HashSet<&str>; 2],
    counts: &mut Counts,
) -> Result<f64, TensorError> {
    let (a, b) = (&pair.reference, &pair.candidate);
    let mut roles = HashSet::new();
    for (role, x, y) in pair.common_roles() {
        let (name_x, name_y) = (x.tensor().name(), y.tensor().name());
        if !paired[0].contains(name_x) && !paired[1].contains(name_y) {
            compare_role(x, y, counts)?;
            roles.insert(role);
        }
    }
    let share = |component: &Component, paired: &HashSet<&str>| {
        let n = component.tensors.len() + component.n_left_out;
        n_covered(component, paired, &roles) as f64 / n.max(1) as f64
    };
    Ok(share(a, &paired[0]).min(share(b, &paired[1])))
}

fn run(pair: &ComponentPair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut counts = Counts::default();
    let mut by_scheme: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    let roles = [&pair.reference, &pair.candidate].map(roles_by_tensor);
    let mut paired = [HashSet::new(), HashSet::new()];
    for found in &pair.correspondence.pairs {
        let a = &pair.reference.tensors[found.reference];
        let b = &pair.candidate.tensors[found.candidate];
        if b.dtype().is_quantized() && a.dtype() != b.dtype() {
            let has_bounds = b.read_rounding_bounds(0..0)?.is_some();
            let scheme = b.dtype().name();
            by_scheme.entry(scheme).or_insert((0, has_bounds)).0 += 1;
        }
        if !agree(pair, [roles[0].get(a.name()), roles[1].get(b.name())]) {
            continue;
        }
        compare(a, b, &mut counts)?;
        paired[0].insert(a.name());
        paired[1].insert(b.name());
    }
    let fraction_compared = compare_roles(pair, &paired, &mut counts)?;
    if counts.n_elements == 0.0 {
        let reason = "no tensor of the candidate has the shape of one of the reference";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let share = |n: f64| n / counts.n_elements;
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
            "fraction-values-perhaps-rounded",
            share(counts.n_perhaps_rounded),
        )
        .with_effect(
            "fraction-values-perhaps-rounded-reversed",
            share(counts.n_perhaps_reversed),
        )
        .with_effect(
            "fraction-chunk-bytes-equal",
            counts.n_equal_bytes / counts.n_bytes,
        )
        .with_effect("n-tensors-equal", counts.n_equal_tensors as f64)
        .with_effect("fraction-tensors-compared", fraction_compared);
    if !by_scheme.is_empty() {
        record = record.with_detail(Detail::Observations(rounding::observations(&by_scheme)));
    }
    Ok(match counts.n_estimated {
        0 => record,
        n => record.with_detail(Detail::Selection(format!(
            "{n} tensors of more than {} values differ in some of {N_SPREAD} evenly spread chunks of \
             {CHUNK} values; their fractions are estimated from these chunks",
            N_SPREAD * CHUNK
        ))),
    })
}

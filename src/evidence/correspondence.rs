//! Which tensor of the candidate is which of the reference, without trusting names.
//!
//! Tensors of one shape form a group; within it the exact assignment by content decides. What content
//! leaves open is settled by the spectrum of row norms (which survives permutation and rotation of
//! the residual stream), by equal names, and last by order; each pair says which.

use super::context::EvidenceError;
use crate::arch::Component;
use crate::fingerprint::sketch;
use crate::stats;
use crate::tensor::{RowRuns, Tensor};
use ndarray::Array2;
use std::collections::{BTreeMap, HashMap};

/// Above this many tensors of one shape a dense assignment would not pay; names and order decide.
const MAX_GROUP: usize = 2048;

/// How a pair was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The values agree far beyond chance.
    Content,
    /// What they say to the shared tokens agrees; see [`super::token_profile`].
    TokenProfile,
    /// Equal names and shapes.
    Name,
    /// The only remaining pair with the closest distribution of row norms.
    Spectrum,
    /// The same place in the order of the files.
    Order,
}

impl Basis {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Content => "content",
            Basis::TokenProfile => "token-profile",
            Basis::Name => "name",
            Basis::Spectrum => "spectrum",
            Basis::Order => "order",
        }
    }
}

/// A pair of corresponding tensors: indices into the two components' tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorPair {
    /// Index in the reference component.
    pub reference: usize,
    /// Index in the candidate component.
    pub candidate: usize,
    /// How it was found.
    pub basis: Basis,
    /// Correlation of the sampled values; `None` where one of them is constant.
    pub correlation: Option<f64>,
}

/// All pairs of two components, and what found no counterpart.
#[derive(Debug, Clone, Default)]
pub struct Correspondence {
    /// The pairs, in the reference's order.
    pub pairs: Vec<TensorPair>,
    /// Reference tensors without a counterpart.
    pub only_reference: usize,
    /// Candidate tensors without a counterpart.
    pub only_candidate: usize,
}

/// Correlation that chance does not reach among a few thousand tensors: five standard deviations of
/// the sampled correlation, and never less than 0.2.
fn content_threshold(tensor: &Tensor) -> f64 {
    let sampled = tensor.n_elements().min(1024) as f64;
    (5.0 / sampled.sqrt()).max(0.2)
}

/// Correlations of all pairs within a group: `[n_a, n_b]`, 0 where a tensor is constant.
fn correlations(a: &[Option<Vec<f32>>], b: &[Option<Vec<f32>>]) -> Array2<f32> {
    Array2::from_shape_fn((a.len(), b.len()), |(i, j)| match (&a[i], &b[j]) {
        (Some(x), Some(y)) => x.iter().zip(y).map(|(x, y)| x * y).sum(),
        _ => 0.0,
    })
}

fn assign(similarity: &Array2<f32>) -> Result<Vec<(usize, usize)>, EvidenceError> {
    let flipped = similarity.nrows() > similarity.ncols();
    let view = if flipped {
        similarity.t()
    } else {
        similarity.view()
    };
    let found = stats::assign_max(view)
        .map_err(|e| EvidenceError::Numerical(e.to_string()))?
        .row_to_col;
    Ok(found
        .into_iter()
        .enumerate()
        .map(|(row, col)| if flipped { (col, row) } else { (row, col) })
        .collect())
}

/// Pairs within one group of equal shape.
fn group(
    a: (&[Tensor], &[usize]),
    b: (&[Tensor], &[usize]),
    by_profile: &[(usize, usize)],
) -> Result<Vec<TensorPair>, EvidenceError> {
    let mut pairs = Vec::new();
    let (mut open_a, mut open_b) = (a.1.to_vec(), b.1.to_vec());
    let small = open_a.len().max(open_b.len()) <= MAX_GROUP;
    let mut correlation: HashMap<(usize, usize), f64> = HashMap::new();
    if small {
        let sketches = |tensors: &[Tensor], of: &[usize]| -> Result<Vec<_>, EvidenceError> {
            of.iter()
                .map(|&i| Ok(sketch::values(&tensors[i])?))
                .collect()
        };
        let similarity = correlations(&sketches(a.0, &open_a)?, &sketches(b.0, &open_b)?);
        for ((i, j), &value) in similarity.indexed_iter() {
            correlation.insert((open_a[i], open_b[j]), f64::from(value));
        }
        let threshold = content_threshold(&a.0[open_a[0]]);
        let mut found = Vec::new();
        for (i, j) in assign(&similarity)? {
            if f64::from(similarity[(i, j)]) >= threshold {
                found.push((open_a[i], open_b[j], Basis::Content));
            }
        }
        take(&mut pairs, &mut open_a, &mut open_b, found, &correlation);
    }
    let found = by_profile
        .iter()
        .filter(|(i, j)| open_a.contains(i) && open_b.contains(j))
        .map(|&(i, j)| (i, j, Basis::TokenProfile))
        .collect();
    take(&mut pairs, &mut open_a, &mut open_b, found, &correlation);
    let names: HashMap<&str, usize> = open_b.iter().map(|&j| (b.0[j].name(), j)).collect();
    let found: Vec<_> = open_a
        .iter()
        .filter_map(|&i| Some((i, *names.get(a.0[i].name())?, Basis::Name)))
        .collect();
    take(&mut pairs, &mut open_a, &mut open_b, found, &correlation);
    if small && open_a.len() > 1 && !open_b.is_empty() && a.0[open_a[0]].shape().len() >= 2 {
        let found = by_spectrum((a.0, &open_a), (b.0, &open_b))?;
        take(&mut pairs, &mut open_a, &mut open_b, found, &correlation);
    }
    let found: Vec<_> = open_a
        .iter()
        .zip(&open_b)
        .map(|(&i, &j)| (i, j, Basis::Order))
        .collect();
    take(&mut pairs, &mut open_a, &mut open_b, found, &correlation);
    Ok(pairs)
}

/// Assigns by the distance of row-norm quantiles, relative to their size.
fn by_spectrum(
    a: (&[Tensor], &[usize]),
    b: (&[Tensor], &[usize]),
) -> Result<Vec<(usize, usize, Basis)>, EvidenceError> {
    let spectra = |(tensors, of): (&[Tensor], &[usize])| -> Result<Vec<Vec<f64>>, EvidenceError> {
        of.iter()
            .map(|&i| Ok(sketch::spectrum(&tensors[i])?))
            .collect()
    };
    let (x, y) = (spectra(a)?, spectra(b)?);
    let similarity = Array2::from_shape_fn((x.len(), y.len()), |(i, j)| {
        let distance: f64 = x[i].iter().zip(&y[j]).map(|(p, q)| (p - q).abs()).sum();
        let size: f64 = x[i].iter().zip(&y[j]).map(|(p, q)| p.abs() + q.abs()).sum();
        if size > 0.0 {
            -(distance / size) as f32
        } else {
            0.0
        }
    });
    Ok(assign(&similarity)?
        .into_iter()
        .map(|(i, j)| (a.1[i], b.1[j], Basis::Spectrum))
        .collect())
}

/// Moves found pairs from the open lists to the result.
fn take(
    pairs: &mut Vec<TensorPair>,
    open_a: &mut Vec<usize>,
    open_b: &mut Vec<usize>,
    found: Vec<(usize, usize, Basis)>,
    correlation: &HashMap<(usize, usize), f64>,
) {
    for (i, j, basis) in found {
        open_a.retain(|&open| open != i);
        open_b.retain(|&open| open != j);
        let correlation = correlation.get(&(i, j)).copied();
        pairs.push(TensorPair {
            reference: i,
            candidate: j,
            basis,
            correlation,
        });
    }
}

/// Finds the correspondence of two components. `by_profile`: pairs (reference, candidate) that the
/// token profile found, for tensors whose content does not show them.
///
/// # Errors
/// When a sampled tensor cannot be read or is not finite.
pub fn find(
    reference: &Component,
    candidate: &Component,
    by_profile: &[(usize, usize)],
) -> Result<Correspondence, EvidenceError> {
    // Parts correspond where their wholes have one shape and the rows are the same.
    let by_shape = |tensors: &[Tensor]| {
        let mut groups: BTreeMap<(Vec<usize>, Option<RowRuns>), Vec<usize>> = BTreeMap::new();
        for (index, tensor) in tensors
            .iter()
            .enumerate()
            .filter(|(_, t)| t.n_elements() > 0)
        {
            let key = match tensor.whole() {
                Some((whole, rows)) => (whole.shape().to_vec(), Some(rows.clone())),
                None => (tensor.shape().to_vec(), None),
            };
            groups.entry(key).or_default().push(index);
        }
        groups
    };
    let (groups_a, groups_b) = (by_shape(&reference.tensors), by_shape(&candidate.tensors));
    let mut pairs = Vec::new();
    for (shape, of_a) in &groups_a {
        if let Some(of_b) = groups_b.get(shape) {
            pairs.extend(group(
                (&reference.tensors, of_a),
                (&candidate.tensors, of_b),
                by_profile,
            )?);
        }
    }
    pairs.sort_by_key(|pair| pair.reference);
    Ok(Correspondence {
        only_reference: reference.tensors.len() - pairs.len(),
        only_candidate: candidate.tensors.len() - pairs.len(),
        pairs,
    })
}

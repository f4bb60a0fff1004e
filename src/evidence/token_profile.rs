//! Which tensor of a component without names is which, going by what it says to the shared tokens.
//!
//! The energy that a matrix gives to a token's embedding, ‖W·diag(γ)·e_t‖², changes neither with the
//! order of its rows nor with a rotation of the residual stream. Over many tokens it is a profile by
//! which gate, up, q, k, v of each layer are recognised; output rows take the place of embeddings for
//! matrices that write. The embedding itself is recognised by the norms of its rows.
//!
//! Used to find roles only. The profile does not look at single units, so that which unit goes with
//! which stays as unknown as it was: tests of units may follow without correction.

use super::context::{EvidenceError, Settings};
use super::tokens::{self, SharedTokens};
use crate::arch::{Component, Model, Part, Role, RoleKind};
use crate::fingerprint::lens::Lens;
use crate::fingerprint::{folded, product};
use crate::stats;
use crate::tensor::{Matrix, Tensor, TensorError};
use ndarray::{Array2, Axis};
use std::collections::BTreeMap;

/// Tokens in a profile.
const MAX_TOKENS: usize = 256;
/// Units of a matrix that speak in its profile.
const MAX_UNITS: usize = 1024;
/// Profiles that correlate less than this are not taken for the same tensor's.
const MIN_CORRELATION: f64 = 0.5;
/// From this many tensors of one shape on, what all of them say is subtracted.
const MIN_TO_CENTRE: usize = 3;

/// Centred and scaled to unit length; `None` where constant.
type Profile = Option<Vec<f64>>;

fn centred(values: &[f64]) -> Profile {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let norm = values
        .iter()
        .map(|x| (x - mean).powi(2))
        .sum::<f64>()
        .sqrt();
    (norm > 1e-9).then(|| values.iter().map(|x| (x - mean) / norm).collect())
}

/// ln of the sum of squares of each column.
fn ln_energy(columns: &Array2<f32>) -> Vec<f64> {
    columns
        .columns()
        .into_iter()
        .map(|c| {
            let energy: f64 = c.iter().map(|&x| f64::from(x).powi(2)).sum();
            energy.max(f64::MIN_POSITIVE).ln()
        })
        .collect()
}

fn correlation(a: &Profile, b: &Profile) -> f32 {
    match (a, b) {
        (Some(a), Some(b)) => a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() as f32,
        _ => 0.0,
    }
}

/// Up to `MAX_UNITS` of `n`, evenly spread.
fn spread(n: usize) -> Vec<usize> {
    let k = n.min(MAX_UNITS);
    (0..k).map(|i| i * n / k).collect()
}

/// Whether the profile of a role looks through the output rows.
fn writes(kind: RoleKind) -> bool {
    matches!(
        kind,
        RoleKind::AttentionOutput | RoleKind::Down | RoleKind::SharedDown
    )
}

/// What the rows of a view say to the tokens: `W Xᵀ` for readers, `Wᵀ Xᵀ` for writers.
fn profile(
    view: &Matrix,
    writes: bool,
    lens: &Lens,
    fold: impl Fn(&mut Array2<f32>),
) -> Result<Vec<f64>, TensorError> {
    let (rows, tokens) = if writes {
        let view = view.clone().transposed();
        (view.gather(&spread(view.n_rows()))?, &lens.outputs)
    } else {
        let mut rows = view.gather(&spread(view.n_rows()))?;
        fold(&mut rows);
        (rows, &lens.embeddings)
    };
    Ok(ln_energy(&product::rows_by_rows(
        rows.view(),
        tokens.view(),
    )))
}

/// Norms of the rows of the given tokens, as a profile.
fn row_norms(matrix: &Matrix, rows: &[usize]) -> Result<Profile, TensorError> {
    let norms = ln_energy(&matrix.gather(rows)?.reversed_axes());
    Ok(centred(&norms))
}

/// A tensor of the named component with its first role.
struct Known<'a> {
    tensor: usize,
    role: Role,
    matrix: &'a Matrix,
}

/// The weight matrices in the layers of a component, one entry a tensor.
fn known(component: &Component) -> Vec<Known<'_>> {
    let mut found: BTreeMap<usize, Known<'_>> = BTreeMap::new();
    for (role, matrix) in &component.roles {
        if role.layer.is_none() || role.part != Part::Weight || role.kind.is_norm() {
            continue;
        }
        // Latents are neither read nor written by tokens.
        let width = if writes(role.kind) {
            matrix.n_rows()
        } else {
            matrix.n_cols()
        };
        if component.hidden_size.is_some_and(|d| d != width) {
            continue;
        }
        let name = matrix.tensor().name();
        if let Some(tensor) = component.tensors.iter().position(|t| t.name() == name) {
            found.entry(tensor).or_insert(Known {
                tensor,
                role: *role,
                matrix,
            });
        }
    }
    found.into_values().collect()
}

/// Embedding and output head of the nameless component: its tallest matrices, told apart by the norms
/// of their rows. Returns their indices.
fn outer_tensors(
    named: &Component,
    nameless: &Component,
    tokens: (&[usize], &[usize]),
    tall: &[usize],
) -> Result<Option<(usize, usize)>, TensorError> {
    let Some(embedding) = named.role(Role::outside(RoleKind::TokenEmbedding)) else {
        return Ok(None);
    };
    let wanted = row_norms(embedding, tokens.0)?;
    let mut best: Option<(usize, f32)> = None;
    for &index in tall {
        let matrix = Matrix::new(nameless.tensors[index].clone())?;
        let likeness = correlation(&wanted, &row_norms(&matrix, tokens.1)?);
        if best.is_none_or(|(_, kept)| likeness > kept) {
            best = Some((index, likeness));
        }
    }
    let Some((embedding, likeness)) = best else {
        return Ok(None);
    };
    if f64::from(likeness) < MIN_CORRELATION {
        return Ok(None);
    }
    let head = tall
        .iter()
        .copied()
        .find(|&index| index != embedding)
        .unwrap_or(embedding);
    Ok(Some((embedding, head)))
}

/// Pairs (tensor of the named component, tensor of the nameless one) that the profiles recognise.
///
/// # Errors
/// When a weight cannot be read or is not finite.
pub(super) fn pairs(
    (named_model, named): (&Model, &Component),
    (nameless_model, nameless): (&Model, &Component),
    settings: &Settings,
) -> Result<Vec<(usize, usize)>, EvidenceError> {
    let Some(stored) = named.role(Role::outside(RoleKind::TokenEmbedding)) else {
        return Ok(Vec::new());
    };
    let is_matrix = |t: &Tensor| t.shape().len() == 2 && t.dtype().is_float() && t.n_elements() > 0;
    let tallest = nameless
        .tensors
        .iter()
        .filter(|t| is_matrix(t))
        .map(|t| t.shape()[0]);
    let Some(tallest) = tallest.max() else {
        return Ok(Vec::new());
    };
    let tall: Vec<usize> = (0..nameless.tensors.len())
        .filter(|&i| is_matrix(&nameless.tensors[i]) && nameless.tensors[i].shape()[0] == tallest)
        .collect();
    let shared = tokens::among_rows(
        (named_model, stored.n_rows()),
        (nameless_model, tallest),
        settings,
    );
    let SharedTokens::Shared {
        reference,
        candidate,
        ..
    } = shared
    else {
        return Ok(Vec::new());
    };
    let n = reference.len().min(MAX_TOKENS);
    let ids = (&reference[..n], &candidate[..n]);
    let (Some((embedding, head)), Some(named_lens)) = (
        outer_tensors(named, nameless, ids, &tall)?,
        Lens::read(named, ids.0)?,
    ) else {
        return Ok(Vec::new());
    };
    let rows = |index: usize| -> Result<Array2<f32>, TensorError> {
        Matrix::new(nameless.tensors[index].clone())?.gather(ids.1)
    };
    let nameless_lens = Lens::of_rows(rows(embedding)?, rows(head)?, named.norm);
    let mut found = outer_pairs(named, embedding, head);
    found.extend(layer_pairs(
        (named, &named_lens),
        (nameless, &nameless_lens),
        &[embedding, head],
    )?);
    Ok(found)
}

/// The pairs of embedding and output head.
fn outer_pairs(named: &Component, embedding: usize, head: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (kind, nameless) in [
        (RoleKind::TokenEmbedding, embedding),
        (RoleKind::OutputHead, head),
    ] {
        let name = named.role(Role::outside(kind)).map(|m| m.tensor().name());
        let index = name.and_then(|name| named.tensors.iter().position(|t| t.name() == name));
        if let Some(index) = index.filter(|_| found.is_empty() || embedding != head) {
            found.push((index, nameless));
        }
    }
    found
}

/// The pairs of matrices in the layers, group by group of equal shape.
fn layer_pairs(
    (named, named_lens): (&Component, &Lens),
    (nameless, nameless_lens): (&Component, &Lens),
    taken: &[usize],
) -> Result<Vec<(usize, usize)>, EvidenceError> {
    let mut groups: BTreeMap<Vec<usize>, Vec<Known<'_>>> = BTreeMap::new();
    for known in known(named) {
        let shape = named.tensors[known.tensor].shape().to_vec();
        groups.entry(shape).or_default().push(known);
    }
    let mut found = Vec::new();
    for (shape, group) in groups {
        let candidates: Vec<usize> = (0..nameless.tensors.len())
            .filter(|i| nameless.tensors[*i].shape() == shape && !taken.contains(i))
            .collect();
        if candidates.is_empty() {
            continue;
        }
        let mut similarity = Array2::<f32>::zeros((group.len(), candidates.len()));
        // A square matrix may read or write: each is compared with its like.
        for writing in [false, true] {
            let of_kind: Vec<usize> = (0..group.len())
                .filter(|&i| writes(group[i].role.kind) == writing)
                .collect();
            if of_kind.is_empty() {
                continue;
            }
            let mut ours = Vec::new();
            for &i in &of_kind {
                let known = &group[i];
                let gains = folded::gains(named, known.role.layer, known.role.kind)?;
                ours.push(profile(known.matrix, writing, named_lens, |rows| {
                    folded::fold(rows, gains.as_ref(), named.norm);
                })?);
            }
            let mut theirs = Vec::new();
            for &j in &candidates {
                let tensor = nameless.tensors[j].clone();
                let Some(view) = group[of_kind[0]].matrix.same_view_of(tensor)? else {
                    continue;
                };
                theirs.push(profile(&view, writing, nameless_lens, |rows| {
                    folded::fold(rows, None, named.norm);
                })?);
            }
            let (ours, theirs) = (distinctive(&ours), distinctive(&theirs));
            for (&i, our) in of_kind.iter().zip(&ours) {
                for (j, their) in theirs.iter().enumerate() {
                    similarity[(i, j)] = correlation(our, their);
                }
            }
        }
        let matched = assign(&similarity)?.into_iter();
        let alike = matched.filter(|&(i, j)| f64::from(similarity[(i, j)]) >= MIN_CORRELATION);
        found.extend(alike.map(|(i, j)| (group[i].tensor, candidates[j])));
    }
    Ok(found)
}

/// Profiles without what all of them have in common.
fn distinctive(profiles: &[Vec<f64>]) -> Vec<Profile> {
    let Some(n_tokens) = profiles.first().map(Vec::len) else {
        return Vec::new();
    };
    let mut common = vec![0.0; n_tokens];
    if profiles.len() >= MIN_TO_CENTRE {
        for profile in profiles {
            for (sum, x) in common.iter_mut().zip(profile) {
                *sum += x / profiles.len() as f64;
            }
        }
    }
    profiles
        .iter()
        .map(|profile| {
            let rest: Vec<f64> = profile.iter().zip(&common).map(|(x, c)| x - c).collect();
            centred(&rest)
        })
        .collect()
}

fn assign(similarity: &Array2<f32>) -> Result<Vec<(usize, usize)>, EvidenceError> {
    let flipped = similarity.len_of(Axis(0)) > similarity.len_of(Axis(1));
    let view = if flipped {
        similarity.t()
    } else {
        similarity.view()
    };
    let matched = stats::assign_max(view)
        .map_err(|e| EvidenceError::Numerical(e.to_string()))?
        .row_to_col;
    Ok(matched
        .into_iter()
        .enumerate()
        .map(|(row, col)| if flipped { (col, row) } else { (row, col) })
        .collect())
}

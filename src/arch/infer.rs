//! Roles from shapes, counts and order, for stacks whose names no family knows.
//!
//! What shapes leave open (which of two equal shapes is the gate, which of four squares the query)
//! is settled by hints in the names, else by order in the file, and the basis says so. Evidence
//! tests that depend on such a choice try both readings and pay for it in multiplicity.

use super::ArchError;
use super::component::{Component, ComponentKind, Norm, RoleBasis};
use super::role::{Part, Role, RoleKind};
use super::split::{Member, Stack};
use crate::tensor::{Matrix, Tensor};
use std::collections::BTreeMap;

/// Substrings that hint at a role, the more specific first.
const HINTS: &[(&[&str], RoleKind)] = &[
    (&["gate", "w1"], RoleKind::Gate),
    (
        &["up", "w3", "fc1", "fc_in", "c_fc", "h_to_4h"],
        RoleKind::Up,
    ),
    (&["down", "w2", "fc2", "fc_out", "4h_to_h"], RoleKind::Down),
    (&["q_proj", "wq", "query", ".q"], RoleKind::Query),
    (&["k_proj", "wk", "key", ".k"], RoleKind::Key),
    (&["v_proj", "wv", "value", ".v"], RoleKind::Value),
    (
        &["o_proj", "wo", "out", "dense", ".o"],
        RoleKind::AttentionOutput,
    ),
];

fn hint(stem: &str) -> Option<RoleKind> {
    let stem = stem.to_ascii_lowercase();
    HINTS
        .iter()
        .find(|(words, _)| words.iter().any(|word| stem.contains(word)))
        .map(|(_, kind)| *kind)
}

/// Distributes `kinds` over stems of one shape: hints first, the rest in file order.
fn settle(stems: &[&str], kinds: &[RoleKind]) -> Vec<(String, RoleKind)> {
    let mut settled: Vec<(String, RoleKind)> = Vec::new();
    let mut open: Vec<RoleKind> = kinds.to_vec();
    let mut waiting = Vec::new();
    for stem in stems {
        match hint(stem).and_then(|kind| open.iter().position(|k| *k == kind)) {
            Some(at) => settled.push(((*stem).to_owned(), open.remove(at))),
            None => waiting.push(*stem),
        }
    }
    settled.extend(waiting.into_iter().map(str::to_owned).zip(open));
    settled
}

/// Shape of each stem, if it is the same in every layer.
fn uniform_shapes<'a>(
    stack: &'a Stack,
    tensors: &[Tensor],
) -> Option<Vec<(&'a str, Part, Vec<usize>)>> {
    let mut shapes: Vec<(&str, Part, Vec<usize>)> = Vec::new();
    let mut counts: BTreeMap<(&str, Part), usize> = BTreeMap::new();
    for Member {
        tensor,
        stem,
        part,
        expert,
        ..
    } in &stack.members
    {
        if expert.is_some() {
            return None;
        }
        let shape = tensors[*tensor].shape();
        *counts.entry((stem, *part)).or_insert(0) += 1;
        match shapes.iter().find(|(s, p, _)| s == stem && p == part) {
            Some((_, _, seen)) if seen != shape => return None,
            Some(_) => {}
            None => shapes.push((stem, *part, shape.to_vec())),
        }
    }
    let n_layers = counts.values().copied().max()?;
    counts.values().all(|&n| n == n_layers).then_some(shapes)
}

/// Reads a stack of unknown names as a transformer, if its shapes allow one reading.
pub(super) fn stack(stack: &Stack, tensors: &[Tensor]) -> Result<Option<Component>, ArchError> {
    let Some(shapes) = uniform_shapes(stack, tensors) else {
        return Ok(None);
    };
    // The residual width is the length that most vectors have.
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, part, shape) in &shapes {
        if let ([n], Part::Weight) = (shape.as_slice(), part) {
            *lengths.entry(*n).or_insert(0) += 1;
        }
    }
    let Some((&d, _)) = lengths.iter().max_by_key(|&(_, count)| *count) else {
        return Ok(None);
    };
    let of_shape = |want: &dyn Fn(&[usize]) -> bool| -> Vec<&str> {
        shapes
            .iter()
            .filter(|(_, part, shape)| *part == Part::Weight && want(shape))
            .map(|(stem, ..)| *stem)
            .collect()
    };
    let writers = of_shape(&|s| matches!(s, [a, b] if *a == d && *b != d));
    let Some(h) = shapes
        .iter()
        .filter(|(stem, _, s)| writers.contains(stem) && s.len() == 2)
        .map(|(_, _, s)| s[1])
        .max()
    else {
        return Ok(None);
    };
    let downs = of_shape(&|s| s == [d, h]);
    let readers = of_shape(&|s| s == [h, d]);
    let squares = of_shape(&|s| s == [d, d]);
    let narrow = of_shape(&|s| matches!(s, [n, w] if *w == d && *n < d && *n != h));
    if downs.len() != 1 || readers.is_empty() || readers.len() > 2 {
        return Ok(None);
    }
    let mut kinds: Vec<(String, RoleKind)> = vec![(downs[0].to_owned(), RoleKind::Down)];
    kinds.extend(match readers.len() {
        2 => settle(&readers, &[RoleKind::Gate, RoleKind::Up]),
        _ => vec![(readers[0].to_owned(), RoleKind::Up)],
    });
    match (squares.len(), narrow.len()) {
        (4, 0) => kinds.extend(settle(
            &squares,
            &[
                RoleKind::Query,
                RoleKind::Key,
                RoleKind::Value,
                RoleKind::AttentionOutput,
            ],
        )),
        (2, 2) => {
            kinds.extend(settle(
                &squares,
                &[RoleKind::Query, RoleKind::AttentionOutput],
            ));
            kinds.extend(settle(&narrow, &[RoleKind::Key, RoleKind::Value]));
        }
        _ => {}
    }
    let norms = of_shape(&|s| s == [d]);
    if norms.len() == 2 {
        kinds.push((norms[0].to_owned(), RoleKind::AttentionNorm));
        kinds.push((norms[1].to_owned(), RoleKind::MlpNorm));
    }
    let has_norm_bias = shapes
        .iter()
        .any(|(stem, part, s)| *part == Part::Bias && norms.contains(stem) && s == &[d]);

    let mut numbers: Vec<u32> = stack.members.iter().map(|m| m.layer).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut roles = BTreeMap::new();
    for member in &stack.members {
        let Some((_, kind)) = kinds.iter().find(|(stem, _)| *stem == member.stem) else {
            continue;
        };
        let layer = numbers.binary_search(&member.layer).unwrap_or_default() as u32;
        let role = Role {
            layer: Some(layer),
            kind: *kind,
            expert: None,
            part: member.part,
        };
        roles.insert(role, Matrix::new(tensors[member.tensor].clone())?);
    }
    let gated = if readers.len() == 2 { "gated" } else { "plain" };
    Ok(Some(Component {
        id: String::new(),
        kind: ComponentKind::LanguageModel,
        prefix: stack.prefix.clone(),
        family: "unknown".to_owned(),
        norm: if has_norm_bias {
            Norm::Layer
        } else {
            Norm::Rms
        },
        basis: RoleBasis::Inferred(format!(
            "the names are unknown; {} layers of equal shapes with residual width {d} and a {gated} \
             MLP of {h} units were read off the shapes; equal shapes were told apart by hints in \
             the names, else by their order in the file",
            numbers.len()
        )),
        roles,
        tensors: stack
            .members
            .iter()
            .map(|m| tensors[m.tensor].clone())
            .collect(),
        n_layers: numbers.len() as u32,
        n_left_out: 0,
        hidden_size: Some(d),
    }))
}

/// Gives loose tensors to the first inferred component: `[vocab, d]` and `[d]`.
pub(super) fn adopt_outside(
    components: &mut [Component],
    outside: &mut Vec<usize>,
    tensors: &[Tensor],
) -> Result<(), ArchError> {
    let Some(component) = components
        .iter_mut()
        .find(|c| matches!(c.basis, RoleBasis::Inferred(_)))
    else {
        return Ok(());
    };
    let Some(d) = component.hidden_size else {
        return Ok(());
    };
    let mut rest = Vec::new();
    for &index in outside.iter() {
        let tensor = &tensors[index];
        let kind = match tensor.shape() {
            [rows, cols] if *cols == d && *rows > d => {
                let embedding = Role::outside(RoleKind::TokenEmbedding);
                let head = Role::outside(RoleKind::OutputHead);
                let is_head = ["head", "output", "unembed"]
                    .iter()
                    .any(|word| tensor.name().to_ascii_lowercase().contains(word));
                let order = if is_head {
                    [head, embedding]
                } else {
                    [embedding, head]
                };
                order
                    .into_iter()
                    .find(|role| !component.roles.contains_key(role))
            }
            [n] if *n == d => Some(Role::outside(RoleKind::FinalNorm))
                .filter(|role| !component.roles.contains_key(role)),
            _ => None,
        };
        match kind {
            Some(role) => {
                component.roles.insert(role, Matrix::new(tensor.clone())?);
                component.tensors.push(tensor.clone());
            }
            None => rest.push(index),
        }
    }
    *outside = rest;
    Ok(())
}

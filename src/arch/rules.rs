//! One tensor and its family's rule → the roles that it holds.

use super::ArchError;
use super::family::{Family, Rule};
use super::fused::{ExpertLayout, Heads, qkv_rows};
use super::role::{Part, Role, RoleKind};
use super::split::Member;
use crate::tensor::{Matrix, Tensor};
use std::collections::BTreeMap;

/// More experts in one layer than any published mixture has.
const MAX_EXPERTS: usize = 4096;
/// More heads in one layer than any published model has.
const MAX_HEADS: usize = 4096;

/// Names the roles of one tensor by its family's rule.
pub(super) fn apply(
    rule: Rule,
    member: &Member,
    layer: u32,
    tensor: &Tensor,
    family: &Family,
    heads: Heads,
    notes: &mut Vec<String>,
    roles: &mut BTreeMap<Role, Matrix>,
) -> Result<(), ArchError> {
    if rule == Rule::Ignored || tensor.n_elements() == 0 || tensor.shape().is_empty() {
        return Ok(());
    }
    let mut matrix = Matrix::new(tensor.clone())?;
    if family.transposed && tensor.shape().len() == 2 && member.part == Part::Weight {
        matrix = matrix.transposed();
    }
    let role = |kind| Role {
        layer: Some(layer),
        kind,
        expert: member.expert,
        part: member.part,
    };
    let rule = match rule {
        Rule::UpOrGateUp => {
            let fused = heads
                .intermediate_size
                .is_some_and(|n| Some(matrix.n_rows()) == n.checked_mul(2));
            if fused {
                Rule::GateUpBlocks
            } else {
                Rule::One(RoleKind::Up)
            }
        }
        Rule::AttentionOrMlpNorm if heads.two_parallel_norms => Rule::One(RoleKind::MlpNorm),
        Rule::AttentionOrMlpNorm => Rule::One(RoleKind::AttentionNorm),
        Rule::OneOrEachHead(kind) if tensor.shape().len() != 2 => Rule::One(kind),
        other => other,
    };
    match rule {
        Rule::Experts(_) | Rule::ExpertsGateUp => {
            if member.part == Part::Weight {
                experts(rule, tensor, heads, role(RoleKind::Gate), roles)?;
            }
        }
        Rule::ExpertsBias(_) | Rule::ExpertsGateUpBias => {
            experts_biases(rule, tensor, role(RoleKind::Gate).bias(), roles)?;
        }
        // No bias of anything, though GGUF calls it one.
        Rule::One(RoleKind::RouterBias) if tensor.shape().len() == 1 => {
            let role = Role {
                part: Part::Weight,
                ..role(RoleKind::RouterBias)
            };
            roles.insert(role, matrix);
        }
        // GGUF drops the dimension of length 1.
        Rule::One(RoleKind::SharedRouter) if tensor.shape().len() == 1 => {
            roles.insert(role(RoleKind::SharedRouter), matrix.transposed());
        }
        Rule::One(kind) => {
            let expected_dims = if kind.is_vector() || member.part == Part::Bias {
                1
            } else {
                2
            };
            if tensor.shape().len() != expected_dims {
                return Err(ArchError::Shape {
                    tensor: tensor.name().to_owned(),
                    role: role(kind).to_string(),
                    family: family.id.to_owned(),
                    expected: format!("{expected_dims} dimension(s)"),
                    found: tensor.shape().to_vec(),
                });
            }
            roles.insert(role(kind), matrix);
        }
        Rule::OneOrEachHead(kind) => {
            for head in 0..matrix.n_rows().min(MAX_HEADS) {
                let gains = Matrix::slice_of_stack(tensor.clone(), head)?;
                roles.insert(role(kind).of_expert(Some(head as u32)), gains);
            }
        }
        Rule::GateUpBlocks => {
            let half = matrix.n_rows() / 2;
            if !matrix.n_rows().is_multiple_of(2) {
                return Err(ArchError::Shape {
                    tensor: tensor.name().to_owned(),
                    role: "gate and up".to_owned(),
                    family: family.id.to_owned(),
                    expected: "an even number of rows".to_owned(),
                    found: tensor.shape().to_vec(),
                });
            }
            roles.insert(role(RoleKind::Gate), matrix.clone().row_range(0..half)?);
            roles.insert(role(RoleKind::Up), matrix.row_range(half..2 * half)?);
        }
        Rule::QkvBlocks | Rule::QkvPerHead | Rule::QkvPerGroup => {
            match qkv_rows(rule, matrix.n_rows(), heads) {
                Some(rows) => {
                    let kinds = [RoleKind::Query, RoleKind::Key, RoleKind::Value];
                    for (kind, rows) in kinds.into_iter().zip(rows) {
                        roles.insert(role(kind), matrix.clone().select_rows(&rows)?);
                    }
                }
                None if layer == 0 => notes.push(format!(
                    "{}: fused q, k, v of {} rows cannot be cut apart: config.json does not state \
                     matching num_attention_heads and num_key_value_heads; q, k, v have no roles",
                    tensor.name(),
                    matrix.n_rows()
                )),
                None => {}
            }
        }
        Rule::Ignored | Rule::UpOrGateUp | Rule::AttentionOrMlpNorm => {}
    }
    Ok(())
}

/// Names the roles of a stack of experts' matrices; `role` is that of any of them, without the expert.
fn experts(
    rule: Rule,
    tensor: &Tensor,
    heads: Heads,
    role: Role,
    roles: &mut BTreeMap<Role, Matrix>,
) -> Result<(), ArchError> {
    let &[n_experts, n_rows, n_cols] = tensor.shape() else {
        return Ok(());
    };
    // Packed codes lie row by row also where such a model's plain weights do not (gpt-oss).
    let layout = match tensor.parts().is_empty() {
        true => heads.experts,
        false => ExpertLayout::Rows,
    };
    let n_out = match layout {
        ExpertLayout::Rows => n_rows,
        ExpertLayout::InterleavedColumns => n_cols,
        ExpertLayout::Columns => return Ok(()),
    };
    if rule == Rule::ExpertsGateUp && !n_out.is_multiple_of(2) {
        return Ok(());
    }
    for expert in 0..n_experts.min(MAX_EXPERTS) {
        let mut slice = Matrix::slice_of_stack(tensor.clone(), expert)?;
        if layout != ExpertLayout::Rows {
            slice = slice.transposed();
        }
        let of_expert = |kind| Role {
            kind,
            expert: Some(expert as u32),
            ..role
        };
        if let Rule::Experts(kind) = rule {
            roles.insert(of_expert(kind), slice);
        } else if layout == ExpertLayout::InterleavedColumns {
            let [gate, up] = in_turn(slice)?;
            roles.insert(of_expert(RoleKind::Gate), gate);
            roles.insert(of_expert(RoleKind::Up), up);
        } else {
            let half = n_out / 2;
            let gate = slice.clone().row_range(0..half)?;
            roles.insert(of_expert(RoleKind::Gate), gate);
            roles.insert(of_expert(RoleKind::Up), slice.row_range(half..n_out)?);
        }
    }
    Ok(())
}

/// As [`experts`], of their biases, which lie alike beside weights and beside packed codes.
fn experts_biases(
    rule: Rule,
    tensor: &Tensor,
    role: Role,
    roles: &mut BTreeMap<Role, Matrix>,
) -> Result<(), ArchError> {
    let &[n_experts, n_rows] = tensor.shape() else {
        return Ok(());
    };
    for expert in 0..n_experts.min(MAX_EXPERTS) {
        let slice = Matrix::slice_of_stack(tensor.clone(), expert)?;
        let of_expert = |kind| Role {
            kind,
            expert: Some(expert as u32),
            ..role
        };
        match rule {
            Rule::ExpertsBias(kind) => drop(roles.insert(of_expert(kind), slice)),
            _ if n_rows.is_multiple_of(2) => {
                let [gate, up] = in_turn(slice)?;
                roles.insert(of_expert(RoleKind::Gate), gate);
                roles.insert(of_expert(RoleKind::Up), up);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every other row of a matrix, from the first and from the second on.
fn in_turn(matrix: Matrix) -> Result<[Matrix; 2], ArchError> {
    let every_other = |first| (first..matrix.n_rows()).step_by(2).collect::<Vec<usize>>();
    let (even, odd) = (every_other(0), every_other(1));
    Ok([
        matrix.clone().select_rows(&even)?,
        matrix.select_rows(&odd)?,
    ])
}

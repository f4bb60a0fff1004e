//! What a family file states: how its tensors are called, which are fused, how it normalises.
//!
//! A family is data. [`super::split`] finds stacks of layers and asks every entry of
//! [`super::ARCHITECTURES`] how many of a layer's names it knows; the best one names the roles.

use super::component::Norm;
use super::role::RoleKind;

/// How one stored tensor maps to roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The tensor is the role.
    One(RoleKind),
    /// The vector is the role, or each row of it that of one head `[n_heads, head_dim]` (StableLM 2 12B).
    OneOrEachHead(RoleKind),
    /// The norm before attention; before the MLP where config states two of parallel blocks (Falcon 40B).
    AttentionOrMlpNorm,
    /// Rows are q, then k, then v.
    QkvBlocks,
    /// Rows are, head by head, q k v of that head (GPT-NeoX, BLOOM).
    QkvPerHead,
    /// Rows are, group by group, the queries of the group, then k, then v (InternLM2, Falcon).
    QkvPerGroup,
    /// Rows are gate, then up (Phi-3).
    GateUpBlocks,
    /// The up projection, or gate then up where it has twice the rows that config states for one.
    UpOrGateUp,
    /// A stack of the role's matrices, one for each expert `[n_experts, rows, columns]`.
    Experts(RoleKind),
    /// A stack of the experts' matrices, each of whose rows are gate, then up `[n_experts, 2 × rows,
    /// columns]`.
    ExpertsGateUp,
    /// A stack of the role's biases, one for each expert `[n_experts, rows]`.
    ExpertsBias(RoleKind),
    /// A stack of the experts' biases, gate and up in turn `[n_experts, 2 × rows]` (gpt-oss).
    ExpertsGateUpBias,
    /// Known, and of no use as evidence (buffers such as `rotary_emb.inv_freq`).
    Ignored,
}

/// A family of architectures with one naming scheme.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Stable id.
    pub id: &'static str,
    /// Whether a stack of this family reads tokens or image patches.
    pub vision: bool,
    /// Norm convention.
    pub norm: Norm,
    /// `model_type`s whose norm gains are stored as γ − 1.
    pub plus_one_model_types: &'static [&'static str],
    /// Linear weights are stored `[in, out]` (GPT-2's Conv1D).
    pub transposed: bool,
    /// Names within a layer, without `.weight` and `.bias`. `{}` stands for the expert's number.
    pub in_layer: &'static [(&'static str, Rule)],
    /// Names outside the stack (a suffix of the full name without `.weight` and `.bias`).
    pub outside: &'static [(&'static str, RoleKind)],
}

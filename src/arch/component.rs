//! A component of a model: a backbone, a tower, a projector, each with roles of its own.

use super::role::{Role, RoleKind};
use crate::tensor::{Matrix, Tensor};
use std::collections::BTreeMap;

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ComponentKind {
    /// A decoder over tokens.
    LanguageModel,
    /// A transformer over image patches.
    VisionTower,
    /// What maps the tower's output into the language model.
    Projector,
    /// Anything else: conv nets, recurrent nets, loose tensors.
    Network,
}

impl ComponentKind {
    /// The id of the first component of this kind.
    pub fn name(self) -> &'static str {
        match self {
            ComponentKind::LanguageModel => "language-model",
            ComponentKind::VisionTower => "vision-tower",
            ComponentKind::Projector => "projector",
            ComponentKind::Network => "network",
        }
    }
}

/// How the residual stream is normalised before a matrix reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Root-mean-square norm with gains γ.
    Rms,
    /// Root-mean-square norm with gains 1 + γ (Gemma).
    RmsPlusOne,
    /// Mean and variance, gains and bias.
    Layer,
}

/// How the roles of a component were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleBasis {
    /// From tensor names of a registered family.
    Names,
    /// From shapes, counts and order; the sentence says how.
    Inferred(String),
    /// No roles: generic tests only.
    None,
}

/// One component.
#[derive(Debug, Clone)]
pub struct Component {
    /// Stable id: the kind's name, with `-2`, `-3` … for further ones.
    pub id: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Prefix shared by its tensors' names, with the final dot; may be empty.
    pub prefix: String,
    /// Family id, or `unknown`.
    pub family: String,
    /// Norm convention.
    pub norm: Norm,
    /// How the roles were found.
    pub basis: RoleBasis,
    /// Roles and where they are stored.
    pub roles: BTreeMap<Role, Matrix>,
    /// All tensors, those without a role included, in file order. What the family knows to be no weight
    /// (masks, rotary frequencies) is not among them: files of one model have it or not.
    pub tensors: Vec<Tensor>,
    /// Tensors that a budget leaves out, whole or in part: they are there, and nothing may be said of what
    /// was left out.
    pub n_left_out: usize,
    /// Number of layers in the stack.
    pub n_layers: u32,
    /// Width of the residual stream, where known.
    pub hidden_size: Option<usize>,
}

impl Component {
    /// The matrix of a role.
    pub fn role(&self, role: Role) -> Option<&Matrix> {
        self.roles.get(&role)
    }

    /// Experts of a layer: `[None]` for a dense MLP, `[Some(0), …]` for a mixture, empty if there is no MLP.
    pub fn experts(&self, layer: u32) -> Vec<Option<u32>> {
        let mut experts: Vec<Option<u32>> = self
            .roles
            .keys()
            .filter(|r| r.layer == Some(layer) && r.kind == RoleKind::Up)
            .filter(|r| r.part == super::role::Part::Weight)
            .map(|r| r.expert)
            .collect();
        experts.sort_unstable();
        experts.dedup();
        experts
    }

    /// The embedding and the matrix that reads the stream out; tied embeddings serve as both.
    pub fn output_head(&self) -> Option<&Matrix> {
        self.role(Role::outside(RoleKind::OutputHead))
            .or_else(|| self.role(Role::outside(RoleKind::TokenEmbedding)))
    }

    /// Number of parameters over all tensors.
    pub fn n_parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.n_elements() as u64).sum()
    }
}

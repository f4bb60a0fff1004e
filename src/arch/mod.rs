//! Config and tensor names → components and roles.
//!
//! One file per family, one entry in [`ARCHITECTURES`]. [`split`] finds the stacks of layers in a
//! checkpoint and lets the families name them; [`infer`] is asked when none knows the names.

pub mod artefact;
pub mod component;
pub mod connector;
pub mod family;
pub mod infer;
pub mod model;
pub mod role;
pub mod spec;
pub mod split;

mod bloom;
mod deepseek;
mod fused;
mod gguf;
mod gpt2;
mod gpt_neox;
mod gptj;
mod internlm2;
mod llama;
mod meta_llama;
mod mixtral;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod rules;
mod sandwich;
mod vision;

#[cfg(test)]
mod names_tests;

pub use component::{Component, ComponentKind, Norm, RoleBasis};
pub use model::Model;
pub use role::{Part, Role, RoleKind};

use crate::tensor::TensorError;
use family::Family;

/// Every family that is known by name. Order breaks ties: the more specific come first.
pub const ARCHITECTURES: &[Family] = &[
    // Of a model that has nothing but the names they share, it is the norms that are missing.
    olmo::OLMO,
    llama::LLAMA,
    sandwich::SANDWICH,
    mixtral::MIXTRAL,
    phi3::PHI3,
    deepseek::DEEPSEEK,
    phi::PHI,
    opt::OPT,
    internlm2::INTERNLM2,
    meta_llama::META_LLAMA,
    gpt2::GPT2,
    qwen::QWEN,
    gptj::GPTJ,
    gpt_neox::GPT_NEOX,
    bloom::BLOOM,
    gguf::GGUF,
    vision::CLIP,
    vision::VIT_BLOCKS,
];

/// Why components could not be told apart.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// A tensor does not have the shape that its role demands.
    #[error(
        "{tensor}: as {role} of the family `{family}` expected {expected}, found shape {found:?}"
    )]
    Shape {
        /// Tensor name.
        tensor: String,
        /// Role that its name gives it.
        role: String,
        /// Family id.
        family: String,
        /// What the role demands.
        expected: String,
        /// Stored shape.
        found: Vec<usize>,
    },
    /// A view of a tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

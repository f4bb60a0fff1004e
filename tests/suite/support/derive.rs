//! Mechanical derivations: what one can do to a checkpoint, without training, to make it look like another one.
//!
//! Each takes a model and returns another; a seed decides all that is random. Derivations that claim to keep the
//! function are held to it by `derivations.rs`, which runs both models.

mod cosmetic;
mod layout;
mod surgery;
mod symmetry;

pub use cosmetic::{cast_to, merged, noised, renamed, renamed_prefix, reordered};
pub use layout::{
    Prefixes, as_gpt_neox, as_internlm2, as_meta_llama, as_mixtral, as_phi3, composite,
};
pub use surgery::{depth_pruned, depth_up_scaled, layers_swapped, width_pruned};
pub use symmetry::{
    mixed_v_o, permuted_heads, permuted_units, rotated_residual, rotated_rope_pairs, scaled_units,
};

use super::model::TestModel;
use safetensors::Dtype;

/// Every symmetry of the function at once, without noise or rounding: the disguise that costs nothing.
pub fn turned(model: &TestModel, seed: u64) -> TestModel {
    let mut turned = rotated_residual(model, seed);
    for step in [
        permuted_units,
        permuted_heads,
        scaled_units,
        rotated_rope_pairs,
        mixed_v_o,
    ] {
        turned = step(&turned, seed);
    }
    turned
}

/// The full disguise: every symmetry, 2 % noise, other names, stored in bf16.
pub fn disguised(model: &TestModel, seed: u64) -> TestModel {
    let noisy = noised(&turned(model, seed), 0.02, seed);
    cast_to(&renamed(&noisy), Dtype::BF16)
}

//! What stands between a tower and a language model, by the names of its parts.
//!
//! Resamplers and projectors go by many names as a whole (`resampler.`, `projection.`,
//! `multi_modal_projector.`, `model.mm_projector.`); their parts have one name each.

use super::component::{Component, ComponentKind};
use super::model::Model;
use super::split::PROJECTOR_SEGMENTS;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Parts of the connector by their names within it: `ln_q.weight`, `linear_1.bias`, `proj`. `None` where the
/// model has no connector, or two parts of one name.
pub fn parts(model: &Model) -> Option<BTreeMap<&str, &Tensor>> {
    let of_kind = |c: &&Component| c.kind == ComponentKind::Projector;
    let component = model.components.iter().find(of_kind)?;
    let mut parts = BTreeMap::new();
    for tensor in &component.tensors {
        if parts.insert(local(tensor.name())?, tensor).is_some() {
            return None;
        }
    }
    Some(parts)
}

/// What follows the first segment that names a connector.
fn local(name: &str) -> Option<&str> {
    let mut rest = name;
    while let Some((segment, after)) = rest.split_once('.') {
        if PROJECTOR_SEGMENTS.contains(&segment) {
            return Some(after);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_name_whatever_the_whole_is_called() {
        assert_eq!(local("resampler.ln_q.weight"), Some("ln_q.weight"));
        assert_eq!(local("projection.proj"), Some("proj"));
        assert_eq!(local("model.mm_projector.0.bias"), Some("0.bias"));
        assert_eq!(local("lm_head.weight"), None);
    }
}

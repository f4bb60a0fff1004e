//! Finds the components of a checkpoint: stacks of layers, what surrounds them, and the rest.
//!
//! A *stack* is a set of tensors whose names share everything before their first number, which is
//! the layer. Families then name the roles; unknown names go to [`super::infer`]. Nothing here
//! reads a weight.

use super::component::{Component, ComponentKind, Norm, RoleBasis};
use super::family::{Family, Rule};
use super::fused::Heads;
use super::role::{Part, Role, RoleKind};
use super::{ARCHITECTURES, ArchError, infer, rules};
use crate::tensor::{Matrix, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Path segments that name what maps a tower into a language model.
pub(super) const PROJECTOR_SEGMENTS: &[&str] = &[
    "resampler",
    "projection",
    "projector",
    "mm_projector",
    "multi_modal_projector",
    "vision_proj",
    "merger",
    "connector",
    "perceiver",
    "aligner",
];

/// Path segments that name a vision tower.
const VISION_SEGMENTS: &[&str] = &[
    "vpm",
    "vison",
    "vision",
    "vision_tower",
    "vision_model",
    "visual",
    "vit",
    "image_encoder",
];

/// A tensor of a stack, its name taken apart.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Index into the checkpoint's tensors.
    pub tensor: usize,
    /// Layer, as written in the name.
    pub layer: u32,
    /// Name within the layer, without `.weight`/`.bias`, the expert's number replaced by `{}`.
    pub stem: String,
    /// Expert, as written in the name.
    pub expert: Option<u32>,
    /// Weight or bias.
    pub part: Part,
}

/// Tensors whose names share everything before their first number.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    /// Everything before the number, with the final dot.
    pub prefix: String,
    /// The tensors, in file order.
    pub members: Vec<Member>,
}

/// Takes a name apart into stem and part.
pub(super) fn stem_and_part(name: &str) -> (&str, Part) {
    for (suffix, part) in [
        (".weight", Part::Weight),
        (".bias", Part::Bias),
        (".gamma", Part::Weight),
        (".beta", Part::Bias),
    ] {
        if let Some(stem) = name.strip_suffix(suffix) {
            return (stem, part);
        }
    }
    (name, Part::Weight)
}

fn member(index: usize, name: &str) -> Option<(String, Member)> {
    let mut at = 0;
    for segment in name.split('.') {
        let is_number = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
        if is_number {
            let layer = segment.parse().ok()?;
            let rest = name.get(at + segment.len() + 1..)?;
            let (stem, part) = stem_and_part(rest);
            let mut expert = None;
            let mut stems = Vec::new();
            for piece in stem.split('.') {
                match piece.parse::<u32>() {
                    Ok(number) if expert.is_none() && precedes_expert(&stems) => {
                        expert = Some(number);
                        stems.push("{}");
                    }
                    _ => stems.push(piece),
                }
            }
            let stem = stems.join(".");
            return Some((
                name[..at].to_owned(),
                Member {
                    tensor: index,
                    layer,
                    stem,
                    expert,
                    part,
                },
            ));
        }
        at += segment.len() + 1;
    }
    None
}

/// Whether a number after these segments counts experts: `experts.3`, and `ffn_up.3` in old GGUF files;
/// or heads, where each has a norm of its own: `q_layernorm.norms.3`.
fn precedes_expert(segments: &[&str]) -> bool {
    match segments {
        [.., "q_layernorm" | "k_layernorm", "norms"] => true,
        [.., last] => ["experts", "ffn_gate", "ffn_up", "ffn_down"].contains(last),
        [] => false,
    }
}

/// Whether a family knows a tensor to be no weight: a buffer, or a copy of what the config says.
fn is_buffer(family: &Family, name: &str) -> bool {
    let ignored = family.in_layer.iter();
    let mut ignored = ignored.filter(|(_, rule)| *rule == Rule::Ignored);
    match member(0, name) {
        // Outside of the layers, whole names count: GGUF's divisors of rotary frequencies.
        None => {
            let whole = name.strip_suffix(".weight").unwrap_or(name);
            ignored.any(|(stem, _)| *stem == whole)
        }
        // A mask that is called `bias` is no bias: the whole name counts too.
        Some((_, member)) => ignored.any(|(stem, _)| {
            *stem == member.stem
                || (member.part == Part::Bias && stem.strip_suffix(".bias") == Some(&*member.stem))
        }),
    }
}

fn family_of(component: &Component) -> Option<&'static Family> {
    ARCHITECTURES.iter().find(|f| f.id == component.family)
}

/// Tensors of a component that have no role: an engine that leaves them out may compute something else.
/// Layers from number `n_layers` on do not count.
pub fn without_role(component: &Component, n_layers: u32) -> Vec<&Tensor> {
    let named: BTreeSet<&str> = component
        .roles
        .values()
        .map(|matrix| matrix.tensor().name())
        .collect();
    let known = |name: &str| {
        let layer = member(0, name).map(|(_, member)| member.layer);
        name.starts_with(&component.prefix) && layer.is_some_and(|layer| layer >= n_layers)
    };
    let tensors = component.tensors.iter();
    tensors
        .filter(|tensor| !named.contains(tensor.name()) && !known(tensor.name()))
        .collect()
}

fn has_segment(name: &str, of: &[&str]) -> bool {
    name.split('.').any(|segment| of.contains(&segment))
}

/// How many of the stack's stems the family knows, and whether that is enough to name it.
fn score(family: &Family, stack: &Stack) -> usize {
    let stems: BTreeSet<&str> = stack.members.iter().map(|m| m.stem.as_str()).collect();
    let known = |stem: &&&str| family.in_layer.iter().any(|(name, _)| *name == **stem);
    let matched = stems.iter().filter(known).count();
    // Half of the names known, and at least a norm, an attention and an MLP matrix' worth of them.
    if matched >= 3 && 2 * matched >= stems.len() {
        matched
    } else {
        0
    }
}

/// The part of config.json that speaks of a component.
fn section(config: Option<&Value>, vision: bool) -> Option<&Value> {
    let config = config?;
    let keys: &[&str] = if vision {
        &["vision_config"]
    } else {
        &["text_config", "llm_config", "language_config"]
    };
    let nested = keys
        .iter()
        .find_map(|key| config.get(key).filter(|v| v.is_object()));
    if vision {
        nested
    } else {
        nested.or(Some(config))
    }
}

/// Parents of a stack's prefix, longest first: `llm.model.layers.` → `llm.model.`, `llm.`, ``.
fn parents(prefix: &str) -> Vec<&str> {
    let mut parents = Vec::new();
    let mut rest = prefix.trim_end_matches('.');
    while let Some(dot) = rest.rfind('.') {
        parents.push(&prefix[..dot + 1]);
        rest = &rest[..dot];
    }
    parents.push("");
    parents
}

/// The norm convention that a config states for a family. Norms with a bias are LayerNorms, whatever
/// the family's usual norm.
fn norm_of(family: &Family, config: Option<&Value>, roles: &BTreeMap<Role, Matrix>) -> Norm {
    if roles
        .keys()
        .any(|role| role.kind == RoleKind::AttentionNorm && role.part == Part::Bias)
    {
        return Norm::Layer;
    }
    let model_type = config
        .and_then(|c| c.get("model_type"))
        .and_then(Value::as_str);
    let plus_one = model_type.is_some_and(|t| family.plus_one_model_types.contains(&t));
    if plus_one {
        Norm::RmsPlusOne
    } else {
        family.norm
    }
}

/// Builds the component of a stack that a family knows.
fn named_component(
    stack: &Stack,
    family: &Family,
    tensors: &[Tensor],
    config: Option<&Value>,
    notes: &mut Vec<String>,
) -> Result<Component, ArchError> {
    let config = section(config, family.vision);
    let heads = Heads::read(config);
    let mut roles = BTreeMap::new();
    // Layers are renumbered from 0 so that a stack whose numbers have holes still has an order.
    let numbers: BTreeSet<u32> = stack.members.iter().map(|m| m.layer).collect();
    let position: BTreeMap<u32, u32> = numbers.iter().copied().zip(0..).collect();
    for member in &stack.members {
        let rule = family
            .in_layer
            .iter()
            .find(|(stem, _)| *stem == member.stem)
            .map(|(_, r)| *r);
        if let Some(rule) = rule {
            let tensor = &tensors[member.tensor];
            let layer = position[&member.layer];
            rules::apply(
                rule, member, layer, tensor, family, heads, notes, &mut roles,
            )?;
        }
    }
    let kind = if family.vision {
        ComponentKind::VisionTower
    } else {
        ComponentKind::LanguageModel
    };
    Ok(Component {
        id: String::new(),
        kind,
        prefix: stack.prefix.clone(),
        family: family.id.to_owned(),
        norm: norm_of(family, config, &roles),
        basis: RoleBasis::Names,
        roles,
        tensors: stack
            .members
            .iter()
            .map(|m| &tensors[m.tensor])
            .filter(|tensor| !is_buffer(family, tensor.name()))
            .cloned()
            .collect(),
        n_layers: position.len() as u32,
        n_left_out: 0,
        hidden_size: None,
    })
}

/// Gives tensors outside the stacks to the component whose family knows their names.
fn adopt_outside(
    components: &mut [Component],
    outside: &mut Vec<usize>,
    tensors: &[Tensor],
) -> Result<(), ArchError> {
    let mut rest = Vec::new();
    for &index in outside.iter() {
        let tensor = &tensors[index];
        let (stem, part) = stem_and_part(tensor.name());
        let mut best: Option<(usize, usize, RoleKind)> = None;
        for (c, component) in components.iter().enumerate() {
            let Some(family) = family_of(component) else {
                continue;
            };
            for parent in parents(&component.prefix) {
                let Some(local) = stem.strip_prefix(parent) else {
                    continue;
                };
                let known = family.outside.iter().find(|(name, _)| *name == local);
                if let Some((_, kind)) = known
                    && best.is_none_or(|(length, _, _)| parent.len() > length)
                {
                    best = Some((parent.len(), c, *kind));
                }
            }
        }
        match best {
            Some((_, c, kind)) if !tensor.shape().is_empty() && tensor.n_elements() > 0 => {
                let role = Role {
                    layer: None,
                    kind,
                    expert: None,
                    part,
                };
                // timm stores learned positions as a batch of one.
                let matrix = match (kind, tensor.shape()) {
                    (RoleKind::PositionEmbedding, [1, _, _]) => {
                        Matrix::slice_of_stack(tensor.clone(), 0)?
                    }
                    _ => Matrix::new(tensor.clone())?,
                };
                components[c].roles.insert(role, matrix);
                components[c].tensors.push(tensor.clone());
            }
            _ => rest.push(index),
        }
    }
    *outside = rest;
    Ok(())
}

fn plain(kind: ComponentKind, prefix: &str, members: Vec<Tensor>) -> Component {
    Component {
        id: String::new(),
        kind,
        prefix: prefix.to_owned(),
        family: "unknown".to_owned(),
        norm: Norm::Rms,
        basis: RoleBasis::None,
        roles: BTreeMap::new(),
        tensors: members,
        n_layers: 0,
        n_left_out: 0,
        hidden_size: None,
    }
}

/// Number of leading path segments that two names share.
fn shared_segments(a: &str, b: &str) -> usize {
    a.split('.')
        .zip(b.split('.'))
        .take_while(|(x, y)| x == y && !x.is_empty())
        .count()
}

/// Width of the residual stream, read off a component's roles.
fn hidden_size(component: &Component) -> Option<usize> {
    let norm = component.roles.iter().find(|(role, _)| {
        matches!(
            role.kind,
            RoleKind::AttentionNorm | RoleKind::MlpNorm | RoleKind::FinalNorm
        )
    });
    let reader = component.roles.iter().find(|(role, _)| {
        role.part == Part::Weight && matches!(role.kind, RoleKind::Up | RoleKind::TokenEmbedding)
    });
    norm.map(|(_, m)| m.n_rows())
        .or(reader.map(|(_, m)| m.n_cols()))
}

/// Finds the components of a checkpoint. Notes collect what was seen and could not be used.
///
/// # Errors
/// When a tensor's shape contradicts the role that a registered family gives its name.
pub fn components(
    tensors: &[Tensor],
    config: Option<&Value>,
    notes: &mut Vec<String>,
) -> Result<Vec<Component>, ArchError> {
    let mut stacks: BTreeMap<String, Stack> = BTreeMap::new();
    let mut projector = Vec::new();
    let mut outside = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let name = tensor.name();
        if has_segment(name, PROJECTOR_SEGMENTS) {
            projector.push(index);
        } else if let Some((prefix, member)) = member(index, name) {
            let stack = stacks.entry(prefix.clone()).or_insert_with(|| Stack {
                prefix,
                members: Vec::new(),
            });
            stack.members.push(member);
        } else {
            outside.push(index);
        }
    }

    let mut components = Vec::new();
    for stack in stacks.into_values() {
        let best = ARCHITECTURES
            .iter()
            .enumerate()
            .map(|(i, family)| (score(family, &stack), std::cmp::Reverse(i), family))
            .max_by_key(|&(score, order, _)| (score, order))
            .filter(|&(score, ..)| score > 0);
        if let Some((.., family)) = best {
            components.push(named_component(&stack, family, tensors, config, notes)?);
        } else if let Some(inferred) = infer::stack(&stack, tensors)? {
            components.push(inferred);
        } else {
            outside.extend(stack.members.iter().map(|m| m.tensor));
        }
    }
    outside.sort_unstable();
    // Language models first, the deepest first: the backbone is components[0].
    components
        .sort_by(|a, b| (a.kind, b.n_layers, &a.prefix).cmp(&(b.kind, a.n_layers, &b.prefix)));
    adopt_outside(&mut components, &mut outside, tensors)?;
    let families: Vec<&Family> = components.iter().filter_map(family_of).collect();
    outside.retain(|&i| !families.iter().any(|f| is_buffer(f, tensors[i].name())));
    infer::adopt_outside(&mut components, &mut outside, tensors)?;

    let pick = |indices: &[usize]| {
        indices
            .iter()
            .map(|&i| tensors[i].clone())
            .collect::<Vec<_>>()
    };
    if components.is_empty() {
        // No stack at all: one network of all tensors, projector-like names included.
        let mut all: Vec<usize> = outside.iter().chain(&projector).copied().collect();
        all.sort_unstable();
        if !all.is_empty() {
            components.push(plain(ComponentKind::Network, "", pick(&all)));
        }
    } else {
        let mut loose = Vec::new();
        for index in outside {
            let name = tensors[index].name();
            let nearest = (0..components.len())
                .map(|c| (shared_segments(name, &components[c].prefix), c))
                .max_by_key(|&(shared, c)| (shared, std::cmp::Reverse(c)));
            match nearest {
                Some((shared, c)) if shared > 0 || components.len() == 1 => {
                    components[c].tensors.push(tensors[index].clone());
                }
                _ => loose.push(index),
            }
        }
        if !projector.is_empty() {
            components.push(plain(ComponentKind::Projector, "", pick(&projector)));
        }
        if !loose.is_empty() {
            components.push(plain(ComponentKind::Network, "", pick(&loose)));
        }
    }
    for component in &mut components {
        if component.kind == ComponentKind::LanguageModel
            && has_segment(&component.prefix, VISION_SEGMENTS)
            && component
                .role(Role::outside(RoleKind::TokenEmbedding))
                .is_none()
        {
            component.kind = ComponentKind::VisionTower;
        }
        component.hidden_size = hidden_size(component);
    }
    let mut counts: BTreeMap<ComponentKind, usize> = BTreeMap::new();
    for component in &mut components {
        let count = counts.entry(component.kind).or_insert(0);
        *count += 1;
        component.id = match *count {
            1 => component.kind.name().to_owned(),
            n => format!("{}-{n}", component.kind.name()),
        };
    }
    Ok(components)
}

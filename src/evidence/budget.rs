//! A budget of bytes: which tensors of two models are looked at when not all may be read.
//!
//! Chosen by roles and sizes alone, before any value is read, and equally for both models: a group of
//! roles is taken on both sides or on neither. Tensors are taken whole. What is left out is counted in
//! the components ([`Component::n_left_out`]), so that no test takes the part for the whole.

use super::context::Settings;
use super::layers;
use crate::arch::{Component, Model, Role, RoleBasis};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Files that lie elsewhere are read in blocks of this size, which is what a tensor costs: the blocks
/// that it touches. Those between two tensors are paid for once.
const BLOCK_BYTES: u64 = 64 << 10;

/// A block of a file.
type Block = (String, u64);

/// The blocks that a tensor touches.
fn blocks(tensor: &Tensor) -> impl Iterator<Item = Block> + '_ {
    let ranges = tensor.byte_ranges().into_iter();
    ranges.flat_map(|(file, range)| {
        let numbers = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        numbers.map(move |number| (file.to_owned(), number))
    })
}

/// The blocks before the first tensor of each file: headers, which opening the model has read.
fn headers(model: &Model) -> BTreeSet<Block> {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for (file, range) in model.tensors.iter().flat_map(Tensor::byte_ranges) {
        let known = first.entry(file).or_insert(range.start);
        *known = range.start.min(*known);
    }
    let of_file = |(file, end): (&str, u64)| {
        let numbers = 0..end.div_ceil(BLOCK_BYTES);
        numbers
            .map(move |n| (file.to_owned(), n))
            .collect::<Vec<_>>()
    };
    first.into_iter().flat_map(of_file).collect()
}

/// What stands together in the choice, in the order in which it is chosen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// Vectors of the whole component: norms and biases. They are small and say much.
    Vectors,
    /// Attention (`false`) or MLP (`true`) of the layer that comes so many-th.
    Layer(usize, bool),
    /// Embeddings, head and whatever else stands outside the layers; after the first layer.
    Outside(String),
}

impl Group {
    /// Order of choice: vectors, the first layer, what is outside, the other layers.
    fn rank(&self) -> (u8, usize, bool, &str) {
        match self {
            Self::Vectors => (0, 0, false, ""),
            Self::Layer(0, is_mlp) => (1, 0, *is_mlp, ""),
            Self::Outside(kind) => (2, 0, false, kind),
            Self::Layer(n, is_mlp) => (3, *n, *is_mlp, ""),
        }
    }
}

/// Tensors of each group, by name.
type Groups<'a> = BTreeMap<Group, BTreeMap<&'a str, &'a Tensor>>;

/// The layers of a stack in the order of choice: those that tests look at first, then the others.
fn order(n_layers: u32, settings: &Settings) -> Vec<u32> {
    let mut order = layers::chosen(n_layers, settings);
    let rest: Vec<u32> = (0..n_layers).filter(|l| !order.contains(l)).collect();
    order.extend(rest);
    order
}

/// The tensors of each group of a component, by name. A tensor that holds several roles (a
/// fused projection) is in the groups of all of them, and is paid for once.
fn groups<'a>(component: &'a Component, order: &[u32]) -> Groups<'a> {
    let mut groups: Groups = BTreeMap::new();
    for (role, matrix) in &component.roles {
        let tensor = matrix.tensor();
        let group = match role {
            _ if tensor.shape().len() <= 1 => Group::Vectors,
            Role {
                layer: Some(layer),
                kind,
                ..
            } => {
                let at = order.iter().position(|l| l == layer);
                Group::Layer(at.unwrap_or(*layer as usize), kind.is_mlp())
            }
            Role { kind, .. } => Group::Outside(kind.name().to_owned()),
        };
        let group = groups.entry(group).or_default();
        group.insert(tensor.name(), tensor);
    }
    groups
}

/// Two models of which only what the budget holds is left.
#[derive(Debug)]
pub struct Chosen {
    /// The reference, with the tensors that were chosen.
    pub reference: Model,
    /// The candidate, with the tensors that were chosen.
    pub candidate: Model,
    /// What was chosen, in words; the same for both.
    pub rule: String,
    /// For each model: tensors chosen, tensors of all components, bytes of the chosen.
    pub counts: [(usize, usize, u64); 2],
}

impl Chosen {
    /// Whether the budget leaves anything out.
    pub fn leaves_out(&self) -> bool {
        self.counts.iter().any(|(kept, all, _)| kept < all)
    }
}

/// Bytes of all blocks that hold a tensor or a header.
fn total(model: &Model) -> u64 {
    let tensors = model.components.iter().flat_map(|c| &c.tensors);
    let mut all = headers(model);
    all.extend(tensors.flat_map(blocks));
    (all.len() as u64).saturating_mul(BLOCK_BYTES)
}

/// The model with those tensors of its components that are named.
fn only(model: &Model, kept: &[BTreeSet<String>]) -> Model {
    let mut model = model.clone();
    for (component, kept) in model.components.iter_mut().zip(kept) {
        let n = component.tensors.len();
        component.tensors.retain(|t| kept.contains(t.name()));
        let is_kept = |name: &str| kept.contains(name);
        component
            .roles
            .retain(|_, matrix| is_kept(matrix.tensor().name()));
        component.n_left_out += n - component.tensors.len();
    }
    model
}

/// Chooses what is read of two models within a budget for both together, half of it for each.
///
/// A component stands against the one with the same id. Groups are taken in a fixed order, and one that
/// does not fit on either side is passed over for the next. The budget counts the blocks of headers and of tensors. Where a model has a component without
/// roles nothing can be chosen equally: all is read if it fits, else nothing.
pub fn choose(
    reference: &Model,
    candidate: &Model,
    budget_bytes: u64,
    settings: &Settings,
) -> Chosen {
    let models = [reference, candidate];
    let each = budget_bytes / 2;
    let fits = models.iter().all(|model| total(model) <= each);
    let nameless = models
        .iter()
        .any(|m| m.components.iter().any(|c| c.basis == RoleBasis::None));
    let mut kept: [Vec<BTreeSet<String>>; 2] =
        models.map(|m| vec![BTreeSet::new(); m.components.len()]);
    let rule = if fits {
        for (kept, model) in kept.iter_mut().zip(models) {
            for (kept, component) in kept.iter_mut().zip(&model.components) {
                kept.extend(component.tensors.iter().map(|t| t.name().to_owned()));
            }
        }
        format!("all tensors: they fit the budget of {budget_bytes} bytes")
    } else if nameless {
        format!(
            "no tensor: the budget of {budget_bytes} bytes does not hold all of both models, and a \
             component without roles gives nothing to choose by"
        )
    } else {
        let names = take(models, each, settings, &mut kept);
        format!(
            "within the budget of {budget_bytes} bytes, half for each model, whole tensors by role and \
             size, equally for both: {}",
            if names.is_empty() {
                "none fits".to_owned()
            } else {
                names.join(", ")
            }
        )
    };
    let [reference, candidate] = [0, 1].map(|side| only(models[side], &kept[side]));
    let count = |model: &Model, whole: &Model| {
        let tensors = model.components.iter().flat_map(|c| &c.tensors);
        let n_bytes = tensors.clone().map(|t| t.size_bytes()).sum();
        let all = whole.components.iter().map(|c| c.tensors.len()).sum();
        (tensors.count(), all, n_bytes)
    };
    let counts = [count(&reference, models[0]), count(&candidate, models[1])];
    Chosen {
        reference,
        candidate,
        rule,
        counts,
    }
}

/// Takes groups as long as they fit, and says which.
fn take(
    models: [&Model; 2],
    each: u64,
    settings: &Settings,
    kept: &mut [Vec<BTreeSet<String>>; 2],
) -> Vec<String> {
    // Both sides of every group, each with the place of its component.
    let mut open: Vec<(Group, String, Vec<u32>, [usize; 2])> = Vec::new();
    let mut sides = BTreeMap::new();
    for (i, a) in models[0].components.iter().enumerate() {
        let Some(j) = models[1].components.iter().position(|b| b.id == a.id) else {
            continue;
        };
        let order = order(a.n_layers.min(models[1].components[j].n_layers), settings);
        let of_both = [groups(a, &order), groups(&models[1].components[j], &order)];
        for group in of_both[0].keys().filter(|g| of_both[1].contains_key(g)) {
            open.push((group.clone(), a.id.clone(), order.clone(), [i, j]));
        }
        sides.insert(a.id.clone(), of_both);
    }
    open.sort_by(|x, y| (x.0.rank(), &x.1).cmp(&(y.0.rank(), &y.1)));
    let mut spent = models.map(headers);
    let mut names = Vec::new();
    for (group, id, order, places) in &open {
        let with = [0, 1].map(|side| {
            let tensors: &BTreeMap<&str, &Tensor> = &sides[id][side][group];
            let mut with = spent[side].clone();
            with.extend(tensors.values().flat_map(|tensor| blocks(tensor)));
            with
        });
        let fits = |with: &BTreeSet<Block>| with.len() as u64 <= each / BLOCK_BYTES;
        if !with.iter().all(fits) {
            continue;
        }
        spent = with;
        for side in [0, 1] {
            let tensors = sides[id][side][group].keys();
            kept[side][places[side]].extend(tensors.map(|name| (*name).to_owned()));
        }
        let what = match group {
            Group::Vectors => "vectors".to_owned(),
            Group::Outside(kind) => kind.clone(),
            Group::Layer(at, mlp) => {
                let layer = order.get(*at).copied().unwrap_or(*at as u32);
                format!(
                    "{} of layer {layer}",
                    if *mlp { "MLP" } else { "attention" }
                )
            }
        };
        names.push(format!("{what} ({id})"));
    }
    names
}

//! A budget of bytes: which tensors and rows of two models are looked at when not all may be read.
//!
//! Chosen by roles, sizes and the seed alone, before any value is read, and equally for both models: a
//! group of roles is taken on both sides or on neither, and of a matrix the same rows, numbered as those of
//! its role are, whatever tensor stores them. What cannot be cut by rows is taken whole: quantized weights
//! in several tensors, stacks of experts, matrices that are stored transposed. What is left out, whole or in
//! part, is counted in the components ([`Component::n_left_out`]), so that no test takes the part for the
//! whole.

mod steps;

use super::context::Settings;
use crate::arch::{Component, Model, Role, RoleBasis};
use crate::tensor::{Matrix, RowRuns, Tensor, TensorError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use steps::{Amount, Group};

/// Files that lie elsewhere are read in blocks of this size, which is what rows cost: the blocks that they
/// touch. Those between two tensors are paid for once.
const BLOCK_BYTES: u64 = 64 << 10;

/// Numbers of blocks of each file, as runs: a file may state any size, and nothing is counted one by one.
#[derive(Debug, Clone, Default)]
struct Blocks<'a>(BTreeMap<&'a str, RowRuns>);

impl<'a> Blocks<'a> {
    /// The blocks that ranges of files touch.
    fn of(ranges: impl IntoIterator<Item = (&'a str, Range<u64>)>) -> Self {
        let mut files: BTreeMap<&str, Vec<Range<usize>>> = BTreeMap::new();
        for (file, range) in ranges {
            let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let numbers = at(range.start / BLOCK_BYTES)..at(range.end.div_ceil(BLOCK_BYTES));
            files.entry(file).or_default().push(numbers);
        }
        let files = files.into_iter();
        Self(
            files
                .map(|(file, runs)| (file, RowRuns::new(runs)))
                .collect(),
        )
    }

    fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (file, runs) in &other.0 {
            let known = all.0.entry(file).or_default();
            *known = known.union(runs);
        }
        all
    }

    /// How many there are.
    fn len(&self) -> u64 {
        let sizes = self.0.values().map(|runs| runs.len() as u64);
        sizes.fold(0, u64::saturating_add)
    }
}

/// The blocks before the first tensor of each file: headers, which opening the model has read.
fn headers(model: &Model) -> Blocks<'_> {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for (file, range) in model.tensors.iter().flat_map(Tensor::byte_ranges) {
        let known = first.entry(file).or_insert(range.start);
        *known = range.start.min(*known);
    }
    Blocks::of(first.into_iter().map(|(file, end)| (file, 0..end)))
}

/// The blocks of the tensors of all components.
fn tensors(model: &Model) -> Blocks<'_> {
    let tensors = model.components.iter().flat_map(|c| &c.tensors);
    Blocks::of(tensors.flat_map(Tensor::byte_ranges))
}

/// Two models of which only what the budget holds is left.
#[derive(Debug)]
pub struct Chosen {
    /// The reference, with what was chosen.
    pub reference: Model,
    /// The candidate, with what was chosen.
    pub candidate: Model,
    /// What was chosen, in words; the same for both.
    pub rule: String,
    /// Of each model.
    pub counts: [Count; 2],
}

/// How much of a model was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Tensors, whole or in part.
    pub n_tensors: usize,
    /// Those in part.
    pub n_in_part: usize,
    /// Tensors of all components.
    pub n_all: usize,
    /// Bytes of what was chosen.
    pub n_bytes: u64,
}

impl Chosen {
    /// Whether the budget leaves anything out.
    pub fn leaves_out(&self) -> bool {
        let all = |count: &Count| count.n_tensors == count.n_all && count.n_in_part == 0;
        !self.counts.iter().all(all)
    }
}

/// Where the tensors of a model's components lie: ranges of files in their order, in whole blocks, neighbours
/// as one.
pub fn ranges(model: &Model) -> Vec<(String, Range<u64>)> {
    let blocks = tensors(model).0.into_iter();
    let of_file = |(file, runs): (&str, RowRuns)| {
        let at = |number: usize| (number as u64).saturating_mul(BLOCK_BYTES);
        let runs = runs
            .runs()
            .map(|run| (file.to_owned(), at(run.start)..at(run.end)));
        runs.collect::<Vec<_>>()
    };
    blocks.flat_map(of_file).collect()
}

/// What was taken of a tensor: all of it, or some of its stored rows.
#[derive(Debug, Clone, PartialEq)]
enum Taken {
    Whole,
    Rows(RowRuns),
}

/// Two components that stand against each other, and what was taken of them.
struct Side<'a> {
    place: usize,
    component: &'a Component,
    taken: BTreeMap<&'a str, Taken>,
}

struct Both<'a> {
    order: Vec<u32>,
    sides: [Side<'a>; 2],
    /// Roles of each group on either side.
    groups: BTreeMap<Group, BTreeSet<Role>>,
    /// Rows of each role that were taken; all of those that are not here and were.
    rows: BTreeMap<Role, RowRuns>,
}

/// What a step would take: of each side the tensors, and the rows of roles.
struct Wanted<'a> {
    tensors: [BTreeMap<&'a str, (&'a Tensor, Taken)>; 2],
    rows: BTreeMap<Role, RowRuns>,
}

fn row_bytes(matrix: &Matrix) -> u64 {
    let tensor = matrix.tensor();
    let n_rows = tensor.shape().first().copied().unwrap_or(1).max(1);
    tensor.size_bytes() / n_rows as u64
}

impl<'a> Both<'a> {
    fn new(models: [&'a Model; 2], places: [usize; 2], settings: &Settings) -> Self {
        let side = |i: usize| Side {
            place: places[i],
            component: &models[i].components[places[i]],
            taken: BTreeMap::new(),
        };
        let sides = [side(0), side(1)];
        let n_layers = sides[0].component.n_layers.min(sides[1].component.n_layers);
        let order = steps::order(n_layers, settings);
        let mut of_sides = [BTreeMap::new(), BTreeMap::new()];
        for (groups, side) in of_sides.iter_mut().zip(&sides) {
            for (role, matrix) in &side.component.roles {
                let is_vector = matrix.tensor().shape().len() <= 1;
                let group = Group::of(role, is_vector, &order);
                let roles: &mut BTreeSet<Role> = groups.entry(group).or_default();
                roles.insert(*role);
            }
        }
        let [mut groups, others] = of_sides;
        groups.retain(|group, _| others.contains_key(group));
        for (group, roles) in &mut groups {
            roles.extend(others.get(group).into_iter().flatten());
        }
        Self {
            order,
            sides,
            groups,
            rows: BTreeMap::new(),
        }
    }

    fn steps(&self, settings: &Settings) -> Vec<(usize, Group, Amount)> {
        let groups: Vec<Group> = self.groups.keys().cloned().collect();
        let up = |role: &&Role| role.kind == crate::arch::RoleKind::Up;
        let up = self
            .groups
            .get(&Group::Mlp(0))
            .and_then(|roles| roles.iter().find(up));
        let n_rows = |side: &Side| Some(side.component.role(*up?)?.n_rows());
        let n_units = self.sides.iter().filter_map(n_rows).min().unwrap_or(0);
        let n_layers = self.order.len() as u32;
        let n_looked_at = super::layers::chosen(n_layers, settings).len();
        steps::steps(&groups, n_units, n_looked_at)
    }

    /// The rows of a role that a step takes on both sides, and the stored rows of each side; `None` where it
    /// cannot be cut, or cutting saves nothing.
    fn cut(
        &self,
        group: &Group,
        role: Role,
        amount: Amount,
        settings: &Settings,
    ) -> Option<(RowRuns, [RowRuns; 2])> {
        let Amount::Rows(amount) = amount else {
            return None;
        };
        let [a, b] = [0, 1].map(|i: usize| self.sides[i].component.role(role));
        let views = [a?, b?];
        let n = views[0].n_rows().min(views[1].n_rows());
        let row_bytes = views.map(row_bytes).into_iter().max().unwrap_or(1);
        let wanted = steps::n_rows(amount, &role, self.sides[0].component);
        let rows = steps::rows(n, wanted, row_bytes, group.key(), settings.seed);
        let rows = match self.rows.get(&role) {
            Some(known) => rows.union(known),
            None => rows,
        };
        let is_small = row_bytes.saturating_mul(n as u64) <= 4 * BLOCK_BYTES;
        if is_small || views.iter().all(|view| rows.len() >= view.n_rows()) {
            return None;
        }
        let [x, y] = views.map(|view| {
            // A tensor of bytes: what is coded in several has other rows than its values.
            let stored = view.stored_rows(&rows)?;
            view.tensor().part(&stored).ok().map(|_| stored)
        });
        Some((rows, [x?, y?]))
    }

    /// What a step would take, beside what was taken before.
    fn want(&self, group: &Group, amount: Amount, settings: &Settings) -> Wanted<'a> {
        let mut wanted = Wanted {
            tensors: [BTreeMap::new(), BTreeMap::new()],
            rows: BTreeMap::new(),
        };
        for role in self.groups.get(group).into_iter().flatten() {
            let is_whole = |side: &Side| {
                let tensor = side
                    .component
                    .role(*role)
                    .map(|matrix| matrix.tensor().name());
                tensor.is_none_or(|name| side.taken.get(name) == Some(&Taken::Whole))
            };
            let cut = match self.sides.iter().all(is_whole) {
                true => None,
                false => self.cut(group, *role, amount, settings),
            };
            let stored = cut.map(|(rows, stored)| {
                wanted.rows.insert(*role, rows);
                stored
            });
            for (i, side) in self.sides.iter().enumerate() {
                let Some(matrix) = side.component.roles.get(role) else {
                    continue;
                };
                let tensor = matrix.tensor();
                let name = tensor.name();
                let known = wanted.tensors[i].remove(name).map(|(_, taken)| taken);
                let known = known.or_else(|| side.taken.get(name).cloned());
                let taken = match (&stored, known) {
                    (None, _) | (_, Some(Taken::Whole)) => Taken::Whole,
                    (Some(stored), Some(Taken::Rows(known))) => {
                        Taken::Rows(known.union(&stored[i]))
                    }
                    (Some(stored), None) => Taken::Rows(stored[i].clone()),
                };
                wanted.tensors[i].insert(name, (tensor, taken));
            }
        }
        wanted
    }

    fn take(&mut self, group: &Group, wanted: Wanted<'a>) {
        for role in self.groups.get(group).into_iter().flatten() {
            self.rows.remove(role);
        }
        self.rows.extend(wanted.rows);
        for (side, tensors) in self.sides.iter_mut().zip(wanted.tensors) {
            let taken = tensors.into_iter().map(|(name, (_, taken))| (name, taken));
            side.taken.extend(taken);
        }
    }

    /// What was taken, group by group.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (group, roles) in &self.groups {
            let reference = &self.sides[0];
            let tensor = |role: &&Role| Some(reference.component.role(**role)?.tensor().name());
            let is_taken =
                |role: &&Role| tensor(role).is_some_and(|t| reference.taken.contains_key(t));
            let taken: Vec<&Role> = roles.iter().filter(is_taken).collect();
            if taken.is_empty() {
                continue;
            }
            let in_part = |role: &&&Role| {
                let rows = self.rows.get(role)?;
                let n = reference.component.role(***role)?.n_rows();
                Some(format!("{} of {n} rows of {}", rows.len(), role.row_name()))
            };
            let parts: Vec<String> = taken.iter().filter_map(|role| in_part(&role)).collect();
            let mut what = format!("{} ({})", group.name(&self.order), reference.component.id);
            if !parts.is_empty() {
                what.push_str(&format!(": {}", parts.join(", ")));
            }
            words.push(what);
        }
        words
    }
}

/// The blocks of a step on one side.
fn blocks_of<'a>(tensors: &BTreeMap<&'a str, (&'a Tensor, Taken)>) -> Blocks<'a> {
    Blocks::of(tensors.values().flat_map(|(tensor, taken)| match taken {
        Taken::Whole => tensor.byte_ranges(),
        Taken::Rows(rows) => tensor.row_ranges(rows),
    }))
}

/// Takes steps as long as they fit.
fn take<'a>(models: [&'a Model; 2], each: u64, settings: &Settings) -> Vec<Both<'a>> {
    let mut pairs = Vec::new();
    for (i, a) in models[0].components.iter().enumerate() {
        if let Some(j) = models[1].components.iter().position(|b| b.id == a.id) {
            pairs.push(Both::new(models, [i, j], settings));
        }
    }
    let mut open = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        let steps = pair.steps(settings).into_iter().enumerate();
        open.extend(steps.map(|(n, (phase, group, amount))| (phase, at, n, group, amount)));
    }
    open.sort_by_key(|(phase, at, n, ..)| (*phase, *at, *n));
    let mut spent = models.map(headers);
    for (_, at, _, group, amount) in open {
        let wanted = pairs[at].want(&group, amount, settings);
        let with = [0, 1].map(|i: usize| spent[i].union(&blocks_of(&wanted.tensors[i])));
        if with.iter().any(|blocks| blocks.len() > each / BLOCK_BYTES) {
            continue;
        }
        spent = with;
        pairs[at].take(&group, wanted);
    }
    pairs
}

/// The component with what was taken of it.
fn only(
    component: &mut Component,
    taken: &BTreeMap<&str, Taken>,
    rows: &BTreeMap<Role, RowRuns>,
) -> Result<(), TensorError> {
    let n = component.tensors.len();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut n_in_part = 0;
    component.tensors.retain_mut(|tensor| {
        match taken.get(tensor.name()) {
            Some(Taken::Rows(rows)) => match tensor.part(rows) {
                Ok(part) => *tensor = part,
                // Cutting was tried before it was chosen.
                Err(_) => return false,
            },
            Some(Taken::Whole) => {}
            None => return false,
        }
        n_in_part += usize::from(tensor.whole().is_some());
        tensors.insert(tensor.name().to_owned(), tensor.clone());
        true
    });
    component.n_left_out += n - component.tensors.len() + n_in_part;
    let mut roles = BTreeMap::new();
    for (role, matrix) in &component.roles {
        let Some(tensor) = tensors.get(matrix.tensor().name()) else {
            continue;
        };
        match (tensor.whole(), rows.get(role)) {
            (None, None) => {
                roles.insert(*role, matrix.clone());
            }
            (Some(_), Some(rows)) => {
                roles.insert(*role, matrix.of_part(tensor, rows)?);
            }
            // A tensor with a role that was taken whole and one that was not: no view that both models have.
            _ => {}
        }
    }
    component.roles = roles;
    Ok(())
}

/// Chooses what is read of two models within a budget for both together, half of it for each.
///
/// A component stands against the one with the same id. Steps are taken in a fixed order, and one that
/// does not fit on either side is passed over for the next. The budget counts the blocks of headers and of
/// rows. Where a model has a component without roles nothing can be chosen equally: all is read if it fits,
/// else nothing.
///
/// # Errors
/// When the rows that were chosen cannot be cut out of their tensors.
pub fn choose(
    reference: &Model,
    candidate: &Model,
    budget_bytes: u64,
    settings: &Settings,
) -> Result<Chosen, TensorError> {
    let models = [reference, candidate];
    let each = budget_bytes / 2;
    let fits = |model: &&Model| headers(model).union(&tensors(model)).len() <= each / BLOCK_BYTES;
    let fits = models.iter().all(fits);
    let nameless = models
        .iter()
        .any(|m| m.components.iter().any(|c| c.basis == RoleBasis::None));
    let mut left = models.map(Model::clone);
    let rule = if fits {
        format!("all tensors: they fit the budget of {budget_bytes} bytes")
    } else {
        let pairs = match nameless {
            true => Vec::new(),
            false => take(models, each, settings),
        };
        for (i, model) in left.iter_mut().enumerate() {
            for (place, component) in model.components.iter_mut().enumerate() {
                let pair = pairs.iter().find(|pair| pair.sides[i].place == place);
                let nothing = (BTreeMap::new(), BTreeMap::new());
                let taken = pair.map_or(&nothing.0, |pair| &pair.sides[i].taken);
                only(component, taken, pair.map_or(&nothing.1, |pair| &pair.rows))?;
            }
        }
        let words: Vec<String> = pairs.iter().flat_map(Both::words).collect();
        match (nameless, words.is_empty()) {
            (true, _) => format!(
                "no tensor: the budget of {budget_bytes} bytes does not hold all of both models, and a \
                 component without roles gives nothing to choose by"
            ),
            (false, true) => format!("within the budget of {budget_bytes} bytes: none fits"),
            (false, false) => format!(
                "within the budget of {budget_bytes} bytes, half for each model, by role, size and seed, \
                 equally for both: {}",
                words.join("; ")
            ),
        }
    };
    let [reference, candidate] = left;
    let counts = [(&reference, models[0]), (&candidate, models[1])].map(|(model, whole)| {
        let tensors = model.components.iter().flat_map(|c| &c.tensors);
        Count {
            n_in_part: tensors.clone().filter(|t| t.whole().is_some()).count(),
            n_bytes: tensors
                .clone()
                .map(Tensor::size_bytes)
                .fold(0, u64::saturating_add),
            n_tensors: tensors.count(),
            n_all: whole.components.iter().map(|c| c.tensors.len()).sum(),
        }
    });
    Ok(Chosen {
        reference,
        candidate,
        rule,
        counts,
    })
}

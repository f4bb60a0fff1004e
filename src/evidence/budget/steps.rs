//! The order in which a budget is spent: groups of roles, and how many rows of each at every step.
//!
//! Everything here follows from roles, sizes and the seed; no value is looked at. Rows are chosen in few
//! runs, so that they lie together, and equally for all matrices whose rows stand for the same things: the
//! units of an MLP in gate and up, the tokens in embeddings and head.

use crate::arch::{Component, Role, RoleKind};
use crate::evidence::context::Settings;
use crate::evidence::layers;
use crate::stats;
use crate::tensor::RowRuns;

/// What stands together in the choice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    /// Vectors of the whole component: norms and biases. They are small and say much.
    Vectors,
    /// The MLP, or the first expert, of the layer that comes so many-th.
    Mlp(usize),
    /// Attention of that layer, routers, and what else is no expert.
    Attention(usize),
    /// The other experts of that layer.
    Experts(usize),
    /// Embeddings, head and whatever else stands outside the layers.
    Outside(&'static str),
}

impl Group {
    /// The group of a role; `order` has the layers in the order of choice.
    pub(super) fn of(role: &Role, is_vector: bool, order: &[u32]) -> Self {
        let Some(layer) = role.layer.filter(|_| !is_vector) else {
            return match is_vector {
                true => Self::Vectors,
                false => Self::Outside(role.kind.name()),
            };
        };
        let at = order.iter().position(|l| *l == layer);
        let at = at.unwrap_or(layer as usize);
        match (role.kind.is_mlp(), role.expert) {
            (true, None | Some(0)) => Self::Mlp(at),
            (true, Some(_)) => Self::Experts(at),
            (false, _) => Self::Attention(at),
        }
    }

    /// Groups of one key begin at the same rows: the same tokens in embeddings and head, and the same units
    /// in every layer, so that one that was moved finds its own.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Mlp(_) | Self::Experts(_) => "units",
            Self::Attention(_) => "attention",
            Self::Outside(_) => "outside",
        }
    }

    /// What it is called in a report.
    pub(super) fn name(&self, order: &[u32]) -> String {
        let layer = |at: &usize| order.get(*at).copied().unwrap_or(*at as u32);
        match self {
            Self::Vectors => "vectors".to_owned(),
            Self::Mlp(at) => format!("MLP of layer {}", layer(at)),
            Self::Attention(at) => format!("attention of layer {}", layer(at)),
            Self::Experts(at) => format!("further experts of layer {}", layer(at)),
            Self::Outside(kind) => (*kind).to_owned(),
        }
    }
}

/// How much a step takes of every matrix of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    /// All of it.
    Whole,
    /// So many rows; of what an MLP writes fewer.
    Rows(usize),
}

/// The layers of a stack in the order of choice: those that tests look at first, then the others.
pub(super) fn order(n_layers: u32, settings: &Settings) -> Vec<u32> {
    let mut order = layers::chosen(n_layers, settings);
    let rest: Vec<u32> = (0..n_layers).filter(|l| !order.contains(l)).collect();
    order.extend(rest);
    order
}

/// Units whose partners are expected among as many units of a copy that was re-ordered, at the first step.
/// [`crate::evidence::unit_matching`] needs about 20 of them to see it; noise and padding take some.
const N_PARTNERS: usize = 32;
/// Rows of embeddings and head: the columns of the token lens.
const N_TOKENS: usize = 256;
/// Rows of the attention matrices of the first layer.
const N_ATTENTION: usize = 256;
/// Units of the other layers that tests look at: in place they are plenty.
const N_IN_PLACE: usize = 64;
/// Rows of what a gated MLP writes, and of what a plain one does: its units are seen through them.
const N_WRITTEN: [usize; 2] = [32, 256];
/// Growth of the first MLP before anything is taken whole, in quarters of the first step.
const N_QUARTERS: usize = 16;

/// Units of an MLP of `n` of which about `N_PARTNERS` are among as many units in another order.
fn reach(n: usize) -> usize {
    (n as f64 * N_PARTNERS as f64).sqrt().ceil() as usize
}

/// The steps of a pair of components, in order. `n_units`: hidden units of the first MLP, 0 where there is
/// none. `groups`: what both have.
pub(super) fn steps(
    groups: &[Group],
    n_units: usize,
    n_looked_at: usize,
) -> Vec<(usize, Group, Amount)> {
    let mut steps = Vec::new();
    let mut phase = 0;
    let mut add = |wanted: &dyn Fn(&Group) -> bool, amount| {
        let found = groups.iter().filter(|group| wanted(group));
        steps.extend(found.map(|group| (phase, group.clone(), amount)));
        phase += 1;
    };
    let first = reach(n_units);
    let is_other = |at: &usize| (1..n_looked_at).contains(at);
    add(&|g| *g == Group::Vectors, Amount::Whole);
    // Fewer where so many do not fit: units in place are still seen.
    for rows in [first, first / 2, first / 4, N_IN_PLACE] {
        add(&|g| *g == Group::Mlp(0), Amount::Rows(rows.max(1)));
    }
    add(&|g| matches!(g, Group::Outside(_)), Amount::Rows(N_TOKENS));
    add(&|g| *g == Group::Attention(0), Amount::Rows(N_ATTENTION));
    add(
        &|g| matches!(g, Group::Mlp(at) if is_other(at)),
        Amount::Rows(N_IN_PLACE),
    );
    for quarter in 5..=N_QUARTERS {
        let rows = first * quarter / 4;
        add(&|g| *g == Group::Mlp(0), Amount::Rows(rows.max(1)));
    }
    add(&|g| *g == Group::Mlp(0), Amount::Whole);
    add(&|g| *g == Group::Attention(0), Amount::Whole);
    add(&|g| matches!(g, Group::Outside(_)), Amount::Whole);
    for at in 0..groups.len() {
        add(&|g| *g == Group::Mlp(at), Amount::Whole);
        add(&|g| *g == Group::Attention(at), Amount::Whole);
        add(&|g| *g == Group::Experts(at), Amount::Whole);
    }
    // What is left over goes into rows of the layers that tests look at.
    add(
        &|g| matches!(g, Group::Attention(at) if is_other(at)),
        Amount::Rows(N_ATTENTION),
    );
    for quarter in [1, 2, 4] {
        let rows = first * quarter / 4;
        add(
            &|g| matches!(g, Group::Mlp(at) if is_other(at)),
            Amount::Rows(rows.max(1)),
        );
    }
    steps
}

/// Whether the layer of a role has a gated MLP.
fn is_gated(component: &Component, role: &Role) -> bool {
    let gate = Role {
        kind: RoleKind::Gate,
        ..*role
    };
    component.role(gate).is_some()
}

/// Rows that a step of `amount` takes of a matrix of a role.
pub(super) fn n_rows(amount: usize, role: &Role, component: &Component) -> usize {
    match role.kind {
        RoleKind::Down => amount.min(N_WRITTEN[usize::from(!is_gated(component, role))]),
        _ => amount,
    }
}

/// Bytes of a run from which on rows are taken from four places instead of one.
const RUN_BYTES: u64 = 512 << 10;
const N_RUNS: usize = 4;

/// `wanted` of `n` rows of `row_bytes` bytes: one run, or four evenly spread ones where each is long enough
/// that its first and last block cost little beside it. They begin where the seed says.
pub(super) fn rows(n: usize, wanted: usize, row_bytes: u64, key: &str, seed: u64) -> RowRuns {
    if wanted >= n {
        return RowRuns::one(0..n);
    }
    let n_bytes = row_bytes.saturating_mul(wanted as u64);
    let n_runs = if n_bytes >= RUN_BYTES * N_RUNS as u64 {
        N_RUNS
    } else {
        1
    };
    let offset = stats::choose(n, 1, seed, &format!("budget/{key}"));
    let offset = offset.first().copied().unwrap_or(0);
    let each = wanted.div_ceil(n_runs);
    RowRuns::new((0..n_runs).flat_map(|i| {
        let start = (offset + n / n_runs * i) % n;
        // A run that reaches the end goes on at the beginning.
        let end = (start + each).min(n);
        [start..end, 0..each - (end - start)]
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_hold_what_fewer_did_and_runs_wrap_around() {
        for seed in 0..20 {
            for (few, many) in [(100, 140), (600, 1200), (256, 10_999)] {
                let of = |n| rows(11_008, n, 8192, "units", seed);
                let (few, many) = (of(few), of(many));
                assert_eq!(few.intersection(&many), few, "seed {seed}");
                assert!(few.end() <= 11_008 && many.runs().count() <= 5);
            }
        }
        assert_eq!(rows(10, 10, 1, "units", 0), RowRuns::one(0..10));
        assert_eq!(rows(11_008, 256, 8192, "units", 0).len(), 256);
    }

    #[test]
    fn a_copy_in_another_order_has_enough_partners_at_the_first_step() {
        for n in [160, 11_008, 28_672] {
            let rows = reach(n);
            assert!(rows * rows >= N_PARTNERS * n && rows > 20, "{n}: {rows}");
        }
    }
}

//! `shared-initialisation`: what two models have in common, is it what was learned or where it began?
//!
//! Every exact test has independent *initialisation* as its null and links two runs from one seed.
//! What tells them apart: a derived model holds what its parent learned, so the parent's leading
//! singular directions are in it as much as its trailing ones are. Two runs from one initialisation
//! share only the initialiser's noise, which fills all directions evenly, while learning goes to the
//! leading ones: of those a smaller share is in the other model. The ratio of the two shares is 1 for
//! copies, noised copies, merges and fine-tunes, and below 1 for twins, whatever the shares are.

use super::block;
use super::context::{EvidenceError, Settings};
use super::in_place;
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::token_lens_matching;
use super::unit_matching::{self, Cell, Grid, LINKED_LN_P, Outcome, Side};
use super::{Run, Test};
use crate::arch::{Role, RoleKind};
use crate::engine::EngineError;
use crate::fingerprint::learned::{Directions, Held, Noise};
use crate::fingerprint::product;
use crate::fingerprint::units::{Mlp, View};
use crate::stats;
use ndarray::{Array2, ArrayView1, Axis};

static SPEC: TestSpec = TestSpec {
    id: "shared-initialisation",
    title: "Shared initialisation",
    question: "Do the models share what one of them learned, or only the random numbers from which both \
               started?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: Some(
        "The models were initialised independently: a unit of the candidate is no more like the unit \
         in the same place of the reference than like any other.",
    ),
    p_value: Some(
        "Permutation of the hidden units of each layer, which initialisers draw exchangeably; layers \
         are permuted independently and combined by Fisher. It links twins and derived models alike: \
         what tells them apart is the effect `learned-kept`, which has no p.",
    ),
    survives: "noise, casting, fine-tuning, long continued pre-training",
    defeated_by: "a changed basis or order (there is then nothing in common in these coordinates); models \
                  that were hardly trained, in which there is nothing learned to look for",
    citation: "modelkin; Phipson and Smyth (2010) for the permutation p",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Units of the smaller MLP that are aligned at most.
const MAX_UNITS: usize = 1024;
/// What is read of a matrix that stands in place. A learned direction of a part stands out of the
/// part's noise less than that of the whole does, so that the part must not be small.
const LIMIT: block::Limit = block::Limit {
    rows: 2048,
    cols: 4096,
};
/// What is read where nothing links the two: there is then no kind of link to be told, and the effects
/// that are left need no large part.
const UNLINKED_LIMIT: block::Limit = block::Limit {
    rows: 512,
    cols: 384,
};

/// Of matrices that were read in part, those with fewer rows show nothing of what was learned: the leading
/// directions of a few rows are those of their noise.
const MIN_ROWS_OF_PART: usize = 128;
/// Of units of which a part was read most have no partner. A match counts where it is so many times closer
/// than the next candidate in the first view; unrelated units are about equally close to many.
const CLOSER: f32 = 1.5;

/// Rows of the second view of two matched MLPs, the candidate's units in the reference's order.
///
/// The order comes from the first view alone (or is the identity, whichever fits the first view
/// better), so that what is measured was not used to align.
struct Aligned {
    reference: Array2<f64>,
    candidate: Array2<f64>,
    identity: bool,
}

/// Reads a view of the given units of the MLP of a side.
type ReadUnits<'a> =
    dyn Fn(Side, &Mlp<'_>, View, &[usize]) -> Result<Array2<f32>, EngineError> + 'a;

/// Mean cosine of corresponding rows.
fn mean_cosine(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let dots = a
        .rows()
        .into_iter()
        .zip(b.rows())
        .map(|(x, y)| f64::from(x.dot(&y)));
    dots.sum::<f64>() / a.nrows().max(1) as f64
}

/// Whether a unit is closer to its match than to any other, by far.
fn is_close(similarity: ArrayView1<'_, f32>, to: usize) -> bool {
    let others = similarity
        .iter()
        .enumerate()
        .filter(|(unit, _)| *unit != to);
    let next = others.fold(0f32, |most, (_, &cosine)| most.max(cosine));
    similarity[to] > CLOSER * next
}

fn align(
    cell: &Cell,
    pair: &ComponentPair,
    settings: &Settings,
    read: &ReadUnits<'_>,
) -> Result<Option<Aligned>, EvidenceError> {
    let Some((a, b)) = unit_matching::mlps(pair, cell.reference, cell.candidate) else {
        return Ok(None);
    };
    // The larger MLP's look-alikes of a sample of the smaller one's units.
    let (small, large) = if a.n_units() <= b.n_units() {
        ((Side::Reference, &a), (Side::Candidate, &b))
    } else {
        ((Side::Candidate, &b), (Side::Reference, &a))
    };
    let is_part = small.1.is_part() || large.1.is_part();
    let limit = if is_part { settings.n_units } else { MAX_UNITS };
    let n = small.1.n_units().min(limit);
    let mut units = stats::choose(small.1.n_units(), n, settings.seed, "aligned-units");
    let all: Vec<usize> = (0..large.1.n_units()).collect();
    let mut x = read(small.0, small.1, View::First, &units)?;
    let mut y = read(large.0, large.1, View::First, &all)?;
    product::normalise_rows(&mut x);
    product::normalise_rows(&mut y);
    let similarity = settings.products.rows_by_rows(x.view(), y.view())?;
    let mut matched = stats::assign_max(similarity.view())
        .map_err(|e| EvidenceError::Numerical(e.to_string()))?
        .row_to_col;
    let fit = |order: &[usize]| mean_cosine(&x, &y.select(Axis(0), order));
    // An assignment always fits better than chance; the identity needs no such advantage.
    let identity = small.1.n_units() == large.1.n_units() && fit(&units) >= 0.8 * fit(&matched);
    if is_part && !identity {
        let pairs = units.iter().zip(&matched).enumerate();
        let close = pairs.filter(|&(row, (_, &to))| is_close(similarity.row(row), to));
        (units, matched) = close.map(|(_, (&unit, &to))| (unit, to)).unzip();
        if units.is_empty() {
            return Ok(None);
        }
    }
    let order = if identity { &units } else { &matched };
    let of_small = read(small.0, small.1, View::Second, &units)?.mapv(f64::from);
    let of_large = read(large.0, large.1, View::Second, order)?.mapv(f64::from);
    let (reference, candidate) = if small.0 == Side::Reference {
        (of_small, of_large)
    } else {
        (of_large, of_small)
    };
    Ok(Some(Aligned {
        reference,
        candidate,
        identity,
    }))
}

/// What was found of one matrix.
struct Entry {
    /// Whether it belongs to an MLP, whose units are what the links speak of.
    is_mlp: bool,
    /// Shares of the reference's directions in the candidate, and the reverse.
    forward: Held,
    backward: Held,
    shared_std: f64,
    reference_std: f64,
    cell: LayerCell,
}

/// All matrices that were looked at.
#[derive(Default)]
struct Entries {
    found: Vec<Entry>,
    noise: Noise,
}

/// The place of a cell in the picture: layers and row.
type Place = (Option<u32>, Option<u32>, String);

/// A matrix outside the MLPs counts where it holds at least this part of the share that the MLPs
/// hold: heads may be re-ordered or turned where units stand in place.
const MIN_SHARE_OF_MLPS: f64 = 0.5;

fn mean(xs: &[f64]) -> f64 {
    xs.iter().sum::<f64>() / xs.len() as f64
}

fn deviation(xs: &[f64]) -> f64 {
    let m = mean(xs);
    (xs.iter().map(|x| (x - m).powi(2)).sum::<f64>() / xs.len() as f64).sqrt()
}

/// Scales each unit (a row, or a column of what the MLP writes) to unit length: a scale that moves
/// from the one projection to the next is no difference.
fn scale_units(matrix: &mut Array2<f64>, units: Axis) {
    for mut unit in matrix.axis_iter_mut(units) {
        let norm = unit.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 {
            unit /= norm;
        }
    }
}

impl Entries {
    /// Looks at two matrices whose rows and columns correspond. `max_rank`: their rank at most.
    fn add(
        &mut self,
        (mut a, mut b): (Array2<f64>, Array2<f64>),
        units: Axis,
        is_mlp: bool,
        max_rank: usize,
        seed: u64,
        place: Place,
    ) {
        let n = a.len() as f64;
        let product = a.iter().zip(&b).map(|(x, y)| x * y).sum::<f64>() / n;
        let reference_std = (a.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
        scale_units(&mut a, units);
        scale_units(&mut b, units);
        let directions = |x: &Array2<f64>| Directions::of(x, max_rank, seed);
        let (Some(of_a), Some(of_b)) = rayon::join(|| directions(&a), || directions(&b)) else {
            return;
        };
        let forward = of_a.held_by(&a, &b, &mut self.noise, seed);
        self.found.push(Entry {
            is_mlp,
            forward,
            backward: of_b.held_by(&b, &a, &mut self.noise, seed),
            shared_std: product.signum() * product.abs().sqrt(),
            reference_std,
            cell: LayerCell {
                reference_layer: place.0,
                candidate_layer: place.1,
                role: place.2,
                value: forward.leading_share(),
                ln_p: None,
            },
        });
    }

    /// Drops what lies outside the MLPs and does not stand in place as they do.
    fn keep_what_stands_in_place(&mut self) {
        let of_mlps: Held = self
            .found
            .iter()
            .filter(|e| e.is_mlp)
            .map(|e| e.forward)
            .sum();
        if !self.found.iter().any(|e| e.is_mlp) {
            return;
        }
        let enough = MIN_SHARE_OF_MLPS * of_mlps.trailing_share();
        self.found
            .retain(|e| e.is_mlp || e.forward.trailing_share() >= enough);
    }

    /// `linked`: whether there is a link whose kind can be told; without one the ratios are noise
    /// divided by noise, and are not reported.
    fn record(self, pair: &ComponentPair, basis: &str, linked: bool) -> TestRecord {
        if self.found.is_empty() {
            let reason = "no weight matrices of equal role and shape that are wide enough";
            return TestRecord::not_applicable(SPEC.id, &pair.id, reason);
        }
        let column = |f: fn(&Entry) -> f64| self.found.iter().map(f).collect::<Vec<f64>>();
        let shared_std = column(|e| e.shared_std);
        let mut record = TestRecord::measured(SPEC.id, &pair.id)
            .with_effect("shared-std", mean(&shared_std))
            .with_effect("shared-std-deviation", deviation(&shared_std))
            .with_effect("reference-std", mean(&column(|e| e.reference_std)))
            .with_effect("n-matrices", self.found.len() as f64);
        let forward: Vec<Held> = self.found.iter().map(|e| e.forward).collect();
        let backward: Vec<Held> = self.found.iter().map(|e| e.backward).collect();
        for (held, of, by) in [
            (&forward, "reference", "candidate"),
            (&backward, "candidate", "reference"),
        ] {
            let total: Held = held.iter().copied().sum();
            let learned = total.learned / held.len() as f64;
            record = record
                .with_effect(&format!("leading-of-{of}-in-{by}"), total.leading_share())
                .with_effect(&format!("trailing-of-{of}-in-{by}"), total.trailing_share())
                .with_effect(&format!("learned-in-{of}"), learned);
            if linked && let Some((ratio, interval)) = Held::ratio(held) {
                let name = format!("learned-of-{of}-kept");
                record = record.with_effect_interval(&name, ratio, interval);
            }
        }
        record
            .with_detail(Detail::Selection(basis.to_owned()))
            .with_detail(Detail::Grid(LayerGrid {
                quantity: "share of the reference's leading directions found in the candidate"
                    .to_owned(),
                range: (0.0, 1.0),
                cells: self.found.into_iter().map(|e| e.cell).collect(),
            }))
    }
}

/// The grid that links, and whether it looks through the token lens.
fn linking_grid<'a>(pair: &'a ComponentPair, settings: &Settings) -> Option<(&'a Grid, bool)> {
    let linked = |outcome: &'a Outcome| match outcome {
        Ok(Ok(grid)) if grid.has_link() => Some(grid),
        _ => None,
    };
    linked(pair.order_grid(settings))
        .or_else(|| linked(pair.agreement_grid(settings)))
        .map(|grid| (grid, false))
        .or_else(|| linked(pair.lens_grid(settings)).map(|grid| (grid, true)))
}

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let p = in_place::p_value(pair, settings)?;
    let in_place = p.is_some_and(|p| p.ln_p() <= LINKED_LN_P);
    let grid = linking_grid(pair, settings);
    let by_channels = matches!(pair.channels(), Ok(Ok(channels)) if channels.ln_p <= LINKED_LN_P);
    let mut entries = Entries::default();
    let record = match grid {
        // Units that stand where they stood: every matrix can be compared as it is.
        Some((grid, through_lens)) if !in_place => {
            let mut basis = aligned(pair, grid, through_lens, settings, &mut entries)?;
            let in_part = grid
                .best_cells()
                .iter()
                .any(|cell| cell.n_if_reordered.is_some());
            if in_part && !through_lens {
                // Few units have their partner in a part; what stands in place beside the MLPs helps.
                let n = entries.found.len();
                add_blocks(pair, LIMIT, settings, &mut entries, &|role| {
                    !role.kind.is_mlp()
                })?;
                entries.keep_what_stands_in_place();
                let n = entries.found.len() - n;
                basis.push_str(&format!(
                    "; {n} matrices beside the MLPs that stand in place"
                ));
            }
            entries.record(pair, &basis, true)
        }
        _ => {
            let linked = in_place || by_channels || grid.is_some();
            let limit = if linked { LIMIT } else { UNLINKED_LIMIT };
            add_blocks(pair, limit, settings, &mut entries, &|_| true)?;
            if in_place {
                entries.keep_what_stands_in_place();
            }
            let basis = "matrices of equal role, as they stand";
            entries.record(pair, basis, linked)
        }
    };
    Ok(match p {
        Some(p) => record.with_p(p),
        None => record,
    })
}

/// Looks at matrices of equal role as they stand; at parts of few rows only where there is nothing else.
fn add_blocks(
    pair: &ComponentPair,
    limit: block::Limit,
    settings: &Settings,
    entries: &mut Entries,
    wanted: &dyn Fn(Role) -> bool,
) -> Result<(), EvidenceError> {
    let n_before = entries.found.len();
    for min_rows_of_part in [MIN_ROWS_OF_PART, 1] {
        if entries.found.len() > n_before {
            break;
        }
        block::for_each(pair, limit, settings, |block| {
            let role = block.role;
            let is_short = block.is_part && block.reference.nrows() < min_rows_of_part;
            if is_short || !wanted(role) {
                return Ok(());
            }
            let units = Axis(usize::from(role.kind == RoleKind::Down));
            let place = (role.layer, role.layer, role.row_name());
            let matrices = (block.reference, block.candidate);
            let is_mlp = role.kind.is_mlp();
            entries.add(matrices, units, is_mlp, usize::MAX, settings.seed, place);
            Ok(())
        })?;
    }
    Ok(())
}

/// Looks at the second views of the MLPs of linked layers, units aligned by the first; says so in words.
fn aligned(
    pair: &ComponentPair,
    grid: &Grid,
    through_lens: bool,
    settings: &Settings,
    entries: &mut Entries,
) -> Result<String, EvidenceError> {
    let lenses = match through_lens {
        true => token_lens_matching::lenses(pair)?.ok(),
        false => None,
    };
    let read = |side, mlp: &Mlp<'_>, view, units: &[usize]| match (&lenses, side) {
        (Some((a, _)), Side::Reference) => a.rows(mlp, view, units, &settings.products),
        (Some((_, b)), Side::Candidate) => b.rows(mlp, view, units, &settings.products),
        (None, _) => Ok(mlp.rows(view, units)?),
    };
    let mut n_identity = 0;
    let linked = |cell: &&Cell| cell.test.ln_p <= LINKED_LN_P;
    for cell in grid.best_cells().into_iter().filter(linked) {
        if let Some(aligned) = align(cell, pair, settings, &read)? {
            n_identity += u32::from(aligned.identity);
            let place = (
                Some(cell.reference.0),
                Some(cell.candidate.0),
                "second view".to_owned(),
            );
            let widths = [pair.reference.hidden_size, pair.candidate.hidden_size];
            let max_rank = widths.into_iter().flatten().min().unwrap_or(usize::MAX);
            let matrices = (aligned.reference, aligned.candidate);
            entries.add(matrices, Axis(0), true, max_rank, settings.seed, place);
        }
    }
    let lens = if through_lens {
        ", through the token lens"
    } else {
        ""
    };
    Ok(format!(
        "the second view of the MLPs of {} linked layers{lens}, units in the order that the first \
         view gives ({n_identity} of them as they stand)",
        entries.found.len(),
    ))
}

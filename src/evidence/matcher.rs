//! Matching the units of two MLPs by one view, and the test of a cell: what [`super::unit_matching`]
//! asks of every pair of layers.
//!
//! Units without any weight in a view (padding, pruned units) are left out of the test: two models
//! that were padded alike would otherwise match padding to padding by both views and look related.

use super::context::{EvidenceError, Settings};
use super::unit_matching::{Cell, MIN_UNITS, Question, ReadView, Side};
use crate::fingerprint::product;
use crate::fingerprint::units::{
    Mlp,
    View::{self, First, Second},
};
use crate::stats::{self, MatchingTest};
use ndarray::{Array2, s};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Units of the larger MLP whose views are in memory at once.
const BLOCK_UNITS: usize = 4096;

/// Layer and expert.
pub(super) type Place = (u32, Option<u32>);

/// Which matching: the smaller MLP, whether it is the reference's, the larger one, whether by the
/// second view, whether coarse.
type MatchingKey = (Place, bool, Place, bool, bool);

/// Matchings that two questions ask for, each computed once.
pub(super) type Matchings = Mutex<BTreeMap<MatchingKey, Arc<Matching>>>;

/// Partners of the sampled units of the smaller MLP by one view.
#[derive(Debug)]
pub(super) struct Matching {
    /// Unit of the larger MLP for each sampled unit.
    targets: Vec<usize>,
    /// Which sampled units have no weight at all in this view.
    empty_small: Vec<bool>,
    /// Which units of the larger MLP have none.
    empty_large: Vec<bool>,
}

impl Matching {
    /// The exact matching of rows of unit length.
    pub(super) fn of_rows(small: &Array2<f32>, large: &Array2<f32>) -> Result<Self, EvidenceError> {
        let similarity = product::rows_by_rows(small.view(), large.view());
        Ok(Self {
            targets: assign(&similarity)?,
            empty_small: is_empty(small).collect(),
            empty_large: is_empty(large).collect(),
        })
    }

    /// Does it keep the order? `places`: for each sampled unit the one that stands in its place in the larger
    /// MLP, if it is at hand.
    pub(super) fn order_test(
        &self,
        places: &[Option<usize>],
    ) -> Result<MatchingTest, EvidenceError> {
        test(places, &self.targets, &[self])
    }

    /// Does another view match the same units alike?
    fn agreement_test(&self, other: &Self) -> Result<MatchingTest, EvidenceError> {
        let targets: Vec<Option<usize>> = self.targets.iter().copied().map(Some).collect();
        test(&targets, &other.targets, &[self, other])
    }
}

fn assign(similarity: &Array2<f32>) -> Result<Vec<usize>, EvidenceError> {
    stats::assign_max(similarity.view())
        .map(|assignment| assignment.row_to_col)
        .map_err(|e| EvidenceError::Numerical(e.to_string()))
}

fn is_empty(rows: &Array2<f32>) -> impl Iterator<Item = bool> + '_ {
    rows.rows()
        .into_iter()
        .map(|row| row.iter().all(|&x| x == 0.0))
}

/// What is done with the rows of a block of units, the first of which is numbered.
type SeeBlock<'a> = dyn FnMut(usize, &Array2<f32>) -> Result<(), EvidenceError> + 'a;

/// Reads views and matches units by them.
pub(super) struct Matcher<'a> {
    settings: &'a Settings,
    read: &'a ReadView<'a>,
    known: Option<&'a Matchings>,
    /// Coarse views of one large MLP, which the search holds against several small ones.
    kept: Vec<((Side, Place, View), Array2<f32>)>,
}

impl<'a> Matcher<'a> {
    /// `known`: where matchings are kept for another question about the same views.
    pub(super) fn new(
        settings: &'a Settings,
        read: &'a ReadView<'a>,
        known: Option<&'a Matchings>,
    ) -> Self {
        Self {
            settings,
            read,
            known,
            kept: Vec::new(),
        }
    }

    /// Rows of unit length of units of the larger MLP, block by block.
    fn for_each_block(
        &self,
        (side, mlp): (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
        f: &mut SeeBlock<'_>,
    ) -> Result<(), EvidenceError> {
        let n = mlp.n_units();
        for start in (0..n).step_by(BLOCK_UNITS) {
            let units: Vec<usize> = (start..n.min(start + BLOCK_UNITS)).collect();
            let mut block = (self.read)(side, mlp, view, &units, coarse)?;
            product::normalise_rows(&mut block);
            f(start, &block)?;
        }
        Ok(())
    }

    /// Cosines of the given rows with all units of the larger MLP, and which of these are empty.
    fn similarity(
        &mut self,
        rows: &Array2<f32>,
        large: (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
    ) -> Result<(Array2<f32>, Vec<bool>), EvidenceError> {
        let n = large.1.n_units();
        let mut out = Array2::<f32>::zeros((rows.nrows(), n));
        let mut empty = Vec::with_capacity(n);
        let products = &self.settings.products;
        let mut compare = |start: usize, block: &Array2<f32>| -> Result<(), EvidenceError> {
            empty.extend(is_empty(block));
            out.slice_mut(s![.., start..start + block.nrows()])
                .assign(&products.rows_by_rows(rows.view(), block.view())?);
            Ok(())
        };
        if !coarse {
            self.for_each_block(large, view, coarse, &mut compare)?;
            return Ok((out, empty));
        }
        let place = (large.0, (large.1.layer, large.1.expert));
        self.kept.retain(|((side, at, _), _)| (*side, *at) == place);
        let key = (place.0, place.1, view);
        if !self.kept.iter().any(|(kept, _)| *kept == key) {
            let mut whole = Array2::zeros((0, 0));
            self.for_each_block(large, view, coarse, &mut |start, block| {
                if start == 0 {
                    whole = Array2::zeros((n, block.ncols()));
                }
                whole
                    .slice_mut(s![start..start + block.nrows(), ..])
                    .assign(block);
                Ok(())
            })?;
            self.kept.push((key, whole));
        }
        if let Some((_, whole)) = self.kept.iter().find(|(kept, _)| *kept == key) {
            compare(0, whole)?;
        }
        Ok((out, empty))
    }

    fn matching(
        &mut self,
        small: (Side, &Mlp<'_>, &[usize]),
        large: (Side, &Mlp<'_>),
        view: View,
        coarse: bool,
    ) -> Result<Arc<Matching>, EvidenceError> {
        let key = (
            (small.1.layer, small.1.expert),
            small.0 == Side::Reference,
            (large.1.layer, large.1.expert),
            view == Second,
            coarse,
        );
        let known = self
            .known
            .map(|known| known.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(found) = known.as_ref().and_then(|known| known.get(&key)) {
            return Ok(Arc::clone(found));
        }
        drop(known);
        let mut rows = (self.read)(small.0, small.1, view, small.2, coarse)?;
        product::normalise_rows(&mut rows);
        let (similarity, empty_large) = self.similarity(&rows, large, view, coarse)?;
        let targets = assign(&similarity)?;
        let found = Arc::new(Matching {
            targets,
            empty_small: is_empty(&rows).collect(),
            empty_large,
        });
        if let Some(known) = self.known {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, Arc::clone(&found));
        }
        Ok(found)
    }

    /// Tests one cell.
    pub(super) fn cell(
        &mut self,
        a: &Mlp<'_>,
        b: &Mlp<'_>,
        question: Question,
        coarse: bool,
    ) -> Result<Cell, EvidenceError> {
        let (small, large) = if a.n_units() <= b.n_units() {
            ((Side::Reference, a), (Side::Candidate, b))
        } else {
            ((Side::Candidate, b), (Side::Reference, a))
        };
        let limit = if coarse {
            self.settings.n_units / 8
        } else {
            self.settings.n_units
        }
        .max(MIN_UNITS);
        let n = small.1.n_units().min(limit);
        // The stream names the layer so that no two layers share their sample by accident of size.
        let stream = format!("units/{}", small.1.layer);
        let units = stats::choose(small.1.n_units(), n, self.settings.seed, &stream);
        let mut matching =
            |view| self.matching((small.0, small.1, units.as_slice()), large, view, coarse);
        let test = match question {
            Question::Agreement => {
                let (first, second) = (matching(First)?, matching(Second)?);
                first.agreement_test(&second)
            }
            Question::Order => {
                let found = matching(a.up_view())?;
                let place = |&unit| large.1.unit_at_hand(small.1.unit_of_whole(unit)?);
                let places: Vec<Option<usize>> = units.iter().map(place).collect();
                found.order_test(&places)
            }
        }?;
        // Units of which only a part was read, chosen before any value was: the same in both models, so that
        // a unit stands in the place of its partner, and partners that were not read dilute the ranks.
        let is_part = a.is_part() || b.is_part();
        let read = large.1.n_units() as f64 / large.1.n_units_of_whole() as f64;
        Ok(Cell {
            reference: (a.layer, a.expert),
            candidate: (b.layer, b.expert),
            test: if is_part {
                test.by_coincidences()
            } else {
                test
            },
            n_if_reordered: is_part.then_some(n as f64 * read),
        })
    }
}

/// The test of two matchings, over units that have weights in all the views that were looked at, and a
/// target in the first.
///
/// Under the null the units that have weights can be permuted in one view alone, so that among them
/// the one matching is a uniformly random injection relative to the other.
fn test(
    first: &[Option<usize>],
    second: &[usize],
    views: &[&Matching],
) -> Result<MatchingTest, EvidenceError> {
    let n_large = views.first().map_or(0, |view| view.empty_large.len());
    let mut n_targets = 0;
    let place: Vec<Option<usize>> = (0..n_large)
        .map(|unit| {
            let is_empty = views.iter().any(|view| view.empty_large[unit]);
            (!is_empty).then(|| {
                n_targets += 1;
                n_targets - 1
            })
        })
        .collect();
    let (first, second): (Vec<usize>, Vec<usize>) = (0..first.len())
        .filter(|&unit| !views.iter().any(|view| view.empty_small[unit]))
        .filter_map(|unit| Some((*place.get(first[unit]?)?, *place.get(second[unit])?)))
        .filter_map(|(x, y)| x.zip(y))
        .unzip();
    stats::matching_test(&first, &second, n_targets)
        .map_err(|e| EvidenceError::Numerical(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_without_weights_match_each_other_and_do_not_count() {
        // Ten units of which the last four are padding in both models.
        let padded = |targets: [usize; 10]| Matching {
            targets: targets.to_vec(),
            empty_small: (0..10).map(|unit| unit >= 6).collect(),
            empty_large: (0..10).map(|unit| unit >= 6).collect(),
        };
        let first = padded([3, 1, 0, 5, 4, 2, 6, 7, 8, 9]);
        let second = padded([2, 0, 5, 3, 1, 4, 6, 7, 8, 9]);
        let found = first.agreement_test(&second).unwrap();
        assert_eq!((found.n, found.n_targets, found.n_coincident), (6, 6, 0));
        let empty = Matching {
            empty_small: vec![true; 10],
            ..padded([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        };
        let none = empty.agreement_test(&empty).unwrap();
        assert_eq!((none.n, none.ln_p), (0, 0.0));
    }
}

//! `adapter-updates`: do two adapters make the same changes, or begin from the same random factors?
//!
//! An adapter changes a weight by scale · B · A, where A was drawn at random and B began at zero. The changes
//! themselves say whether one adapter was trained from the other, whatever its factors are: B · G and G⁻¹ · A
//! make the same. The row spaces of A, which training moves little, say whether both began from one draw.
//! Both are computed from the factors, without the product. Unit tests are not asked: all adapters of one base
//! have its units in its order, whoever trained them.

use super::context::{EvidenceError, Settings};
use super::pair::ComponentPair;
use super::record::{Detail, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::{Component, Role};
use crate::tensor::{Tensor, TensorError};
use ndarray::{Array2, ArrayView2};
use std::collections::HashMap;

static SPEC: TestSpec = TestSpec {
    id: "adapter-updates",
    title: "Changes of adapters",
    question: "Do two adapters make the same changes, and did they begin from the same random factors?",
    scope: Scope::Component,
    needs: &[Need::Weights, Need::Adapters],
    null: None,
    p_value: None,
    survives: "other factors of the same product, another rank or alpha, casting, further training",
    defeated_by: "training until nothing of the first adapter is left; merging it into another base",
    citation: "modelkin; LoRA (ICLR 2022) for how factors begin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Directions whose length falls below this share of the longest are none.
const DEPENDENT: f64 = 1e-6;

/// Whether a component consists of what an adapter changes.
pub(super) fn is_adapter(component: &Component) -> bool {
    component.tensors.iter().any(|t| t.dtype().is_change())
}

/// How many of the two are adapters that were not added to a base.
pub(super) fn n_adapters(pair: &ComponentPair) -> usize {
    usize::from(is_adapter(&pair.reference)) + usize::from(is_adapter(&pair.candidate))
}

/// Factors of one module as rows: A `[rank, in]`, and B turned `[rank, out]`.
struct Factors {
    a: Array2<f64>,
    b: Array2<f64>,
}

impl Factors {
    fn read(change: &Tensor) -> Result<Option<Self>, TensorError> {
        let part = |kind: &str| {
            let mut parts = change.parts().iter();
            let tensor = &parts.find(|part| part.kind == kind)?.tensor;
            <[usize; 2]>::try_from(tensor.shape())
                .ok()
                .map(|shape| (tensor, shape))
        };
        let (Some(a), Some(b)) = (part("lora_A"), part("lora_B")) else {
            return Ok(None);
        };
        let matrix = |(tensor, shape): (&Tensor, [usize; 2])| {
            let values = tensor.read_elements(0..tensor.n_elements())?;
            if !values.iter().all(|value| value.is_finite()) {
                return Err(TensorError::not_finite(tensor));
            }
            let values = values.into_iter().map(f64::from).collect();
            Array2::from_shape_vec(shape, values)
                .map_err(|_| TensorError::shape(tensor, "a matrix"))
        };
        Ok(Some(Self {
            a: matrix(a)?,
            b: matrix(b)?.reversed_axes(),
        }))
    }

    /// Σ over all elements of the product of the two changes, without their scales.
    fn dot(&self, other: &Self) -> f64 {
        let (a, b) = (self.a.dot(&other.a.t()), self.b.dot(&other.b.t()));
        a.iter().zip(&b).map(|(x, y)| x * y).sum()
    }
}

/// Orthonormal rows that span the rows of a matrix (Gram–Schmidt, twice).
fn basis(rows: ArrayView2<'_, f64>) -> Array2<f64> {
    let length = |row: &ndarray::Array1<f64>| row.dot(row).sqrt();
    let longest = rows.rows().into_iter().map(|r| r.dot(&r).sqrt());
    let longest = longest.fold(0.0, f64::max);
    let mut kept: Vec<ndarray::Array1<f64>> = Vec::new();
    for row in rows.rows() {
        let mut row = row.to_owned();
        for _ in 0..2 {
            for other in &kept {
                let share = other.dot(&row);
                row.scaled_add(-share, other);
            }
        }
        let n = length(&row);
        if n > DEPENDENT * longest {
            kept.push(row / n);
        }
    }
    let mut out = Array2::zeros((kept.len(), rows.ncols()));
    for (mut to, from) in out.rows_mut().into_iter().zip(&kept) {
        to.assign(from);
    }
    out
}

/// Share of the smaller row space that lies in the other: the mean squared cosine of the angles between them;
/// and what it is for random ones. `None` where a space is empty or fills the whole.
fn overlap(x: &Array2<f64>, y: &Array2<f64>) -> Option<(f64, f64)> {
    if x.ncols() != y.ncols() {
        return None;
    }
    let (p, q) = (basis(x.view()), basis(y.view()));
    let (small, large) = (p.nrows().min(q.nrows()), p.nrows().max(q.nrows()));
    // Two spaces of more than half of all directions must meet.
    if small == 0 || 2 * large > x.ncols() {
        return None;
    }
    let shared: f64 = p.dot(&q.t()).iter().map(|c| c * c).sum();
    Some((shared / small as f64, large as f64 / x.ncols() as f64))
}

/// The middle of some numbers, if there are any.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What two changes of one module have in common.
struct Compared {
    cosine: f64,
    /// ‖b − a‖ / max(‖a‖, ‖b‖).
    difference: f64,
    inputs: Option<(f64, f64)>,
    outputs: Option<(f64, f64)>,
}

fn compare(a: &Tensor, b: &Tensor) -> Result<Option<Compared>, TensorError> {
    let (Some(x), Some(y)) = (Factors::read(a)?, Factors::read(b)?) else {
        return Ok(None);
    };
    if x.a.ncols() != y.a.ncols() || x.b.ncols() != y.b.ncols() {
        return Ok(None);
    }
    let scale = |t: &Tensor| {
        t.coding_parameters()
            .first()
            .map_or(f64::NAN, |s| f64::from_bits(*s))
    };
    let (s, t) = (scale(a), scale(b));
    let (xx, yy, xy) = (s * s * x.dot(&x), t * t * y.dot(&y), s * t * x.dot(&y));
    // A module that was never trained changes nothing.
    if xx <= 0.0 || yy <= 0.0 {
        return Ok(None);
    }
    Ok(Some(Compared {
        cosine: xy / (xx.sqrt() * yy.sqrt()),
        difference: (xx + yy - 2.0 * xy).max(0.0).sqrt() / xx.max(yy).sqrt(),
        inputs: overlap(&x.a, &y.a),
        outputs: overlap(&x.b, &y.b),
    }))
}

fn run(pair: &ComponentPair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let n_adapters = n_adapters(pair);
    if n_adapters == 0 {
        let reason = "neither of the two is an adapter that was not added to a base";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let mut record =
        TestRecord::measured(SPEC.id, &pair.id).with_effect("n-adapters", n_adapters as f64);
    if n_adapters == 1 {
        let reason = "one of the two is an adapter, which holds changes and no weights: its base must be named \
                      before the two can be compared";
        return Ok(record.with_reason(reason));
    }
    let count = |component: &Component| {
        component
            .tensors
            .iter()
            .filter(|t| t.dtype().is_change())
            .count() as f64
    };
    let n_modules = count(&pair.reference).max(count(&pair.candidate));
    let roles = pair.reference.roles.iter();
    let roles: HashMap<&str, &Role> = roles.map(|(r, m)| (m.tensor().name(), r)).collect();
    let mut compared = Vec::new();
    let mut cells = Vec::new();
    for found in &pair.correspondence.pairs {
        let a = &pair.reference.tensors[found.reference];
        let b = &pair.candidate.tensors[found.candidate];
        if !a.dtype().is_change() || !b.dtype().is_change() {
            continue;
        }
        let Some(both) = compare(a, b)? else {
            continue;
        };
        let role = roles.get(a.name());
        cells.push(LayerCell {
            reference_layer: role.and_then(|role| role.layer),
            candidate_layer: role.and_then(|role| role.layer),
            role: role.map_or_else(|| a.name().to_owned(), |role| role.row_name()),
            value: both.cosine,
            ln_p: None,
        });
        compared.push(both);
    }
    record = record
        .with_effect("n-modules-compared", compared.len() as f64)
        .with_effect(
            "fraction-modules-compared",
            compared.len() as f64 / n_modules.max(1.0),
        );
    let all = |of: &dyn Fn(&Compared) -> Option<f64>| compared.iter().filter_map(of).collect();
    let effects = [
        ("median-change-cosine", median(all(&|c| Some(c.cosine)))),
        (
            "largest-relative-difference",
            compared.iter().map(|c| c.difference).reduce(f64::max),
        ),
        ("median-input-overlap", median(all(&|c| Some(c.inputs?.0)))),
        (
            "median-input-overlap-of-random",
            median(all(&|c| Some(c.inputs?.1))),
        ),
        (
            "median-output-overlap",
            median(all(&|c| Some(c.outputs?.0))),
        ),
        (
            "median-output-overlap-of-random",
            median(all(&|c| Some(c.outputs?.1))),
        ),
    ];
    for (name, value) in effects {
        if let Some(value) = value {
            record = record.with_effect(name, value);
        }
    }
    Ok(record.with_detail(Detail::Grid(LayerGrid {
        quantity: "cosine of the changes".to_owned(),
        range: (-1.0, 1.0),
        cells,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn overlap_is_of_spaces_and_not_of_factors() {
        let x = array![[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]];
        let turned = array![[3.0, 1.0, 0.0, 0.0, 0.0], [-1.0, 2.0, 0.0, 0.0, 0.0]];
        let half = array![[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]];
        let (same, random) = overlap(&x, &turned).unwrap();
        assert!((same - 1.0).abs() < 1e-12 && random == 0.4);
        assert!((overlap(&x, &half).unwrap().0 - 0.5).abs() < 1e-12);
        // Spaces that must meet say nothing.
        assert!(overlap(&array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], &Array2::eye(3)).is_none());
    }

    #[test]
    fn a_repeated_row_is_no_direction_of_its_own() {
        let rows = array![[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 0.0]];
        assert_eq!(basis(rows.view()).nrows(), 1);
    }
}

//! `weight-similarity`: how alike are the weights, role by role and layer by layer?
//!
//! Centred cosine and relative difference of tensors that have the same role, or correspond by content
//! where there are no roles. Effects only: equal training recipes alone give no similarity here, but
//! what does and what does not is judged by tests that have a null.

use super::context::{EvidenceError, Settings};
use super::layers;
use super::pair::ComponentPair;
use super::record::{Detail, Histogram, LayerCell, LayerGrid, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::stats::CoMoments;
use crate::tensor::{Matrix, TensorError};

static SPEC: TestSpec = TestSpec {
    id: "weight-similarity",
    title: "Weight similarity",
    question: "How close are the weights of equal role, layer by layer?",
    scope: Scope::Component,
    needs: &[Need::Weights],
    null: None,
    p_value: None,
    survives: "fine-tuning, noise, casting",
    defeated_by: "re-ordering, rotating or rescaling; it also sees two runs from one initialisation as alike",
    citation: "modelkin; REEF (ICLR 2025) and HuRef (NeurIPS 2024) use cosines of the same tensors",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Component(run),
};

/// Elements of a tensor that are compared at most: evenly spread blocks of a large one.
const MAX_ELEMENTS: usize = 1 << 24;
/// Elements read at a time.
const BLOCK: usize = 1 << 18;
const N_BINS: usize = 61;

/// Blocks of rows that hold at most `MAX_ELEMENTS`, spread evenly.
fn row_blocks(n_rows: usize, n_cols: usize) -> Vec<std::ops::Range<usize>> {
    let rows = (BLOCK / n_cols.max(1)).clamp(1, n_rows.max(1));
    let n_blocks = n_rows.div_ceil(rows);
    let keep = (MAX_ELEMENTS / (rows * n_cols).max(1)).clamp(1, n_blocks);
    (0..keep)
        .map(|i| i * n_blocks / keep * rows)
        .map(|start| start..n_rows.min(start + rows))
        .collect()
}

/// Moments of two matrices of equal shape.
pub(super) fn co_moments(a: &Matrix, b: &Matrix) -> Result<CoMoments, TensorError> {
    let mut moments = CoMoments::default();
    for rows in row_blocks(a.n_rows(), a.n_cols()) {
        let (x, y) = (a.rows(rows.clone())?, b.rows(rows)?);
        let (Some(x), Some(y)) = (x.as_slice(), y.as_slice()) else {
            continue;
        };
        moments.add_slices(x, y);
    }
    Ok(moments)
}

/// Counts of (b − a) / std(a) in bins over −3 … 3; what lies beyond goes to the outermost bins.
fn count_differences(
    a: &Matrix,
    b: &Matrix,
    std: f64,
    counts: &mut [u64],
) -> Result<(), TensorError> {
    if !(std > 0.0) {
        return Ok(());
    }
    // One block a tensor is plenty for a picture.
    for rows in row_blocks(a.n_rows(), a.n_cols()).into_iter().take(1) {
        let (x, y) = (a.rows(rows.clone())?, b.rows(rows)?);
        for (&x, &y) in x.iter().zip(&y) {
            let z = (f64::from(y) - f64::from(x)) / std;
            let bin = ((z + 3.0) / 6.0 * N_BINS as f64).floor();
            counts[(bin.max(0.0) as usize).min(N_BINS - 1)] += 1;
        }
    }
    Ok(())
}

fn run(pair: &ComponentPair, settings: &Settings) -> Result<TestRecord, EvidenceError> {
    let chosen = layers::chosen(pair.reference.n_layers, settings);
    // (layer, row of the picture, reference, candidate)
    let mut subjects: Vec<(Option<u32>, String, Matrix, Matrix)> = pair
        .common_roles()
        .into_iter()
        .filter(|(role, a, _)| {
            role.layer.is_none_or(|layer| chosen.contains(&layer)) && a.n_cols() > 1
        })
        .map(|(role, a, b)| (role.layer, role.row_name(), a.clone(), b.clone()))
        .collect();
    let mut selection = layers::rule(pair.reference.n_layers, settings);
    if subjects.is_empty() {
        selection = "tensors that correspond by shape, content, name or order".to_owned();
        for found in &pair.correspondence.pairs {
            let a = &pair.reference.tensors[found.reference];
            let b = &pair.candidate.tensors[found.candidate];
            if a.shape().len() >= 2 && a.dtype().is_float() && b.dtype().is_float() {
                subjects.push((
                    None,
                    a.name().to_owned(),
                    Matrix::new(a.clone())?,
                    Matrix::new(b.clone())?,
                ));
            }
        }
    }
    if subjects.is_empty() {
        let reason = "no two weight matrices of equal role or content have equal shapes";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let mut cells = Vec::new();
    let mut counts = vec![0u64; N_BINS];
    let (mut cosines, mut differences) = (Vec::new(), Vec::new());
    for (layer, row, a, b) in &subjects {
        let moments = co_moments(a, b)?;
        let Some(cosine) = moments.centred_cosine() else {
            continue;
        };
        cosines.push(cosine);
        differences.extend(moments.relative_difference());
        count_differences(a, b, moments.std_x(), &mut counts)?;
        cells.push(LayerCell {
            reference_layer: *layer,
            candidate_layer: *layer,
            role: row.clone(),
            value: cosine,
            ln_p: None,
        });
    }
    if cosines.is_empty() {
        let reason = "every pair of weight matrices is constant";
        return Ok(TestRecord::not_applicable(SPEC.id, &pair.id, reason));
    }
    let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
    cosines.sort_by(f64::total_cmp);
    let mut record = TestRecord::measured(SPEC.id, &pair.id)
        .with_effect("mean-centred-cosine", mean(&cosines))
        .with_effect("median-centred-cosine", cosines[cosines.len() / 2])
        .with_effect("min-centred-cosine", cosines[0])
        .with_effect("n-tensors", cosines.len() as f64);
    if !differences.is_empty() {
        record = record.with_effect("mean-relative-difference", mean(&differences));
    }
    Ok(record
        .with_detail(Detail::Selection(selection))
        .with_detail(Detail::Grid(LayerGrid {
            quantity: "centred cosine".to_owned(),
            range: (0.0, 1.0),
            cells,
        }))
        .with_detail(Detail::Histogram(Histogram {
            quantity: "weight difference / standard deviation of the reference tensor".to_owned(),
            range: (-3.0, 3.0),
            counts,
        })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_small_tensors_and_cap_large_ones() {
        assert_eq!(row_blocks(10, 4), vec![0..10]);
        let blocks = row_blocks(1 << 16, 1 << 12);
        let read: usize = blocks.iter().map(|b| b.len() << 12).sum();
        assert!(read <= MAX_ELEMENTS && blocks.len() > 1);
        assert!(blocks.windows(2).all(|w| w[0].end <= w[1].start));
    }
}

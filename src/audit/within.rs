//! An audit within a budget: what was chosen is fetched ahead, watched, and told in the report.

use super::{AuditError, Opened, Request, Watch};
use crate::arch::Model;
use crate::evidence;
use crate::evidence::budget::{self, Chosen};
use crate::evidence::record::{Detail, OUTSIDE_THE_BUDGET, Observation, Status, TestRecord};
use crate::evidence::spec::Need;
use crate::report::ModelSection;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ranges that are asked for at a time: most of them are short, and wait more than they load.
const N_TOGETHER: usize = 4;

/// Tells how much of the files that lie elsewhere was looked at, until it is dropped.
pub(super) struct Reading<'a>(&'a dyn Watch);

impl<'a> Reading<'a> {
    /// Begins to tell, where there are such files.
    pub(super) fn watched(
        opened: &[Opened; 2],
        budget_bytes: u64,
        watch: &'a dyn Watch,
    ) -> Option<Self> {
        let files = opened.iter().flat_map(|model| &model.files);
        let sources: Vec<_> = files.map(|file| file.source.clone()).collect();
        sources.iter().find_map(|source| source.n_bytes_seen())?;
        let n_seen = move || {
            sources
                .iter()
                .filter_map(|source| source.n_bytes_seen())
                .sum()
        };
        watch.reading_started(budget_bytes, Arc::new(n_seen));
        Some(Self(watch))
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.reading_ended();
    }
}

/// Whether every test that reads weights is to run: only then is all that was chosen needed.
fn all_is_needed(request: &Request) -> bool {
    let of_weights = evidence::TESTS.iter().map(|test| test.spec);
    let mut of_weights = of_weights.filter(|spec| spec.needs.contains(&Need::Weights));
    of_weights.all(|spec| request.tests.iter().any(|id| id == spec.id))
}

/// Fetches what was chosen of files that lie elsewhere, neighbours in one request, where all of it is needed.
/// Tests would ask for the same blocks piece by piece.
pub(super) fn fetch_ahead(
    request: &Request,
    opened: &[Opened; 2],
    chosen: [&Model; 2],
) -> Result<(), AuditError> {
    if !all_is_needed(request) {
        return Ok(());
    }
    let mut parts = Vec::new();
    for ((opened, model), base) in opened.iter().zip(chosen).zip(&request.bases) {
        // The files of a base are not among those of the adapter.
        if base.is_some() {
            continue;
        }
        for (path, range) in budget::ranges(model) {
            let file = opened.files.iter().find(|file| file.path == path);
            let file = file.filter(|file| file.source.n_bytes_seen().is_some());
            if let Some(file) = file {
                parts.push((file, range.start..range.end.min(file.source.len())));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..N_TOGETHER.min(parts.len()) {
            scope.spawn(|| {
                while let Some((file, range)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = file.source.read(range.clone()) {
                        let file = file.path.clone();
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(AuditError::File { file, error });
                        // The others end as well: nothing is left to ask for.
                        next.store(parts.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}

/// Adds what was chosen to the notes of both models.
pub(super) fn note(sections: &mut [ModelSection; 2], chosen: &Chosen) {
    for (section, count) in sections.iter_mut().zip(chosen.counts) {
        section.notes.push(format!(
            "of the weights {} of {} tensors were looked at, {} of them in part ({} bytes): {}",
            count.n_tensors, count.n_all, count.n_in_part, count.n_bytes, chosen.rule
        ));
    }
}

/// A test that could not run says so where the budget may be the reason: a tensor that was not read is
/// not one that is missing.
pub(super) fn outside_the_budget(
    mut record: TestRecord,
    chosen: Option<&Chosen>,
    selected: &dyn Fn(&str) -> bool,
) -> TestRecord {
    let needs_weights =
        evidence::find(record.test).is_some_and(|test| test.spec.needs.contains(&Need::Weights));
    if chosen.is_some_and(Chosen::leaves_out)
        && record.status == Status::NotApplicable
        && needs_weights
        && selected(record.test)
    {
        let reason = record.reason.take().unwrap_or_default();
        record.reason = Some(format!(
            "outside the budget, which left tensors out; of what was read: {reason}"
        ));
        record.details.push(Detail::Observations(vec![Observation {
            code: OUTSIDE_THE_BUDGET.to_owned(),
            message: "The budget left out tensors that this test may need.".to_owned(),
            file: None,
        }]));
    }
    record
}

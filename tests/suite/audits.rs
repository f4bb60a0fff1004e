//! Runs whole audits for the tests: two folders in, a report out.

use modelkin::audit::{self, AuditError, Request, Unwatched};
use modelkin::evidence::context::Settings;
use modelkin::evidence::record::{Status, TestRecord};
use modelkin::evidence::{self};
use modelkin::report::Report;
use modelkin::source::{FetchOptions, ModelRef};
use std::path::{Path, PathBuf};

/// A model's folder or file as a reference.
pub fn model_ref(path: &Path) -> ModelRef {
    path.to_str()
        .expect("test folders have UTF-8 names")
        .parse()
        .expect("the test made it")
}

/// The audit of two models with some tests, large products on a device.
fn try_compare_with(
    device: &str,
    tests: &[&str],
    reference: &Path,
    candidate: &Path,
) -> Result<Report, AuditError> {
    let request = Request {
        reference: model_ref(reference),
        candidate: model_ref(candidate),
        bases: [None, None],
        settings: Settings::default(),
        fetch: FetchOptions::default(),
        tests: tests.iter().map(|id| (*id).to_owned()).collect(),
        device: device.to_owned(),
        budget_bytes: None,
        command: vec!["modelkin".to_owned(), "compare".to_owned()],
    };
    audit::compare(&request, &Unwatched)
}

/// The audit of two models with all tests, large products on a device.
pub fn try_compare_on(
    device: &str,
    reference: &Path,
    candidate: &Path,
) -> Result<Report, AuditError> {
    let all: Vec<&str> = evidence::TESTS.iter().map(|test| test.spec.id).collect();
    try_compare_with(device, &all, reference, candidate)
}

/// As [`try_compare_on`], for models that can be read.
pub fn compare_on(device: &str, reference: &Path, candidate: &Path) -> Report {
    try_compare_on(device, reference, candidate)
        .unwrap_or_else(|error| panic!("{}: {error}", candidate.display()))
}

/// The audit of two models with all tests.
pub fn try_compare(reference: &Path, candidate: &Path) -> Result<Report, AuditError> {
    try_compare_on("cpu", reference, candidate)
}

/// The audit with some tests, for models that can be read.
pub fn compare_with(tests: &[&str], reference: &Path, candidate: &Path) -> Report {
    try_compare_with("cpu", tests, reference, candidate)
        .unwrap_or_else(|error| panic!("{}: {error}", candidate.display()))
}

/// As [`try_compare`], for models that can be read.
pub fn compare(reference: &Path, candidate: &Path) -> Report {
    try_compare(reference, candidate)
        .unwrap_or_else(|error| panic!("{}: {error}", candidate.display()))
}

/// As [`compare`], for adapters with the models that they are added to.
pub fn compare_added(reference: &Path, candidate: &Path, bases: &[Option<PathBuf>; 2]) -> Report {
    let all = evidence::TESTS.iter().map(|test| test.spec.id.to_owned());
    let request = Request {
        reference: model_ref(reference),
        candidate: model_ref(candidate),
        bases: bases.each_ref().map(|base| base.as_deref().map(model_ref)),
        settings: Settings::default(),
        fetch: FetchOptions::default(),
        tests: all.collect(),
        device: "cpu".to_owned(),
        budget_bytes: None,
        command: vec!["modelkin".to_owned(), "compare".to_owned()],
    };
    audit::compare(&request, &Unwatched)
        .unwrap_or_else(|error| panic!("{}: {error}", candidate.display()))
}

/// The audit with all tests of two models by their names, wherever they are.
pub fn compare_named(fetch: FetchOptions, reference: &str, candidate: &str) -> Report {
    compare_within(fetch, [reference, candidate], [None, None], None)
}

/// As [`compare_named`], with the names of bases and within a budget.
pub fn compare_within(
    fetch: FetchOptions,
    [reference, candidate]: [&str; 2],
    bases: [Option<&str>; 2],
    budget_bytes: Option<u64>,
) -> Report {
    let all = evidence::TESTS.iter().map(|test| test.spec.id.to_owned());
    let request = Request {
        reference: reference.parse().expect("a model's name"),
        candidate: candidate.parse().expect("a model's name"),
        bases: bases.map(|base| base.map(|name| name.parse().expect("a model's name"))),
        settings: Settings::default(),
        fetch,
        tests: all.collect(),
        device: "cpu".to_owned(),
        budget_bytes,
        command: vec!["modelkin".to_owned(), "compare".to_owned()],
    };
    audit::compare(&request, &Unwatched).unwrap_or_else(|error| panic!("{candidate}: {error}"))
}

/// The record of a test of the backbone, or of the whole model.
pub fn record<'a>(report: &'a Report, test: &str) -> &'a TestRecord {
    report
        .records
        .iter()
        .find(|record| record.test == test)
        .unwrap_or_else(|| panic!("no record of {test}"))
}

/// Smallest ln p among the measured tests.
pub fn smallest_ln_p(report: &Report) -> Option<f64> {
    report
        .records
        .iter()
        .filter(|record| record.status == Status::Measured)
        .filter_map(|record| record.p.map(|p| p.ln_p()))
        .reduce(f64::min)
}

/// One line for failures: relation, strength and every p.
pub fn summary(report: &Report) -> String {
    let ps: Vec<String> = report
        .records
        .iter()
        .map(|record| match record.p {
            Some(p) => format!("{} {p}", record.test),
            None => format!("{} {}", record.test, record.status.name()),
        })
        .collect();
    format!(
        "{} ({}): {}",
        report.finding.overall.relation.name(),
        report.finding.overall.strength.name(),
        ps.join(", ")
    )
}

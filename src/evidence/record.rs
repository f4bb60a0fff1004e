//! What a test leaves behind: plain data that the verdict judges and the reports print.
//!
//! Absence of evidence is a record with a reason, never a number. Nothing here reads a tensor.

use crate::stats::PValue;
use std::collections::BTreeMap;

/// The code of the observation that a budget may be why a test does not apply.
pub const OUTSIDE_THE_BUDGET: &str = "outside-the-budget";

/// Whether a test produced a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The test ran and its numbers stand.
    Measured,
    /// The test does not apply to this pair; `reason` says why.
    NotApplicable,
    /// The test could not be carried out; `reason` holds the error.
    Failed,
}

impl Status {
    /// The kebab-case name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Measured => "measured",
            Status::NotApplicable => "not-applicable",
            Status::Failed => "failed",
        }
    }
}

/// An effect size: always printed, with an interval where one exists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Point estimate. Finite: a test that obtains a NaN fails instead.
    pub value: f64,
    /// 95 % interval, where one exists.
    pub interval: Option<(f64, f64)>,
}

/// One cell of the layer × role or layer × test picture.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCell {
    /// Layer of the reference; `None` for tensors outside the stack (embeddings, heads).
    pub reference_layer: Option<u32>,
    /// Layer of the candidate that was compared with it.
    pub candidate_layer: Option<u32>,
    /// Role (`q_proj`, `up_proj`, …) or the quantity measured.
    pub role: String,
    /// Value of the cell (named by [`LayerGrid::quantity`]).
    pub value: f64,
    /// ln p of this cell alone, if it has one. Not corrected for multiplicity.
    pub ln_p: Option<f64>,
}

/// A heat map: values per layer and role.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerGrid {
    /// What the values are, e.g. `centred cosine`.
    pub quantity: String,
    /// Values at which the colour scale starts and ends.
    pub range: (f64, f64),
    /// Cells in layer order.
    pub cells: Vec<LayerCell>,
}

/// Counts in equal bins.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What was counted, with its unit.
    pub quantity: String,
    /// Lower edge of the first bin and upper edge of the last.
    pub range: (f64, f64),
    /// Counts per bin.
    pub counts: Vec<u64>,
}

/// One line of the renaming map: which candidate tensor (or prefix) is which of the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Renaming {
    /// Name or prefix in the reference.
    pub reference: String,
    /// Name or prefix in the candidate.
    pub candidate: String,
    /// How many tensors the line stands for.
    pub n_tensors: u64,
    /// How the correspondence was found: `name`, `content`, `order`.
    pub basis: String,
}

/// Something seen that has no number: a stable code, a sentence, and where it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Stable kebab-case code, e.g. `dangling-module`.
    pub code: String,
    /// A full sentence that a non-specialist can read.
    pub message: String,
    /// File in which it was seen, if it was a file.
    pub file: Option<String>,
}

/// Pictures, maps and sentences that go with a measurement.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// Layer × role heat map.
    Grid(LayerGrid),
    /// Histogram.
    Histogram(Histogram),
    /// Renaming map.
    Renamings(Vec<Renaming>),
    /// Things seen.
    Observations(Vec<Observation>),
    /// How the data were chosen: which layers, rows, tokens (the rule, in words).
    Selection(String),
}

/// What one test says of one component of the pair.
#[derive(Debug, Clone, PartialEq)]
pub struct TestRecord {
    /// Id of the test in the registry.
    pub test: &'static str,
    /// Component it speaks of (`language-model`, `vision-tower`, …) or `model` for the whole.
    pub component: String,
    /// Whether there is a measurement.
    pub status: Status,
    /// The p-value, for tests that have one and were measured.
    pub p: Option<PValue>,
    /// Named effect sizes; names are kebab-case and stable, with the unit at the end where there is one.
    pub effects: BTreeMap<String, Effect>,
    /// Why there is no measurement; or, where there is one, what to keep in mind when reading it.
    pub reason: Option<String>,
    /// Pictures, maps and sentences.
    pub details: Vec<Detail>,
}

impl TestRecord {
    /// A measurement without numbers yet; add them with [`Self::with_p`] and [`Self::with_effect`].
    pub fn measured(test: &'static str, component: impl Into<String>) -> Self {
        Self {
            test,
            component: component.into(),
            status: Status::Measured,
            p: None,
            effects: BTreeMap::new(),
            reason: None,
            details: Vec::new(),
        }
    }

    /// The test does not apply, and why.
    pub fn not_applicable(
        test: &'static str,
        component: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::NotApplicable,
            reason: Some(reason.into()),
            ..Self::measured(test, component)
        }
    }

    /// The test could not be carried out, and the error.
    pub fn failed(
        test: &'static str,
        component: impl Into<String>,
        error: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Failed,
            reason: Some(error.into()),
            ..Self::measured(test, component)
        }
    }

    /// Adds the p-value.
    pub fn with_p(mut self, p: PValue) -> Self {
        self.p = Some(p);
        self
    }

    /// Adds an effect. A value that is not finite turns the record into a failure: NaN never passes.
    pub fn with_effect(self, name: &str, value: f64) -> Self {
        self.with_effect_interval(name, value, None)
    }

    /// Adds an effect with its 95 % interval.
    pub fn with_effect_interval(
        mut self,
        name: &str,
        value: f64,
        interval: Option<(f64, f64)>,
    ) -> Self {
        let finite =
            value.is_finite() && interval.is_none_or(|(a, b)| a.is_finite() && b.is_finite());
        if !finite {
            return Self::failed(
                self.test,
                self.component,
                format!("the effect `{name}` is not a finite number ({value})"),
            );
        }
        if self.status == Status::Measured {
            self.effects
                .insert(name.to_owned(), Effect { value, interval });
        }
        self
    }

    /// Adds a caveat.
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        if self.status == Status::Measured {
            self.reason = Some(reason.into());
        }
        self
    }

    /// Adds a detail.
    pub fn with_detail(mut self, detail: Detail) -> Self {
        if self.status == Status::Measured {
            self.details.push(detail);
        }
        self
    }

    /// Whether something was seen that has this code.
    pub fn has_observation(&self, code: &str) -> bool {
        self.details.iter().any(|detail| match detail {
            Detail::Observations(seen) => seen.iter().any(|o| o.code == code),
            _ => false,
        })
    }

    /// Value of an effect, if it was measured.
    pub fn effect(&self, name: &str) -> Option<f64> {
        self.effects.get(name).map(|e| e.value)
    }
}

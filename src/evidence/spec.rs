//! What each test states about itself: its null, why its p-value is valid, what defeats it.
//!
//! The catalogue (`modelkin tests`), the JSON and the docs' registry test all read this.

/// Whether a test speaks of the whole model or of each pair of components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One record, with component `model`.
    Model,
    /// One record for each pair of components.
    Component,
}

/// What a test reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Files that are not weights: config, tokenizer, index, code.
    Files,
    /// Weight tensors of both models.
    Weights,
    /// Adapters that are not added to a base: of all other models there is nothing to measure.
    Adapters,
    /// Tokenizers of both models (or equal vocabulary sizes).
    Tokenizer,
}

/// The registered description of a test.
#[derive(Debug, Clone, Copy)]
pub struct TestSpec {
    /// Stable kebab-case id; also the name of the source file and of the page in the docs.
    pub id: &'static str,
    /// A title for people.
    pub title: &'static str,
    /// The question that the test answers, for a non-specialist.
    pub question: &'static str,
    /// What it speaks of.
    pub scope: Scope,
    /// What it reads.
    pub needs: &'static [Need],
    /// The null hypothesis; `None` for tests that measure effects only.
    pub null: Option<&'static str>,
    /// How p is obtained and why it holds; `None` for effects only.
    pub p_value: Option<&'static str>,
    /// What the evidence survives.
    pub survives: &'static str,
    /// What defeats it.
    pub defeated_by: &'static str,
    /// Source of the method.
    pub citation: &'static str,
}

//! modelkin: are these two models kin?
//!
//! `ModelRef ×2 → Snapshot → Checkpoint → Model → Pair → [TestRecord] → Finding → Report → renderer`
//!
//! | Module | What it does |
//! |---|---|
//! | [`stats`] | pure mathematics: ln p, ranks, assignment, permutation, combination |
//! | [`tensor`] | dtypes, shapes, lazily read tensors and matrices |
//! | [`source`] | a [`source::ModelRef`] to a snapshot of files; the only network code |
//! | [`checkpoint`] | hostile bytes to named tensors, lazily |
//! | [`arch`] | config and tensor names to components and roles |
//! | [`engine`] | the reference inference engine: forward pass, kernels, tokens, generation |
//! | [`fingerprint`] | quantities computed from one model |
//! | [`evidence`] | one test per file; `TESTS` is the registry |
//! | [`verdict`] | records to a finding, pure |
//! | [`report`] | a finding and its records as JSON, HTML, Markdown or a terminal page |
//! | [`audit`] | the whole pipeline, top to bottom |
//! | [`cli`] | one file per subcommand |

#![warn(missing_docs)]

pub mod arch;
pub mod audit;
pub mod checkpoint;
pub mod cli;
pub mod engine;
pub mod evidence;
pub mod fingerprint;
pub mod report;
pub mod source;
pub mod stats;
pub mod tensor;
pub mod verdict;

//! One binary for all integration tests, so that the library is linked once.

mod architecture;
mod audits;
mod derivations;
mod pytorch;
mod support;
mod verdicts;

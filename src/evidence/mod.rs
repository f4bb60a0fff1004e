//! Evidence tests: one file per test; `TESTS` is the registry.

pub mod record;
pub mod spec;

//! One binary for all integration tests, so that the library is linked once.

mod architecture;
mod derivations;
mod support;

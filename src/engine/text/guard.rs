//! Stands between strangers' files and the crates that interpret them.

use crate::engine::EngineError;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The file is not what it should be.
pub(super) fn wrong(file: &str, message: impl Into<String>) -> EngineError {
    EngineError::Input {
        file: file.to_owned(),
        message: message.into(),
    }
}

/// Does something with what a file says. A panic becomes an error: the crate `tokenizers` trusts its files
/// in places (indices of a `Precompiled` map, of a `Unigram` vocabulary, templates without their tokens).
pub(super) fn run<T, E: Display>(
    file: &str,
    what: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(wrong(file, format!("{what}: {error}"))),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            let message = format!("{what}: the tokenizer contradicts itself ({said})");
            Err(wrong(file, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_the_file() {
        let index = std::hint::black_box(3);
        let error = run("t.json", "x", || Ok::<u8, String>([0u8; 2][index])).unwrap_err();
        assert!(error.to_string().starts_with("t.json: x: "), "{error}");
    }
}

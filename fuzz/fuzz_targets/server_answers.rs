//! Fuzz target of the entry point of the same name: `fuzz/parsers.rs`.
#![no_main]

#[path = "../target.rs"]
#[macro_use]
mod target;

fuzz!(server_answers);

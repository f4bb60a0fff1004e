//! One binary for all integration tests, so that the library is linked once.

mod architecture;
mod architectures;
mod audits;
mod cli;
mod cli_engine;
mod contract;
mod derivations;
mod devices;
mod gguf;
mod gguf_engine;
mod hostile;
mod hub;
mod hub_cache;
mod hub_parts;
mod hub_protocol;
mod parity;
mod parsers;
mod pictures;
mod published;
mod pytorch;
mod quantized;
mod support;
mod text;
mod verdicts;
mod vision;
mod vision_strict;

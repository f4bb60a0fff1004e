//! What all fuzz targets share: the entry points, and a hook that lets the tokenizer's guard do its work.

#[allow(dead_code)]
#[path = "parsers.rs"]
pub mod parsers;

/// The fuzz target of an entry point. libFuzzer's hook would end the process at every panic, also at those
/// of the crate `tokenizers` that our guard turns into errors; without the hook, a panic that nobody
/// catches still ends the run as a finding.
macro_rules! fuzz {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: {
                drop(std::panic::take_hook());
                std::panic::set_hook(Box::new(|_| {}));
            },
            |bytes: &[u8]| {
                target::parsers::$name(bytes);
            }
        );
    };
}

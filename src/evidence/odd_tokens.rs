//! Which tokens say nothing because libraries and many models have them.

/// Whether a token is one that libraries add of themselves, or a numbered place-holder.
pub(super) fn is_typical(token: &str) -> bool {
    let inner = token
        .trim_matches(|c: char| !c.is_alphanumeric())
        .to_ascii_lowercase();
    let known = [
        "s",
        "bos",
        "eos",
        "pad",
        "unk",
        "cls",
        "sep",
        "mask",
        "endoftext",
        "im_start",
        "im_end",
        "begin_of_text",
        "end_of_text",
        "start_header_id",
        "end_header_id",
        "eot_id",
        "eom_id",
        "system",
        "user",
        "assistant",
        "inst",
        "image",
        "unused",
    ];
    let reserved = ["reserved", "unused", "extra_id", "dummy", "placeholder"];
    known.contains(&inner.as_str())
        || reserved.iter().any(|start| inner.contains(start))
        || inner.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_libraries_and_place_holders_are_typical() {
        for token in [
            "<s>",
            "</s>",
            "[PAD]",
            "<|endoftext|>",
            "<|reserved_special_token_7|>",
            "",
        ] {
            assert!(is_typical(token), "{token}");
        }
        for token in ["<quad>", "<slice>", "<|my_model|>"] {
            assert!(!is_typical(token), "{token}");
        }
    }
}

//! How words are cut before byte-level BPE, by the names of llama.cpp (`tokenizer.ggml.pre`).
//!
//! A wrong choice yields other ids without any error, so that a name which is not here is refused. The
//! regular expressions are facts about the models; those of a list are applied one after another, each to
//! what the ones before left whole.

/// One way to cut words.
pub(super) struct Words {
    names: &'static [&'static str],
    /// Regular expressions, in order; matches and what lies between them stand alone.
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token is not merged from its parts.
    pub ignore_merges: bool,
    /// Whether the token that begins a sequence is put before a text where the file does not say.
    pub add_bos: bool,
    /// Whether text is composed (NFC) first, as the original tokenizers of the family do.
    pub is_nfc: bool,
}

/// GPT-2's own expression.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A plain entry; the rest is changed where it differs.
const PLAIN: Words = Words {
    names: &[],
    patterns: &[],
    ignore_merges: false,
    add_bos: false,
    is_nfc: false,
};

/// All ways that are known.
const WORDS: &[Words] = &[
    Words {
        names: &[
            "gpt-2",
            "gpt2",
            "mpt",
            "olmo",
            "jais",
            "phi-2",
            "trillion",
            "granite-docling",
        ],
        patterns: &[GPT2],
        ..PLAIN
    },
    Words {
        // What llama.cpp does where the converter did not recognise the tokenizer.
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Words {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        patterns: &[LLAMA3],
        ..PLAIN
    },
    Words {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        patterns: &[QWEN2],
        is_nfc: true,
        ..PLAIN
    },
    Words {
        names: &["stablelm2", "hunyuan"],
        patterns: &[QWEN2],
        ..PLAIN
    },
    Words {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        patterns: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Words {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Words {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
            r"\s+$",
            r"[一-龥ࠀ-一가-\u{d7ff}]+",
            r"\p{N}+",
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-coder"],
        patterns: &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            r"[一-龥ࠀ-一가-\u{d7ff}]+",
            r"\p{N}",
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-v3"],
        patterns: &[r"\p{N}{1,3}", r"[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3],
        ..PLAIN
    },
    Words {
        names: &["tekken"],
        patterns: &[TEKKEN],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Words {
        names: &["gpt-4o", "llama4"],
        patterns: &[GPT4O],
        ..PLAIN
    },
];

/// A way by its name.
pub(super) fn find(name: &str) -> Option<&'static Words> {
    WORDS.iter().find(|words| words.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::text::files;

    /// The parts into which a text is cut, in the byte-level alphabet.
    fn cut(name: &str, text: &str) -> Vec<String> {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let vocab = [("a".to_owned(), 0)].into_iter().collect();
        let made = files::byte_level("t", vocab, Vec::new(), name, false).unwrap();
        let mut cut = PreTokenizedString::from(text);
        let cutter = made.get_pre_tokenizer().unwrap();
        cutter.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits
            .into_iter()
            .map(|(part, ..)| part.to_owned())
            .collect()
    }

    #[test]
    fn every_expression_is_one_and_no_name_is_there_twice() {
        let names: Vec<&str> = WORDS.iter().flat_map(|w| w.names).copied().collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
            let parts = cut(name, "Hello world's 12345 \n\n  ¿Qué? 漢字かな ...\t!!  ");
            assert!(parts.len() > 8, "{name}: {parts:?}");
        }
    }

    #[test]
    fn families_cut_numbers_and_capitals_as_they_do() {
        assert_eq!(cut("gpt-2", "I'll 1234"), ["I", "'ll", "Ġ1234"]);
        assert_eq!(cut("llama-bpe", "I'LL 1234"), ["I", "'LL", "Ġ", "123", "4"]);
        assert_eq!(cut("qwen2", "12"), ["1", "2"]);
        assert_eq!(cut("starcoder", "x12"), ["x", "1", "2"]);
        assert_eq!(cut("falcon", "x=12345"), ["x", "=", "123", "45"]);
        assert_eq!(cut("tekken", "camelCase"), ["camel", "Case"]);
        assert_eq!(cut("gpt-4o", "It's"), ["It's"]);
        assert_eq!(cut("deepseek-v3", "1234"), ["123", "4"]);
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_and_named() {
        let vocab = [("a".to_owned(), 0)].into_iter().collect();
        let error = files::byte_level("m.gguf", vocab, Vec::new(), "made-up", false).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("made-up") && message.starts_with("m.gguf"),
            "{message}"
        );
    }
}

//! Tokenizers of published files, from the file to ids and back, against ids that others computed.

use crate::audits::model_ref;
use crate::support::{shared, zoo};
use modelkin::arch::Model;
use modelkin::audit::{self, Unwatched};
use modelkin::engine::text::Tokenizer;
use modelkin::engine::text::chat::{ChatOptions, ChatTemplate, Message};
use modelkin::source::FetchOptions;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn open(path: &Path) -> Model {
    let opened = audit::open(&model_ref(path), &FetchOptions::default(), &Unwatched);
    opened.unwrap().0
}

/// A published vocabulary, if it is there.
fn vocabulary(name: &str) -> Option<Model> {
    let path = shared()?.join(format!("data/vocabularies/ggml-vocab-{name}.gguf"));
    if !path.is_file() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(open(&path))
}

#[test]
fn published_vocabularies_give_the_ids_that_others_compute_and_the_text_back() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text");
    let expected = std::fs::read(data.join("vocabularies.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut failures = Vec::new();
    for (name, cases) in expected.as_object().unwrap() {
        let Some(model) = vocabulary(name) else {
            continue;
        };
        let tokenizer = Tokenizer::of(&model).unwrap();
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let found = tokenizer.encode(text, false).unwrap();
            if found != ids {
                failures.push(format!(
                    "{name} {text:?}: expected {ids:?}, found {found:?}"
                ));
            }
            let back = tokenizer.decode(&found, false).unwrap();
            if back != text && !text.contains('▁') {
                failures.push(format!("{name} {text:?}: found {back:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_a_gguf_file_puts_around_a_text_is_what_it_states() {
    for (name, bos, eos) in [
        ("llama-spm", Some(1), 2),
        ("phi-3", Some(1), 32_000),
        ("gpt-2", None, 50_256),
    ] {
        let Some(model) = vocabulary(name) else {
            continue;
        };
        let tokenizer = Tokenizer::of(&model).unwrap();
        let plain = tokenizer.encode("Hello", false).unwrap();
        let around = tokenizer.encode("Hello", true).unwrap();
        let expected: Vec<u32> = bos.into_iter().chain(plain).collect();
        assert_eq!(around, expected, "{name}");
        assert_eq!(tokenizer.eos_ids(), [eos], "{name}");
    }
}

#[test]
fn llama_and_phi_3_read_plain_text_alike_and_special_tokens_apart() {
    let (Some(llama), Some(phi)) = (vocabulary("llama-spm"), vocabulary("phi-3")) else {
        return;
    };
    let [llama, phi] = [llama, phi].map(|model| Tokenizer::of(&model).unwrap());
    let text = "The quick brown fox, 1234 naïve cafés;\n\tmore  spaces 海 😀";
    let ids = llama.encode(text, true).unwrap();
    assert_eq!(ids, phi.encode(text, true).unwrap());
    assert_eq!(phi.decode(&ids, true).unwrap(), text);
    assert_eq!(phi.encode("<|user|>", false).unwrap(), [32_010]);
    assert!(llama.encode("<|user|>", false).unwrap().len() > 1);
}

#[test]
fn phi_3_carries_its_chat_template_in_the_file() {
    let Some(model) = vocabulary("phi-3") else {
        return;
    };
    let template = ChatTemplate::of(&model).unwrap().unwrap();
    let chat = [Message::new("user", "Hello")];
    let options = ChatOptions {
        add_generation_prompt: true,
        ..ChatOptions::default()
    };
    let prompt = template.render(&chat, &options).unwrap();
    assert_eq!(prompt, "<s><|user|>\nHello<|end|>\n<|assistant|>\n");
}

#[test]
fn every_tokenizer_of_the_zoo_gives_text_back() {
    for id in ["llama-a", "gpt2-a", "qwen2-b"] {
        let tokenizer = Tokenizer::of(&open(&zoo(id))).unwrap();
        for text in ["hello there, world", "x = 1;\n\ty", "naïve 海 😀"] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{id}");
        }
    }
}

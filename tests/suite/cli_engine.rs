//! `modelkin run`, `logits` and `engine` as scripts and people use them.

use crate::cli::{assert_fits, modelkin, path};
use serde_json::Value;
use std::path::Path;

/// The page on standard output, which the schema must accept.
fn json(args: &[&str], schema: &str) -> Value {
    let output = modelkin(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let page = crate::cli::json(&output);
    assert_fits(&page, schema);
    page
}

#[test]
fn run_repeats_itself_and_its_text_is_that_of_its_tokens() {
    for id in ["llama-a", "qwen2-b", "gpt2-a"] {
        let model = path(id);
        let args = [
            "run",
            &model,
            "--prompt",
            "the",
            "-n",
            "12",
            "--ignore-eos",
            "--device",
            "cpu",
        ];
        let page = json(&[&args[..], &["--json"]].concat(), "run-v1.schema.json");
        assert_eq!(page["ids"].as_array().map(Vec::len), Some(12), "{page}");
        assert_eq!(page["finish_reason"], "max-tokens");
        let plain = modelkin(&args);
        let text = String::from_utf8(plain.stdout).unwrap();
        assert_eq!(
            text.trim_end_matches('\n'),
            page["text"].as_str().unwrap().trim_end_matches('\n')
        );
        let drawn = |seed: &str| {
            let more = ["--json", "--temperature", "2", "--seed", seed];
            json(&[&args[..], &more].concat(), "run-v1.schema.json")["ids"].clone()
        };
        assert_eq!(drawn("1"), drawn("1"));
        assert_ne!(drawn("1"), drawn("2"));
    }
}

#[test]
fn prompts_run_together_say_what_each_says_alone_in_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    std::fs::write(&file, "a b\n\nthe the the the the\n").unwrap();
    let prompts = ["the", "of", "a b", "the the the the the"];
    for id in ["llama-a", "gpt2-a"] {
        let model = path(id);
        let common = ["run", &model, "-n", "9", "--device", "cpu", "--json"];
        let random = ["--temperature", "1.5", "--seed", "3"];
        for more in [&[][..], &random[..]] {
            let alone: Vec<Value> = prompts
                .iter()
                .map(|prompt| {
                    let args = [&common[..], &["--prompt", prompt], more].concat();
                    json(&args, "run-v1.schema.json")
                })
                .collect();
            for batch in ["1", "3", "8"] {
                let several = [
                    "--prompt",
                    prompts[0],
                    "--prompt",
                    prompts[1],
                    "--prompts",
                    file.to_str().unwrap(),
                    "--batch",
                    batch,
                ];
                let out = modelkin(&[&common[..], &several, more].concat());
                let out = String::from_utf8(out.stdout).unwrap();
                let together: Vec<Value> = out
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect();
                assert_eq!(together, alone, "{id} in batches of {batch}");
            }
        }
    }
    let output = modelkin(&["run", &path("llama-a"), "--prompts", "/nowhere.txt"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nowhere.txt"), "{said}");
}

#[test]
fn a_stop_text_ends_the_run_before_it() {
    let model = path("llama-a");
    let args = [
        "run",
        &model,
        "--prompt",
        "the",
        "-n",
        "24",
        "--ignore-eos",
        "--device",
        "cpu",
        "--json",
    ];
    let whole = json(&args, "run-v1.schema.json")["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let stop: String = whole.chars().skip(4).take(2).collect();
    let page = json(
        &[&args[..], &["--stop", &stop]].concat(),
        "run-v1.schema.json",
    );
    assert_eq!(page["finish_reason"], "stop");
    assert_eq!(
        page["text"].as_str().unwrap(),
        &whole[..whole.find(&stop).unwrap()]
    );
}

#[test]
fn probabilities_of_a_continuation_are_those_of_the_next_tokens() {
    let model = path("llama-a");
    let base = [
        "logits", &model, "--prompt", "the", "--device", "cpu", "--json",
    ];
    let next = json(&[&base[..], &["-k", "1"]].concat(), "logits-v1.schema.json");
    let best = &next["next"][0][0];
    assert!(best["ln_p"].as_f64().unwrap() < 0.0);
    let all = json(
        &[&base[..], &["--all", "-k", "3"]].concat(),
        "logits-v1.schema.json",
    );
    let positions = all["next"].as_array().unwrap();
    assert_eq!(positions.len(), all["prompt_ids"].as_array().unwrap().len());
    assert_eq!(positions.last().unwrap()[0]["id"], best["id"]);
    let page = json(
        &[&base[..], &["--continuation", " of the"]].concat(),
        "logits-v1.schema.json",
    );
    let sum: f64 = page["continuation"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["ln_p"].as_f64().unwrap())
        .sum();
    assert!(
        (sum - page["ln_p"].as_f64().unwrap()).abs() < 1e-9 && sum < 0.0,
        "{page}"
    );
}

#[test]
fn the_noise_of_single_precision_is_small_and_said() {
    let model = path("gpt2-a");
    let args = [
        "engine", "check", &model, "--device", "cpu", "--tokens", "16", "--json",
    ];
    let page = json(&args, "engine-check-v1.schema.json");
    let cpu = &page["devices"][0];
    assert!(cpu["nmse"].as_f64().unwrap() < 1e-9, "{page}");
    assert_eq!(cpu["chunks_equal"], true);
    assert_eq!(cpu["n_other_first"], 0);
}

#[test]
fn what_cannot_be_run_is_an_error_that_says_why() {
    let model = path("llama-a");
    let error = |args: &[&str]| {
        let output = modelkin(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = error(&["run", &model, "--prompt", "the", "--device", "abacus"]);
    assert!(said.contains("abacus"), "{said}");
    let said = error(&["run", &model, "--prompt", "the", "--device", "cuda:99"]);
    assert!(said.contains("cuda"), "{said}");
    let said = error(&[
        "run",
        &model,
        "--prompt",
        "the",
        "--top-p",
        "2",
        "--temperature",
        "1",
        "--device",
        "cpu",
    ]);
    assert!(said.contains("top-p"), "{said}");

    let endless = [
        "run",
        &model,
        "--prompt",
        "the",
        "-n",
        "18446744073709551615",
        "--device",
        "cpu",
    ];
    let said = error(&endless);
    assert!(said.contains("no memory"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let config = folder.path().join("config.json");
    let mut changed: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    changed["attention_sinks"] = 4.into();
    std::fs::write(&config, changed.to_string()).unwrap();
    let model = folder.path().display().to_string();
    let said = error(&["run", &model, "--prompt", "the", "--device", "cpu"]);
    assert!(said.contains("attention_sinks"), "{said}");
    changed.as_object_mut().unwrap().remove("attention_sinks");
    changed["num_key_value_heads"] = 1.into();
    std::fs::write(&config, changed.to_string()).unwrap();
    let said = error(&["run", &model, "--prompt", "the", "--device", "cpu"]);
    assert!(said.contains("k_proj"), "{said}");
    changed["num_hidden_layers"] = 2_000_000_000.into();
    std::fs::write(&config, changed.to_string()).unwrap();
    let said = error(&["run", &model, "--prompt", "the", "--device", "cpu"]);
    assert!(said.contains("num_hidden_layers"), "{said}");
}

#[test]
fn devices_are_listed() {
    let page = json(
        &["engine", "devices", "--json"],
        "engine-devices-v1.schema.json",
    );
    assert_eq!(page[0]["device"], "cpu");
}

/// A tokenizer of whole words: special tokens, the first of which stands for what is unknown, then words of one letter.
pub fn tokenizer_of_letters(marks: &[&str]) -> String {
    let mut vocabulary = serde_json::Map::new();
    for (id, mark) in marks.iter().enumerate() {
        vocabulary.insert((*mark).to_owned(), id.into());
    }
    for letter in 'a'..='z' {
        vocabulary.insert(letter.to_string(), vocabulary.len().into());
    }
    let added: Vec<Value> = marks
        .iter()
        .enumerate()
        .map(|(id, mark)| {
            serde_json::json!({"id": id, "content": mark, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": marks[0]}})
    .to_string()
}

#[test]
fn a_model_that_sees_is_shown_pictures_and_others_refuse_them() {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/vision/minicpm-llama3-v");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        parity.join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    // Its patches are tiny, and so must be what it cuts images into.
    let config = std::fs::read(parity.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["slice_config"]["scale_resolution"] = 20.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let marks = [
        "<unk>", "<s>", "</s>", "<image>", "</image>", "<slice>", "</slice>",
    ];
    let tokenizer = tokenizer_of_letters(&marks);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let model = folder.path().display().to_string();
    let image = parity.join("image-0.png").display().to_string();
    let args = |model: &str, image: &str| -> Vec<String> {
        let fixed = [
            "--prompt",
            "a b",
            "-n",
            "6",
            "--ignore-eos",
            "--device",
            "cpu",
            "--json",
        ];
        let mut all = vec![
            "run".to_owned(),
            model.to_owned(),
            "--image".to_owned(),
            image.to_owned(),
        ];
        all.extend(fixed.iter().map(|&s| s.to_owned()));
        all
    };
    let with = args(&model, &image);
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let page = json(&with, "run-v1.schema.json");
    assert_eq!(page["ids"].as_array().unwrap().len(), 6);
    let marks = page["prompt_ids"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|&id| *id == 3)
        .count();
    assert!(marks >= 1, "{page}");
    // The same words without the picture.
    let words = json(
        &[
            "run",
            &model,
            "--prompt",
            "a b",
            "-n",
            "6",
            "--ignore-eos",
            "--device",
            "cpu",
            "--json",
        ],
        "run-v1.schema.json",
    );
    assert!(
        words["prompt_ids"].as_array().unwrap().len()
            < page["prompt_ids"].as_array().unwrap().len()
    );

    let blind = args(&path("llama-a"), &image);
    let output = modelkin(&blind.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&output.stderr).contains("takes no images"));
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, b"\x89PNG\r\n\x1a\n").unwrap();
    let broken = args(&model, &broken.display().to_string());
    let output = modelkin(&broken.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken.png"));
}

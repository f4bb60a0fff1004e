//! LLaVA as its authors publish it: the tiny LLaVA of `tests/parity` under their names and keys, its tower in a
//! repository of its own, computes what the reference computes.

use crate::cli::{json, modelkin};
use crate::cli_engine::tokenizer_of_letters;
use crate::pictures;
use crate::support::reference::Reference;
use crate::support::safetensors_file;
use crate::vision::{case, logits, open, pixels_of, seen};
use modelkin::arch::Model;
use modelkin::arch::spec::VisionLanguageSpec;
use modelkin::engine::cpu::Cpu;
use modelkin::engine::vision::{Marks, Normalisation, VisionLanguage, adopt_tower};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Greatest normalised mean squared error against a reference in f32.
const MAX_NMSE: f64 = 1e-9;
/// Names of transformers, and those of the authors.
const NAMES: [(&str, &str); 4] = [
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
];

/// Two repositories in a folder.
struct Published {
    _folder: tempfile::TempDir,
    model: PathBuf,
    tower: PathBuf,
}

fn config_of_the_reference() -> Value {
    serde_json::from_slice(&fs::read(case("llava").join("config.json")).unwrap()).unwrap()
}

/// The decoder's keys with the authors' own among them.
fn authors_config() -> Value {
    let mut config = config_of_the_reference()["text_config"].clone();
    for (key, value) in [
        ("model_type", json!("llava_llama")),
        ("image_aspect_ratio", json!("pad")),
        ("mm_hidden_size", json!(24)),
        ("mm_projector_type", json!("mlp2x_gelu")),
        ("mm_vision_select_feature", json!("patch")),
        ("mm_vision_select_layer", json!(-2)),
        ("mm_vision_tower", json!("somewhere/tower")),
        ("tie_word_embeddings", json!(false)),
        ("use_mm_proj", json!(true)),
    ] {
        config[key] = value;
    }
    config
}

impl Published {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = fs::read(case("llava").join("model.safetensors")).unwrap();
        let (named, dtype) = safetensors_file::decode(&weights);
        let (mut of_tower, mut of_model) = (Vec::new(), Vec::new());
        for (name, values) in named {
            if let Some(name) = name.strip_prefix("vision_tower.") {
                of_tower.push((name.to_owned(), values));
                continue;
            }
            let (theirs, ours) = NAMES
                .into_iter()
                .find(|(theirs, _)| name.starts_with(theirs))
                .expect("a part of the model");
            of_model.push((name.replacen(theirs, ours, 1), values));
        }
        let put = |name: &str, tensors, config: Value| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            let weights = safetensors_file::encode(tensors, dtype);
            fs::write(folder.join("model.safetensors"), weights).unwrap();
            fs::write(folder.join("config.json"), config.to_string()).unwrap();
            folder
        };
        let section = config_of_the_reference()["vision_config"].clone();
        let clip = json!({"model_type": "clip", "text_config": {}, "vision_config": section});
        Self {
            model: put("model", &of_model, authors_config()),
            tower: put("tower", &of_tower, clip),
            _folder: folder,
        }
    }

    fn load(&self) -> VisionLanguage<Cpu<f32>> {
        let (mut model, tower) = (open(&self.model), open(&self.tower));
        let spec = spec(&model, Some(&tower)).unwrap();
        adopt_tower(&mut model, &tower).unwrap();
        VisionLanguage::load(&model, spec, Cpu::new(), &mut |_| {}).unwrap()
    }
}

fn spec(model: &Model, tower: Option<&Model>) -> Result<VisionLanguageSpec, String> {
    let tower = tower.and_then(|tower| tower.config.as_ref());
    VisionLanguageSpec::read_with(model.config.as_ref().unwrap(), tower).map_err(|e| e.to_string())
}

#[test]
fn it_computes_what_is_published_with_the_tower_of_another_repository() {
    let model = Published::new().load();
    let reference = Reference::read(&case("llava"));
    let rows = model.rows(&[pixels_of(&reference, 0)]).unwrap();
    let marks = Marks::of(model.spec(), |_| None).unwrap();
    assert_eq!(marks, Marks::Cut { n_rows: 16 });
    // The reference's tokens before and after its image, by way of a text that stands for them.
    let ids = reference.ids();
    let at = ids.iter().position(|&id| id == 90).unwrap();
    let pieces = [&ids[..at], &ids[at + 16..]];
    let mut firsts = Vec::new();
    let tokens = marks.encode("before<image>after", &mut |text, first| {
        firsts.push((text.to_owned(), first));
        Ok::<_, ()>(pieces[usize::from(!first)].to_vec())
    });
    let tokens = tokens.unwrap();
    assert_eq!(tokens.len(), ids.len());
    let heard = [("before".to_owned(), true), ("after".to_owned(), false)];
    assert_eq!(firsts, heard);
    let backend = model.decoder().backend();
    let pieces = marks.pieces(backend, &tokens, &rows).unwrap();
    reference.check("logits", &logits(&model, pieces, ids.len()), MAX_NMSE);
    assert!(marks.pieces(backend, &tokens, &[]).is_err());
}

#[test]
fn pictures_are_padded_to_squares_as_published() {
    let model = Published::new().load();
    for row in pictures::json("pictures.json")["padded"]
        .as_array()
        .unwrap()
    {
        let (width, height) = pictures::pair(&row["size"]);
        let picture = pictures::picture(width, height);
        let by = Normalisation::CLIP;
        let prepared = model.prepare(&picture, &by).unwrap();
        let seen = seen(&prepared, &by);
        assert_eq!(pictures::digest(&seen), row["sha256"], "{width} × {height}");
    }
}

#[test]
fn towers_are_adopted_once_and_by_models_without_one() {
    let published = Published::new();
    let (mut model, tower) = (open(&published.model), open(&published.tower));
    let error = spec(&model, None).unwrap_err();
    assert!(
        error.contains("mm_vision_tower") && error.contains("--tower"),
        "{error}"
    );
    let whole = spec(&model, Some(&tower)).unwrap();
    let load = |model: &Model| {
        VisionLanguage::load(model, whole.clone(), Cpu::<f32>::new(), &mut |_| {})
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let error = load(&model).unwrap_err();
    assert!(error.contains("--tower"), "{error}");
    let without = model.clone();
    assert!(adopt_tower(&mut model, &without).is_err());
    adopt_tower(&mut model, &tower).unwrap();
    load(&model).unwrap();
    let error = adopt_tower(&mut model, &tower).unwrap_err().to_string();
    assert!(error.contains("of its own"), "{error}");
}

fn run(model: &Path, tower: Option<&Path>, prompt: &str) -> std::process::Output {
    let model = model.display().to_string();
    let image = case("llava").join("image-0.png").display().to_string();
    let mut args = vec!["run", &model, "--image", &image, "--prompt", prompt];
    args.extend(["-n", "4", "--ignore-eos", "--device", "cpu", "--json"]);
    let tower = tower.map(|tower| tower.display().to_string());
    if let Some(tower) = &tower {
        args.extend(["--tower", tower]);
    }
    modelkin(&args)
}

#[test]
fn the_command_line_shows_it_pictures_where_the_prompt_says_so() {
    let published = Published::new();
    let tokenizer = tokenizer_of_letters(&["<unk>"]);
    fs::write(published.model.join("tokenizer.json"), tokenizer).unwrap();
    let ids = |prompt: &str| {
        let output = run(&published.model, Some(&published.tower), prompt);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let page = json(&output);
        assert_eq!(page["ids"].as_array().map(Vec::len), Some(4));
        let ids = page["prompt_ids"].as_array().unwrap().iter();
        ids.map(|id| id.as_u64().unwrap()).collect::<Vec<_>>()
    };
    let rows = [u64::from(u32::MAX); 16];
    assert_eq!(ids("a b"), [&rows[..], &[1, 2]].concat());
    assert_eq!(ids("a <image> b"), [&[1], &rows[..], &[2]].concat());
    let said = |tower: Option<&Path>, prompt: &str| {
        let output = run(&published.model, tower, prompt);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = said(Some(&published.tower), "<image> a <image>");
    assert!(error.contains("2 places for pictures"), "{error}");
    let error = said(None, "a");
    assert!(error.contains("--tower"), "{error}");
}

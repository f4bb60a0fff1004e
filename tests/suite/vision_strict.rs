//! What a vision-language checkpoint holds and what its config promises must be one, and names do not matter.

use super::vision::{MARKS, case, load, logits, pixels_of};
use crate::support::reference::Reference;
use crate::support::shared;
use modelkin::arch::spec::{ConnectorSpec, ImageSpec, SliceSpec, VisionLanguageSpec};
use modelkin::engine::cpu::Cpu;
use modelkin::engine::vision::{Pixels, VisionLanguage};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;

/// A copy of a case with other names, other tensors or another config.
fn altered(
    name: &str,
    rename: impl Fn(&str) -> Option<String>,
    extra: &[(&str, Vec<usize>)],
    alter: impl Fn(&mut Value),
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(case(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let zeros = vec![0u8; 1 << 16];
    let mut tensors: Vec<(String, TensorView<'_>)> = file
        .iter()
        .filter_map(|(name, tensor)| Some((rename(name)?, tensor)))
        .collect();
    for (name, shape) in extra {
        let n_bytes = 2 * shape.iter().product::<usize>();
        let dtype = safetensors::Dtype::BF16;
        let view = TensorView::new(dtype, shape.clone(), &zeros[..n_bytes]).unwrap();
        tensors.push(((*name).to_owned(), view));
    }
    let out = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &out).unwrap();
    let config = fs::read(case(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    alter(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn the_renamed_copy_computes_the_same_bits() {
    let rename = |name: &str| {
        let (first, rest) = name.split_once('.').unwrap();
        let first = match first {
            "vpm" => "vison",
            "resampler" => "projection",
            other => other,
        };
        Some(format!("{first}.{rest}"))
    };
    let copy = altered("minicpm-llama3-v", rename, &[], |config| {
        config["model_type"] = json!("llama3v");
        config["auto_map"] = json!({"AutoModel": "modeling_llama3v.Llama3v"});
        let object = config.as_object_mut().unwrap();
        object.remove("drop_vision_last_layer");
        object.remove("batch_vision_input");
    });
    let original = load(&case("minicpm-llama3-v"), Cpu::<f32>::new()).unwrap();
    let copy = load(copy.path(), Cpu::<f32>::new()).unwrap();
    let reference = Reference::read(&case("minicpm-llama3-v"));
    let ids = reference.ids();
    let of = |model: &VisionLanguage<Cpu<f32>>| {
        let rows = model.rows(&[pixels_of(&reference, 0)]).unwrap();
        let pieces = MARKS.pieces(model.decoder().backend(), &ids, &rows);
        logits(model, pieces.unwrap(), ids.len())
    };
    assert_eq!(of(&original), of(&copy));
    assert_eq!(copy.spec().model_type, "llama3v");
}

#[test]
fn the_published_copy_promises_the_published_model() {
    let Some(shared) = shared() else { return };
    let read = |side: &str| {
        let file = shared
            .join("data/cases/llama3-v")
            .join(side)
            .join("config.json");
        let config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let mut spec = VisionLanguageSpec::read(&config).unwrap();
        spec.model_type.clear();
        spec.assumptions.clear();
        spec.vision.assumptions.clear();
        spec.language.assumptions.clear();
        spec
    };
    let (reference, candidate) = (read("reference"), read("candidate"));
    assert_eq!(reference, candidate);
    assert_eq!(reference.vision.n_side(), 70);
    assert_eq!(reference.vision.layers.len(), 27);
    let ConnectorSpec::Resampler(resampler) = reference.connector else {
        panic!("MiniCPM-V has a resampler");
    };
    assert_eq!((resampler.n_queries, resampler.n_heads), (96, 32));
    let slices = SliceSpec {
        max_slices: 9,
        resolution: 448,
        patch_size: 14,
    };
    assert_eq!(reference.images, ImageSpec::Sliced(slices));
}

#[test]
fn what_the_config_does_not_promise_is_refused_and_what_it_promises_is_demanded() {
    let keep = |name: &str| Some(name.to_owned());
    let same = |_: &mut Value| {};
    let refused = |folder: tempfile::TempDir, what: &str| {
        let error = load(folder.path(), Cpu::<f32>::new()).err();
        let error = error.unwrap_or_else(|| panic!("{what} was accepted"));
        println!("{what}: {error}");
        error
    };
    let name = "minicpm-llama3-v";
    for gone in [
        "vpm.post_layernorm.bias",
        "vpm.encoder.layers.1.self_attn.q_proj.bias",
        "vpm.embeddings.position_embedding.weight",
        "resampler.proj",
        "resampler.ln_q.weight",
        "resampler.attn.in_proj_bias",
        "llm.model.norm.weight",
    ] {
        let without = altered(name, |n| (n != gone).then(|| n.to_owned()), &[], same);
        refused(without, gone);
    }
    for extra in [
        "resampler.pos_embed",
        "vpm.embeddings.class_embedding",
        "vpm.odd.weight",
        "vpm.encoder.layers.0.self_attn.q_norm.weight",
        "adapter.weight",
    ] {
        let with = altered(name, keep, &[(extra, vec![24])], same);
        let error = refused(with, extra);
        assert!(error.contains(extra), "{error}");
    }
    type Alter = fn(&mut Value);
    let configs: [(&str, Alter); 8] = [
        ("more queries", |c| c["query_num"] = json!(8)),
        ("fewer layers", |c| {
            c["vision_config"]["num_hidden_layers"] = json!(1)
        }),
        ("a dropped layer", |c| {
            c["drop_vision_last_layer"] = json!(true)
        }),
        ("larger patches", |c| {
            c["vision_config"]["patch_size"] = json!(4)
        }),
        ("a key nobody knows", |c| {
            c["vision_config"]["rotary"] = json!(true)
        }),
        ("another tower", |c| {
            c["vision_config"]["model_type"] = json!("siglip_vision_model")
        }),
        ("no marks", |c| c["mm_use_im_start_end"] = json!(false)),
        ("huge slices", |c| {
            c["slice_config"]["scale_resolution"] = json!(1 << 30)
        }),
    ];
    for (what, alter) in configs {
        refused(altered(name, keep, &[], alter), what);
    }
    let error = load(
        altered("llava", keep, &[], |c| {
            c["vision_feature_layer"] = json!(-5)
        })
        .path(),
        Cpu::<f32>::new(),
    );
    assert!(error.is_err());
}

#[test]
fn images_of_other_sizes_than_the_tower_reads_are_refused() {
    let model = load(&case("llava"), Cpu::<f32>::new()).unwrap();
    let pixels = |height: usize, width: usize| Pixels {
        height,
        width,
        values: vec![0.0; 3 * height * width],
    };
    assert!(model.rows(&[pixels(20, 20)]).is_ok());
    for (height, width) in [(20, 25), (25, 20), (0, 0), (4, 4)] {
        assert!(model.rows(&[pixels(height, width)]).is_err());
    }
    let model = load(&case("minicpm-llama3-v"), Cpu::<f32>::new()).unwrap();
    // One patch, fewer than there are queries.
    assert!(model.rows(&[pixels(5, 5)]).is_ok());
    for (height, width) in [(5, 6), (4, 5), (0, 5)] {
        assert!(model.rows(&[pixels(height, width)]).is_err());
    }
}

//! Images: prepared as Pillow and the published algorithms do it, computed as the published models do.

use crate::support::shared;
use modelkin::arch::Model;
use modelkin::arch::spec::{
    ConnectorSpec, ImageSpec, ModelSpec, NormSpec, PatchPositions, ResamplerSpec, SliceSpec,
    VisionLanguageSpec, VisionSpec,
};
use modelkin::audit::{self, Unwatched};
use modelkin::engine::backend::Backend;
use modelkin::engine::cpu::Cpu;
use modelkin::engine::vision::prompt::Bounds;
use modelkin::engine::vision::{
    Marks, Normalisation, Picture, Pixels, Tower, VisionLanguage, positions,
};
use modelkin::engine::{Chunk, Logits, Piece, Wanted};
use modelkin::source::FetchOptions;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Greatest normalised mean squared error against a reference in f32.
const MAX_NMSE: f64 = 1e-9;

fn case(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/parity/vision")
        .join(name)
}

fn open(folder: &Path) -> Model {
    let model = folder.to_str().unwrap().parse().unwrap();
    audit::open(&model, &FetchOptions::default(), &Unwatched)
        .unwrap()
        .0
}

/// What the published implementation computed: shapes and values.
struct Reference(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Reference {
    fn read(folder: &Path) -> Self {
        let bytes = fs::read(folder.join("reference.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = |tensor: &TensorView<'_>| -> Vec<f64> {
            let data = tensor.data();
            match tensor.dtype() {
                safetensors::Dtype::I64 => {
                    let numbers = data.as_chunks::<8>().0.iter();
                    numbers.map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                safetensors::Dtype::F64 => {
                    let numbers = data.as_chunks::<8>().0.iter();
                    numbers.map(|b| f64::from_le_bytes(*b)).collect()
                }
                _ => {
                    let numbers = data.as_chunks::<4>().0.iter();
                    numbers.map(|b| f32::from_le_bytes(*b).into()).collect()
                }
            }
        };
        let entry = |(name, tensor): (&str, TensorView<'_>)| {
            let value = (tensor.shape().to_vec(), read(&tensor));
            (name.to_owned(), value)
        };
        Self(file.iter().map(entry).collect())
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    fn ids(&self) -> Vec<u32> {
        let ids = self.values("input_ids").iter();
        ids.map(|&id| id as u32).collect()
    }

    fn pixels(&self, number: usize) -> Pixels {
        let (shape, values) = &self.0[&format!("pixels.{number}")];
        Pixels {
            height: shape[1],
            width: shape[2],
            values: values.iter().map(|&v| v as f32).collect(),
        }
    }

    fn n_images(&self) -> usize {
        let pixels = self.0.keys().filter(|name| name.starts_with("pixels."));
        pixels.count()
    }

    /// Holds values to the reference.
    fn check(&self, name: &str, ours: &[f32], most: f64) {
        let theirs = self.values(name);
        assert_eq!(ours.len(), theirs.len(), "{name}: number of values");
        let (mut difference, mut power) = (0.0, 0.0);
        for (a, b) in ours.iter().zip(theirs) {
            difference += (f64::from(*a) - b).powi(2);
            power += b * b;
        }
        let nmse = difference / power;
        println!("{name}: NMSE {nmse:.1e}");
        assert!(nmse < most, "{name}: NMSE {nmse:.1e}");
    }
}

/// The states of a tower on its own, held to its reference.
fn check_tower<B: Backend>(name: &str, backend: B, suffix: &str, most: f64) {
    let folder = case(name);
    let (model, reference) = (open(&folder), Reference::read(&folder));
    let spec = VisionSpec::read(model.config.as_ref().unwrap()).unwrap();
    let tower = Tower::load(&model, spec, &backend).unwrap();
    for image in 0..reference.n_images() {
        let mut states = BTreeMap::new();
        let last = tower
            .states(&backend, &reference.pixels(image), 0, &mut |number, x| {
                states.insert(number, backend.download(x)?);
                Ok(())
            })
            .unwrap();
        let last = backend.download(&last).unwrap();
        let name = match name {
            "idefics2" => format!("last_hidden_state.{image}"),
            _ => format!("last_hidden_state{suffix}"),
        };
        reference.check(&name, &last, most);
        for (number, values) in states {
            let name = format!("hidden.{number}");
            if reference.0.contains_key(&name) {
                reference.check(&name, &values, MAX_NMSE);
            }
        }
    }
}

#[test]
fn towers_compute_what_their_published_implementations_compute() {
    for name in ["siglip", "clip", "idefics2"] {
        println!("{name}");
        check_tower(name, Cpu::<f32>::new(), "", MAX_NMSE);
    }
    for name in ["siglip", "clip"] {
        println!("{name}, double precision");
        check_tower(name, Cpu::<f64>::new(), "_f64", 1e-13);
    }
}

#[test]
fn patches_of_any_shape_find_their_learned_positions() {
    let reference = Reference::read(&case("idefics2"));
    for (number, grid) in [(3, 8), (7, 4), (5, 5)].into_iter().enumerate() {
        let ours: Vec<f64> = positions::buckets(grid, 8)
            .into_iter()
            .map(f64::from)
            .collect();
        assert_eq!(ours, reference.values(&format!("position_ids.{number}")));
    }
}

fn load<B: Backend>(folder: &Path, backend: B) -> Result<VisionLanguage<B>, String> {
    let model = open(folder);
    let spec = VisionLanguageSpec::read(model.config.as_ref().unwrap());
    let spec = spec.map_err(|error| error.to_string())?;
    VisionLanguage::load(&model, spec, backend, &mut |_| {}).map_err(|error| error.to_string())
}

fn logits<B: Backend>(model: &VisionLanguage<B>, pieces: Vec<Piece<'_, B>>, n: usize) -> Vec<f32> {
    let decoder = model.decoder();
    let mut cache = decoder.cache(n).unwrap();
    let wanted = Wanted {
        logits: Logits::All,
        ..Wanted::default()
    };
    let mut chunks = [Chunk {
        cache: &mut cache,
        pieces,
    }];
    let computed = decoder.forward(&mut chunks, &wanted).unwrap();
    computed.logits.unwrap().values
}

/// Marks of the tiny MiniCPM-Llama3-V.
fn marks() -> Marks {
    Marks::Bounded(Bounds {
        start: 91,
        end: 92,
        slices_start: 93,
        slices_end: 94,
        place: 0,
        newline: vec![10],
    })
}

/// Tower, resampler and logits of every image, held to references.
fn check_minicpm<B: Backend>(model: &VisionLanguage<B>, reference: &Reference) {
    let backend = model.decoder().backend();
    let ids = reference.ids();
    for image in 0..reference.n_images() {
        let pixels = [reference.pixels(image)];
        let tower = model.tower().forward(backend, &pixels).unwrap();
        let name = format!("tower.{image}");
        reference.check(&name, &backend.download(&tower[0]).unwrap(), MAX_NMSE);
        let rows = model.rows(&pixels).unwrap();
        let name = format!("resampler.{image}");
        reference.check(&name, &backend.download(&rows[0]).unwrap(), MAX_NMSE);
        let pieces = marks().pieces(backend, &ids, &rows).unwrap();
        let name = format!("logits.{image}");
        reference.check(&name, &logits(model, pieces, ids.len()), MAX_NMSE);
    }
}

#[test]
fn minicpm_llama3_v_computes_what_is_published() {
    let folder = case("minicpm-llama3-v");
    let reference = Reference::read(&folder);
    let model = load(&folder, Cpu::<f32>::new()).unwrap();
    let positions = PatchPositions::Strip { padded: true };
    assert_eq!(model.spec().vision.positions, positions);
    check_minicpm(&model, &reference);
}

#[test]
fn a_batch_is_filled_up_and_sees_its_filling_as_published() {
    let folder = case("minicpm-llama3-v");
    let mut model = open(&folder);
    let reference = Reference::read(&case("minicpm-llama3-v-batch"));
    let alone = Reference::read(&folder);
    let images: Vec<Pixels> = (0..3).map(|image| reference.pixels(image)).collect();
    for padded in [true, false] {
        model.config.as_mut().unwrap()["batch_vision_input"] = json!(padded);
        let spec = VisionLanguageSpec::read(model.config.as_ref().unwrap()).unwrap();
        let model = VisionLanguage::load(&model, spec, Cpu::<f32>::new(), &mut |_| {}).unwrap();
        for (image, rows) in model.rows(&images).unwrap().iter().enumerate() {
            let rows = model.decoder().backend().download(rows).unwrap();
            let reference = if padded { &reference } else { &alone };
            reference.check(&format!("resampler.{image}"), &rows, MAX_NMSE);
        }
    }
}

#[test]
fn a_tower_that_sees_the_true_grid_is_another() {
    let folder = case("minicpm-llama3-v");
    let (model, reference) = (open(&folder), Reference::read(&folder));
    let mut spec = VisionLanguageSpec::read(model.config.as_ref().unwrap()).unwrap();
    spec.vision.positions = PatchPositions::Buckets;
    let backend = Cpu::<f32>::new();
    let tower = Tower::load(&model, spec.vision, &backend).unwrap();
    for image in 0..reference.n_images() {
        let seen = tower.forward(&backend, &[reference.pixels(image)]).unwrap();
        let seen = backend.download(&seen[0]).unwrap();
        reference.check(&format!("tower.{image}.grid"), &seen, MAX_NMSE);
    }
}

fn check_llava<B: Backend>(backend: B, suffix: &str, most: f64) {
    let folder = case("llava");
    let reference = Reference::read(&folder);
    let model = load(&folder, backend).unwrap();
    let backend = model.decoder().backend();
    let rows = model.rows(&[reference.pixels(0)]).unwrap();
    reference.check(
        "image_features",
        &backend.download(&rows[0]).unwrap(),
        MAX_NMSE,
    );
    let ids = reference.ids();
    assert_eq!(backend.shape(&rows[0]).0, model.spec().n_rows());
    let marks = Marks::of(model.spec(), |_| None, Vec::new()).unwrap();
    assert_eq!(marks.room(model.spec().n_rows(), (0, 0)), ids[4..20]);
    let pieces = marks.pieces(backend, &ids, &rows).unwrap();
    reference.check(
        &format!("logits{suffix}"),
        &logits(&model, pieces, ids.len()),
        most,
    );
}

#[test]
fn llava_computes_what_is_published() {
    check_llava(Cpu::<f32>::new(), "", MAX_NMSE);
    check_llava(Cpu::<f64>::new(), "_f64", 1e-12);
}

/// The spec of `minicpm-v2`, whose config describes its decoder alone.
fn minicpm_v2(model: &Model) -> VisionLanguageSpec {
    let language = ModelSpec::read(model.config.as_ref().unwrap()).unwrap();
    let mut vision = VisionSpec::read(&json!({
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 37,
        "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 5, "image_size": 35,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    }))
    .unwrap();
    vision.positions = PatchPositions::Resized;
    VisionLanguageSpec {
        model_type: "minicpmv".to_owned(),
        connector: ConnectorSpec::Resampler(ResamplerSpec {
            n_queries: 9,
            n_heads: 3,
            input_size: 24,
            hidden_size: language.hidden_size,
            norm: NormSpec::layer(1e-6),
            query_positions: true,
        }),
        language,
        vision,
        images: ImageSpec::Sliced(SliceSpec {
            max_slices: 9,
            resolution: 60,
            patch_size: 5,
        }),
        assumptions: Vec::new(),
    }
}

#[test]
fn the_tower_and_resampler_of_minicpm_v_2_resize_their_positions() {
    let folder = case("minicpm-v2");
    let (model, reference) = (open(&folder), Reference::read(&folder));
    let spec = minicpm_v2(&model);
    let model = VisionLanguage::load(&model, spec, Cpu::<f32>::new(), &mut |_| {}).unwrap();
    let backend = model.decoder().backend();
    assert_eq!(reference.n_images(), 5);
    for image in 0..reference.n_images() {
        let pixels = [reference.pixels(image)];
        let tower = model.tower().forward(backend, &pixels).unwrap();
        let tower = backend.download(&tower[0]).unwrap();
        reference.check(&format!("tower.{image}"), &tower, MAX_NMSE);
        let rows = backend.download(&model.rows(&pixels).unwrap()[0]).unwrap();
        reference.check(&format!("rows.{image}"), &rows, MAX_NMSE);
    }
}

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
        let rows = model.rows(&[reference.pixels(0)]).unwrap();
        let pieces = marks().pieces(model.decoder().backend(), &ids, &rows);
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

#[test]
fn pictures_become_the_pixels_of_the_references() {
    for name in ["siglip", "idefics2", "llava", "minicpm-llama3-v"] {
        let reference = Reference::read(&case(name));
        for image in 0..reference.n_images() {
            let file = format!("image-{image}.png");
            let bytes = fs::read(case(name).join(&file)).unwrap();
            let picture = Picture::decode(&file, &bytes).unwrap();
            assert_eq!(
                picture.pixels(&Normalisation::SIGLIP),
                reference.pixels(image)
            );
        }
    }
}

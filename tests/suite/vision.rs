//! Images: prepared as Pillow and the published algorithms do it, computed as the published models do.

use crate::pictures;
use crate::support::reference::Reference;
use modelkin::arch::Model;
use modelkin::arch::spec::{
    ConnectorSpec, ImageSpec, ModelSpec, NormSpec, PatchPositions, ResamplerSpec, SliceSpec,
    VisionLanguageSpec, VisionSpec,
};
use modelkin::audit::{self, Unwatched};
use modelkin::engine::backend::Backend;
use modelkin::engine::cpu::Cpu;
use modelkin::engine::vision::composite::Prepared;
use modelkin::engine::vision::{
    Marks, Normalisation, Picture, Pixels, Tower, VisionLanguage, positions,
};
use modelkin::engine::{Chunk, Logits, Piece, Wanted};
use modelkin::source::FetchOptions;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Greatest normalised mean squared error against a reference in f32.
const MAX_NMSE: f64 = 1e-9;

pub fn case(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/parity/vision")
        .join(name)
}

pub fn open(folder: &Path) -> Model {
    let model = folder.to_str().unwrap().parse().unwrap();
    audit::open(&model, &FetchOptions::default(), &Unwatched)
        .unwrap()
        .0
}

/// An image of the reference.
pub fn pixels_of(reference: &Reference, number: usize) -> Pixels {
    let name = format!("pixels.{number}");
    let shape = reference.shape(&name);
    Pixels {
        height: shape[1],
        width: shape[2],
        values: reference.values(&name).iter().map(|&v| v as f32).collect(),
    }
}

fn n_images(reference: &Reference) -> usize {
    reference.numbered::<Vec<_>>("pixels.").len()
}

/// The states of a tower on its own, held to its reference.
fn check_tower<B: Backend>(name: &str, backend: B, suffix: &str, most: f64) {
    let folder = case(name);
    let (model, reference) = (open(&folder), Reference::read(&folder));
    let spec = VisionSpec::read(model.config.as_ref().unwrap()).unwrap();
    let tower = Tower::load(&model, spec, &backend).unwrap();
    for image in 0..n_images(&reference) {
        let mut states = BTreeMap::new();
        let last = tower
            .states(
                &backend,
                &pixels_of(&reference, image),
                0,
                &mut |number, x| {
                    states.insert(number, backend.download(x)?);
                    Ok(())
                },
            )
            .unwrap();
        let last = backend.download(&last).unwrap();
        let name = match name {
            "idefics2" => format!("last_hidden_state.{image}"),
            _ => format!("last_hidden_state{suffix}"),
        };
        reference.check(&name, &last, most);
        for number in reference.numbered::<Vec<_>>("hidden.") {
            reference.check(&format!("hidden.{number}"), &states[&number], MAX_NMSE);
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

pub fn load<B: Backend>(folder: &Path, backend: B) -> Result<VisionLanguage<B>, String> {
    let model = open(folder);
    let spec = VisionLanguageSpec::read(model.config.as_ref().unwrap());
    let spec = spec.map_err(|error| error.to_string())?;
    VisionLanguage::load(&model, spec, backend, &mut |_| {}).map_err(|error| error.to_string())
}

pub fn logits<B: Backend>(
    model: &VisionLanguage<B>,
    pieces: Vec<Piece<'_, B>>,
    n: usize,
) -> Vec<f32> {
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
pub const MARKS: Marks = Marks::Bounded { start: 91, end: 92 };

/// Tower, resampler and logits of every image, held to references.
fn check_minicpm<B: Backend>(model: &VisionLanguage<B>, reference: &Reference) {
    let backend = model.decoder().backend();
    let ids = reference.ids();
    for image in 0..n_images(reference) {
        let pixels = [pixels_of(reference, image)];
        let tower = model.tower().forward(backend, &pixels).unwrap();
        let name = format!("tower.{image}");
        reference.check(&name, &backend.download(&tower[0]).unwrap(), MAX_NMSE);
        let rows = model.rows(&pixels).unwrap();
        let name = format!("resampler.{image}");
        reference.check(&name, &backend.download(&rows[0]).unwrap(), MAX_NMSE);
        let pieces = MARKS.pieces(backend, &ids, &rows).unwrap();
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
fn slices_stand_in_a_text_row_by_row() {
    let model = open(&case("minicpm-llama3-v"));
    let mut spec = VisionLanguageSpec::read(model.config.as_ref().unwrap()).unwrap();
    let ConnectorSpec::Resampler(resampler) = &mut spec.connector else {
        panic!("MiniCPM-V has a resampler");
    };
    resampler.n_queries = 2;
    let image = "<image><unk><unk></image>";
    assert_eq!(spec.room((0, 0)), image);
    let line = format!("{image}{image}{image}");
    let room = format!("{image}<slice>{line}\n{line}</slice>");
    assert_eq!(spec.room((3, 2)), room);
    let of = |names: &[&str]| {
        let id = |name: &str| names.iter().position(|n| *n == name).map(|id| id as u32);
        Marks::of(&spec, id)
    };
    let marks = Marks::Bounded { start: 0, end: 1 };
    assert_eq!(of(&["<image>", "</image>"]).unwrap(), marks);
    assert!(of(&["<image>"]).is_err());
}

#[test]
fn a_batch_is_filled_up_and_sees_its_filling_as_published() {
    let folder = case("minicpm-llama3-v");
    let mut model = open(&folder);
    let reference = Reference::read(&case("minicpm-llama3-v-batch"));
    let alone = Reference::read(&folder);
    let images: Vec<Pixels> = (0..3).map(|image| pixels_of(&reference, image)).collect();
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
    for image in 0..n_images(&reference) {
        let seen = tower
            .forward(&backend, &[pixels_of(&reference, image)])
            .unwrap();
        let seen = backend.download(&seen[0]).unwrap();
        reference.check(&format!("tower.{image}.grid"), &seen, MAX_NMSE);
    }
}

fn check_llava<B: Backend>(backend: B, suffix: &str, most: f64) {
    let folder = case("llava");
    let reference = Reference::read(&folder);
    let model = load(&folder, backend).unwrap();
    let backend = model.decoder().backend();
    let rows = model.rows(&[pixels_of(&reference, 0)]).unwrap();
    reference.check(
        "image_features",
        &backend.download(&rows[0]).unwrap(),
        MAX_NMSE,
    );
    let ids = reference.ids();
    assert_eq!(backend.shape(&rows[0]).0, model.spec().n_rows());
    let marks = Marks::of(model.spec(), |_| None).unwrap();
    assert_eq!(marks, Marks::Repeated(90));
    assert_eq!(model.spec().room((0, 0)), "<image>".repeat(16));
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
    assert_eq!(n_images(&reference), 5);
    for image in 0..n_images(&reference) {
        let pixels = [pixels_of(&reference, image)];
        let tower = model.tower().forward(backend, &pixels).unwrap();
        let tower = backend.download(&tower[0]).unwrap();
        reference.check(&format!("tower.{image}"), &tower, MAX_NMSE);
        let rows = backend.download(&model.rows(&pixels).unwrap()[0]).unwrap();
        reference.check(&format!("rows.{image}"), &rows, MAX_NMSE);
    }
}

#[test]
fn pictures_become_the_pixels_of_the_references() {
    for name in ["siglip", "idefics2", "llava", "minicpm-llama3-v"] {
        let reference = Reference::read(&case(name));
        for image in 0..n_images(&reference) {
            let file = format!("image-{image}.png");
            let bytes = fs::read(case(name).join(&file)).unwrap();
            let picture = Picture::decode(&file, &bytes).unwrap();
            assert_eq!(
                picture.pixels(&Normalisation::SIGLIP),
                pixels_of(&reference, image)
            );
        }
    }
}

#[test]
fn a_picture_is_cut_computed_and_set_into_a_text() {
    let mut model = open(&case("minicpm-llama3-v"));
    model.config.as_mut().unwrap()["slice_config"]["scale_resolution"] = json!(20);
    let spec = VisionLanguageSpec::read(model.config.as_ref().unwrap()).unwrap();
    let model = VisionLanguage::load(&model, spec, Cpu::<f32>::new(), &mut |_| {}).unwrap();
    let prepared = model
        .prepare(&pictures::picture(60, 40), &model.normalisation())
        .unwrap();
    assert_eq!(prepared.grid, (3, 2));
    assert_eq!(prepared.images.len(), 7);
    let rows = model.rows(&prepared.images).unwrap();
    let n_rows = model.spec().n_rows();
    // One image, seven places: 93 and 94 hold the slices, 10 is a new line.
    let image: Vec<u32> = [vec![91], vec![0; n_rows], vec![92]].concat();
    let line = image.repeat(3);
    let room = [&image[..], &[93], &line, &[10], &line, &[94, 10, 5]].concat();
    assert_eq!(
        model.spec().room((3, 2)).matches("<unk>").count(),
        7 * n_rows
    );
    let pieces = MARKS
        .pieces(model.decoder().backend(), &room, &rows)
        .unwrap();
    let logits = logits(&model, pieces, room.len());
    assert!(logits.iter().all(|x| x.is_finite()));
    assert_eq!(logits.len(), room.len() * model.spec().language.vocab_size);
    let backend = model.decoder().backend();
    assert!(MARKS.pieces(backend, &room, &rows[1..]).is_err());
}

/// The one image that LLaVA sees, its colours as they were before they were scaled.
pub fn seen(prepared: &Prepared, by: &Normalisation) -> Picture {
    let [pixels] = &prepared.images[..] else {
        panic!("LLaVA sees one image");
    };
    let n = pixels.width * pixels.height;
    let byte = |i: usize| {
        let value = pixels.values[(i % 3) * n + i / 3] * by.std[i % 3] + by.mean[i % 3];
        (value * 255.0).round() as u8
    };
    Picture {
        width: pixels.width,
        height: pixels.height,
        rgb: (0..3 * n).map(byte).collect(),
    }
}

#[test]
fn llava_sees_the_middle_of_a_picture_as_clips_processor_cuts_it() {
    let model = load(&case("llava"), Cpu::<f32>::new()).unwrap();
    for row in pictures::json("pictures.json")["middle"]
        .as_array()
        .unwrap()
    {
        let (width, height) = pictures::pair(&row["size"]);
        let picture = pictures::picture(width, height);
        let by = Normalisation::SIGLIP;
        let seen = seen(&model.prepare(&picture, &by).unwrap(), &by);
        assert_eq!(pictures::digest(&seen), row["sha256"], "{width} × {height}");
    }
}

#[cfg(feature = "gpu")]
struct OnGpu;

#[cfg(feature = "gpu")]
impl modelkin::engine::device::Visitor for OnGpu {
    type Output = ();

    fn visit<B: Backend + 'static>(self, backend: B) {
        for name in ["siglip", "clip", "idefics2"] {
            check_tower(name, &backend, "", MAX_NMSE);
        }
        check_llava(&backend, "", MAX_NMSE);
        let folder = case("minicpm-llama3-v");
        let model = load(&folder, &backend).unwrap();
        check_minicpm(&model, &Reference::read(&folder));
    }
}

#[cfg(feature = "gpu")]
#[test]
fn images_become_the_same_on_a_graphics_card() {
    if let Some(device) = crate::parity::test_device() {
        println!("on {}", device.describe());
        device.visit(OnGpu);
    }
}

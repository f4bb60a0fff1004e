//! The engine computes what the published implementations compute: every case of `tests/parity`.

use crate::support::reference::{Reference, errors};
use crate::support::shared;
use modelkin::arch::Model;
use modelkin::arch::spec::ModelSpec;
use modelkin::audit::{self, Unwatched};
use modelkin::engine::backend::Backend;
use modelkin::engine::cpu::Cpu;
use modelkin::engine::device::Visitor;
use modelkin::engine::generate::{Sampler, Sampling, Turn, generate, prefill};
#[cfg(feature = "gpu")]
use modelkin::engine::gpu;
use modelkin::engine::text::Tokenizer;
use modelkin::engine::{Chunk, Computed, Decoder, Logits, Piece, Values, Wanted};
use modelkin::source::FetchOptions;
use std::fs;
use std::path::{Path, PathBuf};

/// Greatest normalised mean squared error against the reference in f32.
const MAX_NMSE: f64 = 1e-9;
/// Greatest difference of a logit.
const MAX_DIFFERENCE: f64 = 1e-3;
/// Logits closer than this are tied: which is first is rounding.
const TIE: f32 = 1e-4;

fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/models")
}

/// Every case of the manifest; one whose files are not there fails when it is read.
fn cases() -> Vec<PathBuf> {
    let manifest = fs::read(models().join("../manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let cases = manifest["cases"].as_object().unwrap().keys();
    let cases: Vec<PathBuf> = cases.map(|name| models().join(name)).collect();
    assert!(!cases.is_empty());
    cases
}

fn open(folder: &Path) -> Model {
    let model = folder.to_str().unwrap().parse().unwrap();
    audit::open(&model, &FetchOptions::default(), &Unwatched)
        .unwrap()
        .0
}

/// A pass over a text in chunks of these sizes.
fn pass<B: Backend>(
    decoder: &Decoder<B>,
    ids: &[u32],
    sizes: &[usize],
    wanted: &Wanted,
) -> Vec<Computed> {
    let mut cache = decoder.cache(ids.len()).unwrap();
    let mut at = 0;
    sizes
        .iter()
        .map(|size| {
            let pieces = vec![Piece::Tokens(&ids[at..at + size])];
            at += size;
            let mut chunks = [Chunk {
                cache: &mut cache,
                pieces,
            }];
            decoder.forward(&mut chunks, wanted).unwrap()
        })
        .collect()
}

fn load<B: Backend>(folder: &Path, backend: B) -> Result<(Decoder<B>, Reference), String> {
    let model = open(folder);
    let config = model.config.as_ref().ok_or("no config")?;
    let spec = ModelSpec::read(config).map_err(|e| e.to_string())?;
    let decoder = Decoder::load(&model, spec, backend, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok((decoder, Reference::read(folder)))
}

/// Everything that the reference holds, from one pass.
fn wanted(reference: &Reference) -> Wanted {
    Wanted {
        logits: Logits::All,
        hidden: reference.numbered("hidden."),
        final_hidden: true,
        mlp: reference.numbered("mlp."),
    }
}

fn check<B: Backend>(folder: &Path, backend: B) -> Result<String, String> {
    let (decoder, reference) = load(folder, backend)?;
    let wanted = wanted(&reference);
    let ids = reference.ids();
    let computed = pass(&decoder, &ids, &[ids.len()], &wanted).remove(0);
    let logits = computed.logits.as_ref().unwrap();
    let theirs = reference.values("logits");
    let (nmse, greatest) = errors(&logits.values, theirs);
    if !(nmse < MAX_NMSE && greatest < MAX_DIFFERENCE) {
        return Err(format!(
            "logits: NMSE {nmse:.1e}, greatest difference {greatest:.1e}"
        ));
    }
    let mut named: Vec<(String, &Values)> = Vec::new();
    named.extend(
        computed
            .hidden
            .iter()
            .map(|(i, v)| (format!("hidden.{i}"), v)),
    );
    named.extend(computed.mlp.iter().map(|(i, v)| (format!("mlp.{i}"), v)));
    named.extend(
        computed
            .final_hidden
            .iter()
            .map(|v| ("hidden.final".to_owned(), v)),
    );
    for (name, ours) in named {
        let (nmse, _) = errors(&ours.values, reference.values(&name));
        if !(nmse < MAX_NMSE) {
            return Err(format!("{name}: NMSE {nmse:.1e}"));
        }
    }
    for (row, theirs) in theirs.chunks(logits.n_cols).enumerate() {
        let ours = logits.row(row);
        let best = |of: &dyn Fn(usize) -> f64| {
            (0..ours.len())
                .max_by(|&a, &b| of(a).total_cmp(&of(b)))
                .unwrap()
        };
        let (a, b) = (best(&|i| f64::from(ours[i])), best(&|i| theirs[i]));
        if a != b && !((ours[a] - ours[b]).abs() < TIE) {
            return Err(format!("token {row}: first is {a}, not {b}"));
        }
    }
    let half: Vec<f32> = reference
        .values("logits_bf16")
        .iter()
        .map(|&x| x as f32)
        .collect();
    let (half, _) = errors(&half, theirs);
    if !(nmse <= half) {
        return Err(format!(
            "NMSE {nmse:.1e} is above that of the reference's own bf16, {half:.1e}"
        ));
    }
    Ok(format!(
        "NMSE {nmse:.1e}, greatest difference {greatest:.1e}"
    ))
}

fn check_all<B: Backend>(backend: &B) {
    let mut failed = Vec::new();
    for folder in cases() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        match check(&folder, backend) {
            Ok(said) => println!("{name}: {said}"),
            Err(why) => failed.push(format!("{name}: {why}")),
        }
    }
    assert!(
        failed.is_empty(),
        "{} cases differ:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

#[test]
fn every_family_computes_what_its_published_implementation_computes() {
    check_all(&Cpu::<f32>::new());
}

/// The device of the tests of kernels: `MODELKIN_TEST_DEVICE`, else a Vulkan device, a software one if there is
/// no other. `None`, and a line that says so, where there is none; an error with `MODELKIN_REQUIRE_GPU`.
#[cfg(feature = "gpu")]
pub fn test_device() -> Option<gpu::GpuBackend> {
    let name = std::env::var("MODELKIN_TEST_DEVICE").unwrap_or_else(|_| "vulkan".to_owned());
    match gpu::open(&name) {
        Ok(device) => Some(device),
        Err(why) if std::env::var_os("MODELKIN_REQUIRE_GPU").is_some() => panic!("{why}"),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

#[cfg(feature = "gpu")]
struct EveryFamily;

#[cfg(feature = "gpu")]
impl Visitor for EveryFamily {
    type Output = ();

    fn visit<B: Backend + 'static>(self, backend: B) {
        check_all(&backend);
    }
}

#[cfg(feature = "gpu")]
#[test]
fn every_family_computes_the_same_on_a_graphics_card() {
    if let Some(device) = test_device() {
        println!("on {}", device.describe());
        device.visit(EveryFamily);
    }
}

#[test]
fn double_precision_agrees_with_double_precision() {
    let mut failed = Vec::new();
    for folder in cases() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Ok((decoder, reference)) = load(&folder, Cpu::<f64>::new()) else {
            failed.push(format!("{name} does not load"));
            continue;
        };
        let ids = reference.ids();
        let computed = pass(&decoder, &ids, &[ids.len()], &wanted(&reference)).remove(0);
        let theirs = reference.values("logits_f64");
        let (nmse, _) = errors(&computed.logits.unwrap().values, theirs);
        // Rotary tables are f32 in both; logits are fetched as f32.
        if !(nmse < 1e-12) {
            failed.push(format!("{name}: NMSE {nmse:.1e}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn chunks_batches_threads_and_memory_change_no_bit() {
    let mut failed = Vec::new();
    for folder in cases() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Ok((decoder, reference)) = load(&folder, Cpu::<f32>::new()) else {
            failed.push(format!("{name} does not load"));
            continue;
        };
        let ids = &reference.ids();
        let all = Wanted {
            logits: Logits::All,
            ..Wanted::default()
        };
        let whole = pass(&decoder, ids, &[ids.len()], &all)
            .remove(0)
            .logits
            .unwrap()
            .values;
        let mut sizes = vec![5, 1, 1, 7];
        sizes.push(ids.len() - sizes.iter().sum::<usize>());
        let pieces: Vec<f32> = pass(&decoder, ids, &sizes, &all)
            .into_iter()
            .flat_map(|c| c.logits.unwrap().values)
            .collect();
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let alone = alone.install(|| pass(&decoder, ids, &[ids.len()], &all).remove(0));
        // Streamed from the file, in one batch with a shorter text.
        let (streamed, _) = load(&folder, Cpu::<f32>::with_budget(0)).unwrap();
        let (mut first, mut second) = (
            streamed.cache(ids.len()).unwrap(),
            streamed.cache(ids.len()).unwrap(),
        );
        let mut chunks = [
            Chunk {
                cache: &mut first,
                pieces: vec![Piece::Tokens(&ids[..4])],
            },
            Chunk {
                cache: &mut second,
                pieces: vec![Piece::Tokens(ids)],
            },
        ];
        let batch = streamed.forward(&mut chunks, &all).unwrap().logits.unwrap();
        let same = |a: &[f32], b: &[f32]| {
            a.iter()
                .map(|x| x.to_bits())
                .eq(b.iter().map(|x| x.to_bits()))
        };
        if !same(&whole, &alone.logits.unwrap().values) {
            failed.push(format!("{name}: one thread differs"));
        }
        if !same(&whole, &pieces) {
            failed.push(format!("{name}: chunks differ"));
        }
        if !same(&whole, &batch.values[4 * batch.n_cols..])
            || !same(
                &whole[..4 * batch.n_cols],
                &batch.values[..4 * batch.n_cols],
            )
        {
            failed.push(format!("{name}: a batch differs"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn prediction_layers_that_follow_the_last_change_nothing() {
    let folder = models().join("deepseek-v3");
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let config = fs::read(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let n_layers = config["num_hidden_layers"].as_u64().unwrap();
    let mut tensors: Vec<(String, safetensors::tensor::TensorView<'_>)> = file
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect();
    let last = format!("model.layers.{}.", n_layers - 1);
    for (name, tensor) in file.iter() {
        if let Some(rest) = name.strip_prefix(&last) {
            tensors.push((format!("model.layers.{n_layers}.{rest}"), tensor));
        }
    }
    let longer = tempfile::tempdir().unwrap();
    let out = safetensors::serialize(tensors, None).unwrap();
    fs::write(longer.path().join("model.safetensors"), out).unwrap();
    let reference = "reference.safetensors";
    fs::copy(folder.join(reference), longer.path().join(reference)).unwrap();
    let mut write = |n: Option<u64>| {
        config["num_nextn_predict_layers"] = n.into();
        fs::write(longer.path().join("config.json"), config.to_string()).unwrap();
        check(longer.path(), Cpu::<f32>::new())
    };
    write(Some(1)).unwrap();
    let error = write(None).unwrap_err();
    assert!(error.contains("layers"), "{error}");
}

#[test]
fn a_tensor_that_has_no_place_is_refused_by_name() {
    let folder = models().join("llama");
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let changed = tempfile::tempdir().unwrap();
    fs::copy(
        folder.join("config.json"),
        changed.path().join("config.json"),
    )
    .unwrap();
    let reference = "reference.safetensors";
    fs::copy(folder.join(reference), changed.path().join(reference)).unwrap();
    let more = |name: &str| {
        let mut tensors: Vec<_> = file.iter().collect();
        let norm = file.tensor("model.norm.weight").unwrap();
        tensors.push((name, norm));
        let out = safetensors::serialize(tensors, None).unwrap();
        fs::write(changed.path().join("model.safetensors"), out).unwrap();
        check(changed.path(), Cpu::<f32>::new())
    };
    for stranger in ["model.layers.0.self_attn.sinks", "model.gain.weight"] {
        let error = more(stranger).unwrap_err();
        assert!(error.contains(stranger), "{error}");
    }
    more("model.layers.0.self_attn.rotary_emb.inv_freq").unwrap();
}

#[test]
fn quantized_models_compute_what_their_originals_compute_up_to_their_rounding() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
    let ids: Vec<u32> = (5..40).collect();
    let all = Wanted {
        logits: Logits::All,
        ..Wanted::default()
    };
    let logits = |path: PathBuf| -> Result<Vec<f32>, String> {
        let model = open(&path);
        let spec = ModelSpec::read(model.config.as_ref().unwrap()).map_err(|e| e.to_string())?;
        let decoder = Decoder::load(&model, spec, Cpu::<f32>::new(), &mut |_| {});
        let decoder = decoder.map_err(|e| e.to_string())?;
        Ok(pass(&decoder, &ids, &[ids.len()], &all)
            .remove(0)
            .logits
            .unwrap()
            .values)
    };
    let original: Vec<f64> = logits(root.join("zoo/llama-a"))
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect();
    for (name, most) in [("llama-a-q8_0", 1e-3), ("llama-a-q4_0", 1e-1)] {
        let ours = logits(root.join(format!("data/gguf/{name}.gguf"))).unwrap();
        let (nmse, _) = errors(&ours, &original);
        println!("{name}: NMSE {nmse:.1e}");
        assert!(nmse < most, "{name}: NMSE {nmse:.1e}");
    }
    // Two of the layers are quantized.
    for (name, most) in [
        ("gptq-8", 1e-3),
        ("int8", 1e-3),
        ("fp8-blocks", 1e-2),
        ("nf4-nested", 1e-1),
        ("awq-4", 1e-1),
    ] {
        let folder = crate::support::quantized::assemble(name);
        let (nmse, _) = errors(&logits(folder.path().to_owned()).unwrap(), &original);
        println!("{name}: NMSE {nmse:.1e}");
        assert!(nmse < most, "{name}: NMSE {nmse:.1e}");
    }
    let original: Vec<f64> = logits(root.join("zoo/gpt2-a"))
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect();
    let ours = logits(root.join("data/gguf/gpt2-a-q4_0.gguf")).unwrap();
    let (nmse, _) = errors(&ours, &original);
    assert!(nmse < 1e-1, "gpt2-a-q4_0: NMSE {nmse:.1e}");
}

/// What stories260K writes after "Once upon a time": tokens as transformers continues, the beginning as its
/// author published it.
struct Story {
    model: Model,
    prompt: Vec<u32>,
    ids: Vec<u32>,
}

impl Story {
    fn read() -> Option<Self> {
        let model = open(&shared()?.join("data/models/stories260k"));
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
        let expected = fs::read(folder.join("stories260k.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            expected[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect()
        };
        Some(Self {
            model,
            prompt: ids("prompt_ids"),
            ids: ids("token_ids"),
        })
    }
}

impl Visitor for &Story {
    type Output = ();

    fn visit<B: Backend + 'static>(self, backend: B) {
        let tokenizer = Tokenizer::of(&self.model).unwrap();
        assert_eq!(
            tokenizer.encode("Once upon a time", true).unwrap(),
            self.prompt
        );
        assert!(self.ids.len() >= 250);
        let spec = ModelSpec::read(self.model.config.as_ref().unwrap()).unwrap();
        let decoder = Decoder::load(&self.model, spec, backend, &mut |_| {}).unwrap();
        let mut cache = decoder.cache(self.prompt.len() + self.ids.len()).unwrap();
        let logits = prefill(&decoder, &mut cache, &self.prompt).unwrap();
        let mut turns = [Turn {
            cache,
            logits,
            sampler: Sampler::new(Sampling::Greedy).unwrap(),
        }];
        let mut out = Vec::new();
        generate(&decoder, &mut turns, self.ids.len(), &mut |_, id| {
            out.push(id);
            Ok(true)
        })
        .unwrap();
        assert_eq!(out, self.ids, "on {}", decoder.backend().describe());
        let text = tokenizer.decode(&out, true).unwrap();
        let published = "there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.";
        assert!(text.contains(published), "{text}");
    }
}

#[test]
fn stories260k_continues_as_its_author_published() {
    let Some(story) = Story::read() else { return };
    story.visit(Cpu::<f32>::new());
    story.visit(Cpu::<f64>::new());
    story.visit(Cpu::<f32>::with_budget(0));
    #[cfg(feature = "gpu")]
    if let Some(device) = test_device() {
        device.visit(&story);
    }
}

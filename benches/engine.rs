//! The engine on one device beside its peers on the same: prefill and decoding in tokens per second of a
//! Llama-shaped model with random bf16 weights, made on the spot.
//!
//! Peers run in the same run, one after the other: `transformers` where `MODELKIN_PYTHON` names an
//! interpreter that has it, and candle (`benches/peers/candle`, a package of its own, built when it is
//! asked for) on the CPU with `MODELKIN_BENCH_CANDLE=1`.
//!
//! Variables: `MODELKIN_BENCH_DEVICE` (default `cpu`), `MODELKIN_BENCH_SHAPE` (`100m`, the default, `1b`, or
//! `7b`, which runs once and without peers: in f32 its weights would fill 27 GB), `MODELKIN_BENCH_DIR` (default
//! `target/bench-data`), `MODELKIN_BENCH_KEEP=1`.

mod support;

use modelkin::arch::spec::ModelSpec;
use modelkin::audit::{self, Unwatched};
use modelkin::engine::backend::Backend;
use modelkin::engine::device::{Visitor, with_device};
use modelkin::engine::generate::{Sampler, Sampling, Turn, generate, prefill};
use modelkin::engine::{Decoder, EngineError};
use modelkin::source::FetchOptions;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use support::{Report, llama_tensors, mix, proc_value};

/// Tokens of the prompt, and tokens generated after it.
const PROMPT: usize = 512;
const GENERATED: usize = 64;

struct Shape {
    /// Runs, of which the median is stated; one more before them warms up.
    runs: usize,
    /// Whether peers hold its weights in the memory of a small machine.
    with_peers: bool,
    hidden: usize,
    mlp: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
}

fn shape(name: &str) -> Shape {
    match name {
        "100m" => Shape {
            runs: 5,
            with_peers: true,
            hidden: 768,
            mlp: 2048,
            layers: 12,
            heads: 12,
            kv_heads: 4,
            vocabulary: 32_000,
        },
        // TinyLlama's.
        "1b" => Shape {
            runs: 5,
            with_peers: true,
            hidden: 2048,
            mlp: 5632,
            layers: 22,
            heads: 32,
            kv_heads: 4,
            vocabulary: 32_000,
        },
        // Llama 2's.
        "7b" => Shape {
            runs: 1,
            with_peers: false,
            hidden: 4096,
            mlp: 11008,
            layers: 32,
            heads: 32,
            kv_heads: 32,
            vocabulary: 32_000,
        },
        other => panic!("no shape {other}: 100m, 1b or 7b"),
    }
}

/// Writes config.json and model.safetensors, bf16, uniform values of the usual spread.
fn write_model(folder: &Path, shape: &Shape) -> std::io::Result<u64> {
    fs::create_dir_all(folder)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
        "attention_bias": false, "mlp_bias": false, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let kv = shape.hidden / shape.heads * shape.kv_heads;
    let tensors = llama_tensors(shape.hidden, shape.mlp, kv, shape.vocabulary, shape.layers);
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, dims) in &tensors {
        let end = offset + 2 * dims.iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": dims, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let mut out = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    let mut n_parameters = 0;
    for (number, (_, dims)) in tensors.iter().enumerate() {
        let n: usize = dims.iter().product();
        n_parameters += n as u64;
        for at in 0..n {
            let value = match dims.len() {
                1 => 1.0,
                _ => (mix(number as u64, at as u64) >> 40) as f32 / (1 << 24) as f32 * 0.07 - 0.035,
            };
            out.write_all(&half::bf16::from_f32(value).to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(n_parameters)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds of a prefill and of the tokens after it.
struct Timed {
    what: String,
    prefill: f64,
    decode: f64,
}

struct Ours<'a> {
    folder: &'a Path,
    runs: usize,
}

impl Visitor for Ours<'_> {
    type Output = Result<Timed, EngineError>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        let reference = self.folder.to_str().expect("a path in UTF-8");
        let reference = reference.parse().expect("a model");
        let (model, _) = audit::open(&reference, &FetchOptions::default(), &Unwatched)
            .expect("the model that was written opens");
        let spec = ModelSpec::read(model.config.as_ref().expect("a config"))?;
        let vocabulary = spec.vocab_size;
        let decoder = Decoder::load(&model, spec, backend, &mut |_| {})?;
        let ids: Vec<u32> = (0..PROMPT)
            .map(|i| (mix(9, i as u64) % vocabulary as u64) as u32)
            .collect();
        let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
        for run in 0..=self.runs {
            let mut cache = decoder.cache(PROMPT + GENERATED)?;
            let started = Instant::now();
            let logits = prefill(&decoder, &mut cache, &ids)?;
            let prefilled = started.elapsed().as_secs_f64();
            let mut turns = [Turn {
                cache,
                logits,
                sampler: Sampler::new(Sampling::Greedy)?,
            }];
            let started = Instant::now();
            // One more than is counted: the first comes from the prefill's logits.
            generate(&decoder, &mut turns, GENERATED, &mut |_, _| Ok(true))?;
            if run > 0 {
                prefills.push(prefilled);
                decodes.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(Timed {
            what: format!("modelkin, {}", decoder.backend().describe()),
            prefill: median(prefills),
            decode: median(decodes),
        })
    }
}

/// A peer: a program that prints one line of JSON with `what`, `prefill_s` and `decode_s`.
fn peer(mut command: Command, name: &str) -> Result<Vec<Timed>, String> {
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let timed: Vec<Timed> = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| {
            Some(Timed {
                what: line["what"].as_str()?.to_owned(),
                prefill: line["prefill_s"].as_f64()?,
                decode: line["decode_s"].as_f64()?,
            })
        })
        .collect();
    if timed.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why: Vec<&str> = why.lines().rev().take(3).collect();
        return Err(format!("{name}: {}", why.join(" / ")));
    }
    Ok(timed)
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or(default.to_owned())
}

/// All peers that are there, one after the other; `absent` hears of the others.
fn peers(folder: &Path, kind: &str, sizes: &[String], absent: &mut Vec<String>) -> Vec<Timed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let mut all = Vec::new();
    let mut run = |command: Command, name: &str| match peer(command, name) {
        Ok(timed) => all.extend(timed),
        Err(why) => absent.push(why),
    };
    let mut python = Command::new(variable("MODELKIN_PYTHON", "python3"));
    python
        .arg(root.join("transformers_llama.py"))
        .arg(folder)
        .arg(if kind == "cuda" { "cuda" } else { "cpu" })
        .args(sizes);
    run(python, "transformers");
    if std::env::var_os("MODELKIN_BENCH_CANDLE").is_some() {
        let mut candle = Command::new("cargo");
        candle
            .args(["run", "--release", "--quiet", "--manifest-path"])
            .arg(root.join("candle/Cargo.toml"))
            .arg("--")
            .arg(folder)
            .args(sizes);
        run(candle, "candle");
    } else {
        absent.push("candle: not asked for".to_owned());
    }
    all
}

fn main() {
    let device = variable("MODELKIN_BENCH_DEVICE", "cpu");
    let name = variable("MODELKIN_BENCH_SHAPE", "100m");
    let folder = PathBuf::from(variable("MODELKIN_BENCH_DIR", "target/bench-data"))
        .join(format!("engine-{name}"));
    let shape = shape(&name);
    let n_parameters = write_model(&folder, &shape).expect("the model can be written");
    let runs = shape.runs;

    let mut report = Report::new("engine", "The engine beside its peers");
    report.line(&format!(
        "A Llama-shaped model of {:.0} million random bf16 weights; {PROMPT} tokens of prompt, {GENERATED} \
         generated, one text; medians of timed runs ({runs}; one before them warms up). Load average before: {}.\n",
        n_parameters as f64 / 1e6,
        fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    ));
    report.line("| What | prefill, tokens/s | decoding, tokens/s |");
    report.line("|---|---|---|");
    let mut row = |timed: &Timed| {
        report.line(&format!(
            "| {} | {:.0} | {:.1} |",
            timed.what,
            PROMPT as f64 / timed.prefill,
            // The first token comes from the prefill's logits.
            (GENERATED - 1) as f64 / timed.decode
        ));
    };
    let ours = Ours {
        folder: &folder,
        runs,
    };
    match with_device(&device, ours).and_then(|timed| timed) {
        Ok(timed) => row(&timed),
        Err(error) => println!("{device}: {error}"),
    }
    let memory = proc_value("/proc/self/status", "VmHWM").unwrap_or_default();
    let mut absent = Vec::new();
    let sizes = [PROMPT.to_string(), GENERATED.to_string(), runs.to_string()];
    let kind = device.split(':').next().unwrap_or("cpu").to_owned();
    if shape.with_peers {
        peers(&folder, &kind, &sizes, &mut absent)
            .iter()
            .for_each(&mut row);
    } else {
        absent.push("peers: in f32 the weights would fill 27 GB".to_owned());
    }
    report.line(&format!("\nMost memory of modelkin, resident: {memory}."));
    for why in absent {
        report.line(&format!("\nNot measured: {why}"));
    }
    report.finish();
    if std::env::var_os("MODELKIN_BENCH_KEEP").is_none() {
        let _ = fs::remove_dir_all(folder);
    }
}

//! `modelkin compare` on two checkpoints of the shape of Llama-3-8B: time, bytes read, memory.
//!
//! The weights are random, with four directions in each matrix that stand out as what was learned
//! does, and lie on disk as the hub has them: four safetensors shards of bf16 with index, config and
//! tokenizer, 16 GB a model. The candidate is the reference with a little noise (`derived`: what an
//! audit of a copy costs) or drawn anew (`independent`: the layer search runs, which a copy spares).
//! Both are made once and removed at the end.
//!
//! Variables: `MODELKIN_BENCH_DIR` (where the 32 GB go; default `target/bench-data`),
//! `MODELKIN_BENCH_CASES` (`derived,independent`), `MODELKIN_BENCH_LAYERS` (default 32),
//! `MODELKIN_BENCH_KEEP=1` (leave the files), `MODELKIN_BENCH_ARGS` (more arguments of `compare`).

mod support;

use half::bf16;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Normals, Report, llama_tensors, mix};

const HIDDEN: usize = 4096;
const MLP: usize = 14_336;
const N_KV: usize = 1024;
const VOCABULARY: usize = 128_256;
const N_SHARDS: usize = 4;
/// Standard deviation of the weights, and of the noise that makes a derived candidate.
const SPREAD: f32 = 0.02;
const NOISE: f32 = 0.001;
/// Singular value of a learned direction over the largest one of the noise around it.
const LEARNED: f32 = 3.0;
/// Elements made at a time.
const CHUNK: usize = 1 << 20;

/// Name, shape.
type Planned = (String, Vec<usize>);

fn plan(n_layers: usize) -> Vec<Planned> {
    llama_tensors(HIDDEN, MLP, N_KV, VOCABULARY, n_layers)
}

/// How the values of a model are made.
#[derive(Clone, Copy)]
struct Recipe {
    seed: u64,
    noise_seed: Option<u64>,
}

/// Fills bytes with the bf16 values of a tensor from element `start` on.
fn fill(recipe: Recipe, normals: &Normals, tensor: &Planned, index: u64, start: usize) -> Vec<u8> {
    let n: usize = tensor.1.iter().product();
    let len = CHUNK.min(n - start);
    let is_norm = tensor.1.len() == 1;
    let stream = |seed: u64| mix(seed, index << 40);
    let (n_rows, n_cols) = (tensor.1[0], tensor.1.get(1).copied().unwrap_or(1));
    // Four directions: an outer product of normals has the singular value √(n·m).
    let scale = LEARNED * SPREAD * ((n_rows as f32).powf(-0.5) + (n_cols as f32).powf(-0.5));
    let side = |n: usize, salt: u64| -> Vec<[f32; 4]> {
        let seed = mix(stream(recipe.seed), salt);
        (0..n as u64).map(|i| normals.four(mix(seed, i))).collect()
    };
    let (rows, cols) = match is_norm {
        true => (Vec::new(), Vec::new()),
        false => (side(n_rows, u64::MAX), side(n_cols, u64::MAX - 1)),
    };
    let mut bytes = Vec::with_capacity(len * 2);
    for quad in 0..len.div_ceil(4) {
        let at = (start / 4 + quad) as u64;
        let mut values = normals.four(mix(stream(recipe.seed), at));
        for (i, value) in values.iter_mut().enumerate() {
            *value = if is_norm {
                1.0 + 0.1 * *value
            } else {
                let element = (start + 4 * quad + i).min(n - 1);
                let (row, col) = (rows[element / n_cols], cols[element % n_cols]);
                let learned: f32 = row.iter().zip(col).map(|(u, v)| u * v).sum();
                SPREAD * *value + scale * learned
            };
            *value = bf16::from_f32(*value).to_f32();
        }
        if let Some(seed) = recipe.noise_seed {
            let noise = normals.four(mix(stream(seed), at));
            for (value, noise) in values.iter_mut().zip(noise) {
                *value += NOISE * noise;
            }
        }
        for value in values {
            bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
    }
    bytes.truncate(len * 2);
    bytes
}

/// Writes a model: shards, index, config, tokenizer. Returns the bytes written.
fn generate(folder: &Path, n_layers: usize, recipe: Recipe) -> std::io::Result<u64> {
    std::fs::create_dir_all(folder)?;
    let normals = Normals::new();
    let tensors = plan(n_layers);
    let size = |t: &Planned| t.1.iter().product::<usize>() * 2;
    let total: usize = tensors.iter().map(size).sum();
    let mut shards: Vec<Vec<usize>> = vec![Vec::new(); N_SHARDS];
    let mut before = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        shards[(before * N_SHARDS / total).min(N_SHARDS - 1)].push(index);
        before += size(tensor);
    }
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{N_SHARDS:05}.safetensors", number + 1);
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        let mut offset = 0;
        for &index in shard {
            let (tensor, shape) = &tensors[index];
            let end = offset + size(&tensors[index]);
            header.insert(
                tensor.clone(),
                serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}),
            );
            weight_map.insert(tensor.clone(), name.clone());
            offset = end;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().div_ceil(8) * 8, b' ');
        let mut file = File::create(folder.join(&name))?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for &index in shard {
            let n: usize = tensors[index].1.iter().product();
            let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
            // A few chunks a time: memory stays small, all cores work.
            for starts in starts.chunks(8) {
                let chunks: Vec<Vec<u8>> = starts
                    .par_iter()
                    .map(|&start| fill(recipe, &normals, &tensors[index], index as u64, start))
                    .collect();
                for chunk in chunks {
                    file.write_all(&chunk)?;
                }
            }
        }
        // Written back now, so that no timed run competes with it.
        file.sync_all()?;
    }
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        serde_json::to_vec_pretty(&index)?,
    )?;
    std::fs::write(
        folder.join("config.json"),
        serde_json::to_vec_pretty(&config(n_layers))?,
    )?;
    std::fs::write(
        folder.join("tokenizer.json"),
        serde_json::to_vec(&tokenizer())?,
    )?;
    Ok(total as u64)
}

fn config(n_layers: usize) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_hidden_layers": n_layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "hidden_act": "silu", "max_position_embeddings": 8192,
        "tie_word_embeddings": false, "attention_bias": false, "torch_dtype": "bfloat16"
    })
}

/// A BPE tokenizer of the size of Llama 3's, of made-up tokens.
fn tokenizer() -> serde_json::Value {
    let vocabulary: serde_json::Map<String, serde_json::Value> = (0..128_000u64)
        .map(|id| (format!("t{:x}-{id}", mix(1, id) & 0xFFFF), id.into()))
        .collect();
    let merges: Vec<String> = (0..280_147u64)
        .map(|i| format!("{:x} {:x}", mix(2, i) & 0xFFFFFF, mix(3, i) & 0xFFFFFF))
        .collect();
    let added: Vec<serde_json::Value> = (128_000..128_256)
        .map(|id| {
            serde_json::json!({"id": id, "content": format!("<|reserved_{id}|>"), "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    serde_json::json!({
        "version": "1.0", "added_tokens": added,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}
    })
}

fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    files
}

/// Has the system forget the pages of the files, through `dd`; says whether it did.
fn forget(files: &[PathBuf]) -> bool {
    files.iter().all(|file| {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", file.display()))
            .args(["iflag=nocache", "count=0", "status=none"]);
        dd.status().is_ok_and(|status| status.success())
    })
}

/// Bytes and seconds of plain parallel reads of up to 4 GiB of the files, in blocks of 4 MiB.
fn read_plainly(files: &[PathBuf]) -> (u64, f64) {
    let started = Instant::now();
    let limit = (4u64 << 30) / files.len() as u64;
    let bytes: u64 = files
        .par_iter()
        .map(|path| {
            let mut buffer = vec![0; 4 << 20];
            let mut total = 0;
            let mut file = File::open(path).expect("the file was written");
            while total < limit {
                match file.read(&mut buffer) {
                    Ok(n) if n > 0 => total += n as u64,
                    _ => break,
                }
            }
            total
        })
        .sum();
    (bytes, started.elapsed().as_secs_f64())
}

/// What the system says of a run. Sizes in KiB as `/proc` has them.
#[derive(Default)]
struct Usage {
    seconds: f64,
    peak_kib: u64,
    peak_anonymous_kib: u64,
    read_from_disk: u64,
    read_by_calls: u64,
    major_faults: u64,
    cpu_seconds: f64,
}

fn watch(mut child: Child) -> (Usage, bool) {
    let started = Instant::now();
    let folder = format!("/proc/{}", child.id());
    let mut usage = Usage::default();
    let success = loop {
        let number = |file: &str, key: &str| -> u64 {
            support::proc_value(&format!("{folder}/{file}"), key)
                .and_then(|value| value.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        usage.peak_kib = usage.peak_kib.max(number("status", "VmHWM"));
        usage.peak_anonymous_kib = usage.peak_anonymous_kib.max(number("status", "RssAnon"));
        usage.read_from_disk = usage.read_from_disk.max(number("io", "read_bytes"));
        usage.read_by_calls = usage.read_by_calls.max(number("io", "rchar"));
        let stat = std::fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        if let (Some(&faults), Some(times)) = (fields.get(9), fields.get(11..13)) {
            usage.major_faults = usage.major_faults.max(faults);
            // 100 ticks a second on every Linux that matters here.
            let cpu = (times[0] + times[1]) as f64 / 100.0;
            usage.cpu_seconds = usage.cpu_seconds.max(cpu);
        }
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) => break status.success(),
            Err(_) => break false,
        }
    };
    usage.seconds = started.elapsed().as_secs_f64();
    (usage, success)
}

/// Log lines of the run: how long each part took.
fn phases(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| line.split_once("phase ").map(|(_, rest)| rest.to_owned()))
        .collect()
}

fn compare(report: &mut Report, label: &str, reference: &Path, candidate: &Path) {
    let files = [weight_files(reference), weight_files(candidate)].concat();
    let is_cold = forget(&files);
    let log = std::env::temp_dir().join(format!("modelkin-bench-{}.log", std::process::id()));
    let stderr = File::create(&log).expect("a log file can be made");
    let extra = std::env::var("MODELKIN_BENCH_ARGS").unwrap_or_default();
    let child = Command::new(env!("CARGO_BIN_EXE_modelkin"))
        .arg("compare")
        .args([reference, candidate])
        .arg("--json")
        .args(extra.split_whitespace())
        .env("MODELKIN_LOG", "modelkin=debug")
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn();
    let mut child = child.expect("the binary runs");
    let output = child.stdout.take().map(|mut stdout| {
        std::thread::spawn(move || {
            let mut json = String::new();
            // What cannot be read is missing below.
            let _ = stdout.read_to_string(&mut json);
            json
        })
    });
    let (usage, success) = watch(child);
    let json = output
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let report_json: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
    let log_text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let state = if is_cold { "cold" } else { "as it was" };
    report.line(&format!("## {label}, page cache {state}\n"));
    report.line("| quantity | value |\n|---|---|");
    for (name, value) in [
        ("finding", report_json["finding"]["relation"].to_string()),
        ("ended well", success.to_string()),
        ("wall time", format!("{:.1} s", usage.seconds)),
        ("CPU time", format!("{:.1} s", usage.cpu_seconds)),
        (
            "read from disk (read_bytes: calls and faults)",
            format!("{:.2} GiB", gib(usage.read_from_disk)),
        ),
        (
            "read by calls (rchar)",
            format!("{:.2} GiB", gib(usage.read_by_calls)),
        ),
        ("major faults", usage.major_faults.to_string()),
        (
            "peak resident, mapped file pages included (VmHWM)",
            format!("{:.0} MiB", usage.peak_kib as f64 / 1024.0),
        ),
        (
            "peak anonymous (RssAnon, polled every 10 ms)",
            format!("{:.0} MiB", usage.peak_anonymous_kib as f64 / 1024.0),
        ),
    ] {
        report.line(&format!("| {name} | {value} |"));
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    report.line(&format!(
        "| load average over the last minute, this run included | {load} |"
    ));
    report.line("\nTime by part:\n");
    for phase in phases(&log_text) {
        report.line(&format!("- {phase}"));
    }
    if !success {
        report.line(&format!("\n```\n{log_text}\n```"));
    }
    report.line("");
}

fn main() {
    let variable = |name: &str| std::env::var(name).ok();
    let root = variable("MODELKIN_BENCH_DIR").map_or("target/bench-data".into(), PathBuf::from);
    let n_layers = variable("MODELKIN_BENCH_LAYERS").map_or(32, |n| n.parse().expect("a number"));
    let cases = variable("MODELKIN_BENCH_CASES").unwrap_or("derived,independent".to_owned());
    let keep = variable("MODELKIN_BENCH_KEEP").is_some();
    let mut report = Report::new("compare_8b", "`modelkin compare` on two models of 8B shape");
    let reference = root.join("reference");
    let recipe = Recipe {
        seed: 1,
        noise_seed: None,
    };
    let make = |folder: &Path, recipe: Recipe| {
        if folder.join("tokenizer.json").is_file() {
            return;
        }
        let started = Instant::now();
        let bytes = generate(folder, n_layers, recipe).expect("there is room for the data");
        println!(
            "wrote {bytes} bytes in {:.0} s",
            started.elapsed().as_secs_f64()
        );
    };
    make(&reference, recipe);
    let files = weight_files(&reference);
    let bytes: u64 = files
        .iter()
        .filter_map(|f| Some(std::fs::metadata(f).ok()?.len()))
        .sum();
    report.line(&format!(
        "{n_layers} layers, hidden {HIDDEN}, MLP {MLP}, {VOCABULARY} tokens, bf16, {} shards, \
         {bytes} bytes a model.\n",
        files.len()
    ));
    if forget(&files) {
        let (bytes, seconds) = read_plainly(&files);
        report.line(&format!(
            "Disk alone: {:.2} GB/s (plain reads of {:.1} GiB in blocks of 4 MiB, one thread a shard, \
             page cache cold).\n",
            bytes as f64 / seconds / 1e9,
            bytes as f64 / (1u64 << 30) as f64
        ));
    }
    for case in cases.split(',') {
        let candidate = root.join(case);
        let recipe = match case {
            "derived" => Recipe {
                noise_seed: Some(2),
                ..recipe
            },
            _ => Recipe { seed: 3, ..recipe },
        };
        make(&candidate, recipe);
        compare(&mut report, case, &reference, &candidate);
        if !keep {
            let _ = std::fs::remove_dir_all(&candidate);
        }
    }
    if !keep {
        let _ = std::fs::remove_dir_all(&reference);
    }
    report.finish();
}

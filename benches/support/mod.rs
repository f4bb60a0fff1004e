//! What the benchmarks share: the machine in words, the date, a random stream that is fast enough to
//! write gigabytes with, and the report that each prints and may keep.
//!
//! A benchmark states what it measured and asserts no time: machines differ.

// Each benchmark uses a part of this.
#![allow(dead_code)]

pub mod planted;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Folder into which reports are written as `<date>-<name>.md`; without it they are printed only.
const RESULTS_VARIABLE: &str = "MODELKIN_BENCH_RESULTS";

/// A Markdown report that is printed as it grows.
pub struct Report {
    name: &'static str,
    text: String,
}

impl Report {
    /// Starts with the title, the date, the machine and the command.
    pub fn new(name: &'static str, title: &str) -> Self {
        let mut report = Self {
            name,
            text: String::new(),
        };
        report.line(&format!("# {title}\n"));
        report.line(&format!("- Date: {}", date()));
        report.line(&format!("- Machine: {}", machine()));
        report.line(&format!("- Command: `{}`\n", command(name)));
        report
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// Writes the report where the environment asks for it.
    pub fn finish(self) {
        if let Some(folder) = std::env::var_os(RESULTS_VARIABLE) {
            let path = PathBuf::from(folder).join(format!("{}-{}.md", date(), self.name));
            std::fs::write(&path, self.text).expect("the report can be written");
            println!("written to {}", path.display());
        }
    }
}

/// The command that repeats the run: variables of ours that are set, and `cargo bench`.
fn command(name: &str) -> String {
    let kept = |key: &str| key.starts_with("MODELKIN_BENCH_") || key == "RAYON_NUM_THREADS";
    let dropped = |key: &str| key == RESULTS_VARIABLE || key == "MODELKIN_BENCH_DIR";
    let mut set: Vec<String> = std::env::vars()
        .filter(|(key, _)| kept(key) && !dropped(key))
        .map(|(key, value)| format!("{key}={value} "))
        .collect();
    set.sort();
    format!("{}cargo bench --bench {name}", set.concat())
}

/// A value of a `/proc` file of `key: value` lines.
pub fn proc_value(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim().to_owned())
    })
}

/// CPU model, cores and memory.
fn machine() -> String {
    let model = proc_value("/proc/cpuinfo", "model name").unwrap_or("unknown CPU".to_owned());
    let family = proc_value("/proc/cpuinfo", "cpu family").unwrap_or_default();
    let number = proc_value("/proc/cpuinfo", "model").unwrap_or_default();
    let flags = proc_value("/proc/cpuinfo", "flags").unwrap_or_default();
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    let features: Vec<&str> = ["avx2", "fma", "avx512f", "sha_ni"]
        .into_iter()
        .filter(|f| has(f))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let memory = proc_value("/proc/meminfo", "MemTotal")
        .and_then(|kib| kib.split(' ').next()?.parse::<f64>().ok())
        .map_or(0.0, |kib| kib / (1024.0 * 1024.0));
    format!(
        "{model} (family {family}, model {number}; {}), {cores} cores, {memory:.0} GiB of memory",
        features.join(", ")
    )
}

/// Today in UTC, `YYYY-MM-DD` (Howard Hinnant's days-to-civil).
fn date() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let days = seconds as i64 / 86_400 + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Tensors of a model of Llama's shape: name, shape. `kv` is the width of keys and values.
pub fn llama_tensors(
    hidden: usize,
    mlp: usize,
    kv: usize,
    vocabulary: usize,
    n_layers: usize,
) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![vocabulary, hidden],
    )];
    for layer in 0..n_layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("mlp.down_proj", vec![hidden, mlp]),
            ("mlp.gate_proj", vec![mlp, hidden]),
            ("mlp.up_proj", vec![mlp, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    tensors
}

/// SplitMix64: value `index` of stream `seed`, in any order.
pub fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Standard normal quantiles at 2¹⁶ equal steps: a lookup makes a normal draw of 16 random bits.
pub struct Normals(Vec<f32>);

impl Normals {
    /// Fills the table by Newton's method on the error function's series.
    pub fn new() -> Self {
        let n = 1 << 16;
        let mut table = vec![0.0f32; n];
        let mut x = 0.0f64;
        for i in n / 2..n {
            let p = (i as f64 + 0.5) / n as f64;
            for _ in 0..20 {
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                // Damped, so that the far tail does not overshoot.
                let step = ((distribution(x) - p) / density).clamp(-0.2, 0.2);
                x -= step;
                if step.abs() < 1e-12 {
                    break;
                }
            }
            table[i] = x as f32;
            table[n - 1 - i] = -x as f32;
        }
        Self(table)
    }

    /// Four draws from one random number.
    pub fn four(&self, bits: u64) -> [f32; 4] {
        [0, 16, 32, 48].map(|shift| self.0[(bits >> shift) as usize & 0xFFFF])
    }
}

/// Φ(x) by its Taylor series around 0 (Marsaglia, 2004).
fn distribution(x: f64) -> f64 {
    let (mut sum, mut term, mut i) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() && i < 200.0 {
        i += 2.0;
        term *= x * x / i;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x - 0.918_938_533_204_672_7).exp()
}

/// Repeats of a measurement.
pub const N_REPEATS: usize = 5;

/// Median seconds of some repeats.
pub fn seconds(mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..N_REPEATS)
        .map(|_| {
            let started = Instant::now();
            f();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[N_REPEATS / 2]
}

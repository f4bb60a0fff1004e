//! `modelkin compare --budget 100MB` on two models of 7B shape behind a hub on this machine: bytes as the
//! server counted them, requests, seconds and findings, beside those of a run without a budget.
//!
//! The models are stored nowhere: the server makes the bytes of each range that it is asked for
//! (`support/planted.rs`), 13.5 GB a model in two shards of bf16. Blocks that a run fetched lie in its cache,
//! which is removed after the run. Cases: `tuned` (every matrix moved in four directions, and a little
//! everywhere), `noised`, `permuted` (the units of every MLP in another order, and a little noise) and
//! `independent`. The digests that the server states are made up: nobody computes those of files that are
//! read in parts.
//!
//! Variables: `MODELKIN_BENCH_DIR` (where caches go, up to 15 GB for a run without a budget; default
//! `target/bench-data`), `MODELKIN_BENCH_CASES`, `MODELKIN_BENCH_BUDGET` (default `100MB`),
//! `MODELKIN_BENCH_WHOLE` (cases that run without a budget as well; default all), `MODELKIN_BENCH_LAYERS` (default 32).

mod support;

use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use support::Report;
use support::planted::{Planted, Recipe, Sizes};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REFERENCE: Recipe = Recipe {
    seed: 1,
    noise: 0.0,
    tuned: 0.0,
    permuted: false,
    change_seed: 0,
};

/// A case: its name, and how its candidate comes about.
const CASES: [(&str, Recipe); 4] = [
    (
        "tuned",
        Recipe {
            noise: 0.0004,
            tuned: 0.2,
            change_seed: 2,
            ..REFERENCE
        },
    ),
    (
        "noised",
        Recipe {
            noise: 0.001,
            change_seed: 3,
            ..REFERENCE
        },
    ),
    (
        "permuted",
        Recipe {
            noise: 0.0004,
            permuted: true,
            change_seed: 4,
            ..REFERENCE
        },
    ),
    (
        "independent",
        Recipe {
            seed: 5,
            ..REFERENCE
        },
    ),
];

/// What the server sent.
#[derive(Default)]
struct Sent {
    n_requests: AtomicU64,
    n_requests_of_weights: AtomicU64,
    /// Bytes of weights of the reference and of the candidate.
    n_bytes: [AtomicU64; 2],
}

/// A hub with two repositories, which ends with the program.
struct Hub {
    repositories: BTreeMap<&'static str, Planted>,
    sent: Sent,
}

impl Hub {
    /// Starts to serve; the address.
    fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let hub = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let hub = Arc::clone(&hub);
                // A client that went away is its own affair.
                std::thread::spawn(move || hub.answer(stream).unwrap_or_default());
            }
        });
        format!("http://{address}")
    }

    fn small_files(model: &Planted) -> [(&'static str, Vec<u8>); 2] {
        let text = |json: serde_json::Value| json.to_string().into_bytes();
        [
            ("config.json", text(model.config())),
            ("model.safetensors.index.json", text(model.index())),
        ]
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let mut range = None;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = parse_range(value);
            }
        }
        self.sent.n_requests.fetch_add(1, Ordering::Relaxed);
        let mut out = stream;
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match segments.as_slice() {
            ["api", "models", _, name, "revision", _] if self.repositories.contains_key(name) => {
                let list = self.list(name).to_string();
                respond(&mut out, "200 OK", &[], list.as_bytes())
            }
            [_, name, "resolve", _, file] if self.repositories.contains_key(name) => {
                self.file(name, file, range, &mut out)
            }
            _ => respond(&mut out, "404 Not Found", &[], b""),
        }
    }

    fn list(&self, name: &str) -> serde_json::Value {
        let model = &self.repositories[name];
        let mut siblings: Vec<serde_json::Value> = Self::small_files(model)
            .into_iter()
            .map(|(path, content)| {
                serde_json::json!({"rfilename": path, "size": content.len(), "blobId": blob_id(&content)})
            })
            .collect();
        siblings.extend(model.shards.iter().map(|shard| {
            let id = made_up_digest(name, &shard.name);
            serde_json::json!({"rfilename": shard.name, "size": shard.n_bytes,
                "lfs": {"sha256": id, "size": shard.n_bytes}})
        }));
        serde_json::json!({"sha": COMMIT, "siblings": siblings})
    }

    fn file(
        &self,
        name: &str,
        file: &str,
        range: Option<(u64, u64)>,
        out: &mut TcpStream,
    ) -> std::io::Result<()> {
        let model = &self.repositories[name];
        if let Some((_, content)) = Self::small_files(model)
            .into_iter()
            .find(|(path, _)| *path == file)
        {
            let etag = ("ETag", format!("\"{}\"", blob_id(&content)));
            return respond(out, "200 OK", &[etag], &content);
        }
        let Some((shard, (from, end))) = model.shards.iter().find(|s| s.name == file).zip(range)
        else {
            return respond(out, "404 Not Found", &[], b"");
        };
        let end = end.min(shard.n_bytes);
        let bytes = model.read(shard, from..end);
        self.sent
            .n_requests_of_weights
            .fetch_add(1, Ordering::Relaxed);
        let side = usize::from(name != "reference");
        self.sent.n_bytes[side].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let headers = [
            ("ETag", format!("\"{}\"", made_up_digest(name, file))),
            (
                "Content-Range",
                format!("bytes {from}-{}/{}", end - 1, shard.n_bytes),
            ),
        ];
        respond(out, "206 Partial Content", &headers, &bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn blob_id(content: &[u8]) -> String {
    let mut digest = Sha1::new();
    digest.update(format!("blob {}\0", content.len()));
    digest.update(content);
    hex(&digest.finalize())
}

/// 64 hexadecimal digits that name a shard.
fn made_up_digest(name: &str, file: &str) -> String {
    let mut text = hex(&Sha1::digest(format!("{name}/{file}")));
    text.push_str(&"0".repeat(24));
    text
}

fn parse_range(value: &str) -> Option<(u64, u64)> {
    let (from, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    Some((
        from.parse().ok()?,
        last.parse::<u64>().ok()?.checked_add(1)?,
    ))
}

fn respond(
    out: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(body)
}

/// One run of the released program; a line of the table, and the report's notes on what was read.
fn run(
    root: &Path,
    sizes: Sizes,
    candidate: Recipe,
    budget: Option<&str>,
) -> (Vec<String>, Vec<String>) {
    let models = [("reference", REFERENCE), ("candidate", candidate)];
    let hub = Arc::new(Hub {
        repositories: models
            .map(|(name, recipe)| (name, Planted::new(sizes, recipe)))
            .into(),
        sent: Sent::default(),
    });
    let endpoint = hub.serve();
    let cache = root.join("cache");
    let _ = std::fs::remove_dir_all(&cache);
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelkin"));
    command
        .args([
            "compare",
            "hf:bench/reference",
            "hf:bench/candidate",
            "--json",
        ])
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_CACHE", cache.join("hub"))
        .env("MODELKIN_BLOCKS", cache.join("blocks"))
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE");
    if let Some(budget) = budget {
        command.args(["--budget", budget]);
    }
    let started = Instant::now();
    let output = command.output().expect("the binary runs");
    let seconds = started.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&cache);
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
    let bytes = [0, 1].map(|side: usize| hub.sent.n_bytes[side].load(Ordering::Relaxed));
    let line = vec![
        budget.unwrap_or("none").to_owned(),
        text(&report["finding"]["relation"]),
        text(&report["finding"]["strength"]),
        bytes[0].to_string(),
        bytes[1].to_string(),
        hub.sent
            .n_requests_of_weights
            .load(Ordering::Relaxed)
            .to_string(),
        hub.sent.n_requests.load(Ordering::Relaxed).to_string(),
        format!("{seconds:.1}"),
    ];
    let notes = report["reference"]["notes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    (line, notes.iter().map(text).collect())
}

fn main() {
    let variable = |name: &str| std::env::var(name).ok();
    let root = variable("MODELKIN_BENCH_DIR").map_or("target/bench-data".into(), PathBuf::from);
    let budget = variable("MODELKIN_BENCH_BUDGET").unwrap_or("100MB".to_owned());
    let whole = variable("MODELKIN_BENCH_WHOLE");
    let named = |list: &Option<String>, name: &str| {
        list.as_ref()
            .is_none_or(|list| list.split(',').any(|case| case == name))
    };
    let n_layers = variable("MODELKIN_BENCH_LAYERS").map_or(32, |n| n.parse().expect("a number"));
    let wanted = variable("MODELKIN_BENCH_CASES");
    let sizes = Sizes {
        hidden: 4096,
        mlp: 11_008,
        kv: 4096,
        vocabulary: 32_000,
        n_layers,
        n_shards: 2,
    };
    let mut report = Report::new(
        "budget",
        "`modelkin compare --budget` on two models of 7B shape behind a hub",
    );
    let n_bytes: u64 = Planted::new(sizes, REFERENCE)
        .shards
        .iter()
        .map(|shard| shard.n_bytes)
        .sum();
    report.line(&format!(
        "{n_layers} layers, hidden {}, MLP {}, {} tokens, bf16, {} shards, {n_bytes} bytes a model. Bytes and requests \
         as the server counted them; it makes the bytes on the processors that the program runs on, which is in the seconds. \
         Without a budget weights are read in parts as well, as the tests ask for them.\n",
        sizes.hidden, sizes.mlp, sizes.vocabulary, sizes.n_shards
    ));
    report.line("| case | budget | finding | strength | bytes of reference | bytes of candidate | requests for weights | requests | seconds |");
    report.line("|---|---|---|---|---|---|---|---|---|");
    let mut notes = Vec::new();
    for (name, recipe) in CASES {
        if !named(&wanted, name) {
            continue;
        }
        let budgets = [Some(budget.as_str()), None];
        for budget in budgets
            .into_iter()
            .take(1 + usize::from(named(&whole, name)))
        {
            let (line, said) = run(&root, sizes, recipe, budget);
            report.line(&format!("| {name} | {} |", line.join(" | ")));
            if budget.is_some() && notes.is_empty() {
                notes = said;
            }
        }
    }
    report.line("\nWhat the report says of the reference, read within the budget:\n");
    for note in notes {
        report.line(&format!("- {note}"));
    }
    report.finish();
}

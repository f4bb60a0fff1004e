//! Downloads from a hub: the standard cache, resumption, verification, and servers that misbehave.

use crate::support::hub_server::{COMMIT, Fault, HubServer, Seen, etag};
use crate::support::zoo;
use modelkin::audit::{self, Request, Unwatched};
use modelkin::evidence::context::Settings;
use modelkin::source::{self, FetchOptions, ModelRef, Snapshot, SourceError};
use modelkin::verdict::Relation;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const REPOSITORY: &str = "org/name";

/// Some hundred kilobytes that are not all alike.
pub fn weights() -> Vec<u8> {
    (0..300_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub fn server() -> HubServer {
    let server = HubServer::start();
    server.put(REPOSITORY, "config.json", b"{\"model_type\": \"llama\"}");
    server.put(REPOSITORY, "model.safetensors", &weights());
    server.put(REPOSITORY, "sub/tokenizer.json", b"{}");
    server.put(REPOSITORY, "picture.png", b"not needed");
    server
}

pub fn options(server: &HubServer, cache: &Path) -> FetchOptions {
    FetchOptions {
        endpoint: server.endpoint.clone(),
        cache: cache.to_owned(),
        blocks: cache.join("blocks"),
        token: Some("token-of-a-test".to_owned()),
        offline: false,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(50),
        stall: Duration::from_millis(300),
        ..FetchOptions::default()
    }
}

pub fn fetch(options: &FetchOptions) -> Result<Snapshot, SourceError> {
    let model: ModelRef = format!("hf:{REPOSITORY}").parse().expect("a repository");
    source::resolve(&model, options, &Unwatched)
}

pub fn repository(cache: &Path) -> PathBuf {
    cache.join("models--org--name")
}

pub fn blobs(cache: &Path) -> Vec<String> {
    let entries = fs::read_dir(repository(cache).join("blobs")).expect("blobs");
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_download_has_the_standard_layout_and_only_what_an_audit_needs() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let snapshot = fetch(&options(&server, cache.path())).unwrap();
    let paths: Vec<&str> = snapshot.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(
        paths,
        ["config.json", "model.safetensors", "sub/tokenizer.json"]
    );
    assert_eq!(snapshot.revision.as_deref(), Some(COMMIT));
    let root = repository(cache.path());
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let id = etag("model.safetensors", &weights());
    let link = root
        .join("snapshots")
        .join(COMMIT)
        .join("model.safetensors");
    assert_eq!(
        fs::read_link(&link).unwrap(),
        Path::new("../../blobs").join(&id)
    );
    assert_eq!(fs::read(&link).unwrap(), weights());
    let nested = root
        .join("snapshots")
        .join(COMMIT)
        .join("sub/tokenizer.json");
    assert_eq!(fs::read(nested).unwrap(), b"{}");
    assert_eq!(blobs(cache.path()).len(), 3);
    let verified = &snapshot.files[1];
    assert_eq!(verified.sha256.as_deref(), Some(id.as_str()));
}

#[test]
fn the_same_weights_in_another_format_are_left_on_the_hub() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.put(REPOSITORY, "pytorch_model.bin", b"the same weights");
    let snapshot = fetch(&options(&server, cache.path())).unwrap();
    assert!(snapshot.files.iter().all(|f| !f.path.ends_with(".bin")));
    assert!(
        server
            .seen()
            .iter()
            .all(|s| !s.path.contains("pytorch_model"))
    );
}

#[test]
fn of_several_gguf_models_none_is_fetched_and_none_is_guessed() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    for name in ["m-Q8_0.gguf", "m-Q4_0.gguf"] {
        server.put(REPOSITORY, name, b"GGUF");
    }
    let error = fetch(&options(&server, cache.path()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("m-Q4_0, m-Q8_0") && error.contains("name its file"),
        "{error}"
    );
    assert!(server.seen().iter().all(|s| !s.path.contains("resolve")));
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let options = options(&server, cache.path());
    fetch(&options).unwrap();
    server.seen();
    let again = fetch(&options).unwrap();
    let seen = server.seen();
    assert!(seen.iter().all(|s| s.path.starts_with("/api/")), "{seen:?}");
    // Not read in this run, so not claimed to be verified.
    assert!(
        again
            .files
            .iter()
            .all(|f| f.sha256.is_none() && f.git_blob.is_none())
    );
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_host_of_the_files() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    fetch(&options(&server, cache.path())).unwrap();
    let seen = server.seen();
    assert!(seen.iter().any(|s| s.at_files));
    for request in seen {
        assert_eq!(
            request.authorization.is_some(),
            !request.at_files,
            "{request:?}"
        );
    }
}

#[test]
fn a_transfer_that_is_cut_off_or_stalls_is_resumed_where_it_ended() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let stall = Fault::Stall(50_000, Duration::from_secs(2));
    server.fail(
        "model.safetensors",
        &[Fault::Cut(100_000), stall, Fault::Cut(7)],
    );
    fetch(&options(&server, cache.path())).unwrap();
    // The stalled answer is noted when it ends, which is after the download.
    let mut seen = Vec::new();
    let sent = |seen: &[Seen]| seen.iter().map(|s| s.n_sent).sum::<usize>();
    for _ in 0..100 {
        let of_weights = |s: &Seen| s.at_files && s.path.contains("model");
        seen.extend(server.seen().into_iter().filter(of_weights));
        if sent(&seen) >= weights().len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(sent(&seen), weights().len(), "no byte was sent twice");
    assert!(
        seen.iter()
            .any(|s| s.range.as_deref() == Some("bytes=100000-")),
        "{seen:?}"
    );
}

#[test]
fn what_a_killed_process_left_is_resumed() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let id = etag("model.safetensors", &weights());
    let folder = repository(cache.path()).join("blobs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join(format!("{id}.incomplete")),
        &weights()[..200_000],
    )
    .unwrap();
    fetch(&options(&server, cache.path())).unwrap();
    let seen = server.seen();
    assert!(
        seen.iter()
            .any(|s| s.range.as_deref() == Some("bytes=200000-")),
        "{seen:?}"
    );
    assert!(
        blobs(cache.path())
            .iter()
            .all(|name| !name.ends_with(".incomplete"))
    );
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail(
        "model.safetensors",
        &[Fault::Cut(100_000), Fault::IgnoreRange],
    );
    let snapshot = fetch(&options(&server, cache.path())).unwrap();
    assert_eq!(fs::read(&snapshot.files[1].local).unwrap(), weights());
}

#[test]
fn content_that_is_not_what_was_announced_never_gets_its_name() {
    for path in ["model.safetensors", "config.json"] {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.fail(path, &[Fault::Corrupt]);
        let error = fetch(&options(&server, cache.path())).unwrap_err();
        assert!(
            matches!(&error, SourceError::Digest { file, .. } if file == path),
            "{error}"
        );
        let id = match path {
            "config.json" => etag(path, b"{\"model_type\": \"llama\"}"),
            _ => etag(path, &weights()),
        };
        // What cannot be trusted is thrown away; another file may have been stopped midway.
        for blob in blobs(cache.path()) {
            assert!(!blob.starts_with(&id), "{blob}");
        }
        let link = repository(cache.path())
            .join("snapshots")
            .join(COMMIT)
            .join(path);
        assert!(!link.exists());
        // The next run starts anew and succeeds.
        fetch(&options(&server, cache.path())).unwrap();
    }
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail("model.safetensors", &[Fault::Endless]);
    let error = fetch(&options(&server, cache.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected 300000 bytes"), "{error}");
}

#[test]
fn a_download_that_comes_byte_by_byte_is_given_up_in_time() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let slow = Fault::Trickle(Duration::from_millis(100));
    server.fail("model.safetensors", &vec![slow; 10]);
    let began = std::time::Instant::now();
    let error = fetch(&options(&server, cache.path())).unwrap_err();
    assert!(error.to_string().contains("too slow"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30), "{error}");
}

#[test]
fn rate_limits_and_server_errors_are_waited_out() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.fail(
        "list",
        &[
            Fault::Status(429, "Retry-After", "0"),
            Fault::Status(503, "X-A", "b"),
        ],
    );
    server.fail(
        "config.json",
        &[
            Fault::Status(502, "X-A", "b"),
            Fault::Status(429, "X-A", "b"),
        ],
    );
    fetch(&options(&server, cache.path())).unwrap();
}

#[test]
fn a_server_that_does_not_recover_is_given_up_with_advice() {
    let cases = [
        (
            Fault::Status(429, "Retry-After", "1000"),
            "HF_TOKEN for a higher limit",
        ),
        (Fault::Status(500, "X-A", "b"), "run the command again"),
    ];
    for (fault, advice) in cases {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.fail("model.safetensors", &vec![fault; 10]);
        let error = fetch(&options(&server, cache.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(advice), "{error}");
    }
}

#[test]
fn missing_gated_and_refused_repositories_say_what_to_do() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let mut options = options(&server, cache.path());
    let resolve = |name: &str, options: &FetchOptions| {
        source::resolve(&name.parse().unwrap(), options, &Unwatched)
            .unwrap_err()
            .to_string()
    };
    let missing = resolve("hf:org/other", &options);
    assert!(
        missing.contains("no such repository") && missing.contains("HF_TOKEN"),
        "{missing}"
    );
    let revision = resolve("hf:org/name@no-such-branch", &options);
    assert!(revision.contains("no-such-branch"), "{revision}");
    server.fail("list", &[Fault::Status(401, "X-A", "b")]);
    let refused = resolve("hf:org/name", &options);
    assert!(refused.contains("refused the token"), "{refused}");
    server.gate();
    let gated = resolve("hf:org/name", &options);
    assert!(gated.contains("accept the conditions"), "{gated}");
    options.endpoint = "ftp://somewhere".to_owned();
    assert!(resolve("hf:org/name", &options).contains("HF_ENDPOINT"));
}

#[test]
fn offline_uses_the_cache_and_says_what_is_missing() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let online = options(&server, cache.path());
    let offline = FetchOptions {
        offline: true,
        ..online.clone()
    };
    let error = fetch(&offline).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let fetched = fetch(&online).unwrap();
    server.seen();
    let found = fetch(&offline).unwrap();
    assert!(server.seen().is_empty());
    let paths = |s: &Snapshot| s.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&found), paths(&fetched));
    assert_eq!(found.revision, fetched.revision);
}

#[test]
fn a_hub_that_is_away_leaves_the_cached_revision() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let options = options(&server, cache.path());
    fetch(&options).unwrap();
    drop(server);
    assert_eq!(fetch(&options).unwrap().revision.as_deref(), Some(COMMIT));
}

#[test]
fn names_that_would_leave_the_cache_and_answers_that_are_none_are_refused() {
    let list = |name: &str| {
        let file = serde_json::json!({"rfilename": name, "size": 2, "blobId": "0".repeat(40)});
        serde_json::json!({"sha": COMMIT, "siblings": [file]}).to_string()
    };
    let mut answers: Vec<String> = [
        "../../evil.json",
        "/etc/evil.json",
        "a\\..\\b.json",
        "a//b.json",
        "x\u{0}.json",
    ]
    .map(list)
    .to_vec();
    answers.push("<html>".to_owned());
    answers.push(serde_json::json!({"sha": "../../x", "siblings": []}).to_string());
    answers.push(
        serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "a.json", "size": 2, "blobId": "../x"}]})
            .to_string(),
    );
    for answer in answers {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        server.fail("list", &[Fault::Body(answer.clone())]);
        let error = fetch(&options(&server, cache.path())).unwrap_err();
        assert!(
            matches!(error, SourceError::Protocol { .. }),
            "{answer}: {error}"
        );
        assert!(
            !repository(cache.path()).join("snapshots").exists(),
            "{answer}"
        );
    }
}

#[test]
fn two_models_on_a_hub_are_audited() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    for id in ["llama-a", "llama-a-tuned"] {
        server.put_folder(&format!("zoo/{id}"), &zoo(id));
    }
    let options = options(&server, cache.path());
    let request = Request {
        reference: "zoo/llama-a".parse().unwrap(),
        candidate: "hf:zoo/llama-a-tuned@main".parse().unwrap(),
        bases: [None, None],
        settings: Settings::default(),
        fetch: options,
        tests: vec![
            "unit-permutation".to_owned(),
            "shared-initialisation".to_owned(),
        ],
        device: "cpu".to_owned(),
        budget_bytes: None,
        command: Vec::new(),
    };
    let report = audit::compare(&request, &Unwatched).unwrap();
    assert_eq!(report.finding.overall.relation, Relation::FineTuned);
    assert_eq!(report.reference.revision.as_deref(), Some(COMMIT));
    assert!(report.candidate.files.iter().all(|f| f.sha256.is_some()));
}

/// Files below a folder with their content or, for links, their target.
pub fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(root: &Path, folder: &Path, out: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            if let Ok(target) = fs::read_link(&path) {
                out.push((name, target.to_string_lossy().into_owned().into_bytes()));
            } else if path.is_dir() {
                walk(root, &path, out);
            } else {
                out.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out.sort();
    out
}

#[test]
fn the_reference_client_and_we_make_one_cache_and_find_what_the_other_fetched() {
    let python = std::env::var("MODELKIN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python)
        .args(["-c", "import huggingface_hub"])
        .output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no huggingface_hub (set MODELKIN_PYTHON)");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/hub_conformance.py");
    let (server, ours, theirs) = (
        server(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let client = |cache: &Path, offline: &str| {
        let output = Command::new(&python)
            .arg(&script)
            .arg(REPOSITORY)
            .env("HF_ENDPOINT", &server.endpoint)
            .env("HF_HUB_CACHE", cache)
            .env("HF_HUB_OFFLINE", offline)
            .env("HF_HUB_DISABLE_XET", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env_remove("HF_TOKEN")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    fetch(&options(&server, ours.path())).unwrap();
    client(theirs.path(), "0");
    for part in ["blobs", "snapshots", "refs"] {
        let both = [ours.path(), theirs.path()].map(|c| tree(&repository(c).join(part)));
        assert_eq!(both[0], both[1], "{part}");
    }
    // Each finds offline what the other fetched.
    let found = client(ours.path(), "1");
    assert!(
        Path::new(&found).join("model.safetensors").exists(),
        "{found}"
    );
    let offline = FetchOptions {
        offline: true,
        ..options(&server, theirs.path())
    };
    assert_eq!(fetch(&offline).unwrap().files.len(), 3);
}

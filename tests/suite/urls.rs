//! Models at plain addresses: what is taken for the model, what holds two requests together, and servers
//! that know little or misbehave.

use crate::support::tls_front;
use crate::support::web_server::{Answer, Asked, Flow, WebServer};
use crate::support::zoo;
use modelkin::audit::{self, Unwatched};
use modelkin::source::{self, FetchOptions, ModelRef, Snapshot, SourceError};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Settings of a test, without a token and with all that is kept below one folder.
pub fn options(kept: &Path) -> FetchOptions {
    FetchOptions {
        cache: kept.join("hub"),
        downloads: kept.join("downloads"),
        blocks: kept.join("blocks"),
        token: Some("token-of-the-hub".to_owned()),
        offline: false,
        in_parts: false,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(50),
        stall: Duration::from_millis(300),
        ..FetchOptions::default()
    }
}

pub fn resolve(name: &str, options: &FetchOptions) -> Result<Snapshot, SourceError> {
    let model: ModelRef = name.parse().expect("a model's name");
    source::resolve(&model, options, &Unwatched)
}

/// What was fetched before, where no server may be asked.
pub fn resolve_offline(name: &str, options: FetchOptions) -> Result<Snapshot, SourceError> {
    let offline = FetchOptions {
        offline: true,
        ..options
    };
    resolve(name, &offline)
}

pub fn paths(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.files.iter().map(|f| f.path.as_str()).collect()
}

/// Some content that is not all alike.
pub fn content(n_bytes: u32, seed: u32) -> Vec<u8> {
    (0..n_bytes)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}

/// Files below a folder that are no links: what was downloaded, and not given up.
pub fn blobs(folder: &Path) -> Vec<String> {
    let tree = crate::hub::tree(folder);
    let names = tree.into_iter().map(|(name, _)| name);
    names.filter(|name| name.contains("blobs/")).collect()
}

/// A server of one file, `/m.gguf`, that answers as the function says.
fn one(answer: impl Fn(&Asked, &[u8]) -> Answer + Send + Sync + 'static) -> WebServer {
    let all = content(200_000, 1);
    WebServer::start(move |asked| match asked.path() {
        "/m.gguf" => answer(asked, &all),
        _ => Answer::new(404, ""),
    })
}

const FIRST_BYTE: Option<&str> = Some("bytes=0-0");

#[test]
fn one_file_is_downloaded_once_and_no_token_is_sent() {
    let server = one(|asked, all| Answer::file(asked, all, Some("\"a\"")));
    let kept = tempfile::tempdir().unwrap();
    let url = format!("{}/m.gguf?Signature=secret", server.url);
    let snapshot = resolve(&url, &options(kept.path())).unwrap();
    assert_eq!(paths(&snapshot), ["m.gguf"]);
    assert_eq!(snapshot.label, "m.gguf");
    assert_eq!(
        fs::read(&snapshot.files[0].local).unwrap(),
        content(200_000, 1)
    );
    // No one has published a digest of it.
    assert_eq!(snapshot.files[0].sha256, None);
    let seen = server.seen();
    assert!(seen.iter().all(|s| s.header("authorization").is_none()));
    assert!(seen.iter().all(|s| s.target.ends_with("?Signature=secret")));
    resolve(&url, &options(kept.path())).unwrap();
    let again = server.seen();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].header("range"), FIRST_BYTE);
    let model: ModelRef = url.parse().unwrap();
    assert!(!model.to_string().contains("secret"), "{model}");
    // Offline, what was fetched is there.
    drop(server);
    let kept = resolve_offline(&url, options(kept.path())).unwrap();
    assert_eq!(paths(&kept), ["m.gguf"]);
}

#[test]
fn of_an_index_the_shards_and_what_lies_beside_them_are_taken() {
    let index =
        serde_json::json!({"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}});
    let index = index.to_string();
    let server = WebServer::start(move |asked| match asked.path() {
        "/x/model.safetensors.index.json" => Answer::file(asked, index.as_bytes(), Some("\"i\"")),
        "/x/model-1.safetensors" => Answer::file(asked, b"one", Some("\"1\"")),
        "/x/model-2.safetensors" => Answer::file(asked, b"two", Some("\"2\"")),
        "/x/config.json" => Answer::file(asked, b"{}", None),
        _ => Answer::new(404, ""),
    });
    let expected = [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ];
    for name in ["/x/model.safetensors.index.json", "/x/"] {
        let kept = tempfile::tempdir().unwrap();
        let snapshot = resolve(&format!("{}{name}", server.url), &options(kept.path())).unwrap();
        assert_eq!(paths(&snapshot), expected, "{name}");
        assert_eq!(fs::read(&snapshot.files[2].local).unwrap(), b"two");
    }
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    for shard in [
        "../secret.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "x.html",
    ] {
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
        let server = WebServer::start(move |asked| match asked.path() {
            "/m.safetensors.index.json" => Answer::file(asked, index.as_bytes(), Some("\"i\"")),
            _ => Answer::new(404, ""),
        });
        let kept = tempfile::tempdir().unwrap();
        let url = format!("{}/m.safetensors.index.json", server.url);
        let error = resolve(&url, &options(kept.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("beside the index"), "{shard}: {error}");
        assert_eq!(blobs(kept.path()), [""; 0]);
    }
}

#[test]
fn weights_are_read_in_parts_where_the_server_sends_parts_of_one_content() {
    let server = one(|asked, all| Answer::file(asked, all, Some("\"a\"")));
    let kept = tempfile::tempdir().unwrap();
    let in_parts = FetchOptions {
        in_parts: true,
        ..options(kept.path())
    };
    let snapshot = resolve(&format!("{}/m.gguf", server.url), &in_parts).unwrap();
    let file = snapshot.files[0].open().unwrap();
    server.seen();
    assert_eq!(
        *file.read(100_000..100_010).unwrap(),
        content(200_000, 1)[100_000..100_010]
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("range"), Some("bytes=65536-131071"));
    assert_eq!(seen[0].header("if-match"), Some("\"a\""));
    assert_eq!(file.n_bytes_seen(), Some(65_536));
}

#[test]
fn a_server_without_parts_or_without_a_strong_etag_sends_the_whole_file() {
    type Kind = fn(&Asked, &[u8]) -> Answer;
    let kinds: [Kind; 3] = [
        |_, all| Answer::new(200, all).with("ETag", "\"a\""),
        |asked, all| Answer::file(asked, all, None),
        |asked, all| Answer::file(asked, all, Some("W/\"a\"")),
    ];
    for kind in kinds {
        let server = one(kind);
        let kept = tempfile::tempdir().unwrap();
        let in_parts = FetchOptions {
            in_parts: true,
            ..options(kept.path())
        };
        let snapshot = resolve(&format!("{}/m.gguf", server.url), &in_parts).unwrap();
        assert!(snapshot.files[0].remote.is_none());
        assert_eq!(
            fs::read(&snapshot.files[0].local).unwrap(),
            content(200_000, 1)
        );
    }
}

#[test]
fn a_transfer_that_is_cut_off_goes_on_where_it_ended_only_with_an_etag() {
    for etag in [Some("\"a\""), None] {
        let n = AtomicUsize::new(0);
        let server = one(move |asked, all| {
            let answer = Answer::file(asked, all, etag);
            match asked.header("range") == FIRST_BYTE || n.fetch_add(1, Ordering::Relaxed) > 1 {
                true => answer,
                false => answer.flowing(Flow::Cut(50_000)),
            }
        });
        let kept = tempfile::tempdir().unwrap();
        let snapshot = resolve(&format!("{}/m.gguf", server.url), &options(kept.path())).unwrap();
        assert_eq!(
            fs::read(&snapshot.files[0].local).unwrap(),
            content(200_000, 1)
        );
        let seen = server.seen();
        let from: Vec<Option<&str>> = seen.iter().skip(1).map(|s| s.header("range")).collect();
        match etag {
            Some(etag) => {
                assert_eq!(from, [None, Some("bytes=50000-"), Some("bytes=100000-")]);
                assert!(
                    seen.iter()
                        .skip(1)
                        .all(|s| s.header("if-match") == Some(etag))
                );
            }
            None => assert_eq!(from, [None, None, None]),
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_an_error() {
    // Whether the server heeds If-Match or not.
    for heeds in [true, false] {
        let n = AtomicUsize::new(0);
        let server = one(move |asked, all| {
            let etag = match n.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => "\"old\"",
                _ => "\"new\"",
            };
            let mut asked = asked.clone();
            if !heeds {
                asked.headers.remove("if-match");
            }
            let answer = Answer::file(&asked, all, Some(etag));
            match asked.header("range") {
                None => answer.flowing(Flow::Cut(50_000)),
                _ => answer,
            }
        });
        let kept = tempfile::tempdir().unwrap();
        let result = resolve(&format!("{}/m.gguf", server.url), &options(kept.path()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("has changed"), "{error}");
        let left = blobs(kept.path());
        assert!(left.iter().all(|n| n.ends_with(".incomplete")), "{left:?}");
    }
}

#[test]
fn content_that_changed_since_is_fetched_again() {
    let now = std::sync::Arc::new(Mutex::new(1));
    let theirs = std::sync::Arc::clone(&now);
    let server = WebServer::start(move |asked| {
        let n = *theirs.lock().unwrap();
        Answer::file(asked, &content(1000, n), Some(&format!("\"{n}\"")))
    });
    let kept = tempfile::tempdir().unwrap();
    let url = format!("{}/m.gguf", server.url);
    for n in [1, 2, 1] {
        *now.lock().unwrap() = n;
        let snapshot = resolve(&url, &options(kept.path())).unwrap();
        assert_eq!(
            fs::read(&snapshot.files[0].local).unwrap(),
            content(1000, n)
        );
    }
}

#[test]
fn hostile_answers_end_in_time_and_leave_nothing_under_a_final_name() {
    type Kind = fn(&Asked, &[u8]) -> Answer;
    let kinds: [(Kind, &str); 7] = [
        (
            |_, all| Answer::new(200, all).flowing(Flow::Endless),
            "the size of the file",
        ),
        (
            |asked, all| match asked.header("range") {
                FIRST_BYTE => Answer::file(asked, all, Some("\"a\"")),
                _ => Answer::new(200, all).flowing(Flow::Endless),
            },
            "expected 200000 bytes",
        ),
        (
            |asked, all| match asked.header("range") {
                FIRST_BYTE => Answer::file(asked, &all[..1000], Some("\"a\"")),
                _ => Answer::file(asked, all, Some("\"a\"")),
            },
            "expected 1000 bytes",
        ),
        (
            |asked, all| match asked.header("range") {
                FIRST_BYTE => Answer::file(asked, all, Some("\"a\"")),
                _ => Answer::file(asked, &all[..1000], None),
            },
            "m.gguf",
        ),
        (
            |asked, all| match asked.header("range") {
                FIRST_BYTE => Answer::file(asked, all, Some("\"a\"")),
                _ => {
                    Answer::file(asked, all, None).flowing(Flow::Trickle(Duration::from_millis(50)))
                }
            },
            "too slow",
        ),
        (
            |_, _| Answer::new(206, "x").with("Content-Range", "bytes 0-18446744073709551615/1"),
            "the size of the file",
        ),
        (
            |_, _| Answer::new(302, "").with("Location", "file:///etc/passwd"),
            "an address to go on with",
        ),
    ];
    for (kind, expected) in kinds {
        let server = one(kind);
        let kept = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let result = resolve(&format!("{}/m.gguf", server.url), &options(kept.path()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}: {error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{expected}");
        let left = blobs(kept.path());
        assert!(left.iter().all(|n| n.ends_with(".incomplete")), "{left:?}");
    }
}

#[test]
fn what_is_not_there_says_so() {
    let server = WebServer::start(|_| Answer::new(404, ""));
    let kept = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("m.gguf", "check the address"),
        ("m.safetensors.index.json", "check the address"),
        ("folder/", "no file that an audit could read"),
    ] {
        let result = resolve(&format!("{}/{name}", server.url), &options(kept.path()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(
        "https://user:secret@host/m.gguf"
            .parse::<ModelRef>()
            .is_err()
    );
}

#[test]
fn a_model_at_an_address_is_inspected_by_its_header() {
    let folder = zoo("llama-a");
    let server = WebServer::start(move |asked| {
        match fs::read(folder.join(asked.path().trim_start_matches('/'))) {
            Ok(all) => Answer::file(asked, &all, Some("\"a\"")),
            Err(_) => Answer::new(404, ""),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let in_parts = FetchOptions {
        in_parts: true,
        ..options(kept.path())
    };
    let model = format!("{}/", server.url).parse().unwrap();
    let (_, section) = audit::inspect(&model, None, &in_parts, &Unwatched).unwrap();
    let note = section.notes.iter().find(|n| n.contains("read in parts"));
    assert!(
        note.is_some_and(|n| n.contains("65536 of 545872")),
        "{note:?}"
    );
    assert!(section.files.iter().any(|f| f.path == "config.json"));
}

/// Other systems keep their authorities where a test cannot add one.
#[cfg(target_os = "linux")]
#[test]
fn no_redirect_leads_from_tls_to_the_open() {
    let open = one(|asked, all| Answer::file(asked, all, Some("\"a\"")));
    let target = format!("{}/m.gguf?Signature=secret", open.url);
    let server = one(move |_, _| Answer::new(302, "").with("Location", target.as_str()));
    let secured = tls_front::start(server.url.trim_start_matches("http://"));
    let kept = tempfile::tempdir().unwrap();
    let name = format!("{secured}/m.gguf");
    let output = tls_front::fetching(&name, &tls_front::authority(), kept.path())
        .env("MODELKIN_DOWNLOADS", kept.path())
        .output()
        .expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("an https address"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(open.seen().is_empty());
}

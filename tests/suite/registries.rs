//! Models in registries of images: what a manifest becomes, where the token goes, Ollama's own store,
//! and registries that send something else.

use crate::audits::{compare_named, summary};
use crate::support::tls_front;
use crate::support::web_server::{Answer, Asked, Flow, WebServer};
use crate::support::zoo;
use crate::urls::{blobs, content, options, paths, resolve, resolve_offline};
use modelkin::audit::{self, Unwatched};
use modelkin::source::{FetchOptions, ModelRef};
use modelkin::verdict::Relation;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MODEL: &str = "application/vnd.ollama.image.model";
const PARAMS: &str = "application/vnd.ollama.image.params";
const TEMPLATE: &str = "application/vnd.ollama.image.template";

fn digest(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{}", hex.concat())
}

fn layer(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

/// A manifest as `ollama push` writes one.
fn manifest(layers: &[(&str, &[u8])]) -> String {
    let layers: Vec<Value> = layers.iter().map(|(kind, b)| layer(kind, b)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("application/vnd.docker.container.image.v1+json", b"{}"),
        "layers": layers,
    })
    .to_string()
}

/// What a registry of one image holds: its manifest, and blobs by digest.
#[derive(Clone)]
struct Image {
    manifest: String,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Image {
    fn of(layers: &[(&str, &[u8])]) -> Self {
        let blobs = layers.iter().map(|(_, b)| (digest(b), b.to_vec()));
        Self {
            manifest: manifest(layers),
            blobs: blobs.collect(),
        }
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.path();
        if path == "/v2/zoo/llama/manifests/q8" || path.contains("/manifests/sha256:") {
            return Answer::new(200, self.manifest.as_str())
                .with("Docker-Content-Digest", digest(self.manifest.as_bytes()));
        }
        let wanted = path.strip_prefix("/v2/zoo/llama/blobs/");
        match wanted.and_then(|digest| self.blobs.get(digest)) {
            Some(blob) => Answer::file(asked, blob, None),
            None => Answer::new(404, ""),
        }
    }
}

fn of(registry: &WebServer, kept: &Path) -> FetchOptions {
    FetchOptions {
        ollama_registry: registry.url.clone(),
        ollama_models: kept.join("ollama"),
        ..options(kept)
    }
}

const NAME: &str = "ollama:zoo/llama:q8";

#[test]
fn layers_are_fetched_by_digest_and_the_token_stays_with_the_registry() {
    let weights = content(200_000, 3);
    let image = Image::of(&[
        (MODEL, &weights),
        (TEMPLATE, b"{{ .Prompt }}"),
        (PARAMS, b"{\"stop\":[\"</s>\"]}"),
    ]);
    // Blobs come from a third host, as those of public registries do.
    let theirs = image.clone();
    let files = WebServer::start(move |asked| {
        let digest = asked.path().trim_start_matches('/');
        match theirs.blobs.get(digest) {
            Some(blob) => Answer::file(asked, blob, Some("\"e\"")),
            None => Answer::new(404, ""),
        }
    });
    let gate = WebServer::start(|_| Answer::new(200, r#"{"token":"for-reading"}"#));
    let (at_files, realm) = (files.url.clone(), gate.url.clone());
    let registry = WebServer::start(move |asked| {
        if asked.header("authorization") != Some("Bearer for-reading") {
            let challenge =
                format!("Bearer realm=\"{realm}/token\",service=\"zoo\",scope=\"pull\"");
            return Answer::new(401, "").with("WWW-Authenticate", challenge);
        }
        match asked.path().strip_prefix("/v2/zoo/llama/blobs/") {
            Some(digest) => Answer::new(307, "")
                .with("Location", format!("{at_files}/{digest}?Signature=secret")),
            None => image.answer(asked),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let options = of(&registry, kept.path());
    let snapshot = resolve(NAME, &options).unwrap();
    let expected = ["model.gguf", "ollama-params.json", "ollama-template.txt"];
    assert_eq!(paths(&snapshot), expected);
    assert_eq!(snapshot.label, NAME);
    let sha256 = snapshot.files[0].sha256.as_deref().unwrap();
    assert_eq!(format!("sha256:{sha256}"), digest(&weights));
    assert_eq!(fs::read(&snapshot.files[0].local).unwrap(), weights);
    let asked = gate.seen();
    assert!(asked[0].target.ends_with("/token?service=zoo&scope=pull"));
    for stranger in [asked, files.seen()].concat() {
        assert_eq!(stranger.header("authorization"), None, "{stranger:?}");
    }
    registry.seen();
    // What is here is not fetched again, but the tag is asked for.
    resolve(NAME, &options).unwrap();
    assert!(files.seen().is_empty());
    assert!(
        registry
            .seen()
            .iter()
            .all(|s| s.path().contains("manifests"))
    );
    drop(registry);
    let kept = resolve_offline(NAME, options).unwrap();
    assert_eq!(paths(&kept), expected);
}

#[test]
fn a_model_in_a_registry_is_read_in_parts_and_compared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/llama-a-q8_0.gguf");
    let weights = fs::read(path).unwrap();
    let image = Image::of(&[
        (MODEL, &weights),
        ("application/vnd.ollama.image.adapter", b"not read"),
    ]);
    let registry = WebServer::start(move |asked| image.answer(asked));
    let kept = tempfile::tempdir().unwrap();
    let in_parts = FetchOptions {
        in_parts: true,
        ..of(&registry, kept.path())
    };
    let host = registry.url.trim_start_matches("http://");
    for name in [NAME.to_owned(), format!("oci:{host}/zoo/llama:q8")] {
        let original = zoo("llama-a");
        let report = compare_named(in_parts.clone(), original.to_str().unwrap(), &name);
        let found = summary(&report);
        assert_eq!(
            report.finding.overall.relation,
            Relation::Quantized,
            "{found}"
        );
        let notes = report.candidate.notes.join("\n");
        assert!(notes.contains("read in parts"), "{notes}");
        assert!(notes.contains("adapter.gguf (an adapter"), "{notes}");
    }
    let seen = registry.seen();
    let blobs = seen.iter().filter(|s| s.path().contains("/blobs/"));
    assert!(blobs.clone().count() > 0);
    assert!(blobs.into_iter().all(|s| s.header("range").is_some()));
}

#[test]
fn a_token_that_is_no_longer_good_is_asked_for_again() {
    let weights = content(200_000, 4);
    let image = Image::of(&[(MODEL, &weights)]);
    let n = AtomicUsize::new(0);
    let gate = WebServer::start(move |_| {
        let n = n.fetch_add(1, Ordering::Relaxed);
        Answer::new(200, format!(r#"{{"access_token":"number-{n}"}}"#))
    });
    let realm = gate.url.clone();
    let n_cut = AtomicUsize::new(0);
    let registry = WebServer::start(move |asked| {
        // The first token opens the manifest alone, the second one the file.
        let is_blob = asked.path().contains("/blobs/");
        let token = asked.header("authorization");
        let is_good = match is_blob {
            true => token == Some("Bearer number-1"),
            false => token == Some("Bearer number-0"),
        };
        if !is_good {
            let challenge = format!("bearer realm=\"{realm}/\"");
            return Answer::new(401, "").with("WWW-Authenticate", challenge);
        }
        match is_blob && n_cut.fetch_add(1, Ordering::Relaxed) == 0 {
            true => image.answer(asked).flowing(Flow::Cut(50_000)),
            false => image.answer(asked),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let snapshot = resolve(NAME, &of(&registry, kept.path())).unwrap();
    assert_eq!(fs::read(&snapshot.files[0].local).unwrap(), weights);
    let seen = registry.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.header("range"), Some("bytes=50000-"), "resumed");
    assert_eq!(gate.seen().len(), 2);
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    let weights = content(200_000, 5);
    let mut image = Image::of(&[(MODEL, &weights)]);
    let pinned = digest(image.manifest.as_bytes());
    if let Some(blob) = image.blobs.values_mut().next() {
        blob[7] ^= 1;
    }
    let registry = WebServer::start(move |asked| image.answer(asked));
    let kept = tempfile::tempdir().unwrap();
    let pinned = format!("ollama:zoo/llama@{pinned}");
    for name in [NAME, &pinned] {
        let error = resolve(name, &of(&registry, kept.path())).unwrap_err();
        let expected = digest(&weights).replace("sha256:", "expected the digest ");
        assert!(error.to_string().contains(&expected), "{error}");
        assert_eq!(blobs(kept.path()), [""; 0]);
    }
    // A manifest that was named by its digest must have it.
    let other = format!("ollama:zoo/llama@sha256:{}", "0".repeat(64));
    let error = resolve(&other, &of(&registry, kept.path())).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("expected the digest 0000"), "{error}");
}

#[test]
fn hostile_answers_end_in_time_and_write_nothing() {
    type Kind = fn(&Asked) -> Answer;
    let kinds: [(Kind, &str); 11] = [
        (|_| Answer::new(200, "<html>"), "a manifest of a model"),
        (|_| Answer::new(200, "").flowing(Flow::Endless), "bytes"),
        (|_| Answer::new(200, vec![b' '; 5 << 20]), "5242880 bytes"),
        (|_| Answer::new(200, manifest(&[])), "no layer of weights"),
        (
            |_| {
                let mut bad = layer("application/octet-stream", b"x");
                bad["annotations"] = json!({"org.opencontainers.image.title": "../../x.json"});
                Answer::new(
                    200,
                    json!({"layers": [layer(MODEL, b"y"), bad]}).to_string(),
                )
            },
            "../../x.json",
        ),
        (
            |_| {
                let mut bad = layer(MODEL, b"x");
                bad["digest"] = json!("sha256:../../../../etc/passwd");
                Answer::new(200, json!({"layers": [bad]}).to_string())
            },
            "a layer with the digest",
        ),
        (
            |_| Answer::new(200, json!({"manifests": [{}]}).to_string()),
            "name one by its digest",
        ),
        (
            |_| Answer::new(401, "").with("WWW-Authenticate", "Bearer realm=\"file:///etc/x\""),
            "only what is public",
        ),
        (
            |_| Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
            "only what is public",
        ),
        (
            |_| {
                Answer::new(200, manifest(&[(MODEL, b"y")]))
                    .with("Docker-Content-Digest", digest(b"other"))
            },
            "expected the digest",
        ),
        (|_| Answer::new(404, ""), "check the name and the tag"),
    ];
    for (kind, expected) in kinds {
        let registry = WebServer::start(kind);
        let kept = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let error = resolve(NAME, &of(&registry, kept.path())).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected), "expected {expected}: {error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{expected}");
        assert_eq!(crate::hub::tree(kept.path()).len(), 0, "{expected}");
    }
}

/// Other systems keep their authorities where a test cannot add one.
#[cfg(target_os = "linux")]
#[test]
fn a_registry_behind_tls_sends_no_one_to_a_gate_in_the_open() {
    let open = WebServer::start(|_| Answer::new(200, r#"{"token":"of-a-stranger"}"#));
    let realm = open.url.clone();
    let registry = WebServer::start(move |_| {
        Answer::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}/\""))
    });
    let secured = tls_front::start(registry.url.trim_start_matches("http://"));
    let kept = tempfile::tempdir().unwrap();
    let output = tls_front::fetching(NAME, &tls_front::authority(), kept.path())
        .env("MODELKIN_DOWNLOADS", kept.path())
        .env("MODELKIN_OLLAMA_REGISTRY", &secured)
        .env("OLLAMA_MODELS", kept.path())
        .output()
        .expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("only what is public"), "{error}");
    assert!(open.seen().is_empty());
}

#[test]
fn ollamas_own_store_is_read_where_it_holds_the_whole_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/llama-a-q8_0.gguf");
    let weights = fs::read(path).unwrap();
    let image = Image::of(&[(MODEL, &weights), (PARAMS, b"{}")]);
    let theirs = image.clone();
    let registry = WebServer::start(move |asked| theirs.answer(asked));
    let kept = tempfile::tempdir().unwrap();
    let options = of(&registry, kept.path());
    let manifests = options.ollama_models.join("manifests/127.0.0.1/zoo/llama");
    fs::create_dir_all(&manifests).unwrap();
    fs::write(manifests.join("q8"), &image.manifest).unwrap();
    let blobs = options.ollama_models.join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| blobs.join(digest(bytes).replace(':', "-"));
    fs::write(blob(&weights), &weights).unwrap();
    // Half of it is as good as nothing: the registry is asked.
    resolve(NAME, &options).unwrap();
    assert!(!registry.seen().is_empty());
    fs::write(blob(b"{}"), b"{}").unwrap();
    let snapshot = resolve(NAME, &options).unwrap();
    assert!(registry.seen().is_empty());
    assert_eq!(paths(&snapshot), ["model.gguf", "ollama-params.json"]);
    let model: ModelRef = NAME.parse().unwrap();
    let (_, section) = audit::inspect(&model, None, &options, &Unwatched).unwrap();
    assert!(section.n_parameters > 0, "{section:?}");
    let mut other = weights.clone();
    other[9] ^= 1;
    fs::write(blob(&weights), other).unwrap();
    let error = resolve(NAME, &options).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn layers_that_are_fetched_at_once_outlive_the_token_that_they_share() {
    let weights = content(200_000, 21);
    let adapters: Vec<Vec<u8>> = (30..36).map(|seed| content(50_000, seed)).collect();
    let adapter = |bytes| ("application/vnd.ollama.image.adapter", bytes);
    let mut layers: Vec<(&str, &[u8])> = vec![(MODEL, &weights)];
    layers.extend(adapters.iter().map(|bytes| adapter(bytes.as_slice())));
    let image = Image::of(&layers);
    let n = AtomicUsize::new(0);
    let gate = WebServer::start(move |_| {
        let n = n.fetch_add(1, Ordering::Relaxed);
        Answer::new(200, format!(r#"{{"token":"number-{n}"}}"#))
    });
    let realm = gate.url.clone();
    let registry = WebServer::start(move |asked| {
        // The first token opens the manifest alone, any later one the layers.
        let is_blob = asked.path().contains("/blobs/");
        let is_good = match asked.header("authorization") {
            Some(token) => (token == "Bearer number-0") != is_blob,
            None => false,
        };
        if !is_good {
            // So that all that are on their way are refused together.
            std::thread::sleep(Duration::from_millis(100));
            let challenge = format!("Bearer realm=\"{realm}/\"");
            return Answer::new(401, "").with("WWW-Authenticate", challenge);
        }
        image.answer(asked)
    });
    let kept = tempfile::tempdir().unwrap();
    let snapshot = resolve(NAME, &of(&registry, kept.path())).unwrap();
    assert_eq!(snapshot.files.len(), 7);
    let model = snapshot.files.iter().find(|f| f.path == "model.gguf");
    assert_eq!(fs::read(&model.unwrap().local).unwrap(), weights);
    assert!(gate.seen().len() > 1);
}

//! Models in object stores: lists in parts, objects that change, where credentials go, and stores that
//! send something else.

use crate::audits::{compare_named, summary};
use crate::support::web_server::{Answer, Asked, Flow, WebServer};
use crate::support::zoo;
use crate::urls::{blobs, content, options, paths, resolve, resolve_offline};
use modelkin::audit::{self, Unwatched};
use modelkin::source::{BucketOptions, FetchOptions, Keys, ModelRef, Secret};
use modelkin::verdict::Relation;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NAME: &str = "s3://bucket/models/a b";
const ETAG: &str = "\"70ee1738-2\"";

/// Objects by key.
type Objects = BTreeMap<String, Vec<u8>>;

/// A text with its escapes undone.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn query(asked: &Asked, key: &str) -> Option<String> {
    let (_, query) = asked.target.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, v)| plain(v))
}

fn is_list(asked: &Asked) -> bool {
    query(asked, "prefix").is_some()
}

fn s3_list(entries: &str, next: Option<&str>) -> Answer {
    let (next, is_truncated) = match next {
        Some(next) => (
            format!("<NextContinuationToken>{next}</NextContinuationToken>"),
            true,
        ),
        None => (String::new(), false),
    };
    Answer::new(
        200,
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name>{next}\
             <IsTruncated>{is_truncated}</IsTruncated>{entries}</ListBucketResult>"
        ),
    )
}

fn s3_entry(key: &str, size: usize, etag: &str) -> String {
    format!("<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>{size}</Size></Contents>")
}

/// A good store of one bucket that speaks S3 and lists two objects at a time.
fn s3(asked: &Asked, objects: &Objects) -> Answer {
    let Some(prefix) = query(asked, "prefix") else {
        let path = plain(asked.path());
        let key = path.strip_prefix("/bucket/").unwrap_or_default();
        return match objects.get(key) {
            Some(object) => Answer::file(asked, object, Some(ETAG)),
            None => Answer::new(404, "<Error><Code>NoSuchKey</Code></Error>"),
        };
    };
    assert_eq!(
        (asked.path(), query(asked, "list-type").as_deref()),
        ("/bucket", Some("2"))
    );
    let from = query(asked, "continuation-token");
    let from: usize = from.map_or(0, |token| {
        token.trim_matches(['t', '/', '=']).parse().unwrap()
    });
    let below: Vec<_> = objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .collect();
    let entries = below.iter().skip(from).take(2);
    let entries: Vec<String> = entries
        .map(|(key, o)| s3_entry(key, o.len(), ETAG))
        .collect();
    let next = (from + 2 < below.len()).then(|| format!("t/{}=", from + 2));
    s3_list(&entries.concat(), next.as_deref())
}

/// A good container of Azure.
fn azure(asked: &Asked, objects: &Objects) -> Answer {
    assert!(asked.header("x-ms-version").is_some());
    let etag = ETAG.trim_matches('"');
    if let Some(prefix) = query(asked, "prefix") {
        assert_eq!(query(asked, "comp").as_deref(), Some("list"));
        let below = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
        let blobs = below.map(|(key, o)| {
            format!(
                "<Blob><Name>{key}</Name><Properties><Etag>{etag}</Etag><Content-Length>{}\
                 </Content-Length></Properties></Blob>",
                o.len()
            )
        });
        let blobs: String = blobs.collect();
        let body = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults>\
             <Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
        );
        return Answer::new(200, body);
    }
    let path = plain(asked.path());
    match objects.get(path.strip_prefix("/bucket/").unwrap_or_default()) {
        Some(object) => Answer::file(asked, object, Some(ETAG)),
        None => Answer::new(404, ""),
    }
}

fn objects(of: &[(&str, &[u8])]) -> Objects {
    let owned = of.iter().map(|(key, b)| ((*key).to_owned(), b.to_vec()));
    owned.collect()
}

/// A model of the zoo below a prefix.
fn zoo_below(prefix: &str, id: &str) -> Objects {
    let files = fs::read_dir(zoo(id)).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (format!("{prefix}{name}"), fs::read(path).unwrap())
    });
    files.collect()
}

/// All stores at one address, without credentials.
fn at(server: &WebServer, kept: &Path) -> FetchOptions {
    FetchOptions {
        buckets: BucketOptions {
            s3_endpoint: Some(server.url.clone()),
            gs_endpoint: server.url.clone(),
            az_endpoint: Some(server.url.clone()),
            ..BucketOptions::from_lookup(&|_| None)
        },
        ..options(kept)
    }
}

/// The same with credentials for all.
fn with_credentials(server: &WebServer, kept: &Path) -> FetchOptions {
    let mut options = at(server, kept);
    options.buckets.s3_keys = Some(Keys {
        id: "key-id".to_owned(),
        secret: Secret::new("hidden"),
        session: Some(Secret::new("session-hidden")),
    });
    options.buckets.s3_region = "eu-west-1".to_owned();
    options.buckets.gs_token = Some(Secret::new("hidden"));
    options.buckets.az_sas = Some(Secret::new("sv=2021&sig=hidden"));
    options
}

#[test]
fn a_prefix_is_listed_in_parts_and_what_is_needed_is_fetched_once() {
    let weights = content(200_000, 21);
    let held = objects(&[
        ("models/a b/config.json", b"{}"),
        ("models/a b/", b""),
        ("models/a b/model.safetensors", &weights),
        ("models/a b/optimizer.pt", b"x"),
        ("models/a b/sub/x.json", b"[]"),
        ("models/a b2/model.safetensors", b"x"),
    ]);
    let server = WebServer::start(move |asked| s3(asked, &held));
    let kept = tempfile::tempdir().unwrap();
    let options = at(&server, kept.path());
    let snapshot = resolve(NAME, &options).unwrap();
    let expected = ["config.json", "model.safetensors", "sub/x.json"];
    assert_eq!(paths(&snapshot), expected);
    assert_eq!(snapshot.label, "a b");
    assert_eq!(fs::read(&snapshot.files[1].local).unwrap(), weights);
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|s| is_list(s)).count(), 3);
    for asked in &seen {
        assert_eq!(asked.header("authorization"), None, "{asked:?}");
        let etag = (!is_list(asked)).then_some(ETAG);
        assert_eq!(asked.header("if-match"), etag, "{asked:?}");
    }
    resolve(NAME, &options).unwrap();
    assert!(server.seen().iter().all(is_list), "kept");
    drop(server);
    let kept = resolve_offline(NAME, options).unwrap();
    assert_eq!(paths(&kept), expected);
}

#[test]
fn a_file_or_a_series_of_files_is_taken_without_its_neighbours() {
    let held = objects(&[
        ("m-00001-of-00002.gguf", b"one"),
        ("m-00002-of-00002.gguf", b"two"),
        ("m-00002-of-00003.gguf", b"other"),
        ("single.gguf", b"single"),
        ("single.gguf.json", b"{}"),
        ("config.json", b"{}"),
    ]);
    let server = WebServer::start(move |asked| s3(asked, &held));
    let kept = tempfile::tempdir().unwrap();
    let of = |name: &str| resolve(name, &at(&server, kept.path()));
    let series = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let found = of("s3://bucket/m-00002-of-00002.gguf").unwrap();
    assert_eq!(paths(&found), series);
    let found = of("gs://bucket/single.gguf").unwrap();
    assert_eq!(paths(&found), ["single.gguf"]);
    for (name, expected) in [
        ("s3://bucket/m-00001-of-00003.gguf", "m-00001-of-00003.gguf"),
        ("s3://bucket/none.gguf", "none.gguf"),
        ("s3://bucket/none/", "no file that an audit could read"),
    ] {
        let error = of(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn models_of_every_store_are_read_in_parts_and_compared() {
    let held = zoo_below("models/x/", "llama-a-tuned");
    let theirs = held.clone();
    let s3_like = WebServer::start(move |asked| s3(asked, &theirs));
    let azure_like = WebServer::start(move |asked| azure(asked, &held));
    let original = zoo("llama-a");
    for (name, server) in [
        ("s3://bucket/models/x", &s3_like),
        ("gs://bucket/models/x/", &s3_like),
        ("az://bucket/models/x", &azure_like),
    ] {
        let kept = tempfile::tempdir().unwrap();
        let in_parts = FetchOptions {
            in_parts: true,
            ..at(server, kept.path())
        };
        let model: ModelRef = name.parse().unwrap();
        let (_, section) = audit::inspect(&model, None, &in_parts, &Unwatched).unwrap();
        let notes = section.notes.join("\n");
        assert!(notes.contains("65536 of"), "{name}: {notes}");
        if name.starts_with("gs") {
            continue;
        }
        let report = compare_named(in_parts, original.to_str().unwrap(), name);
        let found = summary(&report);
        let relation = report.finding.overall.relation;
        assert_eq!(relation, Relation::FineTuned, "{name}: {found}");
        let seen = server.seen();
        let weights = seen.iter().filter(|s| s.path().ends_with(".safetensors"));
        assert!(weights.clone().count() > 0);
        for part in weights {
            assert!(part.header("range").is_some(), "{part:?}");
            assert_eq!(part.header("if-match"), Some(ETAG), "{part:?}");
        }
    }
}

#[test]
fn an_object_that_changes_between_list_and_end_is_an_error() {
    // Whether the store heeds If-Match or not, and in parts or whole.
    for (heeds, in_parts) in [(true, true), (true, false), (false, true), (false, false)] {
        let held = objects(&[("m.gguf", &content(200_000, 22))]);
        let n = AtomicUsize::new(0);
        let server = WebServer::start(move |asked| {
            if is_list(asked) {
                return s3(asked, &held);
            }
            let mut asked = asked.clone();
            if !heeds {
                asked.headers.remove("if-match");
            }
            let etag = match n.fetch_add(1, Ordering::Relaxed) {
                0 => ETAG,
                _ => "\"new\"",
            };
            let answer = Answer::file(&asked, &held["m.gguf"], Some(etag));
            match asked.header("range") {
                None => answer.flowing(Flow::Cut(50_000)),
                Some(_) => answer,
            }
        });
        let kept = tempfile::tempdir().unwrap();
        let options = FetchOptions {
            in_parts,
            ..at(&server, kept.path())
        };
        let error = match resolve("s3://bucket/m.gguf", &options) {
            Err(error) => error.to_string(),
            Ok(snapshot) => {
                assert!(in_parts);
                let file = snapshot.files[0].open().unwrap();
                file.read(0..10).unwrap();
                file.read(100_000..100_010).unwrap_err().to_string()
            }
        };
        assert!(error.contains("has changed"), "{heeds} {in_parts}: {error}");
        let left = blobs(kept.path());
        let unfinished = |name: &String| name.ends_with(".incomplete");
        assert!(!in_parts || left.is_empty(), "{left:?}");
        assert!(left.iter().all(unfinished), "{left:?}");
    }
}

#[test]
fn credentials_go_to_the_store_and_to_no_other_host() {
    let weights = content(1000, 23);
    let theirs = weights.clone();
    let stranger = WebServer::start(move |asked| Answer::file(asked, &theirs, Some(ETAG)));
    let elsewhere = format!("{}/w", stranger.url);
    let held = objects(&[("m.gguf", &weights)]);
    let server = WebServer::start(move |asked| match is_list(asked) {
        true if query(asked, "comp").is_some() => azure(asked, &held),
        true => s3(asked, &held),
        false => Answer::new(307, "").with("Location", elsewhere.as_str()),
    });
    for name in [
        "s3://bucket/m.gguf",
        "gs://bucket/m.gguf",
        "az://bucket/m.gguf",
    ] {
        let kept = tempfile::tempdir().unwrap();
        let options = with_credentials(&server, kept.path());
        let snapshot = resolve(name, &options).unwrap();
        assert_eq!(fs::read(&snapshot.files[0].local).unwrap(), weights);
        for asked in server.seen() {
            let authorization = asked.header("authorization").unwrap_or_default();
            match &name[..2] {
                "s3" => {
                    let scope = "/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature=";
                    let begin = "AWS4-HMAC-SHA256 Credential=key-id/";
                    assert!(authorization.starts_with(begin), "{asked:?}");
                    assert!(authorization.contains(scope), "{asked:?}");
                    let session = asked.header("x-amz-security-token");
                    assert_eq!(session, Some("session-hidden"));
                }
                "gs" => assert_eq!(authorization, "Bearer hidden"),
                _ => assert_eq!(query(&asked, "sig").as_deref(), Some("hidden")),
            }
        }
        let strangers = stranger.seen();
        assert!(!strangers.is_empty());
        for asked in strangers {
            let text = format!("{asked:?}");
            assert!(!text.contains("hidden") && !text.contains("AWS4"), "{text}");
        }
    }
}

#[test]
fn a_refusal_names_the_variables_and_shows_no_secret() {
    let server = WebServer::start(|_| Answer::new(403, "<Error><Code>AccessDenied</Code></Error>"));
    let kept = tempfile::tempdir().unwrap();
    for (name, variable) in [
        ("s3://bucket/x", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/x", "GOOGLE_OAUTH_ACCESS_TOKEN"),
        ("az://bucket/x", "AZURE_STORAGE_SAS_TOKEN"),
    ] {
        let error = resolve(name, &with_credentials(&server, kept.path()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(variable), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    let mut unset = options(kept.path());
    unset.buckets = BucketOptions::from_lookup(&|_| None);
    let error = resolve("az://bucket/x", &unset).unwrap_err().to_string();
    assert!(error.contains("AZURE_STORAGE_ACCOUNT"), "{error}");
    unset.buckets.s3_region = "x.evil.org/".to_owned();
    let error = resolve("s3://bucket/x", &unset).unwrap_err().to_string();
    assert!(error.contains("AWS_REGION"), "{error}");
}

#[test]
fn a_store_that_keeps_failing_is_named_once() {
    let server = WebServer::start(|_| Answer::new(503, "<Error><Code>SlowDown</Code></Error>"));
    let kept = tempfile::tempdir().unwrap();
    let error = resolve(NAME, &at(&server, kept.path())).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("s3://bucket/models/a b: failed 6 times"),
        "{error}"
    );
}

#[test]
fn a_bucket_in_another_region_is_asked_for_there_once() {
    let held = objects(&[("m.gguf", b"weights")]);
    let server = WebServer::start(move |asked| {
        let signature = asked.header("authorization").unwrap_or_default();
        match signature.contains("/eu-south-2/s3/") {
            true => s3(asked, &held),
            false => Answer::new(301, "").with("x-amz-bucket-region", "eu-south-2"),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let options = with_credentials(&server, kept.path());
    let snapshot = resolve("s3://bucket/m.gguf", &options).unwrap();
    assert_eq!(fs::read(&snapshot.files[0].local).unwrap(), b"weights");
    assert_eq!(server.seen().len(), 3);
    for region in ["evil.org/x", "eu-west-9"] {
        let server =
            WebServer::start(move |_| Answer::new(301, "").with("x-amz-bucket-region", region));
        let options = with_credentials(&server, kept.path());
        let error = resolve(NAME, &options).unwrap_err().to_string();
        assert!(error.contains("301"), "{error}");
        assert!(server.seen().len() <= 2);
    }
}

#[test]
fn hostile_lists_end_in_time_and_write_nothing() {
    type Kind = fn(&Asked) -> Answer;
    static N: Mutex<usize> = Mutex::new(0);
    let kinds: [(Kind, &str); 10] = [
        (|_| Answer::new(200, "<html/>"), "a list of objects"),
        (
            |_| Answer::new(200, "<Error><Code>AccessDenied</Code></Error>"),
            "a list of objects",
        ),
        (
            |_| Answer::new(200, "").flowing(Flow::Endless),
            "a list of objects",
        ),
        (
            |_| s3_list(&s3_entry("elsewhere/config.json", 1, ETAG), None),
            "elsewhere/config.json",
        ),
        (
            |_| s3_list(&s3_entry("models/a b/../../x.json", 1, ETAG), None),
            "../../x.json",
        ),
        (
            |_| {
                s3_list(
                    &s3_entry("models/a b/x.json", 1, "&quot;a&#10;b&quot;"),
                    None,
                )
            },
            "the etag",
        ),
        (
            |_| {
                let twice = [1, 2].map(|n| s3_entry("models/a b/x.json", n, ETAG));
                s3_list(&twice.concat(), None)
            },
            "two objects",
        ),
        (
            |_| {
                *N.lock().unwrap() += 1;
                s3_list("", Some("again"))
            },
            "500 parts",
        ),
        (
            |_| {
                let entries = s3_entry("models/a b/x.png", 1, ETAG).repeat(20_000);
                s3_list(&entries, Some("again"))
            },
            "50000 objects",
        ),
        (
            |asked| match is_list(asked) {
                true => s3_list(&s3_entry("models/a b/m.gguf", usize::MAX, ETAG), None),
                false => Answer::file(asked, b"short", Some(ETAG)),
            },
            "m.gguf",
        ),
    ];
    for (kind, expected) in kinds {
        let server = WebServer::start(kind);
        let kept = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let mut options = at(&server, kept.path());
        options.stall = Duration::from_secs(2);
        let result = resolve(NAME, &options);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}: {error}");
        assert!(began.elapsed() < Duration::from_secs(60), "{expected}");
        let left = blobs(kept.path());
        assert!(left.iter().all(|n| n.ends_with(".incomplete")), "{left:?}");
    }
    assert_eq!(*N.lock().unwrap(), 501);
}

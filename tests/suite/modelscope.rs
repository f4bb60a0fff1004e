//! Repositories of ModelScope: its list, where the token goes, lists that are cut off, and servers that
//! send something else.

use crate::audits::{compare_named, summary};
use crate::support::web_server::{Answer, Asked, Flow, WebServer};
use crate::support::zoo;
use crate::urls::{blobs, content, options, paths, resolve, resolve_offline};
use modelkin::source::{FetchOptions, ModelRef};
use modelkin::verdict::Relation;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "modelscope:owner/name@v1.0";
const LIST: &str = "/api/v1/models/owner/name/repo/files";
const FILE: &str = "/api/v1/models/owner/name/repo";

type Files = BTreeMap<String, Vec<u8>>;

fn files(of: &[(&str, &[u8])]) -> Files {
    let owned = of.iter().map(|(path, b)| ((*path).to_owned(), b.to_vec()));
    owned.collect()
}

/// An entry of a list, as the server writes it.
fn entry(path: &str, content: &[u8]) -> Value {
    let hex: Vec<String> = Sha256::digest(content)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    json!({
        "Path": path, "Name": path.rsplit('/').next(), "Type": "blob", "Size": content.len(),
        "Sha256": hex.concat(), "Revision": "0123abcd", "IsLFS": false, "Mode": "33188",
    })
}

fn list(entries: &[Value]) -> Answer {
    let body = json!({
        "Code": 200, "Success": true, "Message": "success", "RequestId": "x",
        "Data": {"Files": entries, "IsVisual": 0},
    });
    Answer::new(200, body.to_string())
}

/// The value of a key of the query; only what these tests use is unescaped.
fn query(asked: &Asked, key: &str) -> String {
    let query = asked.target.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(name, _)| *name == key).map_or("", |(_, v)| v);
    value.replace("%2F", "/").replace('+', " ")
}

/// A good server of one repository.
fn answer(asked: &Asked, files: &Files) -> Answer {
    if query(asked, "Revision") != "v1.0" {
        return Answer::new(404, "");
    }
    match asked.path() {
        LIST => {
            let mut entries: Vec<Value> = files.iter().map(|(p, b)| entry(p, b)).collect();
            entries.push(json!({"Path": "sub", "Type": "tree", "Size": 0, "Sha256": ""}));
            list(&entries)
        }
        FILE => match files.get(&query(asked, "FilePath")) {
            Some(content) => Answer::file(asked, content, Some("\"e\"")),
            None => Answer::new(404, ""),
        },
        _ => Answer::new(404, ""),
    }
}

fn of(server: &WebServer, kept: &Path) -> FetchOptions {
    FetchOptions {
        modelscope_endpoint: server.url.clone(),
        modelscope_token: Some("of-modelscope".to_owned()),
        ..options(kept)
    }
}

#[test]
fn a_repository_is_fetched_and_verified_and_the_token_stays_with_the_hub() {
    let weights = content(200_000, 11);
    let held = files(&[
        ("config.json", b"{}"),
        ("sub/a b.json", b"[]"),
        ("model.safetensors", &weights),
        ("picture.png", b"x"),
    ]);
    let theirs = held.clone();
    let store = WebServer::start(move |asked| {
        Answer::file(asked, &theirs["model.safetensors"], Some("\"w\""))
    });
    let at = store.url.clone();
    let server = WebServer::start(move |asked| {
        let is_weights = asked.target.contains("model.safetensors");
        match is_weights && asked.path() == FILE {
            true => Answer::new(302, "").with("Location", format!("{at}/w?Signature=secret")),
            false => answer(asked, &held),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let options = of(&server, kept.path());
    let snapshot = resolve(NAME, &options).unwrap();
    let expected = ["config.json", "model.safetensors", "sub/a b.json"];
    assert_eq!(paths(&snapshot), expected);
    assert_eq!(snapshot.label, "owner/name@v1.0");
    assert!(snapshot.files.iter().all(|file| file.sha256.is_some()));
    assert_eq!(fs::read(&snapshot.files[1].local).unwrap(), weights);
    assert_eq!(fs::read(&snapshot.files[2].local).unwrap(), b"[]");
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer of-modelscope"));
        assert_eq!(seen.header("cookie"), Some("m_session_id=of-modelscope"));
    }
    let strangers = store.seen();
    assert!(!strangers.is_empty());
    for seen in strangers {
        assert_eq!(
            (seen.header("authorization"), seen.header("cookie")),
            (None, None)
        );
    }
    resolve(NAME, &options).unwrap();
    assert!(server.seen().iter().all(|s| s.path() == LIST), "kept");
    drop(server);
    let kept = resolve_offline(NAME, options).unwrap();
    assert_eq!(paths(&kept), expected);
}

#[test]
fn a_repository_is_read_in_parts_and_compared() {
    let mut held = Files::new();
    for file in fs::read_dir(zoo("llama-a-tuned")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        held.insert(name, fs::read(path).unwrap());
    }
    let server = WebServer::start(move |asked| answer(asked, &held));
    let kept = tempfile::tempdir().unwrap();
    let in_parts = FetchOptions {
        in_parts: true,
        ..of(&server, kept.path())
    };
    let original = zoo("llama-a");
    let report = compare_named(in_parts, original.to_str().unwrap(), NAME);
    let found = summary(&report);
    assert_eq!(
        report.finding.overall.relation,
        Relation::FineTuned,
        "{found}"
    );
    let notes = report.candidate.notes.join("\n");
    assert!(notes.contains("read in parts"), "{notes}");
}

#[test]
fn a_file_without_a_digest_is_downloaded_whole_and_called_unverified() {
    let weights = content(200_000, 12);
    let server = WebServer::start(move |asked| match asked.path() {
        LIST => {
            let mut entry = entry("model.safetensors", &weights);
            entry["Sha256"] = json!("");
            list(&[entry])
        }
        _ => Answer::file(asked, &weights, None),
    });
    let kept = tempfile::tempdir().unwrap();
    let in_parts = FetchOptions {
        in_parts: true,
        ..of(&server, kept.path())
    };
    let snapshot = resolve(NAME, &in_parts).unwrap();
    let file = &snapshot.files[0];
    assert!(file.remote.is_none() && file.sha256.is_none());
    assert_eq!(fs::read(&file.local).unwrap(), content(200_000, 12));
}

#[test]
fn a_list_that_is_cut_off_is_asked_for_again_without_folders() {
    let held = files(&[("config.json", b"{}"), ("model.safetensors", b"weights")]);
    // Made beforehand: a busy machine must still answer in time.
    let cut_off = |folder: &str| {
        let of = |i| entry(&format!("{folder}{i}.png"), b"");
        list(&(0..3000).map(of).collect::<Vec<Value>>())
    };
    let (below, at_top) = (cut_off("logs/"), cut_off(""));
    let server = WebServer::start(move |asked| {
        match asked.path() == LIST && query(asked, "Recursive") == "True" {
            true => below.clone(),
            false => answer(asked, &held),
        }
    });
    let kept = tempfile::tempdir().unwrap();
    let patient = |server: &WebServer| FetchOptions {
        stall: Duration::from_secs(10),
        ..of(server, kept.path())
    };
    let snapshot = resolve(NAME, &patient(&server)).unwrap();
    assert_eq!(paths(&snapshot), ["config.json", "model.safetensors"]);
    // What has as many files at its top is cut off there, too.
    let server = WebServer::start(move |_| at_top.clone());
    let error = resolve(NAME, &patient(&server)).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[test]
fn hostile_answers_end_in_time_and_leave_nothing_under_a_final_name() {
    type Kind = fn(&Asked) -> Answer;
    let kinds: [(Kind, &str); 9] = [
        (|_| Answer::new(200, "<html>"), "a list of files"),
        (
            |_| Answer::new(200, "").flowing(Flow::Endless),
            "a list of files",
        ),
        (
            |_| Answer::new(200, json!({"Success": false, "Message": "no"}).to_string()),
            "\"no\"",
        ),
        (|_| list(&[entry("../../x.json", b"x")]), "../../x.json"),
        (|_| list(&[entry("/etc/x.json", b"x")]), "/etc/x.json"),
        (
            |_| {
                let mut entry = entry("x.json", b"x");
                entry["Sha256"] = json!("../../../x");
                list(&[entry])
            },
            "the SHA-256",
        ),
        (
            |_| {
                let entries = r#"{"Path":"x"},"#.repeat(50_000);
                let body = format!(r#"{{"Data":{{"Files":[{entries}{{"Path":"x"}}]}}}}"#);
                Answer::new(200, body)
            },
            "50001 files",
        ),
        (|_| Answer::new(404, ""), "check the name and the revision"),
        (
            |asked| match asked.path() {
                LIST => list(&[entry("model.safetensors", b"right")]),
                _ => Answer::file(asked, b"wrong", None),
            },
            "expected the digest",
        ),
    ];
    for (kind, expected) in kinds {
        let server = WebServer::start(kind);
        let kept = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let error = resolve(NAME, &of(&server, kept.path())).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected), "expected {expected}: {error}");
        assert!(!error.contains("of-modelscope"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{expected}");
        assert_eq!(blobs(kept.path()), [""; 0], "{expected}");
    }
}

#[test]
fn names_of_repositories_are_told_from_others() {
    for text in ["modelscope:Qwen/Qwen2.5-0.5B", NAME] {
        assert!(text.parse::<ModelRef>().is_ok(), "{text}");
    }
    for text in [
        "modelscope:name",
        "modelscope:a/b/c",
        "modelscope:../b",
        "modelscope:a/b@../c",
        "modelscope:a/b@",
        "modelscope:a/b?x=1",
        "modelscope:",
    ] {
        assert!(text.parse::<ModelRef>().is_err(), "{text}");
    }
}

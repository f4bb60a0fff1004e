//! Checkouts of git LFS with pointers in the place of files: the checkout's own store, the server of the
//! remote, and what neither may do.

use crate::support::web_server::{Answer, Asked, Flow, WebServer};
use crate::urls::{content, options, paths, resolve};
use modelkin::source::{FetchOptions, Snapshot, SourceError};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn pointer(bytes: &[u8]) -> String {
    let (oid, size) = (sha256(bytes), bytes.len());
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
}

fn weights() -> Vec<u8> {
    content(200_000, 7)
}

/// A checkout with a pointer for weights, below `root`.
fn checkout(root: &Path, remote: &str) {
    fs::create_dir_all(root.join(".git/lfs/objects")).unwrap();
    let config = format!("[core]\n\tbare = false\n[remote \"origin\"]\n\turl = {remote}\n");
    fs::write(root.join(".git/config"), config).unwrap();
    fs::write(root.join("config.json"), b"{}").unwrap();
    fs::write(root.join("model.safetensors"), pointer(&weights())).unwrap();
}

fn store(root: &Path, named: &[u8], holds: &[u8]) {
    let oid = sha256(named);
    let folder = root
        .join(".git/lfs/objects")
        .join(&oid[..2])
        .join(&oid[2..4]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(oid), holds).unwrap();
}

fn open(root: &Path, options: &FetchOptions) -> Result<Snapshot, SourceError> {
    resolve(root.to_str().unwrap(), options)
}

/// An LFS server; the function answers requests for the content.
fn server(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> WebServer {
    let own = Arc::new(Mutex::new(String::new()));
    let address = Arc::clone(&own);
    let server = WebServer::start(move |asked| match asked.path() {
        "/org/name.git/info/lfs/objects/batch" => {
            let request: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
            assert_eq!(request["operation"], "download");
            let object = &request["objects"][0];
            let href = format!("{}/content?Signature=secret", address.lock().unwrap());
            let download =
                serde_json::json!({"href": href, "header": {"Authorization": "for-content"}});
            let object = serde_json::json!({"oid": object["oid"], "size": object["size"], "actions": {"download": download}});
            let body = serde_json::json!({"transfer": "basic", "objects": [object]});
            Answer::new(200, body.to_string())
        }
        "/content" => answer(asked),
        _ => Answer::new(404, ""),
    });
    own.lock().unwrap().clone_from(&server.url);
    server
}

#[test]
fn pointers_lead_to_the_checkouts_own_store() {
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkout(root.path(), "git@host:org/name");
    store(root.path(), &weights(), &weights());
    let snapshot = open(root.path(), &options(kept.path())).unwrap();
    assert_eq!(paths(&snapshot), ["config.json", "model.safetensors"]);
    let file = &snapshot.files[1];
    assert_eq!(file.sha256.as_deref(), Some(sha256(&weights()).as_str()));
    assert_eq!(
        (file.size_bytes, fs::read(&file.local).unwrap()),
        (200_000, weights())
    );
    // A single file of it, too.
    let single = open(
        &root.path().join("model.safetensors"),
        &options(kept.path()),
    )
    .unwrap();
    assert_eq!(single.files[0].size_bytes, 200_000);
}

#[test]
fn an_object_that_is_not_what_its_name_says_is_an_error() {
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkout(root.path(), "git@host:org/name");
    let mut other = weights();
    other[9] ^= 1;
    store(root.path(), &weights(), &other);
    let error = open(root.path(), &options(kept.path()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("damaged") && error.contains(&sha256(&other)),
        "{error}"
    );
    // One that is cut short is as good as none.
    store(root.path(), &weights(), &weights()[..10]);
    let error = open(root.path(), &options(kept.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("git lfs pull"), "{error}");
}

#[test]
fn what_is_not_stored_comes_from_the_remote_and_is_verified_and_kept() {
    let server = server(|asked| Answer::file(asked, &weights(), None));
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let remote = server.url.replace("http://", "http://user:password@");
    checkout(root.path(), &format!("{remote}/org/name"));
    let snapshot = open(root.path(), &options(kept.path())).unwrap();
    let file = &snapshot.files[1];
    assert_eq!(file.sha256.as_deref(), Some(sha256(&weights()).as_str()));
    assert_eq!(fs::read(&file.local).unwrap(), weights());
    let seen = server.seen();
    // The password of the remote (user:password), then what the server asked to be sent.
    let sent: Vec<Option<&str>> = seen.iter().map(|s| s.header("authorization")).collect();
    assert_eq!(
        sent,
        [Some("Basic dXNlcjpwYXNzd29yZA=="), Some("for-content")]
    );
    // Neither the pointer nor the checkout's store is written to.
    let pointer_ = fs::read_to_string(root.path().join("model.safetensors")).unwrap();
    assert_eq!(pointer_, pointer(&weights()));
    let offline = FetchOptions {
        offline: true,
        ..options(kept.path())
    };
    assert_eq!(
        open(root.path(), &offline).unwrap().files[1].size_bytes,
        200_000
    );
    assert!(server.seen().is_empty());
}

#[test]
fn parts_are_read_from_the_remote() {
    let server = server(|asked| Answer::file(asked, &weights(), Some("\"a\"")));
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkout(root.path(), &format!("{}/org/name.git", server.url));
    let in_parts = FetchOptions {
        in_parts: true,
        ..options(kept.path())
    };
    let snapshot = open(root.path(), &in_parts).unwrap();
    let file = snapshot.files[1].open().unwrap();
    assert_eq!(
        *file.read(100_000..100_010).unwrap(),
        weights()[100_000..100_010]
    );
    assert_eq!(*file.read(0..10).unwrap(), weights()[..10]);
    // The address was asked for once.
    let batches = server
        .seen()
        .into_iter()
        .filter(|s| s.method == "POST")
        .count();
    assert_eq!(batches, 1);
}

#[test]
fn no_credentials_go_where_the_content_is_sent_from() {
    let other = WebServer::start(|asked| Answer::file(asked, &weights(), None));
    let target = format!("{}/elsewhere", other.url);
    let server = server(move |_| Answer::new(302, "").with("Location", target.as_str()));
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let remote = server.url.replace("http://", "http://user:password@");
    checkout(root.path(), &format!("{remote}/org/name"));
    open(root.path(), &options(kept.path())).unwrap();
    let seen = other.seen();
    assert!(!seen.is_empty());
    assert!(
        seen.iter().all(|s| s.header("authorization").is_none()),
        "{seen:?}"
    );
}

#[test]
fn a_server_that_sends_something_else_is_found_out() {
    type Kind = fn(&Asked) -> Answer;
    let kinds: [(Kind, &str); 5] = [
        (
            |asked| Answer::file(asked, &content(200_000, 8), None),
            "expected the digest",
        ),
        (
            |asked| Answer::file(asked, &content(200_001, 7), None),
            "expected 200000 bytes",
        ),
        (
            |asked| Answer::file(asked, &weights()[..100], None),
            "model.safetensors",
        ),
        (
            |_| Answer::new(200, "").flowing(Flow::Endless),
            "expected 200000 bytes",
        ),
        (
            |asked| {
                let slowly = Flow::Trickle(Duration::from_millis(50));
                Answer::file(asked, &weights(), None).flowing(slowly)
            },
            "too slow",
        ),
    ];
    for (kind, expected) in kinds {
        let server = server(kind);
        let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        checkout(root.path(), &format!("{}/org/name", server.url));
        let error = open(root.path(), &options(kept.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "expected {expected}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_remote_that_cannot_be_asked_leads_to_git_lfs_pull() {
    let refusing = WebServer::start(|_| Answer::new(401, ""));
    let lying = WebServer::start(|asked| {
        let request: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
        let oid = &request["objects"][0]["oid"];
        let download = serde_json::json!({"href": "file:///etc/passwd"});
        let object = serde_json::json!({"oid": oid, "actions": {"download": download}});
        Answer::new(200, serde_json::json!({"objects": [object]}).to_string())
    });
    let without = WebServer::start(|_| Answer::new(200, "{\"objects\": []}"));
    let cases = [
        ("git@host:org/name".to_owned(), "git lfs pull"),
        (format!("{}/org/name", refusing.url), "git lfs pull"),
        (format!("{}/org/name", lying.url), "not behind https"),
        (format!("{}/org/name", without.url), "found none for"),
    ];
    for (remote, expected) in cases {
        let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        checkout(root.path(), &remote);
        let error = open(root.path(), &options(kept.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{remote}: {error}");
    }
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("model.safetensors"), pointer(&weights())).unwrap();
    let error = open(root.path(), &options(kept.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no git repository"), "{error}");
    let broken = "version https://git-lfs.github.com/spec/v1\noid sha256:../../../x\nsize 3\n";
    fs::write(root.path().join("model.safetensors"), broken).unwrap();
    let error = open(root.path(), &options(kept.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("a pointer of git LFS"), "{error}");
}

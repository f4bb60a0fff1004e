//! What a hub may answer: redirects, lists without digests, strange names, TLS.

use crate::hub::{REPOSITORY, fetch, options, server, weights};
use crate::support::hub_server::{COMMIT, Fault, HubServer, etag};
use modelkin::audit::Unwatched;
use modelkin::source::{self, FetchOptions, Snapshot, SourceError};
use std::fs;

fn resolve(name: &str, options: &FetchOptions) -> Result<Snapshot, SourceError> {
    source::resolve(&name.parse().expect("a repository"), options, &Unwatched)
}

#[test]
fn of_files_that_the_list_does_not_describe_the_hub_is_asked_and_they_are_verified() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.be_terse();
    let options = options(&server, cache.path());
    let snapshot = fetch(&options).unwrap();
    let seen = server.seen();
    let asked = seen.iter().filter(|s| s.method == "HEAD").count();
    assert_eq!(asked, 3, "{seen:?}");
    // The hub itself says what a redirected file is; the other host is not asked.
    assert!(
        seen.iter().all(|s| s.method != "HEAD" || !s.at_files),
        "{seen:?}"
    );
    let id = etag("model.safetensors", &weights());
    assert_eq!(
        snapshot.files[1].sha256.as_deref(),
        Some(id.as_str()),
        "verified"
    );
    assert!(snapshot.files[0].git_blob.is_some(), "verified");
}

#[test]
fn a_renamed_repository_is_found_with_the_token() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let snapshot = resolve("hf:org/old", &options(&server, cache.path())).unwrap();
    assert_eq!(snapshot.revision.as_deref(), Some(COMMIT));
    assert_eq!(snapshot.files.len(), 3);
    for request in server.seen() {
        assert_eq!(
            request.authorization.is_some(),
            !request.at_files,
            "{request:?}"
        );
    }
}

#[test]
fn redirects_in_a_circle_end() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let error = resolve("hf:org/circle", &options(&server, cache.path())).unwrap_err();
    assert!(error.to_string().contains("more redirects"), "{error}");
    assert!(server.seen().len() < 20);
}

#[test]
fn strange_names_of_files_that_are_not_fetched_do_no_harm() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    server.put(REPOSITORY, "runs/2024-01-01T10:00:00/events.out", b"log");
    server.put(REPOSITORY, "../../evil.png", b"picture");
    let snapshot = fetch(&options(&server, cache.path())).unwrap();
    assert_eq!(snapshot.files.len(), 3);
    assert!(!cache.path().join("evil.png").exists());
}

#[test]
fn digests_in_capitals_name_the_same_blob() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    server.put(REPOSITORY, "model.safetensors", &weights());
    let id = etag("model.safetensors", &weights());
    let lfs = serde_json::json!({"sha256": id.to_uppercase(), "size": weights().len()});
    let file = serde_json::json!({"rfilename": "model.safetensors", "lfs": lfs});
    let list = serde_json::json!({"sha": COMMIT, "siblings": [file]}).to_string();
    server.fail("list", &[Fault::Body(list)]);
    let snapshot = fetch(&options(&server, cache.path())).unwrap();
    assert_eq!(snapshot.files[0].sha256.as_deref(), Some(id.as_str()));
}

#[test]
fn a_token_that_cannot_be_sent_is_an_error_that_does_not_show_it() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let mut options = options(&server, cache.path());
    options.token = Some("first\r\nsecond".to_owned());
    let error = fetch(&options).unwrap_err().to_string();
    assert!(
        error.contains("HF_TOKEN") && !error.contains("second"),
        "{error}"
    );
    assert!(server.seen().is_empty());
}

#[test]
fn without_a_token_a_refusal_asks_for_one() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let mut options = options(&server, cache.path());
    options.token = None;
    for status in [401, 403] {
        server.fail("list", &[Fault::Status(status, "X-A", "b")]);
        let error = fetch(&options).unwrap_err().to_string();
        assert!(error.contains("set HF_TOKEN"), "{error}");
    }
    // The token of a test that has none is in no request.
    assert!(server.seen().iter().all(|s| s.authorization.is_none()));
}

/// Other systems keep their authorities where a test cannot add one.
#[cfg(target_os = "linux")]
mod tls {
    use super::*;
    use crate::support::tls_front;
    use std::path::Path;
    use std::process::Output;

    fn modelkin_fetch(endpoint: &str, cache: &Path, authority: &Path) -> Output {
        tls_front::fetching("hf:org/name", authority, cache)
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HUB_CACHE", cache)
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_OFFLINE")
            .output()
            .expect("the program starts")
    }

    fn secured(server: &HubServer) -> String {
        tls_front::start(server.endpoint.trim_start_matches("http://"))
    }

    #[test]
    fn a_hub_whose_authority_the_system_trusts_is_read_over_tls() {
        let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
        server.put(REPOSITORY, "config.json", b"{}");
        let output = modelkin_fetch(&secured(&server), cache.path(), &tls_front::authority());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert_eq!(
            fs::read(Path::new(&folder).join("config.json")).unwrap(),
            b"{}"
        );
    }

    #[test]
    fn a_hub_that_no_trusted_authority_knows_is_refused_before_anything_is_asked() {
        let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
        server.put(REPOSITORY, "config.json", b"{}");
        let began = std::time::Instant::now();
        // Trust in the system's own authorities, or in none where there are none.
        let roots = Path::new("/etc/ssl/certs/ca-certificates.crt");
        let output = modelkin_fetch(&secured(&server), cache.path(), roots);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(error.contains("certificate"), "{error}");
        assert!(server.seen().is_empty());
        // Another attempt would end the same.
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }

    #[test]
    fn a_system_without_authorities_is_told_where_they_come_from() {
        let cache = tempfile::tempdir().unwrap();
        let none = cache.path().join("none.pem");
        let output = modelkin_fetch("https://localhost:1", cache.path(), &none);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("SSL_CERT_FILE") && error.contains("ca-certificates"),
            "{error}"
        );
    }

    #[test]
    fn a_redirect_from_tls_to_the_open_is_refused() {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        let output = modelkin_fetch(&secured(&server), cache.path(), &tls_front::authority());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("an https address"), "{error}");
        assert!(
            !error.contains("Signature"),
            "a signature is no one's business: {error}"
        );
        assert!(server.seen().iter().all(|s| !s.at_files));
    }
}

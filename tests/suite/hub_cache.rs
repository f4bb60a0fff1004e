//! The cache among others: several runs at once, runs that were interrupted, caches that other tools
//! made, a full disk, and what the command line prints of it.

use crate::hub::{REPOSITORY, blobs, fetch, options, repository, server, tree, weights};
use crate::support::hub_server::{COMMIT, Fault, HubServer, etag};
use modelkin::source::{FetchOptions, SourceError};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

#[test]
fn runs_at_the_same_time_fetch_each_byte_once_and_all_succeed() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let options = options(&server, cache.path());
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(|| fetch(&options))).collect();
        for run in runs {
            let snapshot = run.join().unwrap().unwrap();
            assert_eq!(fs::read(&snapshot.files[1].local).unwrap(), weights());
        }
    });
    let seen = server.seen();
    let of_weights = seen.iter().filter(|s| s.at_files).count();
    assert_eq!(of_weights, 1, "{seen:?}");
    // No temporary name is left behind.
    let names: Vec<String> = tree(&repository(cache.path()))
        .into_iter()
        .map(|f| f.0)
        .collect();
    assert!(names.iter().all(|n| !n.contains("partial")), "{names:?}");
}

#[test]
fn what_an_interrupted_run_leaves_is_not_taken_for_the_model() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let online = FetchOptions {
        n_attempts: 1,
        ..options(&server, cache.path())
    };
    server.fail("model.safetensors", &[Fault::Status(500, "X-A", "b")]);
    fetch(&online).unwrap_err();
    let offline = FetchOptions {
        offline: true,
        ..online.clone()
    };
    let name = format!("hf:{REPOSITORY}@{COMMIT}").parse().unwrap();
    let watch = modelkin::audit::Unwatched;
    let error = modelkin::source::resolve(&name, &offline, &watch).unwrap_err();
    assert!(matches!(error, SourceError::Offline { .. }), "{error}");
    fetch(&online).unwrap();
    assert_eq!(fetch(&offline).unwrap().files.len(), 3);
}

#[test]
fn offline_a_link_whose_blob_is_gone_is_a_miss_and_online_it_is_fetched_again() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let online = options(&server, cache.path());
    fetch(&online).unwrap();
    let blob = repository(cache.path())
        .join("blobs")
        .join(etag("model.safetensors", &weights()));
    fs::remove_file(&blob).unwrap();
    let offline = FetchOptions {
        offline: true,
        ..online.clone()
    };
    let error = fetch(&offline).unwrap_err();
    assert!(
        matches!(&error, SourceError::Offline { what, .. } if what.ends_with("model.safetensors")),
        "{error}"
    );
    fetch(&online).unwrap();
    assert_eq!(fs::read(blob).unwrap(), weights());
}

#[test]
fn the_first_file_that_cannot_be_had_stops_the_others() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let options = FetchOptions {
        stall: Duration::from_secs(60),
        ..options(&server, cache.path())
    };
    let stall = Fault::Stall(1000, Duration::from_secs(30));
    server.fail("model.safetensors", &[stall]);
    server.fail("config.json", &[Fault::Status(410, "X-A", "b")]);
    let began = Instant::now();
    let error = fetch(&options).unwrap_err();
    assert!(matches!(error, SourceError::Protocol { .. }), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_cache_that_holds_everything_is_not_written_to() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let options = options(&server, cache.path());
    fetch(&options).unwrap();
    // A shared cache that others may read only has no locks of ours.
    fs::remove_dir_all(cache.path().join(".locks")).unwrap();
    let before = tree(cache.path());
    fetch(&options).unwrap();
    assert_eq!(tree(cache.path()), before);
}

#[test]
fn files_that_another_client_copied_into_the_snapshot_are_used() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let snapshot = repository(cache.path()).join("snapshots").join(COMMIT);
    fs::create_dir_all(snapshot.join("sub")).unwrap();
    fs::write(snapshot.join("model.safetensors"), weights()).unwrap();
    fetch(&options(&server, cache.path())).unwrap();
    let seen = server.seen();
    assert!(seen.iter().all(|s| !s.path.contains("model.s")), "{seen:?}");
    assert_eq!(
        blobs(cache.path()).len(),
        2,
        "the two small files were missing"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_as_such_and_what_was_fetched_stays() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let id = etag("model.safetensors", &weights());
    let folder = repository(cache.path()).join("blobs");
    fs::create_dir_all(&folder).unwrap();
    let incomplete = folder.join(format!("{id}.incomplete"));
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let error = fetch(&options(&server, cache.path())).unwrap_err();
    assert!(matches!(error, SourceError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
    assert!(fs::symlink_metadata(&incomplete).is_ok());
    assert!(!folder.join(&id).exists());
}

fn modelkin(server: &HubServer, cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_modelkin"))
        .args(args)
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HUB_CACHE", cache)
        .env("HF_TOKEN", "token-of-a-test")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_HUB_DISABLE_IMPLICIT_TOKEN")
        .output()
        .expect("the program starts")
}

#[test]
fn fetch_prints_the_folder_alone_or_all_as_json() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let root = repository(cache.path()).join("snapshots").join(COMMIT);
    let root = root.to_string_lossy();
    let plain = modelkin(&server, cache.path(), &["fetch", "org/name"]);
    assert_eq!(String::from_utf8_lossy(&plain.stdout), format!("{root}\n"));
    let said = String::from_utf8_lossy(&plain.stderr);
    assert!(said.contains("3 files"), "{said}");
    let json = modelkin(&server, cache.path(), &["fetch", "org/name", "--json"]);
    let page: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(page["root"], *root);
    assert_eq!(page["revision"], COMMIT);
    assert_eq!(page["files"][1]["size_bytes"], weights().len());
    let missing = modelkin(&server, cache.path(), &["fetch", "org/none"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty());
}

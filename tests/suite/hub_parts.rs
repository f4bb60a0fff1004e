//! Weights that stay on the hub: only what tests ask for is fetched, once, and servers that send
//! something else are found out.

use crate::audits::compare_within;
use crate::hub::{REPOSITORY, options, server, weights};
use crate::support::hub_server::{Fault, HubServer, Seen};
use crate::support::zoo;
use modelkin::audit::{self, Unwatched};
use modelkin::evidence::record::OUTSIDE_THE_BUDGET;
use modelkin::report::Report;
use modelkin::source::bytes::ByteSource;
use modelkin::source::{self, FetchOptions};
use modelkin::verdict::Relation;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WEIGHTS: &str = "model.safetensors";

fn in_parts(server: &HubServer, cache: &Path) -> FetchOptions {
    FetchOptions {
        in_parts: true,
        ..options(server, cache)
    }
}

/// The weights of the test's repository, left on the server.
fn remote(options: &FetchOptions) -> Arc<dyn ByteSource> {
    let model = format!("hf:{REPOSITORY}").parse().unwrap();
    let snapshot = source::resolve(&model, options, &Unwatched).unwrap();
    let file = snapshot.files.iter().find(|f| f.path == WEIGHTS).unwrap();
    file.remote.clone().expect("weights that stay on the hub")
}

/// Bytes of weights that the server sent.
fn n_sent(seen: &[Seen]) -> usize {
    let weights = seen.iter().filter(|s| s.path.contains(WEIGHTS));
    weights.map(|s| s.n_sent).sum()
}

fn put_zoo(server: &HubServer, id: &str) {
    server.put_folder(&format!("zoo/{id}"), &zoo(id));
}

fn compare(fetch: FetchOptions, ids: [&str; 2], budget_bytes: Option<u64>) -> Report {
    let names = ids.map(|id| format!("hf:zoo/{id}"));
    let names = names.each_ref().map(String::as_str);
    compare_within(fetch, names, [None, None], budget_bytes)
}

#[test]
fn a_part_is_the_same_bytes_and_no_more_than_its_blocks_are_sent() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&in_parts(&server, cache.path()));
    let all = weights();
    assert_eq!(n_sent(&server.seen()), 0, "opening reads no weights");
    assert_eq!(file.len(), all.len() as u64);
    assert_eq!(file.read(70_000..70_010).unwrap(), &all[70_000..70_010]);
    let seen = server.seen();
    assert_eq!(n_sent(&seen), 64 << 10);
    assert_eq!(file.n_bytes_seen(), Some(64 << 10));
    // The last block is shorter, and neighbours come in one request.
    assert_eq!(file.read(130_000..300_000).unwrap(), &all[130_000..]);
    let seen = server.seen();
    let n_requests = seen.iter().filter(|s| s.n_sent > 0).count();
    assert_eq!((n_requests, n_sent(&seen)), (1, 300_000 - 2 * (64 << 10)));
    assert!(file.read(299_999..300_001).is_err());
}

#[test]
fn a_block_is_fetched_once_by_whichever_thread_or_run() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&in_parts(&server, cache.path()));
    let all = weights();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (file, all) = (&file, &all);
            scope.spawn(move || {
                for start in (i * 100..290_000).step_by(10_007) {
                    let part = file.read(start as u64..start as u64 + 9_000).unwrap();
                    assert!(*part == all[start..start + 9_000]);
                }
            });
        }
    });
    assert_eq!(n_sent(&server.seen()), all.len());
    let again = remote(&in_parts(&server, cache.path()));
    assert!(again.read(0..300_000).unwrap() == all);
    assert_eq!(n_sent(&server.seen()), 0);
}

#[test]
fn the_token_stays_with_the_hub_when_parts_are_read() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&in_parts(&server, cache.path()));
    file.read(0..10).unwrap();
    file.read(200_000..200_010).unwrap();
    let seen = server.seen();
    assert!(seen.iter().any(|s| s.at_files) && seen.iter().any(|s| !s.at_files));
    for request in &seen {
        assert_eq!(
            request.authorization.is_none(),
            request.at_files,
            "{request:?}"
        );
    }
    // The second read goes to the signed address, and asks for the content that it was.
    let parts: Vec<&Seen> = seen.iter().filter(|s| s.at_files).collect();
    assert_eq!(parts[0].if_match, None);
    assert!(parts[1].if_match.is_some());
    let asked = seen
        .iter()
        .filter(|s| s.path.contains("resolve") && !s.at_files);
    assert_eq!(asked.filter(|s| s.path.contains(WEIGHTS)).count(), 1);
}

#[test]
fn failures_that_pass_are_tried_again_part_by_part() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&in_parts(&server, cache.path()));
    server.fail(
        WEIGHTS,
        &[
            Fault::Cut(100),
            Fault::Stall(10, Duration::from_secs(2)),
            Fault::Status(503, "Retry-After", "0"),
            Fault::Status(403, "X-Expired", "yes"),
        ],
    );
    assert_eq!(file.read(10..20).unwrap(), &weights()[10..20]);
}

#[test]
fn answers_that_are_not_the_part_are_errors_and_are_not_kept() {
    let other = "content that is another";
    let cases = [
        (Fault::WrongRange, "Content-Range"),
        (Fault::IgnoreRange, "--full"),
        (Fault::EndlessPart, "found more"),
        (Fault::Status(412, "X", "y"), "has changed"),
        (Fault::Status(416, "X", "y"), "no such range"),
        (Fault::Etag(other), "has changed"),
    ];
    for (fault, expected) in cases {
        let (server, cache) = (server(), tempfile::tempdir().unwrap());
        let file = remote(&in_parts(&server, cache.path()));
        file.read(0..10).unwrap();
        server.fail(WEIGHTS, std::slice::from_ref(&fault));
        let began = Instant::now();
        let error = file.read(100_000..100_010).unwrap_err().to_string();
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert!(error.contains(WEIGHTS), "{fault:?}: {error}");
        assert!(began.elapsed() < Duration::from_secs(60), "{fault:?}");
        let part = file.read(100_000..100_010).unwrap();
        assert!(*part == weights()[100_000..100_010], "{fault:?}");
    }
}

#[test]
fn a_server_that_never_sends_a_part_is_given_up() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&in_parts(&server, cache.path()));
    server.fail(WEIGHTS, &vec![Fault::Cut(5); 20]);
    let error = file.read(0..10).unwrap_err().to_string();
    assert!(error.contains("failed 6 times"), "{error}");
}

#[test]
fn a_part_that_comes_byte_by_byte_is_given_up_in_time() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let file = remote(&FetchOptions {
        n_attempts: 1,
        ..in_parts(&server, cache.path())
    });
    server.fail(WEIGHTS, &[Fault::Trickle(Duration::from_millis(100))]);
    let began = Instant::now();
    // The last block: 37,856 bytes, for which five seconds are allowed.
    let error = file.read(299_990..300_000).unwrap_err().to_string();
    assert!(error.contains("failed 1 times"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "{error}");
    assert_eq!(file.read(299_990..300_000).unwrap(), &weights()[299_990..]);
}

#[test]
fn what_is_downloaded_already_is_read_from_there() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    crate::hub::fetch(&options(&server, cache.path())).unwrap();
    let model = format!("hf:{REPOSITORY}").parse().unwrap();
    let parts = in_parts(&server, cache.path());
    let snapshot = source::resolve(&model, &parts, &Unwatched).unwrap();
    assert!(snapshot.files.iter().all(|f| f.remote.is_none()));
}

#[test]
fn a_partial_reading_leaves_no_snapshot_that_looks_whole() {
    let (server, cache) = (server(), tempfile::tempdir().unwrap());
    let parts = in_parts(&server, cache.path());
    remote(&parts).read(0..10).unwrap();
    let offline = FetchOptions {
        offline: true,
        ..parts
    };
    assert!(crate::hub::fetch(&offline).is_err());
}

#[test]
fn an_inspection_reads_the_header_alone() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    put_zoo(&server, "llama-a");
    let model = "hf:zoo/llama-a".parse().unwrap();
    let (_, section) =
        audit::inspect(&model, None, &in_parts(&server, cache.path()), &Unwatched).unwrap();
    assert_eq!(
        n_sent(&server.seen()),
        64 << 10,
        "one block holds the header"
    );
    let note = section.notes.iter().find(|n| n.contains("read in parts"));
    let note = note.expect("a note of what was read");
    assert!(note.contains("65536 of 545872 bytes"), "{note}");
    let file = section.files.iter().find(|f| f.path == WEIGHTS).unwrap();
    assert!(file.sha256.is_some(), "the hub states it");
}

#[test]
fn an_audit_in_parts_finds_what_one_of_whole_files_finds() {
    let (server, folder) = (HubServer::start(), tempfile::tempdir().unwrap());
    for id in ["llama-a", "llama-a-tuned", "llama-a-other-seed"] {
        put_zoo(&server, id);
    }
    for candidate in ["llama-a-tuned", "llama-a-other-seed"] {
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let ids = ["llama-a", candidate];
        let of_parts = compare(in_parts(&server, &parts), ids, None);
        assert!(n_sent(&server.seen()) > 0);
        let of_whole = compare(options(&server, &whole), ids, None);
        server.seen();
        assert_eq!(of_parts.finding, of_whole.finding, "{candidate}");
        for (x, y) in of_parts.records.iter().zip(&of_whole.records) {
            assert_eq!(x.effects, y.effects, "{candidate}: {}", x.test);
            assert_eq!(x.status, y.status, "{candidate}: {}", x.test);
        }
        let identity = &of_parts.records[0];
        let stated = format!("{identity:?}").contains("digests-stated");
        assert!(stated, "{identity:?}");
        assert!(!format!("{:?}", of_whole.records[0]).contains("digests-stated"));
    }
}

#[test]
fn within_a_budget_no_more_is_fetched_and_the_verdict_is_that_of_the_whole() {
    let (server, folder) = (HubServer::start(), tempfile::tempdir().unwrap());
    let pairs = [
        ["llama-a", "llama-a-tuned"],
        ["llama-a", "llama-a-other-seed"],
        ["gpt2-a", "gpt2-a-tuned"],
        ["gpt2-a", "gpt2-a-other-seed"],
    ];
    for id in pairs.iter().flatten() {
        put_zoo(&server, id);
    }
    for (n, ids) in pairs.into_iter().enumerate() {
        let whole = compare(options(&server, folder.path()), ids, None);
        let size = |id: &str| fs::metadata(zoo(id).join(WEIGHTS)).unwrap().len();
        for share in [3, 2] {
            server.seen();
            let budget = (size(ids[0]) + size(ids[1])) * share / 4;
            // A cache of its own: what another run left would not be fetched.
            let cache = folder.path().join(format!("{n}-{share}"));
            let within = compare(in_parts(&server, &cache), ids, Some(budget));
            let n_sent = n_sent(&server.seen()) as u64;
            println!(
                "{ids:?}: {n_sent} of {budget} bytes, {:?}",
                within.finding.overall.relation
            );
            assert!(
                n_sent > 0 && n_sent <= budget,
                "{ids:?}: {n_sent} of {budget}"
            );
            assert_eq!(
                within.finding.overall.relation, whole.finding.overall.relation,
                "{ids:?} within {budget} bytes"
            );
            let note = within
                .reference
                .notes
                .iter()
                .any(|n| n.contains("within the budget"));
            assert!(note, "{:?}", within.reference.notes);
        }
    }
}

#[test]
fn a_budget_that_holds_nothing_says_so_in_every_test_of_weights() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    for id in ["llama-a", "llama-a-tuned"] {
        put_zoo(&server, id);
    }
    let fetch = in_parts(&server, cache.path());
    let report = compare(fetch, ["llama-a", "llama-a-tuned"], Some(1000));
    // The headers, without which there is no model.
    assert_eq!(n_sent(&server.seen()), 2 * (64 << 10));
    let identity = report.records.iter().find(|r| r.test == "tensor-identity");
    let reason = identity.and_then(|r| r.reason.clone()).unwrap();
    assert!(reason.starts_with("outside the budget"), "{reason}");
    assert!(identity.is_some_and(|r| r.has_observation(OUTSIDE_THE_BUDGET)));
    let overall = report.finding.overall.relation;
    assert_eq!(overall, Relation::Inconclusive);
}

#[test]
fn a_copy_of_which_a_part_was_read_is_not_called_one() {
    let (server, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    put_zoo(&server, "llama-a");
    let fetch = in_parts(&server, cache.path());
    let ids = ["llama-a", "llama-a"];
    let whole = compare(fetch.clone(), ids, None);
    assert_eq!(whole.finding.overall.relation, Relation::Identical);
    let part = compare(fetch, ids, Some(600_000));
    assert_ne!(part.finding.overall.relation, Relation::Identical);
    assert_eq!(part.finding.overall.relation.related(), Some(true));
}

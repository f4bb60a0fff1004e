//! A hub on this machine: the API, file addresses that redirect to a second origin, ranges, and faults
//! on request. Speaks what the public hub speaks, as far as downloads need it.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a server does instead of answering a request for a file (or for the list, path `list`).
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with one header.
    Status(u16, &'static str, &'static str),
    /// Only so many bytes of the body, then the connection ends.
    Cut(usize),
    /// So many bytes, then nothing for a while.
    Stall(usize, Duration),
    /// The body byte by byte, with a pause after each.
    Trickle(Duration),
    /// Other bytes of the same length.
    Corrupt,
    /// The whole file although a part was asked for.
    IgnoreRange,
    /// More bytes than announced.
    Endless,
    /// Another part than was asked for, of the right length.
    WrongRange,
    /// A part that never ends, though no length was announced.
    EndlessPart,
    /// The right part with another etag.
    Etag(&'static str),
    /// Another body altogether.
    Body(String),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub if_match: Option<String>,
    /// Whether it came to the second origin.
    pub at_files: bool,
    /// Bytes of the body that were sent.
    pub n_sent: usize,
}

/// Content of a file, and the name of its blob, which is computed once.
#[derive(Clone)]
struct File {
    content: Arc<[u8]>,
    id: String,
}

#[derive(Default)]
struct State {
    /// Repository and path.
    files: BTreeMap<(String, String), File>,
    faults: HashMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
    /// Requests that are being answered; they are seen once that has ended.
    n_open: usize,
    gated: bool,
    terse: bool,
}

/// The running server; it ends with this value.
pub struct HubServer {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    ports: [u16; 2],
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The hub keeps large and binary files in LFS.
fn in_lfs(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".bin")
}

/// Name of a file's blob.
pub fn etag(path: &str, content: &[u8]) -> String {
    if in_lfs(path) {
        return hex(&Sha256::digest(content));
    }
    let mut digest = Sha1::new();
    Digest::update(&mut digest, format!("blob {}\0", content.len()));
    Digest::update(&mut digest, content);
    hex(&digest.finalize())
}

impl HubServer {
    pub fn start() -> Self {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = [0, 1].map(|i: usize| listeners[i].local_addr().expect("an address").port());
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        for (listener, at_files) in listeners.into_iter().zip([false, true]) {
            let (state, stop) = (state.clone(), stop.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let state = state.clone();
                    // A client that went away is its own affair.
                    std::thread::spawn(move || {
                        serve(stream, at_files, ports, &state).unwrap_or_default()
                    });
                }
            });
        }
        Self {
            endpoint: format!("http://127.0.0.1:{}", ports[0]),
            state,
            stop,
            ports,
        }
    }

    pub fn put(&self, repository: &str, path: &str, content: &[u8]) {
        let key = (repository.to_owned(), path.to_owned());
        let file = File {
            content: content.into(),
            id: etag(path, content),
        };
        self.state.lock().unwrap().files.insert(key, file);
    }

    /// Puts the files of a folder into a repository.
    pub fn put_folder(&self, repository: &str, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name").to_string_lossy();
                self.put(repository, &name, &fs::read(&path).expect("a file"));
            }
        }
    }

    /// The next requests for this path fail so, one fault each.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        let mut state = self.state.lock().unwrap();
        state
            .faults
            .entry(path.to_owned())
            .or_default()
            .extend(faults.iter().cloned());
    }

    pub fn gate(&self) {
        self.state.lock().unwrap().gated = true;
    }

    /// The list tells names only, as some mirrors do; of each file one must ask.
    pub fn be_terse(&self) {
        self.state.lock().unwrap().terse = true;
    }

    /// Requests so far, and forgets them. A client may have its answer before the server has counted it:
    /// requests that are being answered are waited for, though not for ever, since some faults stall.
    pub fn seen(&self) -> Vec<Seen> {
        for _ in 0..500 {
            if self.state.lock().unwrap().n_open == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for port in self.ports {
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
    }
}

fn serve(
    stream: TcpStream,
    at_files: bool,
    ports: [u16; 2],
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (mut range, mut authorization, mut if_match) = (None, None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            let slot = match name.to_ascii_lowercase().as_str() {
                "range" => &mut range,
                "authorization" => &mut authorization,
                "if-match" => &mut if_match,
                _ => continue,
            };
            *slot = Some(value.trim().to_owned());
        }
    }
    let mut seen = Seen {
        method: method.to_owned(),
        path: target.to_owned(),
        range,
        authorization,
        if_match,
        at_files,
        n_sent: 0,
    };
    let mut out = stream;
    state.lock().unwrap().n_open += 1;
    let result = answer(&mut seen, ports, state, &mut out);
    let mut state = state.lock().unwrap();
    state.n_open -= 1;
    state.seen.push(seen);
    result
}

fn respond(
    out: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(body)
}

fn answer(
    seen: &mut Seen,
    ports: [u16; 2],
    state: &Mutex<State>,
    out: &mut TcpStream,
) -> std::io::Result<()> {
    let path = seen.path.split('?').next().unwrap_or_default().to_owned();
    let (gated, terse, files) = {
        let state = state.lock().unwrap();
        (state.gated, state.terse, state.files.clone())
    };
    // A renamed repository is redirected within the hub; one that moves to itself is never found.
    for (from, to) in [
        ("/org/old/", "/org/name/"),
        ("/org/circle/", "/org/circle/"),
    ] {
        if path.contains(from) {
            let location = ("Location", seen.path.replace(from, to));
            return respond(out, "307 Temporary Redirect", &[location], b"");
        }
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if let ["api", "models", org, name, "revision", revision] = segments.as_slice() {
        let repository = format!("{org}/{name}");
        let none = !files.keys().any(|(r, _)| *r == repository);
        if let Some(fault) = take_fault(state, "list") {
            return faulty(&fault, b"{}", 0..2, seen, out);
        }
        if none {
            let code = ("X-Error-Code", "RepoNotFound".to_owned());
            return respond(out, "404 Not Found", &[code], b"");
        }
        if !["main", COMMIT, "refs%2Fpr%2F1"].contains(revision) {
            let code = ("X-Error-Code", "RevisionNotFound".to_owned());
            return respond(out, "404 Not Found", &[code], b"");
        }
        let siblings: Vec<serde_json::Value> = files
            .iter()
            .filter(|((r, _), _)| *r == repository)
            .map(|((_, path), File { content, id })| {
                if terse {
                    return serde_json::json!({"rfilename": path});
                }
                let mut sibling = serde_json::json!({"rfilename": path, "size": content.len(), "blobId": "0".repeat(40)});
                if in_lfs(path) {
                    sibling["lfs"] = serde_json::json!({"sha256": id, "size": content.len(), "pointerSize": 134});
                } else {
                    sibling["blobId"] = id.clone().into();
                }
                sibling
            })
            .collect();
        let body = serde_json::json!({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings,
            "private": false, "tags": [], "downloads": 0, "likes": 0});
        return respond(
            out,
            "200 OK",
            &[("Content-Type", "application/json".to_owned())],
            body.to_string().as_bytes(),
        );
    }
    if let ["api", "models", org, name, "tree", ..] = segments.as_slice() {
        // What newer reference clients ask for instead of the list above.
        let repository = format!("{org}/{name}");
        let entries: Vec<serde_json::Value> = files
            .iter()
            .filter(|((r, _), _)| *r == repository)
            .map(|((_, path), File { content, id })| {
                let mut entry = serde_json::json!({"type": "file", "path": path, "size": content.len(), "oid": "0".repeat(40)});
                if in_lfs(path) {
                    entry["lfs"] = serde_json::json!({"oid": id, "size": content.len(), "pointerSize": 134});
                } else {
                    entry["oid"] = id.clone().into();
                }
                entry
            })
            .collect();
        let body = serde_json::Value::from(entries).to_string();
        return respond(
            out,
            "200 OK",
            &[("Content-Type", "application/json".to_owned())],
            body.as_bytes(),
        );
    }
    let [org, name, "resolve", _, rest @ ..] = segments.as_slice() else {
        return respond(out, "404 Not Found", &[], b"");
    };
    let (repository, file) = (format!("{org}/{name}"), rest.join("/"));
    let Some(File { content, id }) = files.get(&(repository, file.clone())) else {
        return respond(
            out,
            "404 Not Found",
            &[("X-Error-Code", "EntryNotFound".to_owned())],
            b"",
        );
    };
    if gated && !seen.at_files {
        return respond(
            out,
            "403 Forbidden",
            &[("X-Error-Code", "GatedRepo".to_owned())],
            b"",
        );
    }
    if in_lfs(&file) && !seen.at_files {
        let headers = [
            (
                "Location",
                format!("http://127.0.0.1:{}{path}?Signature=secret", ports[1]),
            ),
            ("X-Linked-Etag", format!("\"{id}\"")),
            ("X-Linked-Size", content.len().to_string()),
        ];
        return respond(out, "302 Found", &headers, b"");
    }
    if seen.method == "HEAD" {
        let headers = [
            ("ETag", format!("\"{id}\"")),
            ("Content-Length", content.len().to_string()),
        ];
        return respond(out, "200 OK", &headers, b"");
    }
    let asked = seen.range.as_deref().and_then(|r| {
        let (from, last) = r.strip_prefix("bytes=")?.split_once('-')?;
        let end = last.parse::<usize>().map_or(content.len(), |last| last + 1);
        Some((from.parse::<usize>().ok()?, end.min(content.len())))
    });
    let (from, end) = asked.unwrap_or((0, content.len()));
    if let Some(fault) = take_fault(state, &file) {
        return faulty(&fault, content, from..end, seen, out);
    }
    whole(content, from..end, id, seen, out)
}

fn take_fault(state: &Mutex<State>, path: &str) -> Option<Fault> {
    state
        .lock()
        .unwrap()
        .faults
        .get_mut(path)
        .and_then(VecDeque::pop_front)
}

fn content_range(asked: &Range<usize>, content: &[u8]) -> String {
    let last = asked.end.saturating_sub(1);
    format!("bytes {}-{last}/{}", asked.start, content.len())
}

fn whole(
    content: &[u8],
    asked: Range<usize>,
    id: &str,
    seen: &mut Seen,
    out: &mut TcpStream,
) -> std::io::Result<()> {
    let etag = ("ETag", format!("\"{id}\""));
    if seen.range.is_some() && asked.start < asked.end {
        seen.n_sent = asked.len();
        let range = content_range(&asked, content);
        return respond(
            out,
            "206 Partial Content",
            &[etag, ("Content-Range", range)],
            &content[asked],
        );
    }
    seen.n_sent = content.len();
    respond(out, "200 OK", &[etag], content)
}

fn faulty(
    fault: &Fault,
    content: &[u8],
    asked: Range<usize>,
    seen: &mut Seen,
    out: &mut TcpStream,
) -> std::io::Result<()> {
    let rest = &content[asked.start.min(content.len())..asked.end];
    let status = if seen.range.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let mut headers = vec![("Content-Length", rest.len().to_string())];
    if seen.range.is_some() {
        headers.push(("Content-Range", content_range(&asked, content)));
    }
    match fault {
        Fault::Status(code, name, value) => respond(
            out,
            &format!("{code} Fault"),
            &[(name, (*value).to_owned())],
            b"",
        ),
        Fault::Cut(n) => {
            seen.n_sent = *n;
            respond(out, status, &headers, &rest[..*n])
        }
        Fault::Stall(n, time) => {
            seen.n_sent = *n;
            respond(out, status, &headers, &rest[..*n])?;
            out.flush()?;
            std::thread::sleep(*time);
            Ok(())
        }
        Fault::Trickle(pause) => {
            respond(out, status, &headers, b"")?;
            for byte in rest {
                out.write_all(&[*byte])?;
                std::thread::sleep(*pause);
            }
            Ok(())
        }
        Fault::Corrupt => {
            let other: Vec<u8> = rest.iter().map(|b| b ^ 0x55).collect();
            respond(out, status, &headers, &other)
        }
        Fault::IgnoreRange => {
            seen.n_sent = content.len();
            respond(out, "200 OK", &[], content)
        }
        Fault::Endless => {
            let more = [content, content].concat();
            respond(out, "200 OK", &[], &more)
        }
        Fault::WrongRange => {
            let other = asked.start + 1..asked.end + 1;
            headers[1].1 = content_range(&other, content);
            respond(out, status, &headers, rest)
        }
        Fault::EndlessPart => {
            let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
            head.push_str(&format!("{}: {}\r\n\r\n", headers[1].0, headers[1].1));
            out.write_all(head.as_bytes())?;
            // Ends when the client goes away.
            loop {
                out.write_all(&[0; 4096])?;
            }
        }
        Fault::Etag(etag) => {
            headers.push(("ETag", format!("\"{etag}\"")));
            respond(out, status, &headers, rest)
        }
        Fault::Body(text) => respond(out, "200 OK", &[], text.as_bytes()),
    }
}

//! A web server on this machine that answers as a test says: it hands each request to a function and
//! sends what that gives back, whole or in one of the ways in which servers fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// How a body is sent.
#[derive(Clone, Debug)]
pub enum Flow {
    Whole,
    /// Only so many bytes, then the connection ends.
    Cut(usize),
    /// One byte, a pause, and so on.
    Trickle(Duration),
    /// Zeros without end and without an announced length.
    Endless,
}

/// What is sent back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub flow: Flow,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            flow: Flow::Whole,
        }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn flowing(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// A file as a good server sends it: parts if asked, and only with the right etag.
    pub fn file(asked: &Asked, content: &[u8], etag: Option<&str>) -> Self {
        let tagged = |answer: Self| match etag {
            Some(etag) => answer.with("ETag", etag),
            None => answer,
        };
        if let (Some(etag), Some(wanted)) = (etag, asked.header("if-match"))
            && etag != wanted
        {
            return Self::new(412, "");
        }
        let range = asked.header("range").and_then(|range| {
            let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let from: usize = from.parse().ok()?;
            let end = last.parse().map_or(content.len(), |last: usize| last + 1);
            Some(from..end.min(content.len()))
        });
        match range {
            Some(range) if range.start >= content.len() => {
                Self::new(416, "").with("Content-Range", format!("bytes */{}", content.len()))
            }
            Some(range) => {
                let stated = format!("bytes {}-{}/{}", range.start, range.end - 1, content.len());
                tagged(Self::new(206, &content[range]).with("Content-Range", stated))
            }
            None => tagged(Self::new(200, content)),
        }
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The running server; it ends with this value.
pub struct WebServer {
    /// `http://127.0.0.1:port`
    pub url: String,
    seen: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    port: u16,
}

impl WebServer {
    pub fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen_, stop_) = (Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop_.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen_));
                // A client that went away is its own affair.
                std::thread::spawn(move || {
                    serve(stream, handler.as_ref(), &seen).unwrap_or_default()
                });
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            seen,
            stop,
            port,
        }
    }

    /// Requests so far, and forgets them.
    pub fn seen(&self) -> Vec<Asked> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, handler: &Handler, seen: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next(), words.next());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let asked = Asked {
        method: method.unwrap_or_default(),
        target: target.unwrap_or_default(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    // Before the answer, so that whoever has it finds the request counted.
    seen.lock().unwrap().push(asked.clone());
    send(stream, &asked, &handler(&asked))
}

fn send(mut out: TcpStream, asked: &Asked, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-length");
    let is_endless = matches!(answer.flow, Flow::Endless);
    if !is_endless && !answer.headers.iter().any(has_length) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    match answer.flow {
        Flow::Whole => out.write_all(&answer.body),
        Flow::Cut(n) => out.write_all(&answer.body[..n.min(answer.body.len())]),
        Flow::Trickle(pause) => answer.body.chunks(1).try_for_each(|byte| {
            out.write_all(byte)?;
            std::thread::sleep(pause);
            Ok(())
        }),
        // Ends when the client goes away.
        Flow::Endless => loop {
            out.write_all(&[0; 4096])?;
        },
    }
}

//! Requests to a hub: what a repository holds, and the bytes of a file.
//!
//! The token goes to the hub's own origin and nowhere else: files are sent from other hosts, and those
//! get their signed address and no more. Answers of strangers are capped and checked before use.

use super::super::SourceError;
use super::cache::{is_commit, is_etag, is_safe};
use super::settings::FetchOptions;
use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MATCH, LOCATION, RANGE, RETRY_AFTER, USER_AGENT,
};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Bytes of an answer about a repository.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Files that a repository may list.
const MAX_FILES: usize = 50_000;
/// Redirects that are followed for one file.
const MAX_REDIRECTS: usize = 8;
/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path in the repository; safe to append to a folder.
    pub(super) path: String,
    /// Name of its blob: SHA-256 for files in LFS, git's id for the others, both in lower case.
    pub(super) etag: String,
    /// Size in bytes.
    pub(super) size_bytes: u64,
    /// Whether it is in LFS, so that the etag is the SHA-256 of the content.
    pub(super) in_lfs: bool,
}

/// What a repository holds at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit.
    pub(super) commit: String,
    /// Files that an audit needs.
    pub(super) files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

/// Why a request did not succeed, and whether another attempt may.
#[derive(Debug)]
pub(super) enum Failure {
    /// It will not.
    Final(SourceError),
    /// The server asks to slow down, perhaps for how long.
    Slow(Option<Duration>),
    /// It may.
    Passing(String),
}

/// What a request asks for beside the address.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The value of `Range`.
    pub(super) range: Option<String>,
    /// The etag that the file must still have, and the host that gave it: no other host knows it.
    pub(super) if_match: Option<(String, String)>,
}

/// A hub as this session sees it.
#[derive(Debug)]
pub(super) struct Hub {
    client: Client,
    options: FetchOptions,
    repository: String,
    base: Url,
    authorization: Option<HeaderValue>,
}

fn setting(options: &FetchOptions, problem: impl ToString) -> SourceError {
    SourceError::Setting {
        variable: "HF_ENDPOINT",
        value: options.endpoint.clone(),
        problem: problem.to_string(),
    }
}

/// The client cannot be made; what it needs of the system is authorities to trust.
fn no_authorities(error: &reqwest::Error) -> SourceError {
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        problem = format!("{problem}: {inner}");
        cause = inner.source();
    }
    SourceError::Setting {
        variable: "SSL_CERT_FILE",
        value: std::env::var("SSL_CERT_FILE").unwrap_or_default(),
        problem: format!(
            "{problem}; install the system's certificates (package ca-certificates) or name a file of them"
        ),
    }
}

pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// An etag without its quotes and its mark of weakness.
fn plain_etag(text: &str) -> &str {
    text.trim().trim_start_matches("W/").trim_matches('"')
}

/// How long a server that limits the rate wants to be left alone: `Retry-After` in seconds, or the
/// public hub's own `RateLimit: "api";r=0;t=55`.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = match header(headers, RETRY_AFTER.as_str()) {
        Some(seconds) => seconds.trim().parse().ok(),
        None => header(headers, "ratelimit")?
            .split(';')
            .find_map(|part| part.trim().strip_prefix("t=")?.trim().parse().ok()),
    };
    seconds.map(Duration::from_secs)
}

/// The header that carries the token; a token that no header can carry is not shown.
fn authorization(token: &str) -> Result<HeaderValue, SourceError> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| SourceError::Setting {
            variable: "HF_TOKEN",
            value: "…".to_owned(),
            problem: "expected a token in one line of printable characters".to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Hub {
    pub(super) fn new(options: &FetchOptions, repository: &str) -> Result<Self, SourceError> {
        // A second installation is refused, and the first one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = Url::parse(&options.endpoint).map_err(|e| setting(options, e))?;
        if !["http", "https"].contains(&base.scheme()) || base.host().is_none() {
            return Err(setting(options, "expected an address such as https://host"));
        }
        let client = Client::builder()
            // Followed by hand, so that the token stays with the hub.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(options.stall)
            .build()
            .map_err(|e| no_authorities(&e))?;
        Ok(Self {
            client,
            options: options.clone(),
            repository: repository.to_owned(),
            base,
            authorization: options.token.as_deref().map(authorization).transpose()?,
        })
    }

    /// Whether an address is the hub's own.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// An address below the endpoint; each segment is escaped on its own.
    fn url(&self, segments: &[&str]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        let written = url.path_segments_mut().map(|mut path| {
            path.pop_if_empty();
            path.extend(segments);
        });
        match written {
            Ok(()) => Ok(url),
            Err(()) => Err(Failure::Final(setting(
                &self.options,
                "no path can follow it",
            ))),
        }
    }

    /// Sends a request and follows its redirects.
    pub(super) async fn send(
        &self,
        method: Method,
        mut url: Url,
        asked: &Asked,
    ) -> Result<Response, Failure> {
        let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .client
                .request(method.clone(), url.clone())
                .header(USER_AGENT, agent);
            if let Some(authorization) = &self.authorization
                && url.origin() == self.base.origin()
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            if let Some(range) = &asked.range {
                request = request.header(RANGE, range);
            }
            if let Some((origin, etag)) = &asked.if_match
                && *origin == url.origin().ascii_serialization()
            {
                request = request.header(IF_MATCH, etag);
            }
            let response = request.send().await.map_err(|e| passing(&e))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            // Of a redirected file the hub itself says what it is.
            if method == Method::HEAD && response.headers().contains_key("x-linked-etag") {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|l| l.to_str().ok());
            let next = location.and_then(|l| url.join(l).ok());
            url = match next {
                Some(next) if next.scheme() == "https" || next.scheme() == self.base.scheme() => {
                    next
                }
                // From https to http: whoever listens could answer in the host's place.
                Some(next) if next.scheme() == "http" => {
                    return Err(self.protocol(
                        &url,
                        "an https address to go on with",
                        shown(&next),
                    ));
                }
                _ => return Err(self.protocol(&url, "an address to go on with", "none")),
            };
        }
        Err(self.protocol(&url, "a file", "more redirects than any file needs"))
    }

    pub(super) fn protocol(&self, url: &Url, expected: &str, found: impl ToString) -> Failure {
        Failure::Final(SourceError::Protocol {
            url: shown(url),
            expected: expected.to_owned(),
            found: found.to_string(),
        })
    }

    /// What an answer's status means for the repository.
    pub(super) fn refused(&self, response: &Response, revision: &str) -> Failure {
        let status = response.status();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let endpoint = self.options.endpoint.clone();
        let repository = self.repository.clone();
        let not_found = || SourceError::NotFound {
            repository: repository.clone(),
            revision: revision.to_owned(),
            endpoint: endpoint.clone(),
        };
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Failure::Slow(asked_wait(response.headers()));
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return Failure::Passing(format!("status {status}"));
        }
        Failure::Final(match (status.as_u16(), code) {
            (_, "GatedRepo") => SourceError::Gated {
                repository,
                endpoint,
            },
            (_, "RepoNotFound" | "RevisionNotFound" | "EntryNotFound") | (404, _) => not_found(),
            // The public hub answers so for what is not there, unless one may know.
            (401 | 403, _) if self.authorization.is_none() => not_found(),
            (401 | 403, _) => SourceError::Unauthorized {
                endpoint,
                status: status.as_u16(),
            },
            _ => SourceError::Protocol {
                url: shown(response.url()),
                expected: "a repository's answer".to_owned(),
                found: format!("status {status}"),
            },
        })
    }

    /// Lists the needed files of a revision.
    pub(super) async fn listing(
        &self,
        revision: &str,
        is_needed: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Listing, Failure> {
        let mut segments = vec!["api", "models"];
        segments.extend(self.repository.split('/'));
        segments.extend(["revision", revision]);
        let mut url = self.url(&segments)?;
        url.set_query(Some("blobs=true"));
        let mut response = self
            .send(Method::GET, url.clone(), &Asked::default())
            .await?;
        if !response.status().is_success() {
            return Err(self.refused(&response, revision));
        }
        let mut body: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| passing(&e))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                let found = format!("more than {MAX_ANSWER_BYTES} bytes");
                return Err(self.protocol(&url, "a list of files", found));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|e| self.protocol(&url, "a list of files", e))?;
        if !is_commit(&answer.sha) {
            return Err(self.protocol(&url, "a commit of 40 hexadecimal digits", answer.sha));
        }
        if answer.siblings.len() > MAX_FILES {
            let found = format!("{} files", answer.siblings.len());
            return Err(self.protocol(&url, "a model's files", found));
        }
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for sibling in answer.siblings {
            let path = &sibling.rfilename;
            // The name of a file that is not fetched does no harm, and logs have strange ones.
            if !is_needed(path) {
                continue;
            }
            if !is_safe(path) {
                return Err(self.protocol(
                    &url,
                    "paths within the repository",
                    format!("{path:?}"),
                ));
            }
            if seen.insert(path.clone()) {
                files.push(self.file(&answer.sha, sibling).await?);
            }
        }
        Ok(Listing {
            commit: answer.sha,
            files,
        })
    }

    /// A file with its blob's name, asked for where the list does not say it.
    async fn file(&self, commit: &str, sibling: Sibling) -> Result<RemoteFile, Failure> {
        let path = sibling.rfilename;
        let (etag, size_bytes, in_lfs) = match (&sibling.lfs, &sibling.blob_id) {
            (Some(lfs), _) => {
                let id = lfs.sha256.clone().or_else(|| lfs.oid.clone());
                (id, lfs.size.or(sibling.size), true)
            }
            (None, Some(blob)) => (Some(blob.clone()), sibling.size, false),
            (None, None) => (None, None, false),
        };
        if let (Some(etag), Some(size_bytes)) = (etag, size_bytes) {
            let length = if in_lfs { 64 } else { 40 };
            if etag.len() != length || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
                let expected = format!("a digest of {length} hexadecimal digits for {path}");
                return Err(self.protocol(&self.base, &expected, etag));
            }
            return Ok(RemoteFile {
                path,
                etag: etag.to_ascii_lowercase(),
                size_bytes,
                in_lfs,
            });
        }
        self.head(commit, path).await
    }

    /// What the hub says of a file when asked for it alone.
    async fn head(&self, commit: &str, path: String) -> Result<RemoteFile, Failure> {
        let url = self.resolve(commit, &path)?;
        let response = self
            .send(Method::HEAD, url.clone(), &Asked::default())
            .await?;
        if !response.status().is_success() && !response.status().is_redirection() {
            return Err(self.refused(&response, commit));
        }
        let headers = response.headers();
        let linked = header(headers, "x-linked-etag");
        let etag = linked
            .or_else(|| header(headers, ETAG.as_str()))
            .map(plain_etag);
        let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
        match (etag, size.and_then(|s| s.parse().ok())) {
            (Some(etag), Some(size_bytes)) if is_etag(etag) => {
                let is_hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
                let in_lfs = is_hex && etag.len() == 64;
                let is_git = is_hex && etag.len() == 40;
                Ok(RemoteFile {
                    etag: match in_lfs || is_git {
                        true => etag.to_ascii_lowercase(),
                        false => etag.to_owned(),
                    },
                    in_lfs,
                    size_bytes,
                    path,
                })
            }
            found => Err(self.protocol(&url, "an etag and a size", format!("{found:?}"))),
        }
    }

    pub(super) fn resolve(&self, commit: &str, path: &str) -> Result<Url, Failure> {
        let mut segments: Vec<&str> = self.repository.split('/').collect();
        segments.extend(["resolve", commit]);
        segments.extend(path.split('/'));
        self.url(&segments)
    }

    /// The bytes of a file from an offset on.
    pub(super) async fn bytes(
        &self,
        commit: &str,
        path: &str,
        from: u64,
    ) -> Result<Response, Failure> {
        let url = self.resolve(commit, path)?;
        let asked = Asked {
            range: (from > 0).then(|| format!("bytes={from}-")),
            if_match: None,
        };
        let response = self.send(Method::GET, url, &asked).await?;
        match response.status() {
            status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            // A signed address that has expired: the hub gives a new one.
            StatusCode::FORBIDDEN if response.url().origin() != self.base.origin() => Err(
                Failure::Passing("status 403 of the file's own host".to_owned()),
            ),
            _ => Err(self.refused(&response, commit)),
        }
    }
}

/// An address without what follows the question mark: signatures are no one's business.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// A failure of the connection, without the address that may hold a signature.
pub(super) fn passing(error: &reqwest::Error) -> Failure {
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        "the connection failed".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    let mut is_refused = false;
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        is_refused |= is_bad_certificate(inner);
        cause = inner.source();
    }
    if is_refused {
        // Another attempt would end the same.
        return Failure::Final(SourceError::Unreachable {
            url: error.url().map(shown).unwrap_or_default(),
            attempts: 1,
            last: text,
        });
    }
    Failure::Passing(text)
}

/// Whether the host's certificate was not to be trusted. Errors of TLS come wrapped in those of the
/// system.
fn is_bad_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return matches!(error, rustls::Error::InvalidCertificate(_));
    }
    error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .is_some_and(|inner| is_bad_certificate(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_a_server_asks_for_is_understood_in_both_forms() {
        let wait = |name: &'static str, value: &'static str| {
            asked_wait(&HeaderMap::from_iter([(
                reqwest::header::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]))
        };
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(wait("retry-after", " 7 "), seconds(7));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), seconds(55));
        for value in ["-1", "Wed, 21 Oct 2015 07:28:00 GMT", ""] {
            assert_eq!(wait("retry-after", value), None, "{value}");
        }
        assert_eq!(wait("ratelimit", "\"api\";r=0"), None);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused_and_not_shown() {
        let error = authorization("a\nsecret").unwrap_err().to_string();
        assert!(
            error.contains("HF_TOKEN") && !error.contains("secret"),
            "{error}"
        );
        assert!(!format!("{:?}", authorization("secret").unwrap()).contains("secret"));
    }
}

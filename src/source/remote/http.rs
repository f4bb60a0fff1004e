//! Requests to servers of strangers: redirects followed by hand, failures told apart by whether another
//! attempt may help, answers capped.
//!
//! What opens a door (a token, a header of a signed address) goes to the origin that it is for and
//! nowhere else: files are often sent from other hosts, and those get their address and no more.

use super::super::{FetchOptions, SourceError};
use reqwest::header::{HeaderMap, HeaderValue, IF_MATCH, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use std::time::{Duration, Instant};

/// Redirects that are followed for one file.
const MAX_REDIRECTS: usize = 8;
/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer that lists files.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// A body that comes slower than this is given up, so that no server holds us for ever.
pub(in crate::source) const SLOWEST_BYTES_PER_SECOND: u64 = 8 << 10;

/// Time after which the pace of an answer counts.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Whether so many bytes since then are fewer than any use of them allows.
pub(in crate::source) fn is_too_slow(n_bytes: u64, since: Instant) -> bool {
    n_bytes as f64 <= since.elapsed().as_secs_f64() * SLOWEST_BYTES_PER_SECOND as f64
}

/// Why a request did not succeed, and whether another attempt may.
#[derive(Debug)]
pub(in crate::source) enum Failure {
    /// It will not.
    Final(SourceError),
    /// The server asks to slow down, perhaps for how long.
    Slow(Option<Duration>),
    /// It may.
    Passing(String),
}

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub(in crate::source) struct Address {
    /// The address itself.
    pub(in crate::source) url: Url,
    /// Sent to the origin of the address alone.
    pub(in crate::source) headers: HeaderMap,
    /// Whether it is good for a while only; the source gives a new one.
    pub(in crate::source) expires: bool,
}

impl Address {
    /// An address that needs no headers and does not expire.
    pub(in crate::source) fn open(url: Url) -> Self {
        Self {
            url,
            headers: HeaderMap::new(),
            expires: false,
        }
    }

    /// Whether a request that began here ended at another origin.
    pub(in crate::source) fn was_left(&self, end: &Url) -> bool {
        self.url.origin() != end.origin()
    }
}

/// What a request asks for beside the address.
#[derive(Debug, Default)]
pub(in crate::source) struct Asked {
    /// The value of `Range`.
    pub(in crate::source) range: Option<String>,
    /// The origin that gave an etag, and the etag that the file must still have: no other host knows it.
    pub(in crate::source) if_match: Option<(String, String)>,
}

/// The client of one session.
#[derive(Debug)]
pub(in crate::source) struct Http {
    client: Client,
    /// Time for an answer to begin.
    patience: Duration,
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

/// A header that is text.
pub(in crate::source) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The header that carries a token; a token that no header can carry is not shown.
pub(in crate::source) fn bearer(
    token: &str,
    variable: &'static str,
) -> Result<HeaderValue, SourceError> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| SourceError::Setting {
            variable,
            value: "…".to_owned(),
            problem: "expected a token in one line of printable characters".to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
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

impl Http {
    /// # Errors
    /// When the system trusts no authority.
    pub(in crate::source) fn new(options: &FetchOptions) -> Result<Self, SourceError> {
        // A second installation is refused, and the first one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            // Followed by hand, so that tokens stay where they belong.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(options.stall)
            .build()
            .map_err(|e| no_authorities(&e))?;
        Ok(Self {
            client,
            patience: CONNECT_TIMEOUT + options.stall,
        })
    }

    /// The beginning of an answer; one that comes byte by byte does not hold us for ever.
    async fn begun(&self, request: RequestBuilder) -> Result<Response, Failure> {
        match tokio::time::timeout(self.patience, request.send()).await {
            Ok(sent) => sent.map_err(|e| passing(&e)),
            Err(_) => Err(Failure::Passing("no answer in time".to_owned())),
        }
    }

    /// Sends a request and follows its redirects, never from https to http.
    pub(in crate::source) async fn send(
        &self,
        method: Method,
        address: &Address,
        asked: &Asked,
    ) -> Result<Response, Failure> {
        self.send_until(method, address, asked, &|_| false).await
    }

    /// As [`Http::send`], and ends at a redirect whose headers say enough.
    pub(in crate::source) async fn send_until(
        &self,
        method: Method,
        address: &Address,
        asked: &Asked,
        is_enough: &(dyn Fn(&HeaderMap) -> bool + Sync),
    ) -> Result<Response, Failure> {
        let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        let mut url = address.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .client
                .request(method.clone(), url.clone())
                .header(USER_AGENT, agent);
            if !address.was_left(&url) {
                request = request.headers(address.headers.clone());
            }
            if let Some(range) = &asked.range {
                request = request.header(RANGE, range);
            }
            if let Some((origin, etag)) = &asked.if_match
                && *origin == url.origin().ascii_serialization()
            {
                request = request.header(IF_MATCH, etag);
            }
            let response = self.begun(request).await?;
            if !response.status().is_redirection() || is_enough(response.headers()) {
                return Ok(response);
            }
            let location = header(response.headers(), LOCATION.as_str());
            let next = location.and_then(|l| url.join(l).ok());
            url = match next {
                Some(next) if next.scheme() == "https" || next.scheme() == url.scheme() => next,
                // From https to http: whoever listens could answer in the host's place.
                Some(next) if next.scheme() == "http" => {
                    return Err(protocol(
                        &url,
                        "an https address to go on with",
                        shown(&next),
                    ));
                }
                _ => return Err(protocol(&url, "an address to go on with", "none")),
            };
        }
        Err(protocol(
            &address.url,
            "a file",
            "more redirects than any file needs",
        ))
    }

    /// The whole answer to a plain request, of what is no file of a model, and the address that sent it.
    /// `what` is what was expected, `refused` what any other status than 200 means.
    pub(in crate::source) async fn answer(
        &self,
        address: &Address,
        what: &str,
        refused: &(dyn Fn(&Response) -> Failure + Sync),
    ) -> Result<(Url, Vec<u8>), Failure> {
        let response = self.send(Method::GET, address, &Asked::default()).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(&response));
        }
        Ok((response.url().clone(), body(response, what).await?))
    }

    /// Sends JSON and gives back the answer; a redirect is not followed, for what was sent is for one
    /// host.
    pub(in crate::source) async fn post(
        &self,
        address: &Address,
        body: String,
    ) -> Result<Response, Failure> {
        let request = self.client.post(address.url.clone());
        let request = request.headers(address.headers.clone()).body(body);
        self.begun(request).await
    }
}

/// The whole body of an answer that is not a file of a model. `what` is what was expected.
pub(in crate::source) async fn body(
    mut response: Response,
    what: &str,
) -> Result<Vec<u8>, Failure> {
    let url = response.url().clone();
    let mut body: Vec<u8> = Vec::new();
    let began = Instant::now();
    while let Some(chunk) = response.chunk().await.map_err(|e| passing(&e))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let found = format!("more than {MAX_ANSWER_BYTES} bytes");
            return Err(protocol(&url, what, found));
        }
        body.extend_from_slice(&chunk);
        if began.elapsed() > BODY_PATIENCE && is_too_slow(body.len() as u64, began) {
            return Err(Failure::Passing("the answer comes too slowly".to_owned()));
        }
    }
    Ok(body)
}

/// An answer that the protocol does not have.
pub(in crate::source) fn protocol(url: &Url, expected: &str, found: impl ToString) -> Failure {
    Failure::Final(SourceError::Protocol {
        url: shown(url),
        expected: expected.to_owned(),
        found: found.to_string(),
    })
}

/// The address of a server that a variable names, without a path of its own to speak of.
///
/// # Errors
/// When it is none that can be asked.
pub(in crate::source) fn server(variable: &'static str, address: &str) -> Result<Url, SourceError> {
    let setting = |problem: String| SourceError::Setting {
        variable,
        value: address.to_owned(),
        problem,
    };
    let url = Url::parse(address).map_err(|e| setting(e.to_string()))?;
    match ["http", "https"].contains(&url.scheme()) && url.host().is_some() {
        true => Ok(url),
        false => Err(setting(
            "expected an address such as https://host".to_owned(),
        )),
    }
}

/// What an answer means that is no file, where another attempt may help or else `advice`.
pub(in crate::source) fn refusal(response: &Response, advice: &str) -> Failure {
    may_pass(response).unwrap_or_else(|| {
        Failure::Final(SourceError::Refused {
            url: shown(response.url()),
            status: response.status().as_u16(),
            advice: advice.to_owned(),
        })
    })
}

/// What a status means wherever it comes from: to wait, or to try again; `None` for all others.
pub(in crate::source) fn may_pass(response: &Response) -> Option<Failure> {
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Some(Failure::Slow(asked_wait(response.headers())));
    }
    (status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT)
        .then(|| Failure::Passing(format!("status {status}")))
}

/// An address without what follows the question mark, and without user and password: signatures are
/// no one's business.
pub(in crate::source) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Addresses that cannot hold a user or a password have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// A failure of the connection, without the address that may hold a signature.
pub(in crate::source) fn passing(error: &reqwest::Error) -> Failure {
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
        let error = bearer("a\nsecret", "HF_TOKEN").unwrap_err().to_string();
        assert!(
            error.contains("HF_TOKEN") && !error.contains("secret"),
            "{error}"
        );
        assert!(!format!("{:?}", bearer("secret", "HF_TOKEN").unwrap()).contains("secret"));
    }

    #[test]
    fn an_address_is_shown_without_what_opens_it() {
        let url = Url::parse("https://user:pass@host/a?Signature=s").unwrap();
        assert_eq!(shown(&url), "https://host/a");
    }
}

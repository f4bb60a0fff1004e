//! Repositories in the hub's protocol, kept in its standard cache: `org/name`, `hf:org/name@revision`.
//!
//! The token goes to the hub's own origin and nowhere else: files are sent from other hosts, and those
//! get their signed address and no more. Answers of strangers are capped and checked before use.

use super::model_ref::ModelRefError;
use super::remote::cache::{RepoCache, is_commit, is_etag, is_safe};
use super::remote::http::{
    self, Address, Asked, Failure, Http, bearer, header, may_pass, protocol, shown,
};
use super::remote::{Id, Later, Listing, Published, Remote, RemoteFile};
use super::{FetchOptions, Progress, Snapshot, Source, SourceError, is_needed};
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Files that a repository may list.
const MAX_FILES: usize = 50_000;
/// The revision that a name without one means.
const MAIN: &str = "main";

/// The hub.
pub(super) struct HubSource;

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

/// The hub's own rule: letters, digits, `-`, `_`, `.`; no `--`, no `..`; 96 characters in all.
pub(super) fn is_repository(name: &str) -> bool {
    let segments: Vec<&str> = name.split('/').collect();
    let good = |segment: &&str| {
        !segment.is_empty()
            && !segment.starts_with(['.', '-'])
            && !segment.ends_with(['.', '-'])
            && !segment.contains("--")
            && !segment.contains("..")
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    name.len() <= 96 && segments.len() <= 2 && segments.iter().all(good)
}

/// A git reference name that cannot leave the cache's folder or smuggle in a query.
pub(super) fn is_revision(revision: &str) -> bool {
    !revision.is_empty()
        && revision.len() <= 255
        && !revision.contains("..")
        && !revision.starts_with(['/', '-'])
        && !revision.ends_with('/')
        && revision
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./+".contains(&b))
}

/// `org/name@revision` → (`org/name`, `revision`).
fn parts(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (name, None),
    }
}

impl Source for HubSource {
    fn id(&self) -> &'static str {
        "hub"
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["hf:"]
    }

    fn parse(&self, text: &str) -> Result<String, ModelRefError> {
        let name = text.strip_prefix("hf:").unwrap_or(text);
        let (repository, revision) = parts(name);
        if !is_repository(repository) {
            return Err(ModelRefError::BadRepository(name.to_owned()));
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(ModelRefError::BadRevision(name.to_owned()));
        }
        Ok(format!("hf:{name}"))
    }

    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        let (repository, revision) = parts(name.strip_prefix("hf:").unwrap_or(name));
        let revision = revision.unwrap_or(MAIN);
        Published {
            name: repository,
            revision,
            label: &|commit| format!("{repository}@{}", commit.get(..12).unwrap_or(commit)),
            cache: RepoCache::new(&options.cache, repository),
            kept_in: &options.cache,
            connect: &|| Ok(Arc::new(Hub::new(options, repository, revision)?)),
        }
        .snapshot(options, progress)
    }
}

/// A hub as this run sees it.
#[derive(Debug)]
struct Hub {
    http: Http,
    options: FetchOptions,
    repository: String,
    revision: String,
    base: Url,
    /// The token, for the hub's own origin.
    headers: HeaderMap,
}

/// An etag without its quotes and its mark of weakness.
fn plain_etag(text: &str) -> &str {
    text.trim().trim_start_matches("W/").trim_matches('"')
}

impl Hub {
    fn new(options: &FetchOptions, repository: &str, revision: &str) -> Result<Self, SourceError> {
        let base = http::server("HF_ENDPOINT", &options.endpoint)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.token {
            headers.insert(AUTHORIZATION, bearer(token, "HF_TOKEN")?);
        }
        Ok(Self {
            http: Http::new(options)?,
            options: options.clone(),
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            base,
            headers,
        })
    }

    /// An address below the endpoint; each segment is escaped on its own.
    fn url(&self, segments: &[&str]) -> Result<Address, Failure> {
        let mut url = self.base.clone();
        let written = url.path_segments_mut().map(|mut path| {
            path.pop_if_empty();
            path.extend(segments);
        });
        match written {
            Ok(()) => Ok(Address {
                url,
                headers: self.headers.clone(),
                expires: false,
            }),
            Err(()) => Err(protocol(
                &self.base,
                "an address that a path can follow",
                "none",
            )),
        }
    }

    fn resolve(&self, commit: &str, path: &str) -> Result<Address, Failure> {
        let mut segments: Vec<&str> = self.repository.split('/').collect();
        segments.extend(["resolve", commit]);
        segments.extend(path.split('/'));
        self.url(&segments)
    }

    /// Lists the needed files of a revision.
    async fn list(&self) -> Result<Listing, Failure> {
        let revision = self.revision.as_str();
        let mut segments = vec!["api", "models"];
        segments.extend(self.repository.split('/'));
        segments.extend(["revision", revision]);
        let mut address = self.url(&segments)?;
        address.url.set_query(Some("blobs=true"));
        let (what, refused) = ("a list of files", |r: &Response| self.refused(r, revision));
        let (url, body) = self.http.answer(&address, what, &refused).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| protocol(&url, what, e))?;
        if !is_commit(&answer.sha) {
            return Err(protocol(
                &url,
                "a commit of 40 hexadecimal digits",
                answer.sha,
            ));
        }
        if answer.siblings.len() > MAX_FILES {
            let found = format!("{} files", answer.siblings.len());
            return Err(protocol(&url, "a model's files", found));
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
                return Err(protocol(
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
                return Err(protocol(&self.base, &expected, etag));
            }
            let kind = if in_lfs { Id::Sha256 } else { Id::GitBlob };
            return Ok(RemoteFile {
                path,
                id: kind(etag.to_ascii_lowercase()),
                size_bytes,
                validator: None,
            });
        }
        self.head(commit, path).await
    }

    /// What the hub says of a file when asked for it alone.
    async fn head(&self, commit: &str, path: String) -> Result<RemoteFile, Failure> {
        let address = self.resolve(commit, &path)?;
        // Of a redirected file the hub itself says what it is.
        let is_linked = |headers: &HeaderMap| headers.contains_key("x-linked-etag");
        let asked = Asked::default();
        let sent = self
            .http
            .send_until(Method::HEAD, &address, &asked, &is_linked);
        let response = sent.await?;
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
                let id = match etag.len() {
                    64 if is_hex => Id::Sha256(etag.to_ascii_lowercase()),
                    40 if is_hex => Id::GitBlob(etag.to_ascii_lowercase()),
                    _ => Id::Named(etag.to_owned()),
                };
                Ok(RemoteFile {
                    path,
                    id,
                    size_bytes,
                    validator: None,
                })
            }
            found => Err(protocol(
                &address.url,
                "an etag and a size",
                format!("{found:?}"),
            )),
        }
    }
}

impl Remote for Hub {
    fn http(&self) -> &Http {
        &self.http
    }

    fn endpoint(&self) -> &str {
        &self.options.endpoint
    }

    fn listing(&self) -> Later<'_, Listing> {
        Box::pin(self.list())
    }

    fn address<'a>(&'a self, commit: &'a str, file: &'a RemoteFile) -> Later<'a, Address> {
        Box::pin(async move { self.resolve(commit, &file.path) })
    }

    fn refused(&self, response: &Response, revision: &str) -> Failure {
        let status = response.status();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let endpoint = self.options.endpoint.clone();
        let repository = self.repository.clone();
        let not_found = || SourceError::NotFound {
            repository: repository.clone(),
            revision: revision.to_owned(),
            endpoint: endpoint.clone(),
        };
        if let Some(failure) = may_pass(response) {
            return failure;
        }
        Failure::Final(match (status.as_u16(), code) {
            (_, "GatedRepo") => SourceError::Gated {
                repository,
                endpoint,
            },
            (_, "RepoNotFound" | "RevisionNotFound" | "EntryNotFound") | (404, _) => not_found(),
            // The public hub answers so for what is not there, unless one may know.
            (401 | 403, _) if self.headers.is_empty() => not_found(),
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
}

//! Models in registries of images: `ollama:name:tag` and `oci:host/name:tag`.
//!
//! A manifest names layers by digest, and those that hold weights and what belongs to them become files
//! (`manifest.rs`). Ollama's own store is looked into first (`store.rs`). A registry that wants a token
//! says where to ask for one, and gives it for public content without a password: no credentials are
//! read or sent, and the token that came goes to the registry's own origin and nowhere else.

mod manifest;
mod name;
mod store;

use super::model_ref::ModelRefError;
use super::remote::cache::RepoCache;
use super::remote::http::{
    self, Address, Asked, Failure, Http, header, may_pass, protocol, refusal, shown,
};
use super::remote::{Later, Listing, Published, Remote, RemoteFile};
use super::{FetchOptions, Progress, Snapshot, Source, SourceError, digest};
use manifest::MAX_MANIFEST_BYTES;
pub(super) use manifest::files_of;
use name::{Reference, sha256_of};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Kinds of manifests that are understood.
const MANIFESTS: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json",
);

/// Registries of images.
pub(super) struct RegistrySource;

impl Source for RegistrySource {
    fn id(&self) -> &'static str {
        "registry"
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["ollama:", "oci:"]
    }

    fn parse(&self, text: &str) -> Result<String, ModelRefError> {
        let bad = || ModelRefError::BadAddress {
            address: text.to_owned(),
            problem: "expected ollama:name:tag, ollama:space/name:tag, oci:host/name:tag or \
                      …@sha256:digest"
                .to_owned(),
        };
        let found = Reference::parse(text).map(|_| text.to_owned());
        found.ok_or_else(bad)
    }

    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        let Some(reference) = Reference::parse(name) else {
            return Err(SourceError::Protocol {
                url: name.to_owned(),
                expected: "a model in a registry".to_owned(),
                found: "another name".to_owned(),
            });
        };
        if name.starts_with("ollama:")
            && let Some(stored) = store::stored(name, &reference, options)?
        {
            return Ok(stored);
        }
        let base = reference.registry(&options.ollama_registry);
        let place = format!("{base}/{}", reference.repository);
        Published {
            name: &place,
            revision: &reference.tag.replace(':', "-"),
            label: &|_| name.to_owned(),
            cache: RepoCache::of_address(&options.downloads, "registry", &place),
            kept_in: &options.downloads,
            connect: &|| Ok(Arc::new(Registry::new(&base, &reference, options)?)),
        }
        .snapshot(options, progress)
    }
}

/// Names a manifest's content, in 40 hexadecimal digits.
fn commit(manifest: &[u8]) -> String {
    let mut name = digest::of_bytes(manifest);
    name.truncate(40);
    name
}

/// Where a token is to be had, and the token.
#[derive(Debug, Default)]
struct Access {
    asked_at: Option<Url>,
    token: Option<HeaderValue>,
}

/// A registry, as a session sees it.
#[derive(Debug)]
struct Registry {
    http: Http,
    endpoint: String,
    base: Url,
    reference: Reference,
    access: Mutex<Access>,
}

/// `Bearer realm="…",service="…",scope="…"` → the address to ask for a token.
fn challenge(text: &str) -> Option<Url> {
    let (scheme, rest) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |key: &str| {
        let (at, _) = rest.match_indices(key).find(|(at, _)| {
            // At the beginning of a parameter, not within another's name.
            rest.get(..*at)
                .is_some_and(|b| b.is_empty() || b.ends_with([',', ' ']))
        })?;
        let after = rest.get(at + key.len()..)?.strip_prefix("=\"")?;
        after.split_once('"').map(|(value, _)| value)
    };
    let mut url = Url::parse(value("realm")?).ok()?;
    for key in ["service", "scope"] {
        if let Some(value) = value(key) {
            url.query_pairs_mut().append_pair(key, value);
        }
    }
    Some(url)
}

impl Registry {
    fn new(base: &str, reference: &Reference, options: &FetchOptions) -> Result<Self, SourceError> {
        Ok(Self {
            http: Http::new(options)?,
            endpoint: base.to_owned(),
            base: http::server("MODELKIN_OLLAMA_REGISTRY", base)?,
            reference: reference.clone(),
            access: Mutex::default(),
        })
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        // What it guards is whole at any time.
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address of the repository, with the token if there is one.
    fn at(&self, kind: &str, what: &str) -> Address {
        let mut address = Address::open(self.base.clone());
        let path = format!("/v2/{}/{kind}/{what}", self.reference.repository);
        address.url.set_path(&path);
        if let Some(token) = self.access().token.clone() {
            address.headers.insert(AUTHORIZATION, token);
        }
        address
    }

    /// Asks for a token where the registry said that it is to be had.
    async fn renew(&self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Granted {
            token: Option<String>,
            access_token: Option<String>,
        }
        let asked_at = self.access().asked_at.clone();
        let Some(url) = asked_at else { return Ok(()) };
        let address = Address::open(url);
        let what = "a token for public content";
        let refused = |r: &Response| self.refused(r, "");
        let (url, body) = self.http.answer(&address, what, &refused).await?;
        // What came is not shown: it may be half a token.
        let granted: Option<Granted> = serde_json::from_slice(&body).ok();
        let token = granted.and_then(|granted| granted.token.or(granted.access_token));
        let token = token.and_then(|t| HeaderValue::from_str(&format!("Bearer {t}")).ok());
        let Some(mut token) = token else {
            return Err(protocol(&url, what, "something else"));
        };
        token.set_sensitive(true);
        self.access().token = Some(token);
        Ok(())
    }

    /// The answer to a request for the manifest.
    async fn manifest(&self) -> Result<Response, Failure> {
        let mut address = self.at("manifests", &self.reference.tag);
        address.headers.insert(ACCEPT, MANIFESTS);
        let asked = Asked::default();
        self.http.send(Method::GET, &address, &asked).await
    }

    async fn list(&self) -> Result<Listing, Failure> {
        let mut response = self.manifest().await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let text = header(response.headers(), WWW_AUTHENTICATE.as_str());
            // For a registry behind https no token is asked for in the open.
            let may = |url: &Url| {
                url.host().is_some()
                    && (url.scheme() == "https"
                        || (url.scheme() == "http" && self.base.scheme() == "http"))
            };
            let Some(url) = text.and_then(challenge).filter(may) else {
                return Err(self.refused(&response, ""));
            };
            self.access().asked_at = Some(url);
            self.renew().await?;
            response = self.manifest().await?;
        }
        if response.status() != StatusCode::OK {
            return Err(self.refused(&response, ""));
        }
        let (what, url) = ("a manifest of a model", response.url().clone());
        let stated = header(response.headers(), "docker-content-digest").and_then(sha256_of);
        let body = http::body(response, what).await?;
        if body.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(protocol(&url, what, format!("{} bytes", body.len())));
        }
        let found = digest::of_bytes(&body);
        let by_name = sha256_of(&self.reference.tag);
        for expected in [by_name, stated].into_iter().flatten() {
            if expected != found {
                return Err(Failure::Final(SourceError::Digest {
                    file: shown(&url),
                    expected,
                    found,
                }));
            }
        }
        let files = files_of(&body).map_err(|found| protocol(&url, what, found))?;
        Ok(Listing {
            commit: commit(&body),
            files,
        })
    }
}

impl Remote for Registry {
    fn http(&self) -> &Http {
        &self.http
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn listing(&self) -> Later<'_, Listing> {
        Box::pin(self.list())
    }

    fn address<'a>(&'a self, _: &'a str, file: &'a RemoteFile) -> Later<'a, Address> {
        Box::pin(async move {
            let is_expired = {
                let access = self.access();
                access.asked_at.is_some() && access.token.is_none()
            };
            if is_expired {
                self.renew().await?;
            }
            Ok(self.at("blobs", &format!("sha256:{}", file.id.as_str())))
        })
    }

    fn refused(&self, response: &Response, _: &str) -> Failure {
        if let Some(failure) = may_pass(response) {
            return failure;
        }
        let status = response.status();
        // Tokens live for minutes and downloads for hours: the next attempt asks for a new one. Of
        // several requests with the same old token only the first finds it here.
        let has_gate = {
            let mut access = self.access();
            access.token = None;
            access.asked_at.is_some()
        };
        let is_of_registry = response.url().origin() == self.base.origin()
            && response.url().path().starts_with("/v2/");
        if status == StatusCode::UNAUTHORIZED && has_gate && is_of_registry {
            return Failure::Passing("the registry's token is no longer good".to_owned());
        }
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "only what is public can be read from a registry; fetch the model with its own tool"
            }
            _ => "check the name and the tag",
        };
        refusal(response, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_where_a_token_is_to_be_had() {
        let text =
            "Bearer realm=\"https://auth/token\",service=\"r\",scope=\"repository:a/b:pull\"";
        assert_eq!(
            challenge(text).map(String::from).as_deref(),
            Some("https://auth/token?service=r&scope=repository%3Aa%2Fb%3Apull")
        );
        for text in [
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=\"",
            "Bearer service=\"r\"",
            "Bearer xrealm=\"https://a/\"",
        ] {
            assert_eq!(challenge(text), None, "{text}");
        }
    }
}

//! Models in object stores: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
//!
//! The store lists what lies below the prefix, with sizes and etags; every request for an object carries
//! the etag of the list, so that one that has changed is an error. There is no published digest.
//! Addresses and credentials are what the environment says (`access.rs`), requests to S3 are signed
//! (`sign.rs`), and what is sent with a request goes to the store's own origin and nowhere else.

mod access;
pub(super) mod list;
mod place;
mod sign;

pub use access::{BucketOptions, Keys, Secret};

use super::model_ref::ModelRefError;
use super::remote::cache::{RepoCache, is_safe};
use super::remote::http::{self, Address, Asked, Failure, Http, bearer, header, protocol, refusal};
use super::remote::{Id, Later, Listing, Published, Remote, RemoteFile};
use super::url::series;
use super::{FetchOptions, Progress, Snapshot, Source, SourceError, digest, is_needed};
use list::{Object, Page};
use place::{Kind, Place, is_label, place_of};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use sign::escaped;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Objects below one prefix.
const MAX_OBJECTS: usize = 50_000;
/// Parts of one list: a store may send many small ones, and a hostile one empty ones without end.
const MAX_PAGES: usize = 500;
/// The version of Azure's protocol whose answers are understood: etags in quotes, tokens.
const AZURE_VERSION: HeaderValue = HeaderValue::from_static("2021-12-02");
/// Where S3 says in which region a bucket is.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// Object stores.
pub(super) struct BucketSource;

impl Source for BucketSource {
    fn id(&self) -> &'static str {
        "bucket"
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["s3://", "gs://", "az://"]
    }

    fn parse(&self, text: &str) -> Result<String, ModelRefError> {
        let bad = || ModelRefError::BadAddress {
            address: text.to_owned(),
            problem: "expected a bucket and a prefix, as in s3://bucket/path/to/model".to_owned(),
        };
        place_of(text).map(|_| text.to_owned()).ok_or_else(bad)
    }

    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        let Some(place) = place_of(name) else {
            return Err(SourceError::Protocol {
                url: name.to_owned(),
                expected: "a place in an object store".to_owned(),
                found: "another name".to_owned(),
            });
        };
        let label = name.trim_end_matches('/');
        let label = label.rsplit('/').next().unwrap_or(label).to_owned();
        let endpoint = endpoint(&place, &options.buckets);
        let key = format!("{endpoint} {}{}", place.folder, place.file);
        Published {
            name,
            revision: "latest",
            label: &|_| label.clone(),
            cache: RepoCache::of_address(&options.downloads, "bucket", &key),
            kept_in: &options.downloads,
            connect: &|| Ok(Arc::new(Bucket::new(&place, &endpoint, options)?)),
        }
        .snapshot(options, progress)
    }
}

/// Names a bucket of a store, wherever the store has moved it.
fn endpoint(place: &Place, options: &BucketOptions) -> String {
    let (scheme, store) = match place.kind {
        Kind::S3 => ("s3", options.s3_endpoint.as_deref()),
        Kind::Google => ("gs", Some(options.gs_endpoint.as_str())),
        Kind::Azure => (
            "az",
            options
                .az_endpoint
                .as_deref()
                .or(options.az_account.as_deref()),
        ),
    };
    format!("{scheme}://{} {}", place.bucket, store.unwrap_or_default())
}

/// A bucket as a session sees it.
#[derive(Debug)]
struct Bucket {
    http: Http,
    endpoint: String,
    place: Place,
    options: BucketOptions,
    /// The region of the bucket, which S3 may correct.
    region: Mutex<String>,
    /// Headers of every request that need no signature.
    headers: HeaderMap,
}

fn setting(variable: &'static str, value: &str, problem: &str) -> SourceError {
    SourceError::Setting {
        variable,
        value: value.to_owned(),
        problem: problem.to_owned(),
    }
}

impl Bucket {
    fn new(place: &Place, endpoint: &str, options: &FetchOptions) -> Result<Self, SourceError> {
        let buckets = options.buckets.clone();
        let mut headers = HeaderMap::new();
        let token = match place.kind {
            Kind::S3 => None,
            Kind::Google => buckets
                .gs_token
                .as_ref()
                .map(|t| (t, "GOOGLE_OAUTH_ACCESS_TOKEN")),
            Kind::Azure => {
                headers.insert("x-ms-version", AZURE_VERSION);
                buckets
                    .az_token
                    .as_ref()
                    .map(|t| (t, "AZURE_STORAGE_TOKEN"))
            }
        };
        if let Some((token, variable)) = token {
            headers.insert(AUTHORIZATION, bearer(token.shown_to_server(), variable)?);
        }
        if !is_label(&buckets.s3_region) {
            let problem = "expected the name of a region, such as eu-west-1";
            return Err(setting("AWS_REGION", &buckets.s3_region, problem));
        }
        let bucket = Self {
            http: Http::new(options)?,
            endpoint: endpoint.to_owned(),
            place: place.clone(),
            region: Mutex::new(buckets.s3_region.clone()),
            options: buckets,
            headers,
        };
        bucket.base()?;
        Ok(bucket)
    }

    fn region(&self) -> String {
        // What it guards is whole at any time.
        let region = self.region.lock();
        region.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address of the bucket, without a final slash.
    fn base(&self) -> Result<Url, SourceError> {
        let (bucket, region) = (&self.place.bucket, self.region());
        let (variable, address) = match (self.place.kind, &self.options.s3_endpoint) {
            (Kind::S3, Some(endpoint)) => ("AWS_ENDPOINT_URL", format!("{endpoint}/{bucket}")),
            // A certificate for a host does not hold for names with further dots.
            (Kind::S3, None) if bucket.contains(['.', '_']) => (
                "AWS_REGION",
                format!("https://s3.{region}.amazonaws.com/{bucket}"),
            ),
            (Kind::S3, None) => (
                "AWS_REGION",
                format!("https://{bucket}.s3.{region}.amazonaws.com"),
            ),
            (Kind::Google, _) => (
                "STORAGE_EMULATOR_HOST",
                format!("{}/{bucket}", self.options.gs_endpoint),
            ),
            (Kind::Azure, _) => {
                let account = self.options.az_account.as_deref();
                match (&self.options.az_endpoint, account) {
                    (Some(endpoint), _) => {
                        ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{bucket}"))
                    }
                    (None, Some(account)) if is_label(account) => (
                        "AZURE_STORAGE_ACCOUNT",
                        format!("https://{account}.blob.core.windows.net/{bucket}"),
                    ),
                    (None, account) => {
                        let problem = "expected the name of the account that the container is in";
                        let account = account.unwrap_or_default();
                        return Err(setting("AZURE_STORAGE_ACCOUNT", account, problem));
                    }
                }
            }
        };
        http::server(variable, &address)
    }

    /// The address of a key, or of the bucket; `query` in the order of its names.
    fn at(&self, key: &str, query: &[(&str, &str)]) -> Result<Address, Failure> {
        let mut url = self.base().map_err(Failure::Final)?;
        let mut path = url.path().trim_end_matches('/').to_owned();
        if !key.is_empty() {
            let segments: Vec<String> = key.split('/').map(escaped).collect();
            path = format!("{path}/{}", segments.join("/"));
        }
        url.set_path(&path);
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)));
        let mut pairs: Vec<String> = pairs.collect();
        if let (Kind::Azure, Some(sas)) = (self.place.kind, &self.options.az_sas) {
            pairs.push(sas.shown_to_server().to_owned());
        }
        if !pairs.is_empty() {
            url.set_query(Some(&pairs.join("&")));
        }
        let mut headers = self.headers.clone();
        if let (Kind::S3, Some(keys)) = (self.place.kind, &self.options.s3_keys) {
            let signed = sign::headers(keys, &self.region(), &url, SystemTime::now());
            let Some(signed) = signed else {
                let problem = "expected keys in one line of printable characters";
                return Err(Failure::Final(setting("AWS_ACCESS_KEY_ID", "…", problem)));
            };
            headers.extend(signed);
        }
        Ok(Address {
            url,
            headers,
            expires: false,
        })
    }

    /// Asks for a part of the list.
    async fn asked(&self, prefix: &str, from: Option<&str>) -> Result<Response, Failure> {
        let mut query = match self.place.kind {
            Kind::Azure => vec![
                ("comp", "list"),
                ("prefix", prefix),
                ("restype", "container"),
            ],
            Kind::S3 | Kind::Google => vec![("list-type", "2"), ("prefix", prefix)],
        };
        match (self.place.kind, from) {
            (Kind::Azure, Some(from)) => query.insert(1, ("marker", from)),
            (_, Some(from)) => query.insert(0, ("continuation-token", from)),
            (_, None) => {}
        }
        let address = self.at("", &query)?;
        let says_where = |headers: &HeaderMap| headers.contains_key(BUCKET_REGION);
        let asked = Asked::default();
        let sent = self
            .http
            .send_until(Method::GET, &address, &asked, &says_where);
        sent.await
    }

    async fn page(&self, prefix: &str, from: Option<&str>) -> Result<Page, Failure> {
        let mut response = self.asked(prefix, from).await?;
        // S3 says where a bucket is to whoever asks in another region.
        if self.place.kind == Kind::S3 && !response.status().is_success() {
            let stated = header(response.headers(), BUCKET_REGION);
            let other = stated.filter(|region| is_label(region) && *region != self.region());
            if let Some(region) = other.map(str::to_owned) {
                *self.region.lock().unwrap_or_else(PoisonError::into_inner) = region;
                response = self.asked(prefix, from).await?;
            }
        }
        if response.status() != StatusCode::OK {
            return Err(self.refused(&response, ""));
        }
        let (what, url) = ("a list of objects", response.url().clone());
        let body = http::body(response, what).await?;
        let page = match self.place.kind {
            Kind::Azure => list::azure(&body),
            Kind::S3 | Kind::Google => list::s3(&body),
        };
        page.map_err(|found| protocol(&url, what, found))
    }

    async fn list(&self) -> Result<Listing, Failure> {
        let Place { folder, file, .. } = &self.place;
        let wanted = match file.is_empty() {
            true => Vec::new(),
            false => series(file),
        };
        let prefix = match wanted.as_slice() {
            [] => folder.clone(),
            [one] => format!("{folder}{one}"),
            [first, ..] => {
                let stem = first.split("-00001-of-").next().unwrap_or_default();
                format!("{folder}{stem}-")
            }
        };
        let wrong = |found: String| {
            let url = self.endpoint.clone();
            let expected = format!("a list of objects below {prefix:?}");
            Failure::Final(SourceError::Protocol {
                url,
                expected,
                found,
            })
        };
        let mut files: BTreeMap<String, RemoteFile> = BTreeMap::new();
        let (mut n_objects, mut from) = (0, None);
        for n_pages in 1.. {
            let page = self.page(&prefix, from.as_deref()).await?;
            n_objects += page.objects.len();
            if n_objects > MAX_OBJECTS || n_pages > MAX_PAGES {
                let found = format!("more than {MAX_OBJECTS} objects, or than {MAX_PAGES} parts");
                return Err(wrong(format!("{found}; name the model's own prefix")));
            }
            for object in page.objects {
                let Some(path) = object.key.strip_prefix(folder.as_str()) else {
                    return Err(wrong(format!("{:?}", object.key)));
                };
                let path = path.to_owned();
                let is_wanted = wanted.is_empty() || wanted.contains(&path);
                if !is_wanted || !is_needed(&path) {
                    continue;
                }
                let file = self.file(&path, object).map_err(wrong)?;
                let other = files.get(&path).filter(|known| **known != file);
                if other.is_some() {
                    return Err(wrong(format!("two objects {path:?}")));
                }
                files.insert(path, file);
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        if let Some(missing) = wanted.iter().find(|path| !files.contains_key(*path)) {
            return Err(wrong(format!("no {missing:?}")));
        }
        Ok(Listing::of(files.into_values().collect()))
    }

    /// An object as a file; an error in words.
    fn file(&self, path: &str, object: Object) -> Result<RemoteFile, String> {
        if !is_safe(path) {
            return Err(format!("{path:?}"));
        }
        let etag = object.etag;
        // It is sent with every request.
        if etag.len() > 256 || !etag.bytes().all(|b| b.is_ascii_graphic()) || etag == "\"\"" {
            return Err(format!("the etag {etag:?} of {path}"));
        }
        let size = object.size_bytes.to_string();
        let id = digest::of_text(&[&self.endpoint, &object.key, &etag, &size]);
        let base = self.base().map_err(|e| e.to_string())?;
        let is_strong = !etag.starts_with("W/");
        Ok(RemoteFile {
            path: path.to_owned(),
            id: Id::Named(id),
            size_bytes: object.size_bytes,
            validator: is_strong.then(|| (base.origin().ascii_serialization(), etag)),
        })
    }
}

impl Remote for Bucket {
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
        let key = format!("{}{}", self.place.folder, file.path);
        Box::pin(async move { self.at(&key, &[]) })
    }

    fn refused(&self, response: &Response, _: &str) -> Failure {
        let credentials = match self.place.kind {
            Kind::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Kind::Google => "GOOGLE_OAUTH_ACCESS_TOKEN",
            Kind::Azure => "AZURE_STORAGE_SAS_TOKEN",
        };
        let advice = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                format!("set {credentials} to what may read it, or unset them for public buckets")
            }
            StatusCode::PRECONDITION_FAILED => "the object has changed since it was listed".into(),
            _ => format!("check the name, and set {credentials} if it is private"),
        };
        refusal(response, &advice)
    }
}

//! Models at a plain address: `https://host/path/model.safetensors`, an index of shards, or a folder.
//!
//! There is nothing here to ask for a list: of a folder the usual names are tried, of an index the
//! shards are taken that it names, of one file of a numbered series the others. What a file is, is asked
//! with a request for its first byte: size, etag, and whether the server sends parts. There is no
//! published digest; what holds two requests together is the server's etag.

use super::model_ref::ModelRefError;
use super::remote::cache::{RepoCache, is_safe};
use super::remote::http::{Address, Asked, Failure, Http, header, protocol, refusal, shown};
use super::remote::{Id, Later, Listing, Published, Remote, RemoteFile};
use super::{FetchOptions, Progress, Snapshot, Source, SourceError, digest, is_needed, is_weights};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use reqwest::{Method, Response, StatusCode, Url};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Files that one model may consist of.
const MAX_FILES: usize = 10_000;
/// Names of weights that are tried in a folder, in the order of preference: an index, or a whole.
const WEIGHTS: &[&str] = &[
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
];
/// Names of other files that are tried beside weights.
const ARTEFACTS: &[&str] = &[
    "README.md",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Plain addresses.
pub(super) struct UrlSource;

/// The last segment of an address's path as people read it, or why it names no model.
fn file_name(url: &Url) -> Result<String, String> {
    let last = url.path_segments().and_then(Iterator::last);
    let escaped = last.unwrap_or_default().as_bytes();
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut i = 0;
    while let Some(&byte) = escaped.get(i) {
        let code = escaped.get(i + 1..i + 3).filter(|_| byte == b'%');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                i += 3;
            }
            None => {
                bytes.push(byte);
                i += 1;
            }
        }
    }
    let name = String::from_utf8(bytes).map_err(|_| "a name that is not UTF-8".to_owned())?;
    let is_model = name.is_empty() || is_weights(&name) || name.ends_with(".index.json");
    match is_model && (name.is_empty() || is_safe(&name)) && !name.contains('/') {
        true => Ok(name),
        false => Err(format!("{name:?}")),
    }
}

/// Checks an address.
fn checked(text: &str) -> Result<Url, ModelRefError> {
    let bad = |problem: String| ModelRefError::BadAddress {
        address: text.split('?').next().unwrap_or_default().to_owned(),
        problem,
    };
    let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
    if url.host().is_none() {
        return Err(bad("expected a host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ModelRefError::BadAddress {
            address: shown(&url),
            problem: "expected no user and no password: they would be printed in reports".into(),
        });
    }
    match file_name(&url) {
        Ok(_) => Ok(url),
        Err(found) => Err(bad(format!(
            "expected a file of weights, an index (.index.json) or a folder (a final /), found {found}"
        ))),
    }
}

impl Source for UrlSource {
    fn id(&self) -> &'static str {
        "url"
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["https://", "http://"]
    }

    fn parse(&self, text: &str) -> Result<String, ModelRefError> {
        checked(text).map(String::from)
    }

    fn shown(&self, name: &str) -> String {
        Url::parse(name).map_or_else(|_| name.to_owned(), |url| shown(&url))
    }

    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        let unusable = |found: String| SourceError::Protocol {
            url: self.shown(name),
            expected: "the address of a model".to_owned(),
            found,
        };
        let url = checked(name).map_err(|error| unusable(error.to_string()))?;
        let file = file_name(&url).map_err(unusable)?;
        let place = shown(&url);
        let label = match file.is_empty() {
            true => place.trim_end_matches('/').rsplit('/').next(),
            false => Some(file.as_str()),
        };
        let label = label.unwrap_or_default().to_owned();
        Published {
            name: &place,
            revision: "latest",
            label: &|_| label.clone(),
            // A signature may change from day to day, and the file stay what it is.
            cache: RepoCache::of_address(&options.downloads, "url", &place),
            kept_in: &options.downloads,
            connect: &|| {
                Ok(Arc::new(Site {
                    http: Http::new(options)?,
                    origin: url.origin().ascii_serialization(),
                    url: url.clone(),
                    file: file.clone(),
                }))
            },
        }
        .snapshot(options, progress)
    }
}

/// The place of one model, as a session sees it.
#[derive(Debug)]
struct Site {
    http: Http,
    origin: String,
    url: Url,
    /// Name of the file, or of the index; empty for a folder.
    file: String,
}

/// The files of a numbered series (`name-00001-of-00003.gguf`), or the one file.
pub(super) fn series(file: &str) -> Vec<String> {
    let parts = || {
        let (stem, extension) = file.rsplit_once('.')?;
        let (rest, n) = stem.rsplit_once("-of-")?;
        let (name, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let n_parts = n.parse::<usize>().ok()?;
        let fine = is_number(number) && is_number(n) && (1..=MAX_FILES).contains(&n_parts);
        fine.then_some((name, n, n_parts, extension))
    };
    match parts() {
        Some((name, n, n_parts, extension)) => (1..=n_parts)
            .map(|i| format!("{name}-{i:05}-of-{n}.{extension}"))
            .collect(),
        None => vec![file.to_owned()],
    }
}

/// The total of `bytes 0-0/100`, and of `bytes */0`.
fn total(content_range: &str) -> Option<u64> {
    let (range, total) = content_range
        .trim()
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let total = total.parse().ok()?;
    ((range == "0-0" && total > 0) || (range == "*" && total == 0)).then_some(total)
}

impl Site {
    /// The address of a file beside the one that was asked for. The query belongs to that one alone.
    fn beside(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        if path == self.file {
            return url;
        }
        url.set_query(None);
        // An address with a host has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop().extend(path.split('/'));
        }
        url
    }

    /// What the server says of a file; `None` if there is none.
    async fn described(&self, path: &str) -> Result<Option<RemoteFile>, Failure> {
        let address = Address::open(self.beside(path));
        let asked = Asked {
            range: Some("bytes=0-0".to_owned()),
            if_match: None,
        };
        let response = self.http.send(Method::GET, &address, &asked).await?;
        let headers = response.headers();
        let range = header(headers, CONTENT_RANGE.as_str());
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                range.and_then(total)
            }
            StatusCode::OK => {
                header(headers, CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok())
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            // Object stores answer so for what is not there, and for what no one may see.
            StatusCode::FORBIDDEN if path != self.file => return Ok(None),
            _ => return Err(self.refused(&response, "")),
        };
        let Some(size_bytes) = size else {
            let expected = "the size of the file (Content-Range or Content-Length)";
            return Err(protocol(&address.url, expected, "none"));
        };
        let etag = header(headers, ETAG.as_str());
        let modified = header(headers, LAST_MODIFIED.as_str());
        // Without either, what is fetched is not taken for what is there the next time.
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |time| time.as_nanos()).to_string()
        };
        let version = etag.or(modified).map_or_else(now, str::to_owned);
        let id = digest::of_text(&[&shown(&address.url), &version, &size_bytes.to_string()]);
        // A weak etag says nothing of single bytes, and who sends no parts need not promise any.
        let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let strong = etag.filter(|etag| is_partial && !etag.starts_with("W/"));
        let origin = response.url().origin().ascii_serialization();
        Ok(Some(RemoteFile {
            path: path.to_owned(),
            id: Id::Named(id),
            size_bytes,
            validator: strong.map(|etag| (origin, etag.to_owned())),
        }))
    }

    async fn required(&self, path: &str) -> Result<RemoteFile, Failure> {
        let file = self.described(path).await?;
        file.ok_or_else(|| {
            Failure::Final(SourceError::Refused {
                url: shown(&self.beside(path)),
                status: StatusCode::NOT_FOUND.as_u16(),
                advice: "check the address; a part of the model is not there".to_owned(),
            })
        })
    }

    /// The shards that an index names.
    async fn shards(&self, index: &str) -> Result<BTreeSet<String>, Failure> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let address = Address::open(self.beside(index));
        let what = "an index of shards (weight_map)";
        let refused = |r: &Response| self.refused(r, "");
        let (url, body) = self.http.answer(&address, what, &refused).await?;
        let read: Index = serde_json::from_slice(&body).map_err(|e| protocol(&url, what, e))?;
        let shards: BTreeSet<String> = read.weight_map.into_values().collect();
        if shards.len() > MAX_FILES {
            let found = format!("{} shards", shards.len());
            return Err(protocol(&address.url, what, found));
        }
        let bad = |path: &&String| !is_safe(path) || !is_weights(path) || !is_needed(path);
        match shards.iter().find(bad) {
            Some(path) => Err(protocol(
                &address.url,
                "names of shards beside the index",
                format!("{path:?}"),
            )),
            None => Ok(shards),
        }
    }

    async fn list(&self) -> Result<Listing, Failure> {
        let mut files = Vec::new();
        let is_index = |file: &str| file.ends_with(".index.json");
        if self.file.is_empty() {
            for name in WEIGHTS {
                if let Some(file) = self.described(name).await? {
                    files.push(file);
                    break;
                }
            }
        } else if is_index(&self.file) {
            files.push(self.required(&self.file).await?);
        } else {
            for name in series(&self.file) {
                files.push(self.required(&name).await?);
            }
            return Ok(Listing::of(files));
        }
        let index = files.first().filter(|file| is_index(&file.path));
        if let Some(index) = index.map(|file| file.path.clone()) {
            for shard in self.shards(&index).await? {
                files.push(self.required(&shard).await?);
            }
        }
        for name in ARTEFACTS {
            files.extend(self.described(name).await?);
        }
        Ok(Listing::of(files))
    }
}

impl Remote for Site {
    fn http(&self) -> &Http {
        &self.http
    }

    fn endpoint(&self) -> &str {
        &self.origin
    }

    fn listing(&self) -> Later<'_, Listing> {
        Box::pin(self.list())
    }

    fn address<'a>(&'a self, _: &'a str, file: &'a RemoteFile) -> Later<'a, Address> {
        Box::pin(async move { Ok(Address::open(self.beside(&file.path))) })
    }

    fn refused(&self, response: &Response, _: &str) -> Failure {
        refusal(
            response,
            "check the address, and that it opens without a login",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_model_is_told_from_others() {
        for text in [
            "https://host/a/model.safetensors",
            "http://host:8/m.gguf?Signature=x",
            "https://host/a/model.safetensors.index.json",
            "https://host/a/",
            "https://host/a%20b.bin",
        ] {
            assert!(checked(text).is_ok(), "{text}");
        }
        for text in [
            "https://host/a/model",
            "https://host/a%2Fb.bin",
            "https://host/..%5Cb.bin",
            "https://host/a.html?x=1",
            "https://user:pass@host/m.gguf",
            "https://",
            "http:///m.gguf",
        ] {
            match checked(text) {
                Ok(url) => assert_eq!(url.host_str(), Some("m.gguf"), "{text}"),
                Err(error) => assert!(!error.to_string().contains("pass@"), "{error}"),
            }
        }
    }

    #[test]
    fn a_part_of_a_series_names_the_others() {
        assert_eq!(
            series("m-00002-of-00003.gguf"),
            [
                "m-00001-of-00003.gguf",
                "m-00002-of-00003.gguf",
                "m-00003-of-00003.gguf"
            ]
        );
        for file in [
            "m.gguf",
            "m-1-of-3.gguf",
            "m-00001-of-99999.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(series(file), [file]);
        }
    }

    #[test]
    fn the_total_is_read_from_the_range_of_the_first_byte_alone() {
        assert_eq!(total("bytes 0-0/100"), Some(100));
        assert_eq!(total("bytes */0"), Some(0));
        for text in [
            "bytes 0-1/100",
            "bytes 0-0/*",
            "bytes */100",
            "bytes 0-0/0",
            "",
        ] {
            assert_eq!(total(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_has_no_signature() {
        let shown = UrlSource.shown("https://host/m.gguf?Signature=x");
        assert_eq!(shown, "https://host/m.gguf");
    }
}

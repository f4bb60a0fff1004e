//! Repositories of ModelScope: `modelscope:owner/name[@revision]`.
//!
//! Its list of files states the SHA-256 of each, and what is downloaded is held against it; a file
//! without one is named by its revision. The token goes to the hub's own origin and nowhere else: files
//! are sent from other hosts, and those get their signed address and no more.

use super::model_ref::ModelRefError;
use super::remote::cache::{RepoCache, is_safe};
use super::remote::http::{self, Address, Failure, Http, bearer, protocol, refusal};
use super::remote::{Id, Later, Listing, Published, Remote, RemoteFile};
use super::{
    FetchOptions, Progress, Snapshot, Source, SourceError, digest, hub, is_needed, is_weights,
};
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files that a repository may list.
const MAX_FILES: usize = 50_000;
/// Entries after which the server cuts a list off without saying so.
const CUT_OFF: usize = 3_000;
/// The revision that a name without one means.
const MASTER: &str = "master";

/// ModelScope.
pub(super) struct ModelScopeSource;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Success")]
    success: Option<bool>,
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "Data")]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    // Null where the folder is empty.
    #[serde(rename = "Files")]
    files: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "Path")]
    path: String,
    /// `blob` or `tree`.
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Size")]
    size: Option<u64>,
    #[serde(rename = "Sha256")]
    sha256: Option<String>,
    /// The commit that changed the file last.
    #[serde(rename = "Revision")]
    revision: Option<String>,
}

/// `owner/name@revision` → (`owner/name`, `revision`).
fn parts(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, MASTER))
}

impl Source for ModelScopeSource {
    fn id(&self) -> &'static str {
        "modelscope"
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["modelscope:"]
    }

    fn parse(&self, text: &str) -> Result<String, ModelRefError> {
        let (repository, revision) = parts(text.strip_prefix("modelscope:").unwrap_or(text));
        if repository.split('/').count() != 2 || !hub::is_repository(repository) {
            return Err(ModelRefError::BadAddress {
                address: text.to_owned(),
                problem: "expected modelscope:owner/name@revision, with letters, digits, `-`, `_` and `.`"
                    .to_owned(),
            });
        }
        match hub::is_revision(revision) {
            true => Ok(text.to_owned()),
            false => Err(ModelRefError::BadRevision(text.to_owned())),
        }
    }

    fn snapshot(
        &self,
        name: &str,
        options: &FetchOptions,
        progress: &dyn Progress,
    ) -> Result<Snapshot, SourceError> {
        let (repository, revision) = parts(name.strip_prefix("modelscope:").unwrap_or(name));
        let place = format!("{}/{repository}", options.modelscope_endpoint);
        Published {
            name: repository,
            revision,
            label: &|_| format!("{repository}@{revision}"),
            cache: RepoCache::of_address(&options.downloads, "modelscope", &place),
            kept_in: &options.downloads,
            connect: &|| Ok(Arc::new(ModelScope::new(options, repository, revision)?)),
        }
        .snapshot(options, progress)
    }
}

/// ModelScope as this run sees it.
#[derive(Debug)]
struct ModelScope {
    http: Http,
    endpoint: String,
    base: Url,
    repository: String,
    revision: String,
    /// The token, for the hub's own origin.
    headers: HeaderMap,
}

/// The entries of an answer; an error in words.
pub(super) fn entries_of(body: &[u8]) -> Result<Vec<Entry>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if answer.success == Some(false) {
        let message: String = answer.message.unwrap_or_default();
        return Err(format!(
            "{:?}",
            message.chars().take(200).collect::<String>()
        ));
    }
    let entries = answer.data.and_then(|data| data.files).unwrap_or_default();
    match entries.len() > MAX_FILES {
        true => Err(format!("{} files", entries.len())),
        false => Ok(entries),
    }
}

/// The needed files among entries; an error in words.
pub(super) fn files_of(entries: Vec<Entry>) -> Result<Vec<RemoteFile>, String> {
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.path;
        // The name of a file that is not fetched does no harm.
        if entry.kind == "tree" || !is_needed(&path) {
            continue;
        }
        if !is_safe(&path) {
            return Err(format!("the path {path:?}"));
        }
        let Some(size_bytes) = entry.size else {
            return Err(format!("no size of {path}"));
        };
        let sha256 = entry.sha256.filter(|sha256| !sha256.is_empty());
        let id = match sha256 {
            Some(sha256) => {
                if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(format!("the SHA-256 {sha256:?} of {path}"));
                }
                Id::Sha256(sha256.to_ascii_lowercase())
            }
            None => {
                let revision = entry.revision.unwrap_or_default();
                Id::Named(digest::of_text(&[
                    &path,
                    &revision,
                    &size_bytes.to_string(),
                ]))
            }
        };
        let file = RemoteFile {
            path: path.clone(),
            id,
            size_bytes,
            validator: None,
        };
        if files.get(&path).is_some_and(|known| *known != file) {
            return Err(format!("two files at {path}"));
        }
        files.insert(path, file);
    }
    Ok(files.into_values().collect())
}

impl ModelScope {
    fn new(options: &FetchOptions, repository: &str, revision: &str) -> Result<Self, SourceError> {
        let endpoint = options.modelscope_endpoint.clone();
        let base = http::server("MODELSCOPE_ENDPOINT", &endpoint)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.modelscope_token {
            // Its own client sends both: older parts of the server know the cookie alone.
            headers.insert(AUTHORIZATION, bearer(token, "MODELSCOPE_API_TOKEN")?);
            let is_cookie = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
            if let Ok(mut cookie) = HeaderValue::from_str(&format!("m_session_id={token}"))
                && token.bytes().all(is_cookie)
            {
                cookie.set_sensitive(true);
                headers.insert(COOKIE, cookie);
            }
        }
        Ok(Self {
            http: Http::new(options)?,
            endpoint,
            base,
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            headers,
        })
    }

    /// An address of the repository with a query.
    fn at(&self, what: &[&str], query: &[(&str, &str)]) -> Address {
        let mut url = self.base.clone();
        // An address with a host has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            path.extend(["api", "v1", "models"]);
            path.extend(self.repository.split('/'));
            path.extend(what);
        }
        url.query_pairs_mut().extend_pairs(query);
        Address {
            url,
            headers: self.headers.clone(),
            expires: false,
        }
    }

    async fn entries(&self, recursive: &str) -> Result<Vec<Entry>, Failure> {
        let query = [
            ("Revision", self.revision.as_str()),
            ("Recursive", recursive),
        ];
        let address = self.at(&["repo", "files"], &query);
        let (what, refused) = ("a list of files", |r: &Response| self.refused(r, ""));
        let (url, body) = self.http.answer(&address, what, &refused).await?;
        entries_of(&body).map_err(|found| protocol(&url, what, found))
    }

    async fn list(&self) -> Result<Listing, Failure> {
        let mut entries = self.entries("True").await?;
        if entries.len() >= CUT_OFF {
            // What is at the top decides, weights above all; of the rest what was listed is taken.
            let at_top = self.entries("False").await?;
            if at_top.len() >= CUT_OFF {
                let found = format!("{} or more files in one folder", at_top.len());
                return Err(protocol(&self.base, "a list that is not cut off", found));
            }
            entries.retain(|entry| entry.path.contains('/'));
            entries.extend(at_top);
        }
        let wrong = |found| protocol(&self.base, "files of a repository", found);
        let files = files_of(entries).map_err(wrong)?;
        let unnamed = |file: &&RemoteFile| matches!(file.id, Id::Named(_));
        if let Some(file) = files
            .iter()
            .filter(unnamed)
            .find(|file| is_weights(&file.path))
        {
            tracing::warn!(
                "{}: the list states no SHA-256, nothing verifies it",
                file.path
            );
        }
        Ok(Listing::of(files))
    }
}

impl Remote for ModelScope {
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
        let query = [
            ("Revision", self.revision.as_str()),
            ("FilePath", file.path.as_str()),
        ];
        let address = self.at(&["repo"], &query);
        Box::pin(async move { Ok(address) })
    }

    fn refused(&self, response: &Response, _: &str) -> Failure {
        let advice = match (response.status(), self.headers.is_empty()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, false) => {
                "set MODELSCOPE_API_TOKEN to a valid token, or unset it for public models"
            }
            _ => "check the name and the revision, or set MODELSCOPE_API_TOKEN if it is private",
        };
        refusal(response, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn paths(entries: Value) -> Result<Vec<String>, String> {
        let body = json!({"Code": 200, "Success": true, "Data": {"Files": entries}});
        let files = files_of(entries_of(body.to_string().as_bytes())?)?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn files_that_an_audit_reads_are_taken_and_folders_are_not() {
        let entries = json!([
            {"Path": "config.json", "Type": "blob", "Size": 2, "Sha256": "A".repeat(64)},
            {"Path": "vocab.txt", "Type": "blob", "Size": 2, "Sha256": "", "Revision": "abc"},
            {"Path": "folder.json", "Type": "tree", "Size": 0},
            {"Path": "../picture.png", "Type": "blob"},
        ]);
        assert_eq!(paths(entries).unwrap(), ["config.json", "vocab.txt"]);
        assert_eq!(paths(Value::Null).unwrap(), [""; 0]);
    }

    #[test]
    fn lists_that_are_none_are_errors() {
        let of = |entry: Value| paths(json!([entry])).unwrap_err();
        assert!(of(json!({"Path": "../x.json", "Size": 1})).contains("../x.json"));
        assert!(of(json!({"Path": "x.json"})).contains("no size"));
        assert!(of(json!({"Path": "x.json", "Size": -1})).contains("invalid value"));
        let odd = json!({"Path": "x.json", "Size": 1, "Sha256": "../../y"});
        assert!(of(odd).contains("the SHA-256"));
        let twice = json!([{"Path": "x.json", "Size": 1}, {"Path": "x.json", "Size": 2}]);
        assert!(paths(twice).unwrap_err().contains("two files"));
        let refused = json!({"Code": 10010205001_u64, "Success": false, "Message": "no model"});
        let error = entries_of(refused.to_string().as_bytes()).err();
        assert_eq!(error.as_deref(), Some("\"no model\""));
    }
}

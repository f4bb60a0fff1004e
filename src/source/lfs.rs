//! Checkouts of git LFS whose files are still pointers: the content is taken from the checkout's own
//! store, else from the LFS server of its remote.
//!
//! A pointer names the SHA-256 of the content, and nothing else is accepted for it. Only what the user's
//! own git configuration names is asked: `.lfsconfig` comes with the repository and could lead anywhere.
//! Credentials in the remote's address go to its origin, headers of a download to that of the download.

use super::bytes::LocalFile;
use super::remote::cache::RepoCache;
use super::remote::http::{self, Address, Failure, Http, protocol, refusal, shown};
use super::remote::{Id, Later, Listing, Published, Remote, RemoteFile};
use super::{FetchOptions, Progress, Snapshot, SnapshotFile, SourceError, digest};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a pointer begins.
const VERSION: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// Bytes of a pointer; its definition says so.
const MAX_POINTER_BYTES: u64 = 1024;
/// Bytes of a git configuration.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Folders above a model in which its `.git` is looked for.
const MAX_HEIGHT: usize = 32;
/// Headers that a server may ask to be sent with a download.
const MAX_HEADERS: usize = 32;
/// The media type of the protocol.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.git-lfs+json");

/// What stands in the place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    /// SHA-256 of the content, lower-case hexadecimal.
    sha256: String,
    size_bytes: u64,
}

/// Reads a pointer; `None` for what is none, an error for what begins as one.
pub(super) fn pointer(text: &[u8]) -> Option<Result<Pointer, String>> {
    let rest = text.strip_prefix(VERSION)?;
    let rest = String::from_utf8_lossy(rest);
    let value = |key: &str| rest.lines().find_map(|line| line.strip_prefix(key));
    let sha256 = value("oid sha256:").filter(|oid| is_sha256(oid));
    let size_bytes = value("size ").and_then(|size| size.parse().ok());
    Some(match (sha256, size_bytes) {
        (Some(sha256), Some(size_bytes)) => Ok(Pointer {
            sha256: sha256.to_ascii_lowercase(),
            size_bytes,
        }),
        _ => Err(format!("{:?}", rest.chars().take(120).collect::<String>())),
    })
}

/// Whether a text is a SHA-256 in hexadecimal.
fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The pointer in a file's place, if there is one.
fn pointer_of(file: &SnapshotFile) -> Result<Option<Pointer>, SourceError> {
    if file.size_bytes > MAX_POINTER_BYTES {
        return Ok(None);
    }
    let text = fs::read(&file.local).map_err(|e| SourceError::io(&file.local, e))?;
    let malformed = |found| SourceError::Protocol {
        url: file.local.display().to_string(),
        expected: "a pointer of git LFS with an oid and a size".to_owned(),
        found,
    };
    pointer(&text).transpose().map_err(malformed)
}

/// The folder of the repository that holds a path: where objects and configuration lie.
fn git_folder(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let dot_git = path
        .ancestors()
        .take(MAX_HEIGHT)
        .map(|folder| folder.join(".git"))
        .find(|entry| entry.exists())?;
    if dot_git.is_dir() {
        return Some(dot_git);
    }
    // A worktree or a submodule: a file that says where the folder is.
    let text = small_text(&dot_git)?;
    let folder = dot_git.parent()?.join(text.strip_prefix("gitdir:")?.trim());
    match small_text(&folder.join("commondir")) {
        Some(common) => Some(folder.join(common.trim())),
        None => Some(folder),
    }
}

fn small_text(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let is_small = metadata.is_file() && metadata.len() <= MAX_CONFIG_BYTES;
    is_small.then(|| fs::read_to_string(path).ok()).flatten()
}

/// Where the LFS server of a repository is, from its configuration: `lfs.url`, else that of the remote
/// `origin`, else of the first one.
pub(super) fn server(config: &str) -> Result<Url, String> {
    let (mut section, mut lfs, mut remotes) = (String::new(), None, BTreeMap::new());
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            name.split(']')
                .next()
                .unwrap_or_default()
                .clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            let (key, value) = (key.trim(), value.trim().trim_matches('"').to_owned());
            if !key.eq_ignore_ascii_case("url") {
                continue;
            }
            if section.eq_ignore_ascii_case("lfs") {
                lfs = Some(value);
            } else if let Some(name) = section.strip_prefix("remote ") {
                remotes.insert(name.trim().trim_matches('"').to_owned(), value);
            }
        }
    }
    let remote = remotes
        .remove("origin")
        .or_else(|| remotes.into_values().next());
    let (address, is_lfs) = match (lfs, remote) {
        (Some(lfs), _) => (lfs, true),
        (None, Some(remote)) => (remote, false),
        (None, None) => return Err("its git configuration names no remote".to_owned()),
    };
    let url = Url::parse(&address).ok();
    let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.host().is_some());
    let Some(mut url) = url else {
        return Err("its remote is not behind http or https".to_owned());
    };
    let path = url.path().trim_end_matches('/').to_owned();
    let path = match is_lfs {
        true => format!("{path}/objects/batch"),
        false => format!(
            "{}.git/info/lfs/objects/batch",
            path.trim_end_matches(".git")
        ),
    };
    url.set_path(&path);
    Ok(url)
}

/// Whether a file is the content that a pointer names.
fn is_content(path: &Path, pointer: &Pointer) -> Result<bool, SourceError> {
    let failed = |error| SourceError::io(path, error);
    if !fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == pointer.size_bytes) {
        return Ok(false);
    }
    let file = LocalFile::open(path, &path.display().to_string()).map_err(failed)?;
    let found = digest::sha256_hex(&file).map_err(failed)?;
    match found == pointer.sha256 {
        true => Ok(true),
        false => Err(SourceError::Damaged {
            path: path.to_owned(),
            expected: pointer.sha256.clone(),
            found,
        }),
    }
}

/// A snapshot of this machine whose pointers are replaced by what they point to.
///
/// # Errors
/// When the content is neither in the checkout's store nor to be had from its remote.
pub(super) fn resolved(
    mut snapshot: Snapshot,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Snapshot, SourceError> {
    let mut missing: BTreeMap<String, Pointer> = BTreeMap::new();
    let git = git_folder(&snapshot.root);
    for file in &mut snapshot.files {
        let Some(pointer) = pointer_of(file)? else {
            continue;
        };
        let of = |from: usize, to: usize| pointer.sha256.get(from..to).unwrap_or_default();
        let stored = git.as_ref().map(|git| {
            let folder = git.join("lfs/objects").join(of(0, 2)).join(of(2, 4));
            folder.join(&pointer.sha256)
        });
        match stored {
            Some(stored) if is_content(&stored, &pointer)? => {
                file.local = stored;
                file.size_bytes = pointer.size_bytes;
                file.sha256 = Some(pointer.sha256);
            }
            _ => {
                missing.insert(file.path.clone(), pointer);
            }
        }
    }
    if missing.is_empty() {
        return Ok(snapshot);
    }
    let unresolved = |why: String| SourceError::Pointers {
        folder: snapshot.root.clone(),
        files: missing.keys().cloned().collect(),
        why,
    };
    let Some(git) = git else {
        return Err(unresolved("it is in no git repository".to_owned()));
    };
    let config = small_text(&git.join("config")).unwrap_or_default();
    let batch = server(&config).map_err(unresolved)?;
    let fetched = fetch(&batch, &missing, options, progress)?;
    for file in &mut snapshot.files {
        let Some(pointer) = missing.get(&file.path) else {
            continue;
        };
        let came = fetched.iter().find(|f| f.path == file.path);
        let is_it = |came: &&SnapshotFile| {
            came.sha256.as_deref() == Some(pointer.sha256.as_str())
                && came.size_bytes == pointer.size_bytes
        };
        let Some(came) = came.filter(is_it) else {
            return Err(SourceError::Pointers {
                folder: snapshot.root.clone(),
                files: vec![file.path.clone()],
                why: "its content could not be had".to_owned(),
            });
        };
        *file = came.clone();
    }
    Ok(snapshot)
}

/// Fetches the content of pointers from the server, or finds what was fetched before.
fn fetch(
    batch: &Url,
    missing: &BTreeMap<String, Pointer>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<Vec<SnapshotFile>, SourceError> {
    let place = shown(batch);
    let cache = RepoCache::of_address(&options.downloads, "lfs", &place);
    let mut files = Vec::new();
    let mut wanted = Vec::new();
    for (path, pointer) in missing {
        let blob = cache.blob(&pointer.sha256);
        if is_content(&blob, pointer)? {
            files.push(SnapshotFile {
                path: path.clone(),
                local: blob,
                remote: None,
                size_bytes: pointer.size_bytes,
                sha256: Some(pointer.sha256.clone()),
                git_blob: None,
            });
        } else {
            wanted.push(RemoteFile {
                path: path.clone(),
                id: Id::Sha256(pointer.sha256.clone()),
                size_bytes: pointer.size_bytes,
                validator: None,
            });
        }
    }
    if wanted.is_empty() {
        return Ok(files);
    }
    let published = Published {
        name: &place,
        revision: "latest",
        label: &|_| place.clone(),
        cache,
        kept_in: &options.downloads,
        connect: &|| {
            Ok(Arc::new(Server {
                http: Http::new(options)?,
                endpoint: place.clone(),
                batch: batch.clone(),
                files: wanted.clone(),
            }))
        },
    };
    files.extend(published.snapshot(options, progress)?.files);
    Ok(files)
}

/// An LFS server, as a session sees it.
#[derive(Debug)]
struct Server {
    http: Http,
    endpoint: String,
    batch: Url,
    files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Answer {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: BTreeMap<String, Action>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: Option<u16>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
}

impl Server {
    /// Asks the server where an object is.
    async fn located(&self, file: &RemoteFile) -> Result<Address, Failure> {
        let what = "the address of an object of git LFS";
        let wrong = |found: String| protocol(&self.batch, what, found);
        let request = serde_json::json!({
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": file.id.as_str(), "size": file.size_bytes}],
        });
        let mut address = Address::open(self.batch.clone());
        address.headers.insert(ACCEPT, MEDIA_TYPE);
        address.headers.insert(CONTENT_TYPE, MEDIA_TYPE);
        let response = self.http.post(&address, request.to_string()).await?;
        if !response.status().is_success() {
            return Err(self.refused(&response, ""));
        }
        let body = http::body(response, what).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| wrong(e.to_string()))?;
        let object = answer
            .objects
            .into_iter()
            .find(|o| o.oid == file.id.as_str());
        let Some(mut object) = object else {
            return Err(wrong(format!("none for {}", file.id.as_str())));
        };
        if let Some(error) = object.error {
            let message: String = error
                .message
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect();
            return Err(wrong(format!("error {:?}: {message:?}", error.code)));
        }
        let Some(action) = object.actions.remove("download") else {
            return Err(wrong(format!("no download of {}", file.id.as_str())));
        };
        let url = Url::parse(&action.href).ok();
        let allowed = |url: &Url| {
            url.scheme() == "https" || (url.scheme() == "http" && self.batch.scheme() == "http")
        };
        let Some(url) = url.filter(allowed) else {
            return Err(wrong("an address that is not behind https".to_owned()));
        };
        if action.header.len() > MAX_HEADERS {
            return Err(wrong(format!("{} headers", action.header.len())));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in action.header {
            let header = HeaderName::from_bytes(name.as_bytes()).ok();
            let Some((header, mut value)) = header.zip(HeaderValue::from_str(&value).ok()) else {
                return Err(wrong(format!("a header {name:?} that cannot be sent")));
            };
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        Ok(Address {
            url,
            headers,
            expires: true,
        })
    }
}

impl Remote for Server {
    fn http(&self) -> &Http {
        &self.http
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn listing(&self) -> Later<'_, Listing> {
        Box::pin(async { Ok(Listing::of(self.files.clone())) })
    }

    fn address<'a>(&'a self, _: &'a str, file: &'a RemoteFile) -> Later<'a, Address> {
        Box::pin(self.located(file))
    }

    fn refused(&self, response: &Response, _: &str) -> Failure {
        let advice = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                "run `git lfs pull` in the checkout, which asks for a password where one is needed"
            }
            _ => "run `git lfs pull` in the checkout",
        };
        refusal(response, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_told_from_text_and_a_broken_one_from_both() {
        let oid = "a".repeat(64);
        let version = "version https://git-lfs.github.com/spec/v1";
        let text = format!("{version}\noid sha256:{oid}\nsize 12\n");
        let expected = Pointer {
            sha256: oid.clone(),
            size_bytes: 12,
        };
        assert_eq!(pointer(text.as_bytes()), Some(Ok(expected)));
        assert_eq!(pointer(b"{}"), None);
        for broken in [
            format!("{version}\noid sha256:../../x\nsize 12\n"),
            format!("{version}\noid sha256:{oid}\nsize -1\n"),
            format!("{version}\noid sha256:{oid}\n"),
            format!("{version}\n\u{0}"),
        ] {
            assert!(pointer(broken.as_bytes()).unwrap().is_err(), "{broken}");
        }
    }

    #[test]
    fn the_server_is_that_of_the_users_own_configuration() {
        let of = |config: &str| server(config).map(String::from);
        let remote =
            |url: &str| format!("[core]\n\tbare = false\n[remote \"origin\"]\n\turl = {url}\n");
        let batch = "https://host/a/b.git/info/lfs/objects/batch".to_owned();
        for url in [
            "https://host/a/b",
            "https://host/a/b.git",
            "https://host/a/b/",
        ] {
            assert_eq!(of(&remote(url)), Ok(batch.clone()), "{url}");
        }
        let other = format!(
            "{}[lfs]\n\turl = \"https://lfs/x/\"\n",
            remote("git@host:a/b")
        );
        assert_eq!(of(&other), Ok("https://lfs/x/objects/batch".to_owned()));
        for url in [
            "git@host:a/b.git",
            "ssh://git@host/a/b",
            "/srv/a",
            "file:///srv/a",
        ] {
            assert!(of(&remote(url)).unwrap_err().contains("http"), "{url}");
        }
        assert!(of("").unwrap_err().contains("no remote"));
    }
}

//! How to reach servers and where what they send is kept; for the hub, as `huggingface_hub` reads it from the environment:
//! what other tools downloaded is then found, and what we download they find.

use super::buckets::BucketOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";
/// The public ModelScope.
const MODELSCOPE: &str = "https://www.modelscope.cn";
/// The public registry of Ollama.
const OLLAMA_REGISTRY: &str = "https://registry.ollama.ai";

/// How to reach the hub and where to keep what it sends.
#[derive(Clone)]
pub struct FetchOptions {
    /// Address of the hub, without a final slash (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Folder of the cache (`HF_HUB_CACHE`, else `HF_HOME/hub`).
    pub cache: PathBuf,
    /// Folder for models that are not from the hub (`MODELKIN_DOWNLOADS`, else `modelkin/downloads` in
    /// the user's cache).
    pub downloads: PathBuf,
    /// Folder for blocks of files that are read in parts (`MODELKIN_BLOCKS`, else `modelkin/blocks` in
    /// the user's cache).
    pub blocks: PathBuf,
    /// How to reach object stores.
    pub buckets: BucketOptions,
    /// Address of ModelScope, without a final slash (`MODELSCOPE_ENDPOINT`, else `MODELSCOPE_DOMAIN`).
    pub modelscope_endpoint: String,
    /// Sent to ModelScope and to no one else (`MODELSCOPE_API_TOKEN`).
    pub modelscope_token: Option<String>,
    /// Address of the registry that `ollama:name` means (`MODELKIN_OLLAMA_REGISTRY`), without a final
    /// slash.
    pub ollama_registry: String,
    /// Folder in which Ollama keeps models on this machine (`OLLAMA_MODELS`, else `~/.ollama/models`).
    pub ollama_models: PathBuf,
    /// Leave weights on the hub and read what is asked for, instead of downloading whole files. What is
    /// in the cache is used either way.
    pub in_parts: bool,
    /// Sent to the hub and to no one else (`HF_TOKEN`, else the file that the login leaves).
    pub token: Option<String>,
    /// Ask no server; use what is in the cache (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Files that are fetched at the same time.
    pub n_parallel: usize,
    /// Attempts without progress before a download is given up.
    pub n_attempts: u32,
    /// Wait before the second attempt; doubled before each further one.
    pub first_wait: Duration,
    /// No wait is longer than this, whatever the server asks for.
    pub longest_wait: Duration,
    /// A transfer that sends nothing for this long is broken off and resumed.
    pub stall: Duration,
}

impl std::fmt::Debug for FetchOptions {
    /// Everything but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Default for FetchOptions {
    /// From the environment.
    fn default() -> Self {
        Self::from_lookup(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }
}

/// As the reference client reads a switch.
fn is_on(value: Option<String>) -> bool {
    value.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str()))
}

/// `~` at the start of a path means the home folder; `$NAME` and `${NAME}` mean variables, and stay as
/// they are where there is none.
fn expanded(path: &str, home: &Path, lookup: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let mut text = String::new();
    let mut rest = path;
    if path == "~" || path.starts_with("~/") {
        text.push_str(&home.to_string_lossy());
        rest = &path[1..];
    }
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let after = &from[1..];
        let (name, end) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some((name, _)) => (name, name.len() + 3),
            None => {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let length = after.find(|c| !is_part(c)).unwrap_or(after.len());
                (&after[..length], length + 1)
            }
        };
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => text.push_str(&value),
            None => text.push_str(&from[..end]),
        }
        rest = &from[end..];
    }
    text.push_str(rest);
    PathBuf::from(text)
}

/// A bare host is behind https, as ModelScope's own client reads it.
fn with_scheme(address: String) -> String {
    match address.contains("://") {
        true => address,
        false => format!("https://{address}"),
    }
}

impl FetchOptions {
    /// From variables that `lookup` knows.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = lookup("HOME")
            .or_else(|| lookup("USERPROFILE"))
            .unwrap_or_default();
        let home = PathBuf::from(home);
        let path = |name: &str| lookup(name).map(|value| expanded(&value, &home, lookup));
        let user_cache = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| user_cache.join("huggingface"));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hf_home.join("hub"));
        let clean = |token: String| Some(token.trim().to_owned()).filter(|t| !t.is_empty());
        // A token that no one named for this request is implicit, the one in the variable as well.
        let token = match is_on(lookup("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            true => None,
            false => lookup("HF_TOKEN")
                .or_else(|| lookup("HUGGING_FACE_HUB_TOKEN"))
                .and_then(clean)
                .or_else(|| {
                    let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
                    std::fs::read_to_string(file).ok().and_then(clean)
                }),
        };
        let address = |name: &str, public: &str| {
            let address = lookup(name).unwrap_or_else(|| public.to_owned());
            address.trim_end_matches('/').to_owned()
        };
        Self {
            endpoint: address("HF_ENDPOINT", ENDPOINT),
            cache,
            downloads: path("MODELKIN_DOWNLOADS")
                .unwrap_or_else(|| user_cache.join("modelkin").join("downloads")),
            blocks: path("MODELKIN_BLOCKS")
                .unwrap_or_else(|| user_cache.join("modelkin").join("blocks")),
            buckets: BucketOptions::from_lookup(lookup),
            modelscope_endpoint: with_scheme(match lookup("MODELSCOPE_ENDPOINT") {
                Some(_) => address("MODELSCOPE_ENDPOINT", MODELSCOPE),
                None => address("MODELSCOPE_DOMAIN", MODELSCOPE),
            }),
            modelscope_token: lookup("MODELSCOPE_API_TOKEN").and_then(clean),
            ollama_registry: address("MODELKIN_OLLAMA_REGISTRY", OLLAMA_REGISTRY),
            ollama_models: path("OLLAMA_MODELS").unwrap_or_else(|| home.join(".ollama/models")),
            in_parts: false,
            token,
            // The second is asked only where the first says nothing: `HF_HUB_OFFLINE=0` is an answer.
            offline: is_on(lookup("HF_HUB_OFFLINE").or_else(|| lookup("TRANSFORMERS_OFFLINE"))),
            n_parallel: 4,
            n_attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn of(variables: &[(&str, &str)]) -> FetchOptions {
        let map: HashMap<&str, &str> = variables.iter().copied().collect();
        FetchOptions::from_lookup(&|name| map.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn the_cache_is_where_the_reference_client_keeps_it() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "~")], "/h"),
            (&[("D", "/d"), ("HF_HOME", "$D/x")], "/d/x/hub"),
            (&[("D", "d"), ("HF_HUB_CACHE", "/${D}s/$NO/$")], "/ds/$NO/$"),
            (&[("HF_HUB_CACHE", "/${D/é$")], "/${D/é$"),
        ];
        for (variables, cache) in cases {
            assert_eq!(of(variables).cache, Path::new(cache), "{variables:?}");
        }
    }

    #[test]
    fn the_token_is_read_from_variable_or_file_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        let explicit = of(&[("HF_HOME", home), ("HF_TOKEN", " secret ")]);
        assert_eq!(explicit.token.as_deref(), Some("secret"));
        assert!(!format!("{explicit:?}").contains("secret"));
        let off = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        assert_eq!(of(&[("HF_HOME", home), off]).token, None);
        assert_eq!(of(&[("HF_TOKEN", "secret"), off]).token, None);
        let blank = of(&[("HF_HOME", home), ("HF_TOKEN", " ")]);
        assert_eq!(blank.token.as_deref(), Some("from-file"));
    }

    #[test]
    fn endpoint_and_offline_are_honoured() {
        let options = of(&[
            ("HF_ENDPOINT", "http://mirror:8/"),
            ("HF_HUB_OFFLINE", "yes"),
        ]);
        assert_eq!(options.endpoint, "http://mirror:8");
        assert!(options.offline);
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).offline);
        let transformers = ("TRANSFORMERS_OFFLINE", "1");
        assert!(of(&[transformers]).offline);
        assert!(!of(&[("HF_HUB_OFFLINE", "0"), transformers]).offline);
        assert_eq!(of(&[]).endpoint, ENDPOINT);
    }
}

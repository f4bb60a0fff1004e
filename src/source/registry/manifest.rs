//! Manifests of images: which layers are files of a model, and what those files are called.
//!
//! A manifest comes from a stranger. It becomes names and digests here, and nothing is fetched.

use super::super::remote::cache::is_safe;
use super::super::remote::{Id, RemoteFile};
use super::super::{is_needed, is_weights};
use super::name::sha256_of;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a manifest; registries refuse larger ones.
pub(super) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Layers that a manifest may name.
const MAX_LAYERS: usize = 10_000;
/// Media types of layers, and the file that each becomes.
const MEDIA_TYPES: &[(&str, &str)] = &[
    ("application/vnd.ollama.image.model", "model.gguf"),
    ("application/vnd.ollama.image.adapter", ADAPTER),
    ("application/vnd.ollama.image.projector", "mmproj.gguf"),
    (
        "application/vnd.ollama.image.template",
        "ollama-template.txt",
    ),
    ("application/vnd.ollama.image.system", "ollama-system.txt"),
    ("application/vnd.ollama.image.params", "ollama-params.json"),
    (
        "application/vnd.ollama.image.messages",
        "ollama-messages.json",
    ),
    ("application/vnd.ollama.image.license", LICENSE),
    ("application/vnd.docker.ai.gguf.v3", "model.gguf"),
    ("application/vnd.docker.ai.mmproj", "mmproj.gguf"),
    ("application/vnd.docker.ai.license", LICENSE),
];
/// What is added to the model when it runs. There may be several.
const ADAPTER: &str = "adapter.gguf";
/// Of several licences the first one is kept.
const LICENSE: &str = "LICENSE";
/// Annotations that name a layer's file.
const TITLES: &[&str] = &["org.opencontainers.image.title", "org.cncf.model.filepath"];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    manifests: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    // Some writers put null where there are none.
    annotations: Option<BTreeMap<String, String>>,
}

impl Layer {
    /// The file that the layer becomes, if it is one.
    fn file_name(&self) -> Option<&str> {
        // Parameters may follow the type.
        let kind = self.media_type.split(';').next().unwrap_or_default().trim();
        if let Some((_, name)) = MEDIA_TYPES.iter().find(|(known, _)| *known == kind) {
            return Some(name);
        }
        let annotations = self.annotations.as_ref()?;
        let title = TITLES.iter().find_map(|title| annotations.get(*title))?;
        // Archives hold files and are none.
        let is_archive = kind.contains("tar") || kind.contains("zip");
        (!is_archive && is_needed(title)).then_some(title)
    }
}

/// The files of a manifest; an error in words.
///
/// # Errors
/// When it is no manifest of a model, or names files that cannot be told apart or may not be written.
pub(in crate::source) fn files_of(manifest: &[u8]) -> Result<Vec<RemoteFile>, String> {
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(|e| e.to_string())?;
    if !manifest.manifests.is_empty() {
        let n = manifest.manifests.len();
        return Err(format!(
            "a list of {n} manifests; name one by its digest (@sha256:…)"
        ));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!("{} layers", manifest.layers.len()));
    }
    let mut files: BTreeMap<String, RemoteFile> = BTreeMap::new();
    let mut n_adapters = 0;
    for layer in &manifest.layers {
        let Some(name) = layer.file_name() else {
            continue;
        };
        if !is_safe(name) {
            return Err(format!("a layer with the path {name:?}"));
        }
        let Some(sha256) = sha256_of(&layer.digest) else {
            return Err(format!("a layer with the digest {:?}", layer.digest));
        };
        let path = match name == ADAPTER {
            true => {
                n_adapters += 1;
                match n_adapters {
                    1 => ADAPTER.to_owned(),
                    n => format!("adapter-{n}.gguf"),
                }
            }
            false => name.to_owned(),
        };
        let file = RemoteFile {
            path: path.clone(),
            id: Id::Sha256(sha256),
            size_bytes: layer.size,
            validator: None,
        };
        let is_other = files.get(&path).is_some_and(|known| *known != file);
        if is_other && path != LICENSE {
            return Err(format!("two layers for {path}"));
        }
        files.entry(path).or_insert(file);
    }
    if !files.keys().any(|path| is_weights(path)) {
        let kinds: BTreeSet<&str> = manifest.layers.iter().map(|l| &*l.media_type).collect();
        let kinds: Vec<&str> = kinds.into_iter().take(8).collect();
        return Err(format!("no layer of weights among {kinds:?}"));
    }
    Ok(files.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MODEL: &str = "application/vnd.ollama.image.model";
    const LICENSES: &str = "application/vnd.ollama.image.license";
    const ADAPTERS: &str = "application/vnd.ollama.image.adapter";

    fn layer(kind: &str, n: u8, title: Option<&str>) -> serde_json::Value {
        let digest = format!("sha256:{}", format!("{n:02x}").repeat(32));
        let mut layer = json!({"mediaType": kind, "digest": digest, "size": 1});
        if let Some(title) = title {
            layer["annotations"] = json!({"org.opencontainers.image.title": title});
        }
        layer
    }

    fn paths(layers: &[serde_json::Value]) -> Result<Vec<String>, String> {
        let files = files_of(json!({"layers": layers}).to_string().as_bytes())?;
        Ok(files.into_iter().map(|f| f.path).collect())
    }

    #[test]
    fn layers_become_files_or_are_left() {
        let files = paths(&[
            layer(MODEL, 1, None),
            layer(LICENSES, 2, None),
            layer(LICENSES, 3, None),
            layer(ADAPTERS, 4, None),
            layer(ADAPTERS, 5, None),
            layer("application/octet-stream", 6, Some("config.json")),
            layer("application/x-tar", 7, Some("all.safetensors")),
            layer("application/octet-stream", 8, Some("picture.png")),
        ]);
        let expected = [
            "LICENSE",
            "adapter-2.gguf",
            "adapter.gguf",
            "config.json",
            "model.gguf",
        ];
        assert_eq!(files.unwrap(), expected);
    }

    #[test]
    fn layers_that_are_no_files_of_one_model_are_errors() {
        let error = |layers: &[serde_json::Value]| paths(layers).unwrap_err();
        let model = layer(MODEL, 1, None);
        let other = layer(MODEL, 2, None);
        assert!(error(&[model.clone(), other]).contains("two layers"));
        assert!(error(&[layer(LICENSES, 1, None)]).contains("no layer of weights"));
        let outside = layer("application/octet-stream", 1, Some("../x.json"));
        assert!(error(&[model.clone(), outside]).contains("../x.json"));
        for digest in ["sha256:../../x", "sha512:00", "", &"a".repeat(64)] {
            let mut bad = model.clone();
            bad["digest"] = digest.into();
            assert!(error(&[bad]).contains("digest"), "{digest}");
        }
        let many: Vec<serde_json::Value> = vec![model; MAX_LAYERS + 1];
        assert!(error(&many).contains("10001 layers"));
        let list = json!({"manifests": [{}, {}]}).to_string();
        let found = files_of(list.as_bytes()).unwrap_err();
        assert!(found.contains("a list of 2 manifests"), "{found}");
        assert!(files_of(b"<html>").is_err());
    }
}

//! Names of models in registries, as their own tools read them: `ollama:llama3:8b`,
//! `oci:host:5000/space/name@sha256:…`.

/// A model's name in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Host, and port if any; `None` means Ollama's registry, as the settings have it.
    pub(super) host: Option<String>,
    /// The path of the repository, every segment safe in an address and as a folder.
    pub(super) repository: String,
    /// A tag, or `sha256:…`.
    pub(super) tag: String,
}

/// Where images of a host are really served, if elsewhere.
const SERVED_BY: &[(&str, &str)] = &[("docker.io", "registry-1.docker.io")];

/// A segment of a name, safe as part of an address and of a path.
pub(super) fn is_segment(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(is_part) && !text.starts_with(['.', '-'])
}

/// Whether a text is a host, perhaps with a port.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    is_segment(host) && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// `sha256:` and 64 hexadecimal digits → the digits in lower case.
pub(super) fn sha256_of(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| hex.to_ascii_lowercase())
}

impl Reference {
    /// Reads a name with its prefix; `None` for what is no name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (prefix, name) = text.split_once(':')?;
        let (path, tag) = match name.split_once('@') {
            Some((path, digest)) => (path, format!("sha256:{}", sha256_of(digest)?)),
            None => match name.rsplit_once(':') {
                // What follows a colon and holds a slash is a port and more.
                Some((path, tag)) if !tag.contains('/') => (path, tag.to_owned()),
                _ => (name, "latest".to_owned()),
            },
        };
        let is_tag = is_segment(&tag) || sha256_of(&tag).is_some();
        let segments: Vec<&str> = path.split('/').collect();
        let (host, repository) = match (prefix, segments.as_slice()) {
            ("ollama", [name]) => (None, format!("library/{name}")),
            ("ollama", [space, name]) => (None, format!("{space}/{name}")),
            ("ollama", [host, space, name]) => (Some(*host), format!("{space}/{name}")),
            ("oci", [host, rest @ ..]) if !rest.is_empty() => (Some(*host), rest.join("/")),
            _ => return None,
        };
        let fine = is_tag
            && repository.len() <= 255
            && repository.split('/').all(is_segment)
            && host.is_none_or(is_host);
        fine.then(|| Self {
            host: host.map(str::to_owned),
            repository,
            tag,
        })
    }

    /// The address of the registry; `ollama` is the one that a name without a host means. As with
    /// images, a registry on this machine is spoken to without TLS.
    pub(super) fn registry(&self, ollama: &str) -> String {
        let Some(host) = &self.host else {
            return ollama.to_owned();
        };
        let served_by = SERVED_BY.iter().find(|(name, _)| name == host);
        let host = served_by.map_or(host.as_str(), |(_, server)| server);
        let scheme = match host.split(':').next() {
            Some("localhost" | "127.0.0.1") => "http",
            _ => "https",
        };
        format!("{scheme}://{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_their_own_tools_read_them() {
        let of = |text: &str| {
            let r = Reference::parse(text)?;
            Some((r.host.unwrap_or_default(), r.repository, r.tag))
        };
        let expected = |host: &str, repository: &str, tag: &str| {
            Some((host.to_owned(), repository.to_owned(), tag.to_owned()))
        };
        assert_eq!(
            of("ollama:llama3"),
            expected("", "library/llama3", "latest")
        );
        assert_eq!(of("ollama:a/b:7b-q4_K_M"), expected("", "a/b", "7b-q4_K_M"));
        assert_eq!(
            of("ollama:hf.co/a/b:Q8_0"),
            expected("hf.co", "a/b", "Q8_0")
        );
        assert_eq!(
            of("oci:localhost:5000/a/b/c"),
            expected("localhost:5000", "a/b/c", "latest")
        );
        let digest = format!("sha256:{}", "A".repeat(64));
        assert_eq!(
            of(&format!("oci:ghcr.io/a/b@{digest}")),
            expected("ghcr.io", "a/b", &format!("sha256:{}", "a".repeat(64)))
        );
        for text in [
            "ollama:",
            "ollama:../x",
            "ollama:a/../b",
            "ollama:.a/b",
            "ollama:a:b:c",
            "ollama:a/b/c/d",
            "oci:host",
            "oci:ho st/a",
            "oci:host/a@sha256:12",
            "oci:user@host/a",
            "ollama:a:../../x",
            "oci:host:99999/a",
            "oci:host:+1/a",
            "oci:host/a?x",
            "oci:host//a",
            "oci:/a",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn a_registry_is_behind_tls_unless_it_is_on_this_machine() {
        let of = |text: &str| Reference::parse(text).unwrap().registry("https://ollama");
        assert_eq!(of("ollama:a"), "https://ollama");
        assert_eq!(of("oci:ghcr.io/a/b"), "https://ghcr.io");
        assert_eq!(of("oci:docker.io/ai/b"), "https://registry-1.docker.io");
        assert_eq!(of("oci:localhost:5000/b"), "http://localhost:5000");
        assert_eq!(of("oci:localhost.evil.org/b"), "https://localhost.evil.org");
    }
}

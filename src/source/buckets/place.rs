//! Names of places in object stores: `s3://bucket/path/to/model`, a folder or a file of weights.

use super::super::is_weights;
use super::super::remote::cache::is_safe;

/// What a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Google,
    Azure,
}

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) bucket: String,
    /// Empty, or ends in a slash.
    pub(super) folder: String,
    /// The object that is meant; empty for the folder.
    pub(super) file: String,
}

/// What names begin with.
const SCHEMES: &[(&str, Kind)] = &[
    ("s3://", Kind::S3),
    ("gs://", Kind::Google),
    ("az://", Kind::Azure),
];

/// A name that can be a bucket's in any store, and part of a host.
fn is_bucket(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_end = |c: char| c.is_ascii_alphanumeric();
    (1..=222).contains(&text.len())
        && text.bytes().all(is_part)
        && text.starts_with(is_end)
        && text.ends_with(is_end)
        && !text.contains("..")
}

/// A name of a region or an account: it becomes part of a host.
pub(super) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
}

/// Reads a name with its scheme; `None` for what is no place.
pub(super) fn place_of(text: &str) -> Option<Place> {
    let (scheme, kind) = SCHEMES.iter().find(|(s, _)| text.starts_with(s))?;
    let rest = text.strip_prefix(scheme)?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let whole = key.strip_suffix('/').unwrap_or(key);
    if !is_bucket(bucket) || !(whole.is_empty() || is_safe(whole)) {
        return None;
    }
    let (folder, file) = match (key.ends_with('/'), whole.rsplit_once('/')) {
        (false, Some((folder, file))) if is_weights(file) => (format!("{folder}/"), file),
        (false, None) if is_weights(whole) => (String::new(), whole),
        _ if whole.is_empty() => (String::new(), ""),
        _ => (format!("{whole}/"), ""),
    };
    Some(Place {
        kind: *kind,
        bucket: bucket.to_owned(),
        folder,
        file: file.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_file_of_weights() {
        let of = |text: &str| {
            let place = place_of(text)?;
            Some((place.bucket, place.folder, place.file))
        };
        let expected = |bucket: &str, folder: &str, file: &str| {
            Some((bucket.to_owned(), folder.to_owned(), file.to_owned()))
        };
        assert_eq!(of("s3://b"), expected("b", "", ""));
        assert_eq!(of("gs://b.c/"), expected("b.c", "", ""));
        assert_eq!(of("az://b/x/y"), expected("b", "x/y/", ""));
        assert_eq!(of("s3://b/x/y/"), expected("b", "x/y/", ""));
        assert_eq!(of("s3://b/m.gguf"), expected("b", "", "m.gguf"));
        assert_eq!(of("s3://b/x y/m.gguf"), expected("b", "x y/", "m.gguf"));
        assert_eq!(of("s3://b/m.gguf/"), expected("b", "m.gguf/", ""));
        for text in [
            "s3://",
            "s3:///x",
            "s3://user:pass@host/x",
            "s3://b/../x",
            "s3://b//x",
            "s3://b/x//",
            "s3://-b/x",
            "s3://a..b/x",
            "s3://b:80/x",
            "s3://b?x",
            "s3://b/x\n",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        for (label, is_one) in [("eu-west-1", true), ("", false), ("x.evil.org/", false)] {
            assert_eq!(is_label(label), is_one, "{label}");
        }
    }
}

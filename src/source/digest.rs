//! Digests of files, streamed.

use super::bytes::ByteSource;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// SHA-256 of texts, each ended by a zero byte, so that no two lists of texts without one are the same.
pub(super) fn of_text(texts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(text);
        digest.update([0]);
    }
    hex(&digest.finalize())
}

/// SHA-256 of some bytes, lower-case hexadecimal.
pub(super) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn stream<D: Digest>(mut digest: D, source: &dyn ByteSource) -> io::Result<String> {
    source.for_each_block(&mut |block| digest.update(block))?;
    Ok(hex(&digest.finalize()))
}

/// SHA-256 of the content, lower-case hexadecimal: the id of a file in git LFS.
///
/// # Errors
/// When the bytes cannot be had.
pub fn sha256_hex(source: &dyn ByteSource) -> io::Result<String> {
    stream(Sha256::new(), source)
}

/// The git blob id of the content: SHA-1 of `blob <length>\0` and the bytes. It names a file as git
/// does; it is no protection against forgery, which is why SHA-256 stands beside it.
///
/// # Errors
/// When the bytes cannot be had.
pub fn git_blob_hex(source: &dyn ByteSource) -> io::Result<String> {
    let mut digest = Sha1::new();
    Digest::update(&mut digest, format!("blob {}\0", source.len()));
    stream(digest, source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bytes::MemoryFile;

    #[test]
    fn digests_of_known_content() {
        // `sha256sum` and `git hash-object` of the same bytes.
        let file = MemoryFile::new("hello", b"hello\n".to_vec());
        assert_eq!(
            sha256_hex(&file).unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(
            git_blob_hex(&file).unwrap(),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        let empty = MemoryFile::new("empty", vec![]);
        assert_eq!(
            git_blob_hex(&empty).unwrap(),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
    }

    #[test]
    fn blocks_do_not_matter() {
        let bytes: Vec<u8> = (0..(4 << 20) + 7).map(|i| i as u8).collect();
        let expected = hex(&Sha256::digest(&bytes));
        assert_eq!(
            sha256_hex(&MemoryFile::new("long", bytes)).unwrap(),
            expected
        );
    }
}

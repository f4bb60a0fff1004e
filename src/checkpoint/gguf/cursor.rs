//! Reads the head of a GGUF file piece by piece: no length is believed before the bytes are there.

use super::super::{CheckpointError, CheckpointFile};

/// Bytes fetched at a time.
const WINDOW: u64 = 1 << 20;
/// Longest head that is read; those of the largest vocabularies take 20 MiB.
const MAX_HEAD_BYTES: u64 = 1 << 30;

/// A place in a file, and the bytes around it.
pub(super) struct Cursor<'a> {
    file: &'a CheckpointFile,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a CheckpointFile) -> Self {
        Self {
            file,
            at: 0,
            window: Vec::new(),
            window_start: 0,
        }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes behind the cursor's place.
    pub(super) fn remaining(&self) -> u64 {
        self.file.source.len().saturating_sub(self.at)
    }

    /// The file is not what the format demands.
    pub(super) fn wrong(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::File {
            file: self.file.path.clone(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The next `n` bytes, which hold `what`.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&[u8], CheckpointError> {
        let end = self.at.checked_add(n).filter(|_| n <= self.remaining());
        let Some(end) = end else {
            let found = format!("a file of {} bytes", self.file.source.len());
            let expected = format!("{n} bytes of {what} at byte {}", self.at);
            return Err(self.wrong(expected, found));
        };
        if end > MAX_HEAD_BYTES {
            let found = format!("more, at {what}");
            return Err(self.wrong("at most 1 GiB of metadata and tensor entries", found));
        }
        if self.at < self.window_start || end > self.window_start + self.window.len() as u64 {
            let until = end
                .max(self.at.saturating_add(WINDOW))
                .min(self.file.source.len());
            let bytes =
                self.file
                    .source
                    .read(self.at..until)
                    .map_err(|error| CheckpointError::Io {
                        file: self.file.path.clone(),
                        error,
                    })?;
            self.window = bytes.into_owned();
            self.window_start = self.at;
        }
        // Both offsets lie within the window, whose length is a usize.
        let start = (self.at - self.window_start) as usize;
        self.at = end;
        Ok(&self.window[start..start + n as usize])
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, CheckpointError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, CheckpointError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each, so that one beyond the file is refused
    /// before anything is set aside for it.
    pub(super) fn count(
        &mut self,
        what: &str,
        min_bytes: u64,
        limit: u64,
    ) -> Result<u64, CheckpointError> {
        let n = self.u64(what)?;
        let room = (self.remaining() / min_bytes).min(limit);
        if n > room {
            let expected = format!("a {what} of at most {room}, which the file has room for");
            return Err(self.wrong(expected, n.to_string()));
        }
        Ok(n)
    }

    /// A string of at most `limit` bytes, as bytes.
    pub(super) fn string(&mut self, what: &str, limit: u64) -> Result<&[u8], CheckpointError> {
        let n = self.u64(what)?;
        if n > limit.min(self.remaining()) {
            let expected = format!(
                "a length of {what} of at most {}",
                limit.min(self.remaining())
            );
            return Err(self.wrong(expected, format!("{n}{}", self.text_damage())));
        }
        self.take(n, what)
    }

    /// A hint where the bytes around the cursor hold U+FFFD: the file was decoded as text on its way,
    /// which replaces bytes by three.
    fn text_damage(&self) -> &'static str {
        let at = self.at.saturating_sub(self.window_start) as usize;
        let near = self
            .window
            .get(at.saturating_sub(64)..self.window.len().min(at + 64));
        let replaced = near.is_some_and(|bytes| bytes.windows(3).any(|w| w == [0xef, 0xbf, 0xbd]));
        if replaced {
            "; the replacement characters beside it say that the file was once decoded as text"
        } else {
            ""
        }
    }
}

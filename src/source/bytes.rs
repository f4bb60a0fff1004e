//! Byte ranges of a file, wherever it lies. Checkpoint readers sit on [`ByteSource`] and on nothing
//! else of this module, so that a file need not be here to be read.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;

/// Random access to the bytes of one file.
pub trait ByteSource: Send + Sync + std::fmt::Debug {
    /// Path relative to the model's root; used in messages.
    fn name(&self) -> &str;

    /// Size in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// When the range reaches beyond the end, or the bytes cannot be had.
    fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>>;

    /// Bytes of the file that were looked at so far, in whole blocks, where it lies elsewhere and is
    /// read in parts; `None` for a file on this machine.
    fn n_bytes_seen(&self) -> Option<u64> {
        None
    }

    /// Shows all bytes once, in order, in blocks of a size that may change.
    ///
    /// # Errors
    /// When the bytes cannot be had.
    fn for_each_block(&self, visit: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        for start in (0..self.len()).step_by(BLOCK_BYTES) {
            let end = self.len().min(start + BLOCK_BYTES as u64);
            visit(&self.read(start..end)?);
        }
        Ok(())
    }
}

/// Bytes of a block when a whole file is read.
const BLOCK_BYTES: usize = 4 << 20;
/// Blocks read ahead of the one that is looked at.
const N_AHEAD: usize = 2;

/// A file on this machine, read by position.
///
/// Not mapped: pages of a map count as memory of this process for as long as the system likes, and a
/// file that another process cuts short would end this one by a signal instead of an error.
#[derive(Debug)]
pub struct LocalFile {
    name: String,
    file: File,
    len: u64,
}

impl LocalFile {
    /// Opens a file for reading; `name` is what messages call it.
    ///
    /// # Errors
    /// When it cannot be opened, or is not a regular file.
    pub fn open(path: &Path, name: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "expected a regular file, found something else",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            file,
            len: metadata.len(),
        })
    }

    /// Fills the buffer with the bytes at `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(unix)]
        {
            std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
        }
        #[cfg(windows)]
        {
            let mut done = 0;
            while done < buffer.len() {
                let at = offset + done as u64;
                match std::os::windows::fs::FileExt::seek_read(&self.file, &mut buffer[done..], at)?
                {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => done += n,
                }
            }
            Ok(())
        }
    }
}

impl ByteSource for LocalFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>> {
        let n_bytes = range
            .end
            .checked_sub(range.start)
            .filter(|_| range.end <= self.len)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| beyond_the_end(&range, self.len))?;
        let mut bytes = vec![0; n_bytes];
        self.read_exact_at(&mut bytes, range.start)?;
        Ok(Cow::Owned(bytes))
    }

    /// Reads ahead on a thread of its own, so that disk and processor work at the same time.
    fn for_each_block(&self, visit: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let (send, receive) = mpsc::sync_channel::<io::Result<Vec<u8>>>(N_AHEAD);
        let (give_back, spare) = mpsc::channel::<Vec<u8>>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for start in (0..self.len).step_by(BLOCK_BYTES) {
                    let n_bytes = (self.len - start).min(BLOCK_BYTES as u64) as usize;
                    let mut block = spare.try_recv().unwrap_or_default();
                    block.resize(n_bytes, 0);
                    let read = self.read_exact_at(&mut block, start).map(|()| block);
                    let failed = read.is_err();
                    // The receiver is gone only after an error, of which it knows.
                    if send.send(read).is_err() || failed {
                        return;
                    }
                }
            });
            for block in receive {
                let block = block?;
                visit(&block);
                // The reader may have ended already.
                let _ = give_back.send(block);
            }
            Ok(())
        })
    }
}

/// Bytes held in memory, for tests and small files.
#[derive(Debug)]
pub struct MemoryFile {
    name: String,
    bytes: Vec<u8>,
}

impl MemoryFile {
    /// Takes the bytes; `name` is what messages call them.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            bytes,
        }
    }
}

impl ByteSource for MemoryFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>> {
        let bytes = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| self.bytes.get(start..end));
        bytes
            .map(Cow::Borrowed)
            .ok_or_else(|| beyond_the_end(&range, self.len()))
    }
}

pub(super) fn beyond_the_end(range: &Range<u64>, len: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!(
            "expected bytes {}..{}, found a file of {len} bytes",
            range.start, range.end
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_beyond_the_end_is_an_error_that_names_both() {
        let file = MemoryFile::new("m.safetensors", vec![0; 10]);
        assert_eq!(file.read(2..10).unwrap().len(), 8);
        for range in [0..11, 11..12, u64::MAX - 1..u64::MAX] {
            let error = file.read(range).unwrap_err().to_string();
            assert!(error.contains("10 bytes"), "{error}");
        }
    }

    #[test]
    fn an_empty_file_opens_and_a_folder_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let file = LocalFile::open(&path, "empty").unwrap();
        assert!(file.is_empty());
        assert!(file.read(0..1).is_err());
        assert!(LocalFile::open(folder.path(), "folder").is_err());
    }

    #[test]
    fn a_file_reads_the_same_by_range_and_in_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let bytes: Vec<u8> = (0..2 * BLOCK_BYTES + 7).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = LocalFile::open(&path, "long").unwrap();
        let mut seen = Vec::new();
        file.for_each_block(&mut |block| seen.extend_from_slice(block))
            .unwrap();
        assert!(seen == bytes);
        assert_eq!(file.read(5..9).unwrap(), &bytes[5..9]);
        assert!(file.read(0..file.len() + 1).is_err());
        assert!(file.read(9..u64::MAX).is_err());
    }

    #[test]
    fn a_file_that_shrinks_under_us_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shrinking");
        std::fs::write(&path, [0; 100]).unwrap();
        let file = LocalFile::open(&path, "shrinking").unwrap();
        std::fs::write(&path, [0; 10]).unwrap();
        assert!(file.read(0..100).is_err());
        assert!(file.for_each_block(&mut |_| {}).is_err());
    }
}

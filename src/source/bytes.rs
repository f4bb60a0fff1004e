//! Byte ranges of a file, wherever it lies. Checkpoint readers sit on [`ByteSource`] and on nothing
//! else of this module, so that a file need not be here to be read.

use memmap2::Mmap;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
}

/// Bytes read through maps after which their pages are handed back to the system.
const RESIDENT_BYTES: u64 = 256 << 20;
/// What a read may make resident beyond its own bytes: the system maps pages around a fault.
const FAULT_AROUND_BYTES: u64 = 64 << 10;

/// Every open map, and how much was read through them since their pages were last handed back.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());
static TOUCHED_BYTES: AtomicU64 = AtomicU64::new(0);

/// A memory-mapped file. Pages are read when they are looked at and handed back after
/// [`RESIDENT_BYTES`], so that resident memory does not grow with the size or number of files.
#[derive(Debug)]
pub struct MappedFile {
    name: String,
    // An empty file cannot be mapped.
    map: Option<Arc<Mmap>>,
}

/// Counts a read and, once enough was read, lets the system take the pages of all maps back. They
/// stay in its cache and come again at the next look.
fn count_read(n_bytes: u64) {
    let counted = n_bytes + FAULT_AROUND_BYTES;
    if TOUCHED_BYTES.fetch_add(counted, Ordering::Relaxed) + counted < RESIDENT_BYTES {
        return;
    }
    TOUCHED_BYTES.store(0, Ordering::Relaxed);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|map| {
        let Some(map) = map.upgrade() else {
            return false;
        };
        #[cfg(unix)]
        {
            // SAFETY: the map is read-only and backed by a file, so dropped pages are read again
            // with the same content; slices that others hold stay valid.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                tracing::debug!(%error, "the system keeps the pages of a mapped file");
            }
        }
        #[cfg(not(unix))]
        let _ = map;
        true
    });
}

impl MappedFile {
    /// Maps a file for reading; `name` is what messages call it.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path, name: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "expected a regular file, found something else",
            ));
        }
        if metadata.len() == 0 {
            return Ok(Self {
                name: name.to_owned(),
                map: None,
            });
        }
        // SAFETY: the map is read-only and private to this process. Another process that truncates
        // the file while we read could still cut pages away under us; the threat model says so, and
        // the hub cache never truncates a published blob.
        let map = Arc::new(unsafe { Mmap::map(&file)? });
        MAPS.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&map));
        Ok(Self {
            name: name.to_owned(),
            map: Some(map),
        })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..])
    }
}

impl ByteSource for MappedFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>> {
        let bytes = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| self.bytes().get(start..end));
        count_read(range.end.saturating_sub(range.start).min(self.len()));
        bytes
            .map(Cow::Borrowed)
            .ok_or_else(|| beyond_the_end(&range, self.len()))
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

fn beyond_the_end(range: &Range<u64>, len: u64) -> io::Error {
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
    fn an_empty_file_maps_and_a_folder_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let file = MappedFile::open(&path, "empty").unwrap();
        assert!(file.is_empty());
        assert!(file.read(0..1).is_err());
        assert!(MappedFile::open(folder.path(), "folder").is_err());
    }
}

//! The central directory of a zip archive: which entry lies where. Nothing is unpacked.
//!
//! `torch.save` stores its entries without compression, so an entry is a byte range of the file. The
//! reader accepts only that, and only archives in which every range is certain: one disk, the directory
//! right before its end records, the local header in agreement with the directory, no two entries that
//! share a byte or a name. Format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.

use super::error::short;
use crate::source::bytes::ByteSource;
use std::collections::HashSet;
use std::io;
use std::ops::Range;

/// Entries that an archive may have: one per storage.
const MAX_ENTRIES: u64 = 1 << 20;
/// Larger directories than a million entries need.
const MAX_DIRECTORY_BYTES: u64 = 256 << 20;
/// The end record with the longest comment.
const MAX_END_BYTES: u64 = 22 + 65_535;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// One stored entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Name in the archive.
    pub name: String,
    /// Its bytes in the file.
    pub data: Range<u64>,
}

/// What is wrong with an archive.
#[derive(Debug)]
pub(super) enum ZipError {
    /// The bytes cannot be had.
    Io(io::Error),
    /// Expected, found.
    Malformed(String, String),
}

impl From<io::Error> for ZipError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn wrong(expected: impl Into<String>, found: impl Into<String>) -> ZipError {
    ZipError::Malformed(expected.into(), found.into())
}

/// Reads the directory.
///
/// # Errors
/// When the archive is none, is ambiguous, or holds an entry that is compressed or encrypted.
pub(super) fn entries(source: &dyn ByteSource) -> Result<Vec<Entry>, ZipError> {
    let directory = find_directory(source)?;
    let bytes = source.read(directory.bytes.clone())?;
    let mut fields = Fields(&bytes);
    let mut found = Vec::new();
    let mut taken = Vec::new();
    for _ in 0..directory.n_entries {
        let listed = central_header(&mut fields)?;
        let (header_start, entry) = locate(source, listed, directory.bytes.start)?;
        taken.push(header_start..entry.data.end);
        found.push(entry);
    }
    if !fields.0.is_empty() {
        return Err(wrong(
            format!("a directory of {} entries", directory.n_entries),
            format!("{} bytes after the last", fields.0.len()),
        ));
    }
    let mut names = HashSet::with_capacity(found.len());
    if let Some(entry) = found.iter().find(|entry| !names.insert(&entry.name)) {
        return Err(wrong(
            "one entry of each name",
            format!("{} twice", short(&entry.name)),
        ));
    }
    taken.sort_by_key(|range| range.start);
    if let Some(pair) = taken.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(wrong(
            "entries that do not overlap",
            format!(
                "one that ends at {} and one that begins at {}",
                pair[0].end, pair[1].start
            ),
        ));
    }
    Ok(found)
}

struct Directory {
    bytes: Range<u64>,
    n_entries: u64,
}

/// Finds the directory through the end records, which must follow it without a gap: bytes in between,
/// or before the archive, would let two readers see two archives.
fn find_directory(source: &dyn ByteSource) -> Result<Directory, ZipError> {
    let len = source.len();
    let tail_start = len.saturating_sub(MAX_END_BYTES);
    let tail = source.read(tail_start..len)?;
    // The comment's length must reach exactly to the end of the file.
    let at = (0..=tail.len().saturating_sub(22)).rev().find(|&at| {
        let mut fields = Fields(tail.get(at..).unwrap_or_default());
        let end = fields.u32() == Some(END) && fields.skip(16).is_some();
        end && fields
            .u16()
            .is_some_and(|n| usize::from(n) == fields.0.len())
    });
    let Some(at) = at else {
        return Err(wrong(
            "a zip archive, which ends with the record of its directory",
            "no such record; the file may be cut short",
        ));
    };
    let end_start = tail_start + at as u64;
    let cut = || wrong("an end record of 22 bytes", "fewer");
    let mut fields = Fields(&tail[at + 4..]);
    let disk = fields.u16().ok_or_else(cut)?;
    let directory_disk = fields.u16().ok_or_else(cut)?;
    let here = fields.u16().ok_or_else(cut)?;
    let n_entries = fields.u16().ok_or_else(cut)?;
    let n_bytes = fields.u32().ok_or_else(cut)?;
    let start = fields.u32().ok_or_else(cut)?;
    let big = end_64(source, end_start)?;
    let one_disk = |n: u16| n == 0 || (n == u16::MAX && big.is_some());
    if !one_disk(disk) || !one_disk(directory_disk) || here != n_entries {
        return Err(wrong(
            "an archive in one file",
            "an archive of several disks",
        ));
    }
    let (directory, records_start) = match big {
        // torch writes both records; where the small one holds a value it must be the same.
        Some((big, record_start)) => {
            let agrees = (n_entries == u16::MAX || u64::from(n_entries) == big.n_entries)
                && (n_bytes == u32::MAX || u64::from(n_bytes) == big.bytes.end - big.bytes.start)
                && (start == u32::MAX || u64::from(start) == big.bytes.start);
            if !agrees {
                return Err(wrong(
                    "end records that agree",
                    "a directory of 32 and one of 64 bits that differ",
                ));
            }
            (big, record_start)
        }
        None => {
            let (start, n_bytes) = (u64::from(start), u64::from(n_bytes));
            let directory = Directory {
                bytes: start..start + n_bytes,
                n_entries: u64::from(n_entries),
            };
            (directory, end_start)
        }
    };
    let Range { start, end } = directory.bytes;
    if end != records_start {
        return Err(wrong(
            format!("a directory that ends at {records_start}, where its record begins"),
            format!("bytes {start}..{end}"),
        ));
    }
    if directory.n_entries > MAX_ENTRIES || end - start > MAX_DIRECTORY_BYTES {
        return Err(wrong(
            format!("at most {MAX_ENTRIES} entries in {MAX_DIRECTORY_BYTES} bytes"),
            format!("{} in {} bytes", directory.n_entries, end - start),
        ));
    }
    Ok(directory)
}

/// The 64-bit end record that a locator before the small one points at, and where it begins.
fn end_64(source: &dyn ByteSource, end_start: u64) -> Result<Option<(Directory, u64)>, ZipError> {
    let Some(locator_start) = end_start.checked_sub(20) else {
        return Ok(None);
    };
    let bytes = source.read(locator_start..end_start)?;
    let mut fields = Fields(&bytes);
    if fields.u32() != Some(LOCATOR_64) {
        return Ok(None);
    }
    let disks = (fields.u32(), fields.u64(), fields.u32());
    let (Some(0), Some(record_start), Some(0 | 1)) = disks else {
        return Err(wrong(
            "an archive in one file",
            "an archive of several disks",
        ));
    };
    let expected = "a 64-bit end record right before its locator";
    if record_start.checked_add(56) != Some(locator_start) {
        return Err(wrong(expected, format!("one at {record_start}")));
    }
    let bytes = source.read(record_start..locator_start)?;
    let mut fields = Fields(&bytes);
    let parsed = (|| {
        let known = fields.u32()? == END_64 && fields.u64()? == 44;
        fields.skip(4)?;
        let one_disk = fields.u32()? == 0 && fields.u32()? == 0;
        let (here, n_entries) = (fields.u64()?, fields.u64()?);
        let (n_bytes, start) = (fields.u64()?, fields.u64()?);
        let end = start.checked_add(n_bytes)?;
        (known && one_disk && here == n_entries).then_some(Directory {
            bytes: start..end,
            n_entries,
        })
    })();
    let directory = parsed.ok_or_else(|| wrong(expected, "a record that contradicts itself"))?;
    Ok(Some((directory, record_start)))
}

/// An entry as the directory lists it.
struct Listed {
    name: String,
    size_bytes: u64,
    header_start: u64,
}

fn central_header(fields: &mut Fields) -> Result<Listed, ZipError> {
    let cut = || wrong("a directory of whole entries", "one that is cut short");
    if fields.u32().ok_or_else(cut)? != CENTRAL {
        return Err(wrong(
            "an entry of the directory",
            "bytes that do not begin one",
        ));
    }
    fields.skip(4).ok_or_else(cut)?;
    let flags = fields.u16().ok_or_else(cut)?;
    let method = fields.u16().ok_or_else(cut)?;
    fields.skip(8).ok_or_else(cut)?;
    let stored = fields.u32().ok_or_else(cut)?;
    let unpacked = fields.u32().ok_or_else(cut)?;
    let n_name = fields.u16().ok_or_else(cut)?;
    let n_extra = fields.u16().ok_or_else(cut)?;
    let n_comment = fields.u16().ok_or_else(cut)?;
    let disk = fields.u16().ok_or_else(cut)?;
    fields.skip(6).ok_or_else(cut)?;
    let header = fields.u32().ok_or_else(cut)?;
    let name = fields.take(usize::from(n_name)).ok_or_else(cut)?;
    let extra = fields.take(usize::from(n_extra)).ok_or_else(cut)?;
    fields.skip(usize::from(n_comment)).ok_or_else(cut)?;
    let name = plain_name(name)?;
    let wrong = |expected: &str, found: &str| {
        ZipError::Malformed(expected.to_owned(), format!("{} {found}", short(&name)))
    };
    if flags & 0x2041 != 0 {
        return Err(wrong("entries that are not encrypted", "encrypted"));
    }
    if method != 0 {
        return Err(wrong(
            "entries without compression, as torch.save writes them (load and save the file again)",
            &format!("compressed by method {method}"),
        ));
    }
    let mut sizes = [u64::from(unpacked), u64::from(stored), u64::from(header)];
    widen(extra, &mut sizes).ok_or_else(|| wrong("a 64-bit size", "with a field cut short"))?;
    let [unpacked, stored, header_start] = sizes;
    if unpacked != stored {
        return Err(wrong(
            "a stored size that is the size",
            &format!("of {unpacked} bytes stored in {stored}"),
        ));
    }
    if disk != 0 {
        return Err(wrong("an archive in one file", "on another disk"));
    }
    Ok(Listed {
        name,
        size_bytes: stored,
        header_start,
    })
}

/// Replaces the 32-bit values that are all ones by those of the zip64 extra field, in its order.
fn widen(extra: &[u8], values: &mut [u64; 3]) -> Option<()> {
    if values.iter().all(|v| *v != u64::from(u32::MAX)) {
        return Some(());
    }
    let mut fields = Fields(extra);
    loop {
        let (id, n) = (fields.u16()?, fields.u16()?);
        let mut field = Fields(fields.take(usize::from(n))?);
        if id == 1 {
            for value in values.iter_mut().filter(|v| **v == u64::from(u32::MAX)) {
                *value = field.u64()?;
            }
            return Some(());
        }
    }
}

/// A name that stays below the folder it would be unpacked into, although nothing is unpacked.
fn plain_name(bytes: &[u8]) -> Result<String, ZipError> {
    let expected = "names of entries in UTF-8, without `..`, backslashes and control characters";
    let name = str::from_utf8(bytes).map_err(|error| wrong(expected, error.to_string()))?;
    let bad = name.is_empty()
        || name.starts_with('/')
        || name.split('/').any(|part| part == "..")
        || name.chars().any(|c| c.is_control() || c == '\\');
    if bad {
        return Err(wrong(expected, format!("{:?}", short(name))));
    }
    Ok(name.to_owned())
}

/// Reads the local header, which alone says where the data begin, and holds it against the directory.
fn locate(
    source: &dyn ByteSource,
    listed: Listed,
    directory_start: u64,
) -> Result<(u64, Entry), ZipError> {
    let start = listed.header_start;
    let wrong = |expected: String, found: &str| {
        ZipError::Malformed(expected, format!("{}: {found}", short(&listed.name)))
    };
    let fixed_end = start
        .checked_add(30)
        .filter(|end| *end <= directory_start)
        .ok_or_else(|| {
            wrong(
                format!("entries before the directory at {directory_start}"),
                &format!("one at {start}"),
            )
        })?;
    let bytes = source.read(start..fixed_end)?;
    let mut fields = Fields(&bytes);
    let parsed = (|| {
        let known = fields.u32()? == LOCAL;
        fields.skip(2)?;
        let (_, method) = (fields.u16()?, fields.u16()?);
        fields.skip(16)?;
        let lengths = (u64::from(fields.u16()?), u64::from(fields.u16()?));
        (known && method == 0).then_some(lengths)
    })();
    let Some((n_name, n_extra)) = parsed else {
        return Err(wrong(
            format!("a local header of a stored entry at {start}"),
            "other bytes",
        ));
    };
    // None of this overflows: the start lies within the file and the lengths have 16 bits.
    let data_start = fixed_end + n_name + n_extra;
    let end = data_start
        .checked_add(listed.size_bytes)
        .filter(|end| *end <= directory_start);
    let Some(data_end) = end else {
        return Err(wrong(
            format!("data that end before the directory at {directory_start}"),
            &format!("{} bytes at {data_start}", listed.size_bytes),
        ));
    };
    if *source.read(fixed_end..fixed_end + n_name)? != *listed.name.as_bytes() {
        return Err(wrong(
            "one name in the directory and before the data".to_owned(),
            "another name before the data",
        ));
    }
    Ok((
        start,
        Entry {
            name: listed.name,
            data: data_start..data_end,
        },
    ))
}

/// Little-endian fields, taken one after the other; `None` at the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.take(n).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

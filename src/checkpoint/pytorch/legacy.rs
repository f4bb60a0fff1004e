//! The format of torch before 1.6: five pickles (magic number, protocol, system, the object, the keys
//! of its storages), then each storage as a count of elements and its bytes.

use super::layout::{Declared, Stored};
use super::pickle::{self, Refusal, Unpickled};
use super::value::{Value, Values};
use crate::source::bytes::ByteSource;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// What the first pickle of a file holds.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// What the second holds.
const PROTOCOL: i128 = 1001;

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum LegacyError {
    /// The bytes cannot be had.
    Io(io::Error),
    /// A pickle is refused.
    Pickle(Refusal),
    /// Expected, found.
    Malformed(String, String),
}

impl From<Refusal> for LegacyError {
    fn from(refusal: Refusal) -> Self {
        Self::Pickle(refusal)
    }
}

impl From<io::Error> for LegacyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn wrong(expected: impl Into<String>, found: impl Into<String>) -> LegacyError {
    LegacyError::Malformed(expected.into(), found.into())
}

/// The object, and the keys of the storages in their order.
pub(super) struct Header {
    pub object: Unpickled,
    keys: Unpickled,
}

/// Reads the five pickles.
///
/// # Errors
/// When one is refused or holds something else, or the file is of a big-endian machine.
pub(super) fn header(bytes: &[u8]) -> Result<Header, LegacyError> {
    let magic = pickle::read(bytes, 0)?;
    if !matches!(magic.values.get(magic.root), Value::Int(MAGIC)) {
        return Err(wrong(
            "a file of torch.save: a zip archive, or a pickle of torch's magic number",
            format!("a pickle of {}", magic.values.get(magic.root).kind()),
        ));
    }
    let protocol = pickle::read(bytes, magic.end)?;
    if !matches!(protocol.values.get(protocol.root), Value::Int(PROTOCOL)) {
        return Err(wrong("torch's protocol 1001", "another"));
    }
    let system = pickle::read(bytes, protocol.end)?;
    if !is_little_endian(&system.values, system.root) {
        return Err(wrong(
            "a file written on a little-endian machine",
            "another byte order, or none stated",
        ));
    }
    let object = pickle::read(bytes, system.end)?;
    let keys = pickle::read(bytes, object.end)?;
    Ok(Header { object, keys })
}

fn is_little_endian(values: &Values, root: u32) -> bool {
    let Value::Dict(items) = values.get(root) else {
        return false;
    };
    items.iter().any(|(key, value)| {
        values
            .str(*key)
            .is_some_and(|key| &**key == "little_endian")
            && matches!(values.get(*value), Value::Bool(true))
    })
}

/// Where each storage lies, and where the last one ends.
///
/// # Errors
/// When keys, counts and the pickle contradict each other, or the file is too short.
pub(super) fn storages(
    header: &Header,
    declared: &HashMap<Arc<str>, Declared>,
    source: &dyn ByteSource,
) -> Result<(Stored, u64), LegacyError> {
    let keys = &header.keys;
    let Some(ids) = keys.values.items(keys.root) else {
        return Err(wrong(
            "a list of storage keys",
            keys.values.get(keys.root).kind(),
        ));
    };
    let mut found = Stored::with_capacity(ids.len());
    let mut at = keys.end as u64;
    for id in ids {
        let key = keys.values.str(*id);
        let Some((key, storage)) = key.and_then(|key| declared.get_key_value(key)) else {
            return Err(wrong(
                "keys of storages that the pickle refers to",
                "a key of none",
            ));
        };
        let data_start = at.checked_add(8).filter(|end| *end <= source.len());
        let Some(data_start) = data_start else {
            return Err(wrong(
                format!("storage {key} at byte {at}"),
                format!("a file of {} bytes", source.len()),
            ));
        };
        let mut count = [0; 8];
        count.copy_from_slice(&source.read(at..data_start)?);
        let count = u64::from_le_bytes(count);
        if count != storage.n_elements {
            return Err(wrong(
                format!("{} elements in storage {key}", storage.n_elements),
                count.to_string(),
            ));
        }
        let end = storage
            .size_bytes()
            .and_then(|n| data_start.checked_add(n))
            .filter(|end| *end <= source.len());
        let Some(end) = end else {
            return Err(wrong(
                format!("{count} elements of storage {key} at byte {data_start}"),
                format!("a file of {} bytes", source.len()),
            ));
        };
        if found.insert(key.clone(), data_start..end).is_some() {
            return Err(wrong("each storage once", format!("storage {key} twice")));
        }
        at = end;
    }
    Ok((found, at))
}

//! The metadata of a GGUF file: keys with typed values, arrays among them.
//!
//! Values that are read here are bounded by the file's size and by fixed caps; strings that are not
//! UTF-8 are kept with replacement characters and told, since some published tokenizers hold them.

use super::super::CheckpointError;
use super::super::error::short;
use super::cursor::Cursor;
use std::collections::BTreeMap;

/// Entries that are accepted; models have under a hundred.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest key, as the format states it.
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
/// Longest string value.
const MAX_STRING_BYTES: u64 = 64 << 20;
/// Array elements of one file, over all keys; the largest vocabularies have two million.
const MAX_ELEMENTS: u64 = 1 << 24;
/// Arrays within arrays.
const MAX_DEPTH: usize = 4;

/// An array; whole numbers and truth values are `Whole`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Array {
    Whole(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// Arrays of arrays have no use here; only their number is kept.
    Nested(u64),
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Whole(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// The metadata of one file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub entries: BTreeMap<String, Value>,
    /// What was seen and repaired, in sentences.
    pub notes: Vec<String>,
}

impl Metadata {
    /// A whole number.
    pub(super) fn whole(&self, key: &str) -> Option<i128> {
        match self.entries.get(key)? {
            Value::Whole(number) => Some(*number),
            _ => None,
        }
    }

    /// A positive number that fits a usize.
    pub(super) fn size(&self, key: &str) -> Option<usize> {
        self.whole(key)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0)
    }

    /// A number of a layer: one for all, or an array with one per layer.
    pub(super) fn of_layer(&self, key: &str, layer: usize) -> Option<usize> {
        match self.entries.get(key)? {
            Value::Array(Array::Whole(list)) => usize::try_from(*list.get(layer)?).ok(),
            _ => self.size(key),
        }
        .filter(|&n| n > 0)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.entries.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn texts(&self, key: &str) -> Option<&[String]> {
        match self.entries.get(key)? {
            Value::Array(Array::Texts(list)) => Some(list),
            _ => None,
        }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.entries.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.entries.get(key)? {
            Value::Array(Array::Floats(list)) => Some(list),
            _ => None,
        }
    }

    pub(super) fn wholes(&self, key: &str) -> Option<&[i64]> {
        match self.entries.get(key)? {
            Value::Array(Array::Whole(list)) => Some(list),
            _ => None,
        }
    }
}

/// Reads all entries.
pub(super) fn read(cursor: &mut Cursor<'_>, n_entries: u64) -> Result<Metadata, CheckpointError> {
    if n_entries > MAX_ENTRIES {
        let expected = format!("at most {MAX_ENTRIES} metadata entries");
        return Err(cursor.wrong(expected, n_entries.to_string()));
    }
    let mut reader = Reader {
        metadata: Metadata::default(),
        n_elements: 0,
        last: None,
    };
    for index in 0..n_entries {
        reader.entry(cursor, index)?;
    }
    Ok(reader.metadata)
}

struct Reader {
    metadata: Metadata,
    n_elements: u64,
    /// The key before, for messages about a key that cannot be read.
    last: Option<String>,
}

/// Strings of one key that were not UTF-8.
#[derive(Default)]
struct Mangled {
    n: u64,
    first: Option<u64>,
}

impl Reader {
    fn entry(&mut self, cursor: &mut Cursor<'_>, index: u64) -> Result<(), CheckpointError> {
        let what = match &self.last {
            Some(last) => format!("the metadata key after {}", short(last)),
            None => format!("metadata key {index}"),
        };
        let bytes = cursor.string(&what, MAX_KEY_BYTES)?.to_vec();
        let Ok(key) = String::from_utf8(bytes) else {
            return Err(cursor.wrong(format!("{what} in UTF-8"), "other bytes"));
        };
        let kind = cursor.u32(&format!("the type of {}", short(&key)))?;
        let mut mangled = Mangled::default();
        let value = if kind == 9 {
            Value::Array(self.array(cursor, &key, 1, &mut mangled)?)
        } else {
            scalar(cursor, &key, kind, None, &mut mangled)?
        };
        if let Some(first) = mangled.first {
            self.metadata.notes.push(format!(
                "{}: {} strings are not UTF-8, the first at {first}; their invalid bytes are shown as \u{fffd}",
                short(&key),
                mangled.n
            ));
        }
        if self.metadata.entries.insert(key.clone(), value).is_some() {
            return Err(cursor.wrong(format!("one entry {}", short(&key)), "the key twice"));
        }
        self.last = Some(key);
        Ok(())
    }

    fn array(
        &mut self,
        cursor: &mut Cursor<'_>,
        key: &str,
        depth: usize,
        mangled: &mut Mangled,
    ) -> Result<Array, CheckpointError> {
        let key_shown = short(key);
        if depth > MAX_DEPTH {
            let expected = format!("{key_shown} with at most {MAX_DEPTH} arrays in one another");
            return Err(cursor.wrong(expected, "more"));
        }
        let kind = cursor.u32(&format!("the element type of {key_shown}"))?;
        let min_bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(cursor.wrong(value_types(key), format!("type {other}"))),
        };
        let room = MAX_ELEMENTS - self.n_elements;
        let n = cursor.count(&format!("length of {key_shown}"), min_bytes, room)?;
        self.n_elements += n;
        Ok(match kind {
            8 => {
                let mut texts = Vec::new();
                for index in 0..n {
                    texts.push(text(cursor, key, Some(index), mangled)?);
                }
                Array::Texts(texts)
            }
            9 => {
                for _ in 0..n {
                    self.array(cursor, key, depth + 1, mangled)?;
                }
                Array::Nested(n)
            }
            6 | 12 => {
                let mut floats = Vec::new();
                for index in 0..n {
                    if let Value::Float(x) = scalar(cursor, key, kind, Some(index), mangled)? {
                        floats.push(x as f32);
                    }
                }
                Array::Floats(floats)
            }
            _ => {
                let mut whole = Vec::new();
                for index in 0..n {
                    match scalar(cursor, key, kind, Some(index), mangled)? {
                        Value::Whole(x) => whole.push(i64::try_from(x).unwrap_or(i64::MAX)),
                        Value::Bool(x) => whole.push(i64::from(x)),
                        _ => {}
                    }
                }
                Array::Whole(whole)
            }
        })
    }
}

fn value_types(key: &str) -> String {
    format!("one of the value types 0 to 12 for {}", short(key))
}

/// `key` or `key[index]`, for messages.
fn place(key: &str, index: Option<u64>) -> String {
    match index {
        Some(index) => format!("{}[{index}]", short(key)),
        None => short(key),
    }
}

fn text(
    cursor: &mut Cursor<'_>,
    key: &str,
    index: Option<u64>,
    mangled: &mut Mangled,
) -> Result<String, CheckpointError> {
    let bytes = cursor.string(&place(key, index), MAX_STRING_BYTES)?;
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            mangled.n += 1;
            mangled.first.get_or_insert(index.unwrap_or(0));
            String::from_utf8_lossy(bytes).into_owned()
        }
    })
}

fn scalar(
    cursor: &mut Cursor<'_>,
    key: &str,
    kind: u32,
    index: Option<u64>,
    mangled: &mut Mangled,
) -> Result<Value, CheckpointError> {
    // Allocated only for messages: numbers come by the million.
    let what = || place(key, index);
    macro_rules! number {
        ($type:ty) => {
            <$type>::from_le_bytes(match cursor.remaining() {
                0..16 => cursor.array(&what())?,
                _ => cursor.array("")?,
            })
        };
    }
    Ok(match kind {
        0 => Value::Whole(number!(u8).into()),
        1 => Value::Whole(number!(i8).into()),
        2 => Value::Whole(number!(u16).into()),
        3 => Value::Whole(number!(i16).into()),
        4 => Value::Whole(number!(u32).into()),
        5 => Value::Whole(number!(i32).into()),
        6 => Value::Float(number!(f32).into()),
        7 => match number!(u8) {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => {
                return Err(cursor.wrong(format!("0 or 1 for {}", what()), other.to_string()));
            }
        },
        8 => Value::Text(text(cursor, key, index, mangled)?),
        10 => Value::Whole(number!(u64).into()),
        11 => Value::Whole(number!(i64).into()),
        12 => Value::Float(number!(f64)),
        other => return Err(cursor.wrong(value_types(key), format!("type {other}"))),
    })
}

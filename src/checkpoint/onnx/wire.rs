//! The wire format of protocol buffers, as ranges of a file: tags, varints and lengths, and no message types.
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use super::super::CheckpointError;
use crate::source::bytes::ByteSource;
use std::ops::Range;

/// Bytes that are read at once; a long value is passed over without being read.
const WINDOW_BYTES: u64 = 64 << 10;

/// A field's number and its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field(pub u64, pub Value);

/// A value, by how it lies in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A varint.
    Number(u64),
    /// A text, bytes, a message or packed numbers: where they are.
    Bytes(Range<u64>),
    /// Four or eight bytes, which nothing here asks for.
    Fixed,
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    source: &'a dyn ByteSource,
    file: &'a str,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Reader<'a> {
    /// A message in these bytes of a file.
    pub fn new(source: &'a dyn ByteSource, file: &'a str, range: Range<u64>) -> Self {
        Self {
            source,
            file,
            at: range.start,
            end: range.end,
            window: Vec::new(),
            window_start: range.start,
        }
    }

    fn wrong(&self, expected: &str) -> CheckpointError {
        CheckpointError::File {
            file: self.file.to_owned(),
            expected: expected.to_owned(),
            found: format!("other bytes before {}", self.at),
        }
    }

    /// Bytes of the file.
    pub fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, CheckpointError> {
        let read = self
            .source
            .read(range)
            .map_err(|error| CheckpointError::Io {
                file: self.file.to_owned(),
                error,
            })?;
        Ok(read.into_owned())
    }

    fn byte(&mut self) -> Result<u8, CheckpointError> {
        if self.at >= self.end {
            return Err(self.wrong("a whole field"));
        }
        let inside = self
            .at
            .checked_sub(self.window_start)
            .and_then(|i| self.window.get(usize::try_from(i).ok()?).copied());
        let byte = match inside {
            Some(byte) => byte,
            None => {
                let end = self.end.min(self.at.saturating_add(WINDOW_BYTES));
                self.window = self.bytes(self.at..end)?;
                self.window_start = self.at;
                let first = self.window.first().copied();
                first.ok_or_else(|| self.wrong("a whole field"))?
            }
        };
        self.at += 1;
        Ok(byte)
    }

    /// The next varint, or `None` at the end.
    pub fn varint(&mut self) -> Result<Option<u64>, CheckpointError> {
        if self.at == self.end {
            return Ok(None);
        }
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(self.wrong("a number of at most 64 bits"))
    }

    fn pass(&mut self, n_bytes: u64) -> Result<Range<u64>, CheckpointError> {
        let start = self.at;
        let end = start.checked_add(n_bytes).filter(|&end| end <= self.end);
        self.at = end.ok_or_else(|| self.wrong("a length within the message"))?;
        Ok(start..self.at)
    }

    /// The next field, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<Field>, CheckpointError> {
        let Some(tag) = self.varint()? else {
            return Ok(None);
        };
        let value = match tag & 7 {
            0 => {
                let number = self.varint()?;
                Value::Number(number.ok_or_else(|| self.wrong("a whole field"))?)
            }
            1 => {
                self.pass(8)?;
                Value::Fixed
            }
            2 => {
                let length = self.varint()?;
                let length = length.ok_or_else(|| self.wrong("a whole field"))?;
                Value::Bytes(self.pass(length)?)
            }
            5 => {
                self.pass(4)?;
                Value::Fixed
            }
            _ => return Err(self.wrong("a protocol buffer")),
        };
        if tag >> 3 == 0 {
            return Err(self.wrong("a protocol buffer"));
        }
        Ok(Some(Field(tag >> 3, value)))
    }
}

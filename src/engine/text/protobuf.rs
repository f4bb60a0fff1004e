//! A bounds-checked walk over the fields of a protobuf message, for files of SentencePiece.
//!
//! No length that the file states is believed before it is checked.

/// The value of one field.
pub(crate) enum Field<'a> {
    /// A number, a truth value, or one of a list.
    Varint(u64),
    /// Four bytes, such as an f32.
    Fixed32([u8; 4]),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    /// A wire type whose value no caller needs.
    Skipped,
}

/// A cursor over the fields of one message.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let have = self.0.len();
        let n = usize::try_from(n)
            .ok()
            .filter(|&n| n <= have)
            .ok_or_else(|| format!("a field states {n} bytes where {have} are left"))?;
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has more than ten bytes".to_owned())
    }

    /// The next field's number and value; `None` at the end of the message.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Skipped
            }
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n)?)
            }
            5 => {
                let bytes = self.take(4)?;
                bytes.try_into().map_or(Field::Skipped, Field::Fixed32)
            }
            wire => return Err(format!("field {} has the wire type {wire}", key >> 3)),
        };
        match key >> 3 {
            0 => Err("a field has the number 0".to_owned()),
            number => Ok(Some((number, value))),
        }
    }
}

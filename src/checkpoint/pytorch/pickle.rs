//! A reader of pickle streams, protocols 0 to 5, that executes nothing.
//!
//! A pickle is a program for a stack machine, and Python's machine imports and calls whatever the
//! program names. This one pushes plain values (`value`) and knows a closed list of functions, none of
//! which is called: `rebuild` turns a call into a description. An opcode or a global beyond that is
//! an error that names it. Every opcode takes time and memory in proportion to the bytes it consumes,
//! so that no stream can make it hang or grow beyond its limits.
//! Opcodes: <https://github.com/python/cpython/blob/main/Lib/pickletools.py>.

use super::super::error::short;
use super::value::{Id, Known, Value, Values, lookup};
use std::collections::HashMap;

/// Larger pickles than any checkpoint has: the weights lie outside.
pub(super) const MAX_PICKLE_BYTES: u64 = 64 << 20;
/// Values, and entries of the stack, the marks and the memo.
const MAX_VALUES: usize = 8 << 20;

/// Why a stream is refused; `at` is the offset of the opcode in the bytes that were given.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It asks for something that would have to be executed, in words.
    Asks(String, usize),
    /// It is no valid pickle of this kind: expected, found.
    Malformed(String, String, usize),
}

/// A finished stream.
#[derive(Debug)]
pub(super) struct Unpickled {
    pub values: Values,
    /// The value on top at the end.
    pub root: Id,
    /// Offset of the first byte after the stream.
    pub end: usize,
}

/// Reads one pickle that begins at `start`.
///
/// # Errors
/// When it is malformed, or asks for more than tensors and plain values.
pub(super) fn read(bytes: &[u8], start: usize) -> Result<Unpickled, Refusal> {
    let mut machine = Machine {
        bytes,
        op_at: start,
        at: start,
        values: Values::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        machine.op_at = machine.at;
        let op = machine.byte()?;
        if op == b'.' {
            let root = machine.pop()?;
            return Ok(Unpickled {
                values: machine.values,
                root,
                end: machine.at,
            });
        }
        machine.step(op)?;
        let grown = [
            machine.values.0.len(),
            machine.stack.len(),
            machine.marks.len(),
            machine.memo.len(),
        ];
        if grown.iter().any(|n| *n > MAX_VALUES) {
            let expected = format!("a pickle of at most {MAX_VALUES} values");
            return Err(machine.malformed(expected, "more"));
        }
    }
}

/// The machine between two opcodes.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    op_at: usize,
    at: usize,
    pub(super) values: Values,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn malformed(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Refusal {
        Refusal::Malformed(expected.into(), found.into(), self.op_at)
    }

    pub(super) fn asks(&self, asked: impl Into<String>) -> Refusal {
        Refusal::Asks(asked.into(), self.op_at)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Refusal> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = rest.get(..n) else {
            return Err(self.malformed(
                format!("an opcode with {n} bytes of argument"),
                format!("{} bytes until the end", rest.len()),
            ));
        };
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length of 1, 4 or 8 bytes. Those beyond the end are refused by [`Self::take`].
    fn length(&mut self, width: usize) -> Result<usize, Refusal> {
        let length = match width {
            1 => u64::from(self.byte()?),
            4 => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The argument of a text opcode, without its line feed.
    fn line(&mut self) -> Result<&'a str, Refusal> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let line = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .and_then(|n| str::from_utf8(&rest[..n]).ok());
        let Some(line) = line else {
            return Err(self.malformed("an opcode with a line of text", "no such line"));
        };
        self.at += line.len() + 1;
        Ok(line)
    }

    pub(super) fn make(&mut self, value: Value) -> Result<Id, Refusal> {
        let n = self.values.0.len();
        let id = Id::try_from(n).map_err(|_| self.malformed("fewer than 2³² values", "more"))?;
        self.values.0.push(value);
        Ok(id)
    }

    fn push(&mut self, value: Value) -> Result<(), Refusal> {
        let id = self.make(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// The topmost value above the last mark.
    fn top(&self) -> Result<Id, Refusal> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err(self.malformed("a value on the stack", "none")),
        }
    }

    fn pop(&mut self) -> Result<Id, Refusal> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// Everything above the last mark, which goes too.
    fn pop_mark(&mut self) -> Result<Vec<Id>, Refusal> {
        let Some(floor) = self.marks.pop() else {
            return Err(self.malformed("a mark on the stack", "none"));
        };
        Ok(self.stack.split_off(floor.min(self.stack.len())))
    }

    fn remember(&mut self, index: u32) -> Result<(), Refusal> {
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Refusal> {
        let Some(id) = self.memo.get(&index) else {
            return Err(self.malformed("a remembered value", format!("none of number {index}")));
        };
        self.stack.push(*id);
        Ok(())
    }

    fn index(&mut self) -> Result<u32, Refusal> {
        let line = self.line()?;
        line.parse()
            .map_err(|_| self.malformed("a number of the memo", short(line)))
    }

    fn tuple(&mut self, n: usize) -> Result<(), Refusal> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn text(&mut self, width: usize) -> Result<(), Refusal> {
        let n = self.length(width)?;
        let bytes = self.take(n)?;
        match str::from_utf8(bytes) {
            Ok(text) => self.push(Value::Str(text.into())),
            Err(error) => Err(self.malformed("text in UTF-8", error.to_string())),
        }
    }

    /// Bytes of Python 3 and byte strings of Python 2, which are text where they are UTF-8.
    fn binary(&mut self, width: usize, is_text: bool) -> Result<(), Refusal> {
        let n = self.length(width)?;
        let bytes = self.take(n)?;
        match str::from_utf8(bytes) {
            Ok(text) if is_text => self.push(Value::Str(text.into())),
            _ => self.push(Value::Opaque),
        }
    }

    /// A little-endian two's complement of any length; beyond 128 bits its value is of no use here.
    fn long(&mut self, width: usize) -> Result<(), Refusal> {
        let n = self.length(width)?;
        let bytes = self.take(n)?;
        if bytes.len() > 16 {
            return self.push(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i128::from_le_bytes(whole)))
    }

    fn decimal(&mut self) -> Result<(), Refusal> {
        let line = self.line()?;
        // `01` and `00` are how protocol 0 writes truth values.
        let value = match line {
            "01" => Value::Bool(true),
            "00" => Value::Bool(false),
            _ => match line.strip_suffix('L').unwrap_or(line).parse::<i128>() {
                Ok(n) => Value::Int(n),
                Err(_)
                    if line
                        .bytes()
                        .all(|b| b.is_ascii_digit() || b"-L".contains(&b)) =>
                {
                    Value::Opaque
                }
                Err(_) => return Err(self.malformed("a whole number", short(line))),
            },
        };
        self.push(value)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Refusal> {
        match lookup(module, name) {
            Some(known) => self.push(Value::Known(known)),
            None => Err(self.asks(format!("the global `{}.{}`", short(module), short(name)))),
        }
    }

    fn stack_global(&mut self) -> Result<(), Refusal> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Some(module), Some(name)) = (self.values.str(module), self.values.str(name)) else {
            return Err(self.malformed("the name of a global on the stack", "something else"));
        };
        let (module, name) = (module.clone(), name.clone());
        self.global(&module, &name)
    }

    fn extend(&mut self, mut added: Vec<Id>) -> Result<(), Refusal> {
        let target = self.top()?;
        let found = match self.values.0.get_mut(target as usize) {
            Some(Value::List(items) | Value::Set(items)) => {
                items.append(&mut added);
                return Ok(());
            }
            Some(Value::Opaque) => return Ok(()),
            Some(other) => other.kind(),
            None => "nothing",
        };
        Err(self.malformed("a list or set to add to", found))
    }

    fn set_items(&mut self, added: &[Id]) -> Result<(), Refusal> {
        let target = self.top()?;
        let (pairs, rest) = added.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("keys with values", "a key without one"));
        }
        let found = match self.values.0.get_mut(target as usize) {
            Some(Value::Dict(items)) => {
                items.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                return Ok(());
            }
            Some(Value::Opaque) => return Ok(()),
            Some(other) => other.kind(),
            None => "nothing",
        };
        Err(self.malformed("a mapping to add to", found))
    }

    fn call(&mut self, make: fn(&mut Self, Id, Id) -> Result<Id, Refusal>) -> Result<(), Refusal> {
        let (arguments, target) = (self.pop()?, self.pop()?);
        let made = make(self, target, arguments)?;
        self.stack.push(made);
        Ok(())
    }

    /// Carries out one opcode.
    fn step(&mut self, op: u8) -> Result<(), Refusal> {
        match op {
            // Framing.
            0x80 => match self.byte()? {
                0..=5 => Ok(()),
                n => Err(self.malformed("a protocol of 0 to 5", n.to_string())),
            },
            0x95 => {
                let n = self.length(8)?;
                let rest = self.bytes.len() - self.at.min(self.bytes.len());
                if n > rest {
                    return Err(
                        self.malformed(format!("a frame of at most {rest} bytes"), n.to_string())
                    );
                }
                Ok(())
            }
            // Scalars.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n.into()))
            }
            b'M' => {
                let n = self.array().map(u16::from_le_bytes)?;
                self.push(Value::Int(n.into()))
            }
            b'J' => {
                let n = self.array().map(i32::from_le_bytes)?;
                self.push(Value::Int(n.into()))
            }
            b'I' | b'L' => self.decimal(),
            0x8a => self.long(1),
            0x8b => self.long(4),
            b'G' => {
                let x = self.array().map(f64::from_be_bytes)?;
                self.push(Value::Float(x))
            }
            b'F' => {
                let line = self.line()?;
                let parsed = line.parse();
                let x = parsed.map_err(|_| self.malformed("a number", short(line)))?;
                self.push(Value::Float(x))
            }
            // Strings and bytes.
            b'X' => self.text(4),
            0x8c => self.text(1),
            0x8d => self.text(8),
            b'V' => {
                let line = self.line()?;
                // Names are plain; what is escaped would have to be decoded to be compared.
                if line.contains('\\') {
                    return self.push(Value::Opaque);
                }
                self.push(Value::Str(line.into()))
            }
            b'S' => {
                let line = self.line()?;
                let inner = ['\'', '"']
                    .iter()
                    .find_map(|quote| line.strip_prefix(*quote)?.strip_suffix(*quote));
                match inner {
                    Some(text) if !text.contains('\\') => self.push(Value::Str(text.into())),
                    Some(_) => self.push(Value::Opaque),
                    None => Err(self.malformed("a quoted string", short(line))),
                }
            }
            b'U' => self.binary(1, true),
            b'T' => self.binary(4, true),
            b'C' => self.binary(1, false),
            b'B' => self.binary(4, false),
            0x8e | 0x96 => self.binary(8, false),
            // Containers.
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Set(Vec::new())),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items))
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Value::List(items))
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Value::Set(items))
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(&items)
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            // Stack and memo.
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // As in Python, a mark without values above it is what is popped.
            b'0' if self.marks.last() == Some(&self.stack.len()) => self.pop_mark().map(|_| ()),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let id = self.top()?;
                self.stack.push(id);
                Ok(())
            }
            b'q' => {
                let index = self.byte()?;
                self.remember(index.into())
            }
            b'r' => {
                let index = self.u32()?;
                self.remember(index)
            }
            b'p' => {
                let index = self.index()?;
                self.remember(index)
            }
            // The memo's size fits: it is capped.
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = self.u32()?;
                self.recall(index)
            }
            b'g' => {
                let index = self.index()?;
                self.recall(index)
            }
            // Globals and calls.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => self.stack_global(),
            b'R' => self.call(Self::reduce),
            0x81 => self.call(Self::new_object),
            b'b' => {
                let (state, target) = (self.pop()?, self.top()?);
                self.build(target, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)
            }
            _ => Err(self.asks(unknown(op))),
        }
    }

    /// The known function or type that a value is.
    pub(super) fn known(&self, id: Id) -> Result<Known, Refusal> {
        match self.values.get(id) {
            Value::Known(known) => Ok(*known),
            other => Err(self.malformed("a function or type to call", other.kind())),
        }
    }
}

/// An opcode that is not carried out, in words.
fn unknown(op: u8) -> String {
    let name = match op {
        b'P' => "PERSID",
        b'i' => "INST",
        b'o' => "OBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x92 => "NEWOBJ_EX",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("the unknown opcode 0x{op:02x}"),
    };
    format!("the opcode {name}")
}

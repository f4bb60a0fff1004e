//! ONNX: the initialisers of a graph, in the file or in files of external data.
//!
//! A model is a protocol buffer that holds its weights among everything else. Its messages are walked here by
//! tags and lengths alone, so that values stay where they are until a test reads them; a crate for protocol
//! buffers would bring the whole file into memory. The graph itself is not examined. Format:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

mod wire;

use super::error::short;
use super::index::MAX_NAME_BYTES;
use super::{Checkpoint, CheckpointError, CheckpointFile, FileBytes, Format, MAX_DIMENSIONS};
use crate::tensor::{DType, InMemory, Tensor, TensorBytes};
use std::ops::Range;
use std::sync::Arc;
use wire::{Field, Reader, Value};

/// The ONNX format.
#[derive(Debug)]
pub(super) struct Onnx;

/// Initialisers that are accepted.
const MAX_TENSORS: usize = 1 << 20;
/// Values of a tensor of whole numbers that are stored one by one, and therefore held in memory.
const MAX_VARINTS: usize = 1 << 20;
/// Strings in metadata and external data.
const MAX_TEXT_BYTES: u64 = 1 << 16;
/// Data types of ONNX that are read, by their numbers.
const TYPES: &[(u64, DType)] = &[
    (1, DType::F32),
    (2, DType::U8),
    (3, DType::I8),
    (4, DType::U16),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (9, DType::Bool),
    (10, DType::F16),
    (11, DType::F64),
    (12, DType::U32),
    (13, DType::U64),
    (16, DType::BF16),
    (17, DType::F8E4M3),
    (19, DType::F8E5M2),
];

fn is_weights(file: &CheckpointFile) -> bool {
    file.path.ends_with(".onnx")
}

impl Format for Onnx {
    fn id(&self) -> &'static str {
        "onnx"
    }

    fn claims(&self, files: &[CheckpointFile]) -> bool {
        files.iter().any(is_weights)
    }

    fn open(&self, files: &[CheckpointFile]) -> Result<Checkpoint, CheckpointError> {
        let mut models = files.iter().filter(|file| is_weights(file));
        let mut checkpoint = Checkpoint {
            format: self.id(),
            ..Checkpoint::default()
        };
        let Some(file) = models.next() else {
            return Ok(checkpoint);
        };
        let others: Vec<String> = models.map(|file| short(&file.path)).collect();
        if !others.is_empty() {
            return Err(CheckpointError::File {
                file: file.path.clone(),
                expected: "one ONNX model in the folder; name the file that is meant".to_owned(),
                found: format!("also {}", others.join(", ")),
            });
        }
        let model = Model { file, files };
        model.read(&mut checkpoint)?;
        Ok(checkpoint)
    }
}

/// A `TensorProto` as it was found.
#[derive(Default)]
struct Stated {
    dims: Vec<u64>,
    data_type: u64,
    name: String,
    /// `raw_data`, `float_data` or `double_data`: values in one piece of this file.
    piece: Option<Range<u64>>,
    varints: Vec<u64>,
    external: Vec<(String, String)>,
    is_external: bool,
}

/// A model among the files of its folder.
struct Model<'a> {
    file: &'a CheckpointFile,
    files: &'a [CheckpointFile],
}

impl Model<'_> {
    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> CheckpointError {
        CheckpointError::File {
            file: self.file.path.clone(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn of_tensor(
        &self,
        name: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Tensor {
            file: self.file.path.clone(),
            tensor: short(name),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn reader(&self, range: Range<u64>) -> Reader<'_> {
        Reader::new(self.file.source.as_ref(), &self.file.path, range)
    }

    fn text(&self, range: Range<u64>) -> Result<String, CheckpointError> {
        let n = range.end - range.start;
        if n > MAX_TEXT_BYTES {
            return Err(self.wrong(
                format!("a text of at most {MAX_TEXT_BYTES} bytes"),
                format!("one of {n}"),
            ));
        }
        let bytes = self.reader(range.clone()).bytes(range)?;
        String::from_utf8(bytes).map_err(|_| self.wrong("text in UTF-8", "other bytes"))
    }

    /// The two strings of a `StringStringEntryProto`.
    fn pair(&self, range: Range<u64>) -> Result<(String, String), CheckpointError> {
        let (mut key, mut value) = (String::new(), String::new());
        let mut fields = self.reader(range);
        while let Some(field) = fields.next()? {
            match field {
                Field(1, Value::Bytes(range)) => key = self.text(range)?,
                Field(2, Value::Bytes(range)) => value = self.text(range)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn read(&self, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
        let mut fields = self.reader(0..self.file.source.len());
        let mut graph = None;
        while let Some(field) = fields.next()? {
            match field {
                Field(2, Value::Bytes(range)) => {
                    let producer = self.text(range)?;
                    checkpoint
                        .metadata
                        .insert("producer_name".to_owned(), producer);
                }
                Field(7, Value::Bytes(range)) if graph.is_none() => graph = Some(range),
                Field(7, _) => return Err(self.wrong("one graph", "two")),
                Field(14, Value::Bytes(range)) => {
                    let (key, value) = self.pair(range)?;
                    checkpoint.metadata.insert(key, value);
                }
                _ => {}
            }
        }
        let graph = graph.ok_or_else(|| self.wrong("a model with a graph", "none"))?;
        let mut fields = self.reader(graph);
        let (mut n_sparse, mut n_strings) = (0, 0);
        while let Some(field) = fields.next()? {
            match field {
                Field(5, Value::Bytes(range)) => {
                    if checkpoint.tensors.len() >= MAX_TENSORS {
                        return Err(self.wrong(format!("at most {MAX_TENSORS} tensors"), "more"));
                    }
                    match self.tensor(range)? {
                        Some(tensor) => checkpoint.tensors.push(tensor),
                        None => n_strings += 1,
                    }
                }
                Field(15, Value::Bytes(_)) => n_sparse += 1,
                _ => {}
            }
        }
        for (n, what) in [
            (n_sparse, "sparse tensors"),
            (n_strings, "tensors of strings"),
        ] {
            if n > 0 {
                checkpoint
                    .notes
                    .push(format!("{}: {n} {what} were left aside", self.file.path));
            }
        }
        Ok(())
    }

    /// A tensor; `None` for one of strings.
    fn tensor(&self, range: Range<u64>) -> Result<Option<Tensor>, CheckpointError> {
        let stated = self.stated(range)?;
        let name = stated.name.as_str();
        const STRING: u64 = 8;
        if stated.data_type == STRING {
            return Ok(None);
        }
        let dtype = TYPES.iter().find(|(number, _)| *number == stated.data_type);
        let Some((_, dtype)) = dtype else {
            let found = format!("data type {}", stated.data_type);
            return Err(self.of_tensor(name, "a type of real or whole numbers", found));
        };
        let shape: Option<Vec<usize>> = stated
            .dims
            .iter()
            .map(|&n| usize::try_from(n).ok())
            .collect();
        let n_values = stated
            .dims
            .iter()
            .try_fold(1u64, |product, &size| product.checked_mul(size));
        let n_bytes = n_values.and_then(|n| n.checked_mul(dtype.size_bytes() as u64));
        let (Some(shape), Some(n_values), Some(n_bytes)) = (shape, n_values, n_bytes) else {
            let found = format!("{:?}", stated.dims);
            return Err(self.of_tensor(name, "a shape that can be addressed", found));
        };
        let (source, piece) = if stated.is_external {
            self.external(&stated, n_bytes)?
        } else if !stated.varints.is_empty() {
            let mut bytes = Vec::new();
            for value in &stated.varints {
                bytes.extend_from_slice(&value.to_le_bytes()[..dtype.size_bytes()]);
            }
            let end = bytes.len() as u64;
            let file = self.file.path.clone();
            // They lie nowhere in one piece.
            let held: Arc<dyn TensorBytes> = Arc::new(InMemory { bytes, file });
            (held, 0..end)
        } else {
            let here: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&self.file.source)));
            (here, stated.piece.clone().unwrap_or(0..0))
        };
        let found = piece.end - piece.start;
        if found != n_bytes {
            let expected = format!("{n_values} values of {} in {n_bytes} bytes", dtype.name());
            return Err(self.of_tensor(name, expected, format!("{found} bytes")));
        }
        let name = stated.name.clone();
        Ok(Some(Tensor::new(name, *dtype, shape, source, piece.start)?))
    }

    fn stated(&self, range: Range<u64>) -> Result<Stated, CheckpointError> {
        let mut stated = Stated::default();
        let mut fields = self.reader(range);
        while let Some(field) = fields.next()? {
            match field {
                Field(1, Value::Number(size)) => stated.dims.push(size),
                Field(1, Value::Bytes(range)) => {
                    self.numbers(range, MAX_DIMENSIONS, &mut stated.dims)?;
                }
                Field(2, Value::Number(number)) => stated.data_type = number,
                Field(5 | 7 | 11, Value::Bytes(range)) => {
                    self.numbers(range, MAX_VARINTS, &mut stated.varints)?;
                }
                Field(5 | 7 | 11, Value::Number(number)) => stated.varints.push(number),
                Field(8, Value::Bytes(range)) => {
                    if range.end - range.start > MAX_NAME_BYTES as u64 {
                        let found = format!("one of {} bytes", range.end - range.start);
                        let expected = format!("a name of at most {MAX_NAME_BYTES} bytes");
                        return Err(self.wrong(expected, found));
                    }
                    stated.name = self.text(range)?;
                }
                // Packed numbers of fixed width lie as raw data does.
                // One may be there and empty.
                Field(4 | 9 | 10, Value::Bytes(range)) if range.is_empty() => {}
                Field(4 | 9 | 10, Value::Bytes(range)) if stated.piece.is_none() => {
                    stated.piece = Some(range);
                }
                Field(4 | 9 | 10, Value::Bytes(_)) => {
                    let expected = "values in one place";
                    return Err(self.of_tensor(&stated.name, expected, "in two"));
                }
                Field(4 | 10, Value::Fixed) => {
                    let expected = "packed values";
                    return Err(self.of_tensor(&stated.name, expected, "values one by one"));
                }
                Field(13, Value::Bytes(range)) => {
                    let pair = self.pair(range)?;
                    stated.external.push(pair);
                    if stated.external.len() > MAX_DIMENSIONS {
                        let expected = "few words on external data";
                        return Err(self.of_tensor(&stated.name, expected, "many"));
                    }
                }
                Field(14, Value::Number(location)) => stated.is_external = location == 1,
                _ => {}
            }
            if stated.dims.len() > MAX_DIMENSIONS || stated.varints.len() > MAX_VARINTS {
                let expected =
                    format!("at most {MAX_DIMENSIONS} dimensions and {MAX_VARINTS} loose values");
                return Err(self.of_tensor(&stated.name, expected, "more"));
            }
        }
        Ok(stated)
    }

    /// Packed varints.
    fn numbers(
        &self,
        range: Range<u64>,
        limit: usize,
        out: &mut Vec<u64>,
    ) -> Result<(), CheckpointError> {
        let mut reader = self.reader(range);
        while let Some(number) = reader.varint()? {
            if out.len() >= limit {
                return Err(self.wrong(format!("at most {limit} numbers"), "more"));
            }
            out.push(number);
        }
        Ok(())
    }

    /// The file and the bytes of external data: a file of the model's own folder, and of no other.
    fn external(
        &self,
        stated: &Stated,
        n_bytes: u64,
    ) -> Result<(Arc<dyn TensorBytes>, Range<u64>), CheckpointError> {
        let name = stated.name.as_str();
        let value = |key: &str| {
            let mut pairs = stated.external.iter();
            pairs
                .find(|(k, _)| k == key)
                .map(|(_, value)| value.as_str())
        };
        let number = |key: &str, default: u64| match value(key) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| {
                let found = format!("{key} = {}", short(text));
                self.of_tensor(name, "a whole number", found)
            }),
        };
        let location = value("location").unwrap_or_default();
        let folder = self.file.path.rsplit_once('/').map(|(folder, _)| folder);
        let path = match folder {
            Some(folder) => format!("{folder}/{location}"),
            None => location.to_owned(),
        };
        // Only files that the source listed can be reached: no path leads out of the folder.
        let Some(file) = self.files.iter().find(|file| file.path == path) else {
            let found = format!("no file {}", short(location));
            return Err(self.of_tensor(
                name,
                "its external data beside the model, which then is named by its folder",
                found,
            ));
        };
        let start = number("offset", 0)?;
        let length = number("length", n_bytes)?;
        let end = start.checked_add(length);
        let Some(end) = end.filter(|&end| end <= file.source.len()) else {
            let found = format!("{length} bytes from {start} on");
            let expected = format!("a piece of the {} bytes of {path}", file.source.len());
            return Err(self.of_tensor(name, expected, found));
        };
        let source: Arc<dyn TensorBytes> = Arc::new(FileBytes(Arc::clone(&file.source)));
        Ok((source, start..end))
    }
}

//! What a pickle's stream can make here: plain values, and descriptions of tensors. No value does
//! anything; a call of a known function is another value, a call of any other is an error.
//!
//! Values live in one list and refer to each other by number. Sharing costs nothing, a cycle is a
//! number like any other, and nothing is copied when a stream refers to one value a million times.

use crate::tensor::DType;
use std::sync::Arc;

/// Number of a value in [`Values`].
pub(super) type Id = u32;

/// What the elements of a storage are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// A type that is read.
    Read(DType),
    /// A type that exists in torch and is not read here: its name, and its size in bytes.
    Unread(&'static str, usize),
}

impl Element {
    pub(super) fn size_bytes(self) -> usize {
        match self {
            Self::Read(dtype) => dtype.size_bytes(),
            Self::Unread(_, size) => size,
        }
    }
}

/// The functions and types that a checkpoint of tensors refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `collections.defaultdict`: its factory is never called.
    DefaultDict,
    /// A type whose call copies its only argument: `set`, `torch.Size`, `collections.Counter`, …
    Copy,
    /// `argparse.Namespace`: attributes and nothing else.
    Namespace,
    /// `copyreg._reconstructor`: how old protocols make a namespace.
    Reconstructor,
    /// `object`.
    Object,
    /// `_rebuild_tensor(storage, offset, size, stride)`.
    Tensor,
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    TensorV2,
    /// `_rebuild_tensor_v3(…, requires_grad, hooks, dtype[, metadata])`.
    TensorV3,
    /// `_rebuild_parameter(tensor, …)` and `_rebuild_parameter_with_state(tensor, …)`.
    Parameter,
    /// `_rebuild_from_type_v2(function, type, arguments, state)`.
    FromType,
    /// `torch.Tensor` and its harmless subclasses.
    TensorClass,
    /// A storage type with its element type; an untyped storage counts bytes.
    Storage(Element),
    /// `torch.float16` and the like.
    DType(Element),
    /// Something that checkpoints carry beside the weights and that is never looked into.
    Inert,
}

/// A storage as a persistent id describes it; the parts are unchecked values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    pub element: Element,
    pub key: Id,
    pub n_elements: Id,
    /// `(view key, offset, size)` in files of torch 0.4 and before, else none.
    pub view: Option<Id>,
}

/// A tensor as its rebuild function is called; the parts are unchecked values.
#[derive(Debug, Clone, Copy)]
pub(super) struct TensorParts {
    pub storage: Id,
    pub offset: Id,
    pub shape: Id,
    pub strides: Id,
    /// The type where it is not the storage's.
    pub element: Option<Element>,
}

/// One value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A namespace, with its attributes once they are set.
    Object(Option<Id>),
    Known(Known),
    Storage(Storage),
    Tensor(TensorParts),
    /// Something that is there and not looked into: bytes, dates, paths, devices.
    Opaque,
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Str(_) => "a string",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Set(_) => "a set",
            Self::Dict(_) => "a mapping",
            Self::Object(_) => "a namespace",
            Self::Known(_) => "a function or type",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Opaque => "an object",
        }
    }
}

/// Everything that one pickle made.
#[derive(Debug, Default)]
pub(super) struct Values(pub Vec<Value>);

impl Values {
    pub(super) fn get(&self, id: Id) -> &Value {
        static NONE: Value = Value::None;
        // Ids come from this list and it only grows.
        self.0.get(id as usize).unwrap_or(&NONE)
    }

    pub(super) fn str(&self, id: Id) -> Option<&Arc<str>> {
        match self.get(id) {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn natural(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }
}

/// Element types by the name of the storage type and of the dtype.
const ELEMENTS: &[(&str, &str, Element)] = &[
    ("DoubleStorage", "float64", Element::Read(DType::F64)),
    ("FloatStorage", "float32", Element::Read(DType::F32)),
    ("HalfStorage", "float16", Element::Read(DType::F16)),
    ("BFloat16Storage", "bfloat16", Element::Read(DType::BF16)),
    ("LongStorage", "int64", Element::Read(DType::I64)),
    ("IntStorage", "int32", Element::Read(DType::I32)),
    ("ShortStorage", "int16", Element::Read(DType::I16)),
    ("CharStorage", "int8", Element::Read(DType::I8)),
    ("ByteStorage", "uint8", Element::Read(DType::U8)),
    ("BoolStorage", "bool", Element::Read(DType::Bool)),
    ("UntypedStorage", "uint8", Element::Read(DType::U8)),
    ("_UntypedStorage", "uint8", Element::Read(DType::U8)),
    ("", "uint16", Element::Read(DType::U16)),
    ("", "uint32", Element::Read(DType::U32)),
    ("", "uint64", Element::Read(DType::U64)),
    ("", "float8_e4m3fn", Element::Read(DType::F8E4M3)),
    ("", "float8_e5m2", Element::Read(DType::F8E5M2)),
    ("", "float8_e4m3fnuz", Element::Unread("float8_e4m3fnuz", 1)),
    ("", "float8_e5m2fnuz", Element::Unread("float8_e5m2fnuz", 1)),
    ("", "float8_e8m0fnu", Element::Unread("float8_e8m0fnu", 1)),
    ("", "complex32", Element::Unread("complex32", 4)),
    (
        "ComplexFloatStorage",
        "complex64",
        Element::Unread("complex64", 8),
    ),
    (
        "ComplexDoubleStorage",
        "complex128",
        Element::Unread("complex128", 16),
    ),
    ("QInt8Storage", "qint8", Element::Unread("qint8", 1)),
    ("QUInt8Storage", "quint8", Element::Unread("quint8", 1)),
    ("QInt32Storage", "qint32", Element::Unread("qint32", 4)),
    (
        "QUInt4x2Storage",
        "quint4x2",
        Element::Unread("quint4x2", 1),
    ),
    (
        "QUInt2x4Storage",
        "quint2x4",
        Element::Unread("quint2x4", 1),
    ),
];

/// The meaning of a global, if it is one that tensors and their metadata need. What is not here is
/// refused: the list is closed, and nothing on it runs.
pub(super) fn lookup(module: &str, name: &str) -> Option<Known> {
    let known = match (module, name) {
        ("collections", "OrderedDict") => Known::OrderedDict,
        ("collections", "defaultdict") => Known::DefaultDict,
        ("collections", "Counter")
        | ("torch", "Size")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple" | "dict") => {
            Known::Copy
        }
        ("argparse", "Namespace") => Known::Namespace,
        ("copyreg" | "copy_reg", "_reconstructor") => Known::Reconstructor,
        ("builtins" | "__builtin__", "object") => Known::Object,
        ("torch._utils", "_rebuild_tensor") => Known::Tensor,
        ("torch._utils", "_rebuild_tensor_v2") => Known::TensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Known::TensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Known::Parameter
        }
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => {
            Known::FromType
        }
        ("torch", "Tensor")
        | ("torch.nn.parameter" | "torch.nn", "Parameter" | "Buffer") => Known::TensorClass,
        // Bytes of protocol 2, devices, paths and times among arguments, scores as numpy numbers.
        ("_codecs", "encode")
        | ("torch", "device" | "strided" | "contiguous_format" | "preserve_format")
        | ("pathlib" | "pathlib._local", "Path" | "PosixPath" | "WindowsPath" | "PurePosixPath")
        | ("datetime", "datetime" | "date" | "timedelta" | "timezone")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("numpy", "dtype" | "ndarray")
        // A factory of a defaultdict, named and never called.
        | ("builtins" | "__builtin__", "int" | "float" | "str" | "bool") => Known::Inert,
        ("torch" | "torch.storage", name) => return torch_type(module, name),
        _ => return None,
    };
    Some(known)
}

fn torch_type(module: &str, name: &str) -> Option<Known> {
    if name.is_empty() {
        return None;
    }
    ELEMENTS.iter().find_map(|&(storage, dtype, element)| {
        if storage == name {
            Some(Known::Storage(element))
        } else if dtype == name && module == "torch" {
            Some(Known::DType(element))
        } else {
            None
        }
    })
}

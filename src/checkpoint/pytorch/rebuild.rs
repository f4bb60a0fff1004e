//! Calls in a pickle, described instead of carried out: tensors, their storages, mappings, namespaces.
//!
//! Only the number of arguments and what could change values is checked here; sizes, strides and
//! storages are checked by `layout` once a name is known for messages, and only for tensors that are
//! part of the checkpoint.

use super::pickle::{Machine, Refusal};
use super::value::{Element, Id, Known, Storage, TensorParts, Value};

impl Machine<'_> {
    /// `target(*arguments)`.
    pub(super) fn reduce(&mut self, target: Id, arguments: Id) -> Result<Id, Refusal> {
        let known = self.known(target)?;
        if known == Known::Inert {
            return self.make(Value::Opaque);
        }
        let given = match self.values.get(arguments) {
            // Copied, since a call adds values; none that is known takes more than ten.
            Value::Tuple(items) if items.len() <= 10 => items.clone(),
            Value::Tuple(items) => {
                let found = items.len().to_string();
                return Err(self.malformed("a call with at most ten arguments", found));
            }
            other => {
                let found = other.kind();
                return Err(self.malformed("a tuple of arguments", found));
            }
        };
        match (known, given.as_slice()) {
            (Known::OrderedDict, []) | (Known::DefaultDict, [] | [_]) => {
                self.make(Value::Dict(Vec::new()))
            }
            (Known::OrderedDict, [pairs]) => self.mapping(*pairs),
            (Known::Copy, []) => self.make(Value::List(Vec::new())),
            // The copy is the original: nothing in a checkpoint tells them apart, and a stream that
            // copies one list a million times costs a million numbers.
            (Known::Copy, [original]) => Ok(*original),
            (Known::Namespace, []) => self.make(Value::Object(None)),
            (Known::Reconstructor, [class, base, _]) => {
                match (self.known(*class)?, self.known(*base)?) {
                    (Known::Namespace, Known::Object) => self.make(Value::Object(None)),
                    _ => Err(self.malformed("a namespace to construct", "another type")),
                }
            }
            (Known::FromType, [function, class, arguments, ..]) if given.len() <= 4 => {
                if self.known(*class)? != Known::TensorClass {
                    return Err(self.malformed("a tensor type", "another type"));
                }
                // One wrapping only: a wrapping of wrappings is nobody's checkpoint.
                match self.known(*function)? {
                    Known::FromType => {
                        Err(self.malformed("a rebuild function", "a wrapping in a wrapping"))
                    }
                    _ => self.reduce(*function, *arguments),
                }
            }
            (Known::Parameter, [tensor, ..]) if given.len() <= 4 => {
                match self.values.get(*tensor) {
                    Value::Tensor(_) => Ok(*tensor),
                    other => {
                        let found = other.kind();
                        Err(self.malformed("a tensor as parameter", found))
                    }
                }
            }
            (Known::Tensor, &[storage, offset, shape, strides]) => {
                self.tensor([storage, offset, shape, strides], None, None)
            }
            (Known::TensorV2, &[storage, offset, shape, strides, _, _, ref rest @ ..])
                if rest.len() <= 1 =>
            {
                let metadata = rest.first().copied();
                self.tensor([storage, offset, shape, strides], None, metadata)
            }
            (Known::TensorV3, &[storage, offset, shape, strides, _, _, dtype, ref rest @ ..])
                if rest.len() <= 1 =>
            {
                let Known::DType(element) = self.known(dtype)? else {
                    return Err(self.malformed("a dtype", "another type"));
                };
                let metadata = rest.first().copied();
                self.tensor([storage, offset, shape, strides], Some(element), metadata)
            }
            _ => Err(self.malformed(
                "a call that rebuilds a tensor or a mapping",
                format!("{known:?} with {} arguments", given.len()),
            )),
        }
    }

    /// `OrderedDict(pairs)`, as Python 2 wrote it.
    fn mapping(&mut self, pairs: Id) -> Result<Id, Refusal> {
        if let Value::Dict(_) = self.values.get(pairs) {
            return Ok(pairs);
        }
        let items = self.values.items(pairs).map(|items| {
            let pair = |item: &Id| match self.values.items(*item) {
                Some(&[key, value]) => Some((key, value)),
                _ => None,
            };
            items.iter().map(pair).collect::<Option<Vec<_>>>()
        });
        let Some(Some(items)) = items else {
            return Err(self.malformed("pairs of keys and values", "something else"));
        };
        // In place, so that a second call on the same list finds a mapping and copies nothing.
        if let Some(value) = self.values.0.get_mut(pairs as usize) {
            *value = Value::Dict(items);
        }
        Ok(pairs)
    }

    fn tensor(
        &mut self,
        [storage, offset, shape, strides]: [Id; 4],
        element: Option<Element>,
        metadata: Option<Id>,
    ) -> Result<Id, Refusal> {
        match self.values.get(storage) {
            Value::Storage(_) => {}
            other => {
                let found = other.kind();
                return Err(self.malformed("a tensor on a storage", found));
            }
        }
        // Conjugated and negated views: their bytes are not their values.
        match metadata.map(|id| self.values.get(id)) {
            None | Some(Value::None) => {}
            Some(Value::Dict(items)) if items.is_empty() => {}
            Some(_) => {
                return Err(self.malformed(
                    "a tensor whose bytes are its values",
                    "one with metadata, such as a conjugate or a negative view",
                ));
            }
        }
        self.make(Value::Tensor(TensorParts {
            storage,
            offset,
            shape,
            strides,
            element,
        }))
    }

    /// `cls.__new__(cls, *arguments)`.
    pub(super) fn new_object(&mut self, class: Id, arguments: Id) -> Result<Id, Refusal> {
        match self.known(class)? {
            Known::Namespace
            | Known::OrderedDict
            | Known::DefaultDict
            | Known::Copy
            | Known::Inert => self.reduce(class, arguments),
            other => Err(self.malformed("a new mapping or namespace", format!("a new {other:?}"))),
        }
    }

    /// `target.__setstate__(state)`. What a mapping carries beside its items (`_metadata` of a state
    /// dict) and the insides of objects are left; a tensor's state could change what it is.
    pub(super) fn build(&mut self, target: Id, state: Id) -> Result<(), Refusal> {
        let found = match self.values.0.get_mut(target as usize) {
            Some(Value::Dict(_) | Value::Opaque) => return Ok(()),
            Some(Value::Object(attributes)) => {
                *attributes = Some(state);
                return Ok(());
            }
            Some(other) => other.kind(),
            None => "nothing",
        };
        Err(self.malformed("a mapping or namespace with attributes", found))
    }

    /// The storage of a persistent id: `("storage", type, key, location, n_elements[, view])`.
    pub(super) fn storage(&self, id: Id) -> Result<Value, Refusal> {
        let parts = match self.values.get(id) {
            Value::Tuple(parts) => parts.as_slice(),
            other => return Err(self.malformed("the id of a storage", other.kind())),
        };
        let what = parts.first().and_then(|id| self.values.str(*id));
        match (what.map(|text| &**text), parts) {
            (Some("storage"), [_, class, key, _, n_elements, rest @ ..]) if rest.len() <= 1 => {
                let Known::Storage(element) = self.known(*class)? else {
                    return Err(self.malformed("a storage type", "another type"));
                };
                let view = rest.first().copied();
                Ok(Value::Storage(Storage {
                    element,
                    key: *key,
                    n_elements: *n_elements,
                    view: view.filter(|id| !matches!(self.values.get(*id), Value::None)),
                }))
            }
            (Some("module"), _) => Err(self.asks("the code of a module, saved whole")),
            _ => Err(self.malformed(
                "the id of a storage, with type, key, place and size",
                "another persistent id",
            )),
        }
    }
}

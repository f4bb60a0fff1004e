//! What a checkpoint holds: the mapping of names to tensors, and what lies beside it.
//!
//! A state dict may be the file itself, or stand under `state_dict`, `model` and the like beside an
//! optimiser, an epoch and arguments. The wrapping is taken off and what is beside it is told in notes;
//! names within the mapping stay as they are.

use super::super::error::short;
use super::super::index::MAX_NAME_BYTES;
use super::training::{self, Aside};
use super::value::{Id, TensorParts, Value, Values};

/// Mappings within mappings that are followed.
const MAX_DEPTH: usize = 64;
/// Values that are looked at; sharing could make more of them than there are.
const MAX_VISITS: usize = 16 << 20;
/// All names together.
const MAX_NAMES_BYTES: usize = 256 << 20;

/// Keys under which a checkpoint's weights usually stand.
const PRIMARY: &[&str] = &[
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
];

/// The tensors of a pickle and what was left aside.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In the order of the mapping.
    pub tensors: Vec<(String, TensorParts)>,
    /// What lies beside them.
    pub aside: Aside,
}

/// What stands under a key.
enum Child {
    Tensor,
    /// A container with tensors below it.
    Weights,
    Other,
}

/// Finds the tensors below the root.
///
/// # Errors
/// When containers are nested too deep or names are too long (expected, found).
pub(super) fn find(values: &Values, root: Id) -> Result<Contents, (String, String)> {
    let mut walk = Walk {
        values,
        visits: 0,
        names_bytes: 0,
        contents: Contents::default(),
    };
    let mut at = root;
    if training::is_optimiser(values, root) {
        walk.contents.aside.add(values, "optimizer", root);
        return Ok(walk.contents);
    }
    // Each turn takes one wrapping off.
    for _ in 0..MAX_DEPTH {
        if let Value::Tensor(parts) = values.get(at) {
            walk.add("tensor".to_owned(), *parts)?;
            return Ok(walk.contents);
        }
        let mut children = Vec::new();
        for (key, id) in walk.children(at)? {
            let child = match values.get(id) {
                Value::Tensor(_) => Child::Tensor,
                _ if walk.holds_tensors(id, 0)? => Child::Weights,
                _ => Child::Other,
            };
            children.push((key, id, child));
        }
        let is_primary = |key: &str| PRIMARY.contains(&key);
        let wrapped = children
            .iter()
            .any(|(key, _, child)| matches!(child, Child::Weights) && is_primary(key));
        let has_plain = children.iter().any(|(key, id, child)| {
            matches!(child, Child::Weights)
                && !training::is_average(key)
                && !training::is_training_state(values, key, *id)
        });
        let mut kept = Vec::new();
        for (key, id, child) in children {
            let aside = match child {
                Child::Other => true,
                // A score or a random state beside a wrapped state dict.
                Child::Tensor => wrapped || training::is_random_state(&key),
                Child::Weights => {
                    training::is_training_state(values, &key, id)
                        || (has_plain && training::is_average(&key))
                }
            };
            if aside {
                walk.contents.aside.add(values, &key, id);
            } else {
                kept.push((key, id, child));
            }
        }
        if let [(_, id, Child::Weights)] = kept.as_slice() {
            at = *id;
            continue;
        }
        for (key, id, _) in kept {
            walk.flatten(key, id, 0)?;
        }
        return Ok(walk.contents);
    }
    Err(too_deep())
}

fn too_deep() -> (String, String) {
    (
        format!("mappings nested at most {MAX_DEPTH} deep, of at most {MAX_VISITS} values"),
        "more".to_owned(),
    )
}

struct Walk<'a> {
    values: &'a Values,
    visits: usize,
    names_bytes: usize,
    contents: Contents,
}

impl Walk<'_> {
    /// Keys and values of a container. Lists count from 0; keys that are no names are left.
    fn children(&mut self, id: Id) -> Result<Vec<(String, Id)>, (String, String)> {
        let mut children = Vec::new();
        match self.values.get(id) {
            Value::Dict(items) => {
                self.visit(items.len())?;
                for (key, value) in items {
                    match self.values.get(*key) {
                        Value::Str(key) if key.len() <= MAX_NAME_BYTES => {
                            self.names(key.len())?;
                            children.push((key.to_string(), *value));
                        }
                        Value::Str(key) => return Err(too_long(key.len())),
                        Value::Int(n) => children.push((n.to_string(), *value)),
                        _ => {}
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                self.visit(items.len())?;
                let numbered = items.iter().enumerate();
                children.extend(numbered.map(|(n, id)| (n.to_string(), *id)));
            }
            Value::Object(Some(attributes))
                if matches!(self.values.get(*attributes), Value::Dict(_)) =>
            {
                return self.children(*attributes);
            }
            _ => {}
        }
        Ok(children)
    }

    fn visit(&mut self, n: usize) -> Result<(), (String, String)> {
        self.visits = self.visits.saturating_add(n + 1);
        if self.visits > MAX_VISITS {
            return Err(too_deep());
        }
        Ok(())
    }

    fn names(&mut self, n: usize) -> Result<(), (String, String)> {
        self.names_bytes = self.names_bytes.saturating_add(n);
        if self.names_bytes > MAX_NAMES_BYTES {
            return Err((
                format!("names of at most {MAX_NAMES_BYTES} bytes together"),
                "more".to_owned(),
            ));
        }
        Ok(())
    }

    fn holds_tensors(&mut self, id: Id, depth: usize) -> Result<bool, (String, String)> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let values = self.values;
        match values.get(id) {
            Value::Tensor(_) => Ok(true),
            Value::Dict(items) => {
                self.visit(items.len())?;
                for (_, value) in items {
                    if self.holds_tensors(*value, depth + 1)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::List(items) | Value::Tuple(items) => {
                self.visit(items.len())?;
                for item in items {
                    if self.holds_tensors(*item, depth + 1)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Object(Some(attributes)) => {
                self.visit(1)?;
                self.holds_tensors(*attributes, depth + 1)
            }
            _ => Ok(false),
        }
    }

    fn flatten(&mut self, name: String, id: Id, depth: usize) -> Result<(), (String, String)> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        if let Value::Tensor(parts) = self.values.get(id) {
            return self.add(name, *parts);
        }
        for (key, child) in self.children(id)? {
            let length = name.len() + 1 + key.len();
            if length > MAX_NAME_BYTES {
                return Err(too_long(length));
            }
            self.names(length)?;
            self.flatten(format!("{name}.{key}"), child, depth + 1)?;
        }
        Ok(())
    }

    fn add(&mut self, name: String, parts: TensorParts) -> Result<(), (String, String)> {
        if name.len() > MAX_NAME_BYTES {
            return Err(too_long(name.len()));
        }
        self.names(name.len())?;
        self.contents.tensors.push((name, parts));
        Ok(())
    }
}

fn too_long(length: usize) -> (String, String) {
    (
        format!("names of at most {MAX_NAME_BYTES} bytes"),
        short(&format!("{length} bytes")),
    )
}

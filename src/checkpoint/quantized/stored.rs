//! The tensors of a quantized checkpoint while its weights are put together.

use super::super::CheckpointError;
use super::super::error::{short, wrong};
use super::turned::{Tiles, turned};
use crate::tensor::coded::{Decoder, Part};
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Stored tensors by name, and the weights that took their places.
pub(super) struct Stored {
    tensors: Vec<Option<Tensor>>,
    by_name: HashMap<String, usize>,
    /// File that states the scheme.
    config_file: String,
    /// Read tiles, for all weights.
    pub tiles: Arc<Tiles>,
    /// Parts of no use to the weights' values, by what they hold.
    aside: BTreeMap<&'static str, usize>,
    n_weights: usize,
}

/// The parts of one weight, taken out of the checkpoint.
pub(super) struct Group {
    /// Place of the first part among the tensors: the weight's.
    at: usize,
    /// The parts in the order in which they were taken, codes first.
    pub parts: Vec<Part>,
}

impl Stored {
    /// Takes all tensors of a checkpoint.
    pub(super) fn new(tensors: Vec<Tensor>, config_file: &str) -> Self {
        let names = tensors.iter().enumerate();
        Self {
            by_name: names.map(|(at, t)| (t.name().to_owned(), at)).collect(),
            tensors: tensors.into_iter().map(Some).collect(),
            config_file: config_file.to_owned(),
            tiles: Arc::default(),
            aside: BTreeMap::new(),
            n_weights: 0,
        }
    }

    /// What stands before a suffix in the names of all tensors that have it, in their order.
    pub(super) fn stems(&self, suffix: &str) -> Vec<String> {
        let names = self.tensors.iter().flatten().map(Tensor::name);
        names
            .filter_map(|name| name.strip_suffix(suffix))
            .map(str::to_owned)
            .collect()
    }

    /// A tensor that was not taken yet.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors[*self.by_name.get(name)?].as_ref()
    }

    /// Begins a weight with its codes.
    pub(super) fn group(&mut self, codes: &str) -> Option<Group> {
        let at = *self.by_name.get(codes)?;
        let tensor = self.tensors[at].take()?;
        Some(Group {
            at,
            parts: vec![Part {
                kind: "codes",
                tensor,
            }],
        })
    }

    /// Takes a further part, if it is there.
    pub(super) fn take(&mut self, group: &mut Group, kind: &'static str, name: &str) -> bool {
        let tensor = self.by_name.get(name).and_then(|at| {
            // A single file may hold the parts in any order; the weight stands where the first did.
            group.at = group.at.min(*at);
            self.tensors[*at].take()
        });
        let found = tensor.is_some();
        group
            .parts
            .extend(tensor.map(|tensor| Part { kind, tensor }));
        found
    }

    /// Takes a further part that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn need(
        &mut self,
        group: &mut Group,
        kind: &'static str,
        name: &str,
    ) -> Result<(), CheckpointError> {
        if self.take(group, kind, name) {
            return Ok(());
        }
        let expected = format!("its {kind} in {}", short(name));
        Err(group.wrong(expected, "no tensor of this name"))
    }

    /// Drops tensors that the values do not need: scales of activations, buffers of a runtime.
    pub(super) fn set_aside(&mut self, what: &'static str, is_such: impl Fn(&str) -> bool) {
        for slot in &mut self.tensors {
            if slot.as_ref().is_some_and(|tensor| is_such(tensor.name())) {
                *slot = None;
                *self.aside.entry(what).or_insert(0) += 1;
            }
        }
    }

    /// Puts a weight in the place of its parts.
    ///
    /// # Errors
    /// When there is a tensor of its name already, or its shape cannot be addressed.
    pub(super) fn put(
        &mut self,
        at: usize,
        name: String,
        shape: Vec<usize>,
        decoder: Arc<dyn Decoder>,
    ) -> Result<(), CheckpointError> {
        let tensor = Tensor::coded(name, shape, decoder)?;
        let other = self.by_name.get(tensor.name()).copied();
        if let Some(other) = other.and_then(|at| self.tensors[at].as_ref()) {
            return Err(CheckpointError::DuplicateTensor {
                tensor: short(tensor.name()),
                first: tensor.file().to_owned(),
                second: other.file().to_owned(),
            });
        }
        self.by_name.insert(tensor.name().to_owned(), at);
        self.tensors[at] = Some(tensor);
        self.n_weights += 1;
        Ok(())
    }

    /// The tensors as they stand now.
    pub(super) fn finish(self, notes: &mut Vec<String>) -> Vec<Tensor> {
        if self.n_weights == 0 {
            notes.push(format!(
                "{} states a quantization, and no tensor is quantized by it",
                self.config_file
            ));
        }
        for (what, n) in self.aside {
            notes.push(format!("{n} tensors were left aside: {what}"));
        }
        self.tensors.into_iter().flatten().collect()
    }
}

impl Group {
    /// Where the weight will stand.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The first part of a kind.
    pub(super) fn part(&self, kind: &str) -> Option<&Tensor> {
        let mut parts = self.parts.iter();
        parts
            .find(|part| part.kind == kind)
            .map(|part| &part.tensor)
    }

    /// The codes.
    pub(super) fn codes(&self) -> &Tensor {
        &self.parts[0].tensor
    }

    /// An error about the weight.
    pub(super) fn wrong(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> CheckpointError {
        wrong(self.codes(), expected, found)
    }

    /// A part as a matrix of one of some types.
    ///
    /// # Errors
    /// When it is another.
    pub(super) fn matrix(
        &self,
        kind: &str,
        dtypes: &[DType],
    ) -> Result<([usize; 2], &Tensor), CheckpointError> {
        let Some(tensor) = self.part(kind) else {
            return Err(self.wrong(format!("its {kind}"), "none"));
        };
        match tensor.shape() {
            &[rows, columns] if dtypes.contains(&tensor.dtype()) => Ok(([rows, columns], tensor)),
            _ => {
                let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
                let expected = format!("{kind} as a matrix of {}", names.join(" or "));
                Err(wrong(tensor, expected, described(tensor)))
            }
        }
    }

    /// A matrix with its rows and columns exchanged, item by item of its type.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub(super) fn turned(
        &self,
        tensor: &Tensor,
        [rows, columns]: [usize; 2],
        tiles: &Arc<Tiles>,
    ) -> Result<Tensor, CheckpointError> {
        let item = tensor.dtype().size_bytes();
        let bytes = turned(tensor, 0, [rows, columns], item, tiles)?;
        Ok(Tensor::new(
            tensor.name().to_owned(),
            tensor.dtype(),
            vec![columns, rows],
            bytes,
            0,
        )?)
    }
}

/// Type and shape, for messages.
pub(super) fn described(tensor: &Tensor) -> String {
    format!("{} {:?}", tensor.dtype().name(), tensor.shape())
}

//! A published model as the evidence sees it: components with roles, and the artefacts beside them.

use super::artefact::Artefacts;
use super::component::Component;
use super::{ArchError, split};
use crate::checkpoint::{Checkpoint, DeclaredIndex};
use crate::tensor::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;

/// One model, opened.
#[derive(Debug, Clone)]
pub struct Model {
    /// What people call it: `org/name@revision` or the folder's name.
    pub label: String,
    /// Files that are not weights, and digests of all.
    pub artefacts: Artefacts,
    /// `config.json`, else what the checkpoint's own files state in its keys.
    pub config: Option<Value>,
    /// Checkpoint format id, `none` where there are no weights.
    pub format: String,
    /// All tensors in file order; empty where the weights are absent.
    pub tensors: Vec<Tensor>,
    /// The shard index as published, if there is one.
    pub declared: Option<DeclaredIndex>,
    /// Shards that the index names and that are not there.
    pub missing_shards: Vec<String>,
    /// Components, backbone first.
    pub components: Vec<Component>,
    /// Why the artefacts could not be read as what they should be, if so.
    pub notes: Vec<String>,
}

impl Model {
    /// Puts checkpoint and artefacts together and finds the components.
    ///
    /// # Errors
    /// When names and shapes contradict each other within a registered family.
    pub fn new(
        label: impl Into<String>,
        checkpoint: Checkpoint,
        mut artefacts: Artefacts,
    ) -> Result<Self, ArchError> {
        let mut notes = checkpoint.notes;
        let config = match artefacts.json("config.json") {
            Ok(config) => config,
            Err(error) => {
                notes.push(format!("config.json is ignored: {error}"));
                None
            }
        };
        let config = config.or(checkpoint.config);
        artefacts.embedded_tokenizer = checkpoint.tokenizer;
        let components = split::components(&checkpoint.tensors, config.as_ref(), &mut notes)?;
        Ok(Self {
            label: label.into(),
            artefacts,
            config,
            format: checkpoint.format.to_owned(),
            tensors: checkpoint.tensors,
            declared: checkpoint.declared,
            missing_shards: checkpoint.missing_shards,
            components,
            notes,
        })
    }

    /// Tensor names in the order of publication: the index's where there is one, else the files'.
    pub fn tensor_names(&self) -> Vec<String> {
        match &self.declared {
            Some(index) => index
                .weight_map
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            None => self.tensors.iter().map(|t| t.name().to_owned()).collect(),
        }
    }

    /// A component by id.
    pub fn component(&self, id: &str) -> Option<&Component> {
        self.components.iter().find(|c| c.id == id)
    }

    /// Whether any weights are there.
    pub fn has_weights(&self) -> bool {
        !self.tensors.is_empty()
    }

    /// Number of tensors by dtype name.
    pub fn dtypes(&self) -> BTreeMap<String, u64> {
        let mut dtypes = BTreeMap::new();
        for tensor in &self.tensors {
            *dtypes.entry(tensor.dtype().name().to_owned()).or_insert(0) += 1;
        }
        dtypes
    }
}

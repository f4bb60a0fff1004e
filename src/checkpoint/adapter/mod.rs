//! Adapters as PEFT saves them (`adapter_config.json` beside `adapter_model.safetensors` or `.bin`): changes to
//! a base model, and no model of their own.
//!
//! ```text
//! stored factors → modules → changes (alone), or weights (added to a base)
//! ```
//!
//! Alone, each pair of factors becomes one tensor with the name and the layout of the weight that it changes,
//! whose rows are scale · B · A; so that factors which make the same change are equal, whatever they are. Added
//! to a base, the weights that an adapter touches become those of the merged model; all others stay as they
//! are. Nothing is read until a row is asked for, and which model is the base is never taken from the adapter:
//! what it states is a stranger's word, and a path on this machine or a download would follow from it.
//!
//! Layout: <https://huggingface.co/docs/peft/developer_guides/checkpoint>. LoRA with its variants rsLoRA and
//! DoRA is read; QLoRA is LoRA whose base is quantized. What else would change weights is an error that names
//! the key, and other methods than LoRA are left as they are stored.

mod config;
mod merged;
mod names;
mod update;

use super::error::{short, wrong};
use super::{Checkpoint, CheckpointError, CheckpointFile};
use crate::tensor::Tensor;
use config::Config;
use merged::Merged;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use update::{Factors, Update};

/// The file that makes a folder an adapter.
const CONFIG_FILE: &str = "adapter_config.json";
/// Files that hold its tensors.
const WEIGHT_FILES: &[&str] = &["adapter_model.safetensors", "adapter_model.bin"];
/// What PEFT puts before the names of the base model.
const PREFIX: &str = "base_model.model.";

/// An adapter: what it changes, and what it replaces.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// `LoRA` or `DoRA`.
    pub method: &'static str,
    /// The base model that it states, as it is written there.
    pub stated_base: Option<String>,
    /// Changes by the module's name, in the order of the names.
    updates: Vec<(String, Update)>,
    /// Tensors that take the place of the base's, under the base's names.
    replaced: Vec<Tensor>,
}

/// Parts of one module, by what they are.
#[derive(Default)]
struct Parts {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
    is_embedding: bool,
}

/// Turns the tensors of an adapter into its changes, if the files are an adapter.
///
/// # Errors
/// When it asks for what is not read here, or its factors do not fit each other.
pub(super) fn assemble(
    files: &[CheckpointFile],
    checkpoint: &mut Checkpoint,
) -> Result<(), CheckpointError> {
    let is_adapter = |t: &Tensor| WEIGHT_FILES.contains(&t.file());
    if checkpoint.tensors.is_empty() || !checkpoint.tensors.iter().all(is_adapter) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| file.path == CONFIG_FILE) else {
        return Ok(());
    };
    let config = match config::read(file)? {
        Ok(config) => config,
        Err(method) => {
            checkpoint.notes.push(format!(
                "{CONFIG_FILE} states the method {}, which is not read here: its tensors are examined as they \
                 are stored",
                short(&method)
            ));
            return Ok(());
        }
    };
    let adapter = gather(std::mem::take(&mut checkpoint.tensors), &config)?;
    checkpoint.tensors = adapter.alone()?;
    checkpoint.notes.push(adapter.described());
    checkpoint.adapter = Some(adapter);
    Ok(())
}

/// Sorts the stored tensors by module.
fn gather(tensors: Vec<Tensor>, config: &Config) -> Result<Adapter, CheckpointError> {
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    let mut replaced = Vec::new();
    for tensor in tensors {
        let name = tensor.name().to_owned();
        let name = name.strip_prefix(PREFIX).unwrap_or(&name);
        let Some((module, part)) = names::part_of(name) else {
            let name = names::replaced(name);
            if name.contains("lora_") {
                let found = "a part that is not known";
                return Err(wrong(&tensor, "factors and magnitudes of LoRA", found));
            }
            replaced.push(tensor.renamed(name));
            continue;
        };
        let parts = modules.entry(module.to_owned()).or_default();
        let slot = match part {
            names::Part::A => &mut parts.a,
            names::Part::B => &mut parts.b,
            names::Part::EmbeddingA | names::Part::EmbeddingB => {
                parts.is_embedding = true;
                match part {
                    names::Part::EmbeddingA => &mut parts.a,
                    _ => &mut parts.b,
                }
            }
            names::Part::Magnitude => &mut parts.magnitude,
        };
        if slot.is_some() {
            return Err(wrong(&tensor, "each part of a module once", "it twice"));
        }
        *slot = Some(tensor);
    }
    if modules.is_empty() && replaced.is_empty() {
        return Err(config.wrong("peft_type", "factors in its file"));
    }
    let cache = Arc::default();
    let mut updates = Vec::with_capacity(modules.len());
    for (module, parts) in modules {
        updates.push((module.clone(), update(&module, parts, config, &cache)?));
    }
    Ok(Adapter {
        method: if config.dora { "DoRA" } else { "LoRA" },
        stated_base: config.base.clone(),
        updates,
        replaced,
    })
}

/// The change of one module, its parts checked against each other.
fn update(
    module: &str,
    parts: Parts,
    config: &Config,
    cache: &Arc<Factors>,
) -> Result<Update, CheckpointError> {
    let (Some(a), Some(b)) = (&parts.a, &parts.b) else {
        let some = [parts.a, parts.b, parts.magnitude];
        let expected = format!("both factors of {}", short(module));
        let tensor = some.into_iter().flatten().next();
        return Err(match tensor {
            Some(tensor) => wrong(&tensor, expected, "one without the other"),
            None => config.wrong("peft_type", "factors in its file"),
        });
    };
    if config.dora && parts.is_embedding {
        return Err(wrong(a, "DoRA on linear layers", "an embedding"));
    }
    if config.dora != parts.magnitude.is_some() {
        let found = if config.dora { "none" } else { "a magnitude" };
        let expected = format!("a magnitude where use_dora is set ({})", config.dora);
        return Err(wrong(a, expected, found));
    }
    let scale = config.scale(module, a)?;
    let turned = parts.is_embedding || config.fan_in_fan_out;
    Update::new(a, b, parts.magnitude.as_ref(), scale, turned, cache)
}

impl Adapter {
    /// What it is, in a sentence.
    fn described(&self) -> String {
        let base = match &self.stated_base {
            Some(base) => format!("made for {} as it states", short(base)),
            None => "which states no base".to_owned(),
        };
        format!(
            "an adapter ({}, {} modules, {} replaced tensors), {base}; its tensors are the changes that it makes",
            self.method,
            self.updates.len(),
            self.replaced.len()
        )
    }

    /// The changes as tensors, magnitudes and replaced tensors beside them.
    fn alone(&self) -> Result<Vec<Tensor>, CheckpointError> {
        let mut tensors = Vec::with_capacity(self.updates.len() + self.replaced.len());
        for (module, update) in &self.updates {
            tensors.push(update.alone(format!("{module}.weight"))?);
            tensors.extend(
                update
                    .magnitude()
                    .map(|magnitude| magnitude.renamed(format!("{module}.lora_magnitude_vector"))),
            );
        }
        tensors.extend(self.replaced.iter().cloned());
        Ok(tensors)
    }

    /// Makes a base model the merged one.
    ///
    /// # Errors
    /// When the base lacks a module that the adapter changes, or has it in another shape.
    pub fn add_to(self, base: &mut Checkpoint) -> Result<(), CheckpointError> {
        let places: HashMap<String, usize> = base
            .tensors
            .iter()
            .enumerate()
            .map(|(at, tensor)| (tensor.name().to_owned(), at))
            .collect();
        let mut wanted: Vec<String> = self
            .updates
            .iter()
            .map(|(m, _)| format!("{m}.weight"))
            .collect();
        wanted.extend(self.replaced.iter().map(|t| t.name().to_owned()));
        let rename = names::Rename::find(&wanted, &places);
        // An embedding may be replaced and changed at once: replaced first.
        for tensor in self.replaced {
            let name = rename.of(tensor.name());
            let tensor = tensor.renamed(name);
            match places.get(tensor.name()) {
                Some(&at) => base.tensors[at] = tensor,
                // Heads for a task are in the adapter alone.
                None => base.tensors.push(tensor),
            }
        }
        for (module, update) in self.updates {
            let name = rename.of(&format!("{module}.weight"));
            let Some(&at) = places.get(&name) else {
                let expected = format!("{} in the base model", short(&name));
                return Err(wrong(update.factor(), expected, "no tensor of this name"));
            };
            let merged = Merged::new(base.tensors[at].clone(), update)?;
            base.tensors[at] = merged.tensor()?;
        }
        base.notes.push(format!(
            "an adapter ({}) was added to this base: tensors that it changes are those of the merged model",
            self.method
        ));
        if let Some(stated) = &self.stated_base {
            base.notes.push(format!(
                "the adapter states that it was made for {}",
                short(stated)
            ));
        }
        Ok(())
    }
}

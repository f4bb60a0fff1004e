//! What a training run saves beside the weights, told in sentences: optimiser states, averages of the
//! weights, epochs, scores and arguments. None of it is loaded.

use super::super::error::short;
use super::value::{Id, Value, Values};
use std::collections::{BTreeMap, BTreeSet};

/// Values that are kept as metadata, and those that a note lists.
const MAX_METADATA: usize = 64;
const MAX_LISTED: usize = 12;
/// Parameters whose state is looked at to name an optimiser.
const MAX_LOOKED_AT: usize = 4096;

/// Optimisers that are described; a stream could name one a million times.
const MAX_OPTIMISERS: usize = 16;

/// Names of training state beside optimisers and random states.
const STATE_NAMES: &[&str] = &[
    "amp",
    "callbacks",
    "grad_scaler",
    "loops",
    "loss_scaler",
    "rng",
    "scaler",
    "scaler_state_dict",
    "scheduler_state_dict",
    "lr_scheduler_state_dict",
];
/// What optimisers keep per parameter, and whose habit that is; the first that fits.
const OPTIMISERS: &[(&[&str], &str)] = &[
    (&["max_exp_avg_sq"], "Adam with AMSGrad"),
    (&["exp_avg", "exp_avg_sq"], "Adam"),
    (&["exp_avg_sq_row"], "Adafactor"),
    (&["exp_inf"], "Adamax"),
    (&["exp_avg"], "Lion or a relative"),
    (&["acc_delta"], "Adadelta"),
    (&["square_avg"], "RMSprop"),
    (&["momentum_buffer"], "SGD with momentum"),
    (&["sum"], "Adagrad"),
];

/// Whether a name says that a container drives training and holds no weights. Names of weights that
/// are no containers have dots, and are never asked about.
fn is_training_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let scheduler = key.ends_with("scheduler") || key.ends_with("schedulers");
    key.starts_with("optim")
        || key.ends_with("optimizer")
        || scheduler
        || is_random_state(&key)
        || STATE_NAMES.contains(&key.as_str())
}

/// Whether a name is that of a generator's state, which is a tensor of bytes.
pub(super) fn is_random_state(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let end = key.ends_with("rng_state") || key.ends_with("rng_states");
    (end || key == "random_state" || key == "random_states") && !key.contains('.')
}

/// Whether a container is training state, by its name or by what it looks like.
pub(super) fn is_training_state(values: &Values, key: &str, id: Id) -> bool {
    is_training_name(key) || is_optimiser(values, id)
}

/// Whether a name says that the weights below it are an average of those beside it.
pub(super) fn is_average(key: &str) -> bool {
    key.to_ascii_lowercase()
        .split(['_', '.', '-'])
        .any(|part| ["ema", "swa", "averaged", "shadow"].contains(&part))
}

/// What was left aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Scalars by name, in the order of the file.
    scalars: Vec<(String, String)>,
    /// Scalars beyond those that are kept.
    n_more: usize,
    /// Sentences about optimisers.
    optimisers: Vec<String>,
    /// Keys of everything else.
    others: Vec<String>,
}

impl Aside {
    /// Notes a value that is not loaded.
    pub(super) fn add(&mut self, values: &Values, key: &str, id: Id) {
        let listed = values.items(id).unwrap_or_default();
        let one = is_optimiser(values, id).then_some(id);
        let several = listed.iter().take(MAX_OPTIMISERS).copied();
        let mut found = false;
        for id in one.into_iter().chain(several) {
            if let Some(parameters) = parameters(values, id) {
                found = true;
                if self.optimisers.len() < MAX_OPTIMISERS {
                    self.optimisers.push(describe(values, parameters));
                }
            }
        }
        if found {
            return;
        }
        if let Some(text) = scalar(values.get(id)) {
            self.scalar(short(key), text);
            return;
        }
        let attributes = match values.get(id) {
            Value::Object(Some(attributes)) => *attributes,
            Value::None | Value::Object(None) => return,
            _ => id,
        };
        match values.get(attributes) {
            Value::Dict(items) if !is_training_name(key) => {
                let named = items.iter().filter_map(|(name, value)| {
                    Some((values.str(*name)?, scalar(values.get(*value))?))
                });
                let before = self.scalars.len() + self.n_more;
                for (name, text) in named {
                    self.scalar(format!("{}.{}", short(key), short(name)), text);
                }
                if self.scalars.len() + self.n_more == before && !items.is_empty() {
                    self.others.push(short(key));
                }
            }
            _ => self.others.push(short(key)),
        }
    }

    fn scalar(&mut self, name: String, text: String) {
        if self.scalars.len() < MAX_METADATA {
            self.scalars.push((name, text));
        } else {
            self.n_more += 1;
        }
    }

    /// What the first optimiser keeps, in words.
    pub(super) fn first_optimiser(&self) -> Option<&str> {
        self.optimisers.first().map(String::as_str)
    }

    /// Tells a checkpoint what its file holds beside the tensors.
    pub(super) fn tell(
        self,
        file: &str,
        notes: &mut Vec<String>,
        metadata: &mut BTreeMap<String, String>,
    ) {
        for words in self.optimisers {
            notes.push(format!(
                "{file} also holds the state of an optimiser ({words}), left aside"
            ));
        }
        if !self.others.is_empty() {
            let listed = list(self.others.iter().cloned(), 0);
            notes.push(format!("{file} also holds {listed}, left aside"));
        }
        if !self.scalars.is_empty() {
            let each = self
                .scalars
                .iter()
                .map(|(name, text)| format!("{name} = {text}"));
            notes.push(format!("{file} states {}", list(each, self.n_more)));
        }
        metadata.extend(self.scalars);
    }
}

/// The first few of many, and how many more.
fn list(items: impl ExactSizeIterator<Item = String>, n_more: usize) -> String {
    let n_more = n_more + items.len().saturating_sub(MAX_LISTED);
    let mut text = items.take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if n_more > 0 {
        text.push_str(&format!(" and {n_more} more"));
    }
    text
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(x) => Some(x.to_string()),
        Value::Int(x) => Some(x.to_string()),
        Value::Float(x) => Some(x.to_string()),
        Value::Str(text) => Some(short(text)),
        _ => None,
    }
}

/// Whether a value is an optimiser's state dict.
pub(super) fn is_optimiser(values: &Values, id: Id) -> bool {
    parameters(values, id).is_some()
}

/// The state of each parameter in an optimiser's state dict; `None` where a value is none.
fn parameters(values: &Values, id: Id) -> Option<&[(Id, Id)]> {
    let entry = |name: &str| {
        let Value::Dict(items) = values.get(id) else {
            return None;
        };
        // A state dict of weights has thousands of keys; an optimiser's has two or three.
        items.iter().take(8).find_map(|(key, value)| {
            let known = values.str(*key).is_some_and(|key| &**key == name);
            known.then_some(*value)
        })
    };
    let (state, _) = (entry("state")?, entry("param_groups")?);
    match values.get(state) {
        Value::Dict(parameters) => Some(parameters),
        _ => None,
    }
}

/// What an optimiser keeps, in words.
fn describe(values: &Values, parameters: &[(Id, Id)]) -> String {
    let mut kept = BTreeSet::new();
    for (_, parameter) in parameters.iter().take(MAX_LOOKED_AT) {
        if let Value::Dict(items) = values.get(*parameter) {
            let names = items.iter().take(16).filter_map(|(key, value)| {
                let is_tensor = matches!(values.get(*value), Value::Tensor(_));
                values.str(*key).filter(|_| is_tensor)
            });
            kept.extend(
                names
                    .filter(|name| &***name != "step")
                    .map(|name| short(name)),
            );
        }
        if kept.len() > MAX_LISTED {
            break;
        }
    }
    let n = parameters.len();
    let name = OPTIMISERS
        .iter()
        .find(|(needed, _)| needed.iter().all(|key| kept.contains(*key)));
    let name = name.map_or(String::new(), |(_, name)| format!("{name}: "));
    if kept.is_empty() {
        format!("of {n} parameters")
    } else {
        let kept: Vec<String> = kept.into_iter().collect();
        format!("{name}{} of {n} parameters", list(kept.into_iter(), 0))
    }
}

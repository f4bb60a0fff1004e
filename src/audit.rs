//! The whole pipeline, top to bottom:
//! `ModelRef ×2 → Snapshot → Checkpoint → Model → Pair → [TestRecord] → Finding → Report`.

mod within;

use crate::arch::artefact::{Artefacts, FileEntry};
use crate::arch::{Component, Model, RoleBasis};
use crate::checkpoint::{self, Checkpoint, CheckpointFile};
use crate::evidence::budget;
use crate::evidence::context::{Observer, Settings};
use crate::evidence::pair::Pair;
use crate::evidence::record::TestRecord;
use crate::evidence::{self, layers};
use crate::fingerprint::product::Products;
use crate::report::{
    self, ComponentSection, FileLine, MachineClass, ModelSection, Report, RunOptions, Tool,
};
pub use crate::source::Unwatched;
use crate::source::{self, FetchOptions, ModelRef, Snapshot, digest};
use crate::verdict;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Text files above this size are digested and not read.
const MAX_TEXT_BYTES: u64 = 256 << 20;
/// Extensions of files whose content evidence may read.
const TEXT_EXTENSIONS: &[&str] = &["json", "txt", "jinja", "py", "md", "model", "yaml", "yml"];

/// What is to be audited, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model that came first, as the caller states it.
    pub reference: ModelRef,
    /// The model under suspicion.
    pub candidate: ModelRef,
    /// The models that the two are added to, reference and candidate, where they are adapters.
    pub bases: [Option<ModelRef>; 2],
    /// Settings that change numbers.
    pub settings: Settings,
    /// How to reach a hub; changes no number.
    pub fetch: FetchOptions,
    /// Ids of the tests to run, in the order of the registry.
    pub tests: Vec<String>,
    /// Where large products are computed, by its name; replaces that of the settings.
    pub device: String,
    /// Bytes of weights that may be read of both models together; all of them if absent.
    pub budget_bytes: Option<u64>,
    /// The command line that repeats the audit.
    pub command: Vec<String>,
}

/// Why an audit could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A model could not be had.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
    /// Its tensors contradict their names.
    #[error(transparent)]
    Arch(#[from] crate::arch::ArchError),
    /// The device that is to multiply cannot be had.
    #[error(transparent)]
    Device(#[from] crate::engine::EngineError),
    /// The two could not be put side by side.
    #[error(transparent)]
    Evidence(#[from] evidence::context::EvidenceError),
    /// A base was named for what is no adapter.
    #[error(
        "{0}: expected an adapter (adapter_config.json beside adapter_model.safetensors or .bin), since a base is \
         named for it"
    )]
    NoAdapter(String),
    /// What was named as a base has no weights of its own.
    #[error(
        "{0}: expected a model with weights as the base of an adapter, found none, or an adapter"
    )]
    NoBase(String),
    /// A file cannot be read.
    #[error("{file}: {error}")]
    File {
        /// Path relative to the model's root.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Says how many bytes were looked at so far.
pub type BytesSeen = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Watches an audit: where files are fetched and hashed, and which test is running.
pub trait Watch: source::Progress + Observer {
    /// Hashing of `n_bytes` starts.
    fn hashing_started(&self, label: &str, n_bytes: u64);
    /// A file was hashed.
    fn hashed(&self, n_bytes: u64);
    /// Hashing ended.
    fn hashing_ended(&self);
    /// Weights that lie elsewhere are read within a budget; `n_seen` says how many bytes of them were.
    fn reading_started(&self, budget_bytes: u64, n_seen: BytesSeen);
    /// No more of them is read.
    fn reading_ended(&self);
}

impl Observer for Unwatched {
    fn test_started(&self, _: &'static str, _: &str) {}
    fn test_ended(&self, _: &'static str, _: &str) {}
}

impl Watch for Unwatched {
    fn hashing_started(&self, _: &str, _: u64) {}
    fn hashed(&self, _: u64) {}
    fn hashing_ended(&self) {}
    fn reading_started(&self, _: u64, _: BytesSeen) {}
    fn reading_ended(&self) {}
}

/// Audits two models.
///
/// # Errors
/// When a model cannot be had or read. A test that cannot be carried out is a record, not an error.
pub fn compare(request: &Request, watch: &dyn Watch) -> Result<Report, AuditError> {
    let settings = Settings {
        // Refused before anything is fetched.
        products: Products::on(&request.device)?,
        ..request.settings.clone()
    };
    let opened = [
        open_with(
            &request.reference,
            request.bases[0].as_ref(),
            &request.fetch,
            watch,
            true,
        )?,
        open_with(
            &request.candidate,
            request.bases[1].as_ref(),
            &request.fetch,
            watch,
            true,
        )?,
    ];
    let [reference, candidate] = [&opened[0].model, &opened[1].model];
    let started = Instant::now();
    let chosen = request
        .budget_bytes
        .map(|n| budget::choose(reference, candidate, n, &settings))
        .transpose()
        .map_err(evidence::context::EvidenceError::from)?;
    let [left, right] = match &chosen {
        Some(chosen) => [&chosen.reference, &chosen.candidate],
        None => [reference, candidate],
    };
    let reading = request
        .budget_bytes
        .and_then(|n| within::Reading::watched(&opened, n, watch));
    if chosen.is_some() {
        within::fetch_ahead(request, &opened, [left, right])?;
    }
    let pair = Pair::new(left, right, &settings)?;
    tracing::debug!("phase pairing: {:.2?}", started.elapsed());
    let selected = |id: &str| request.tests.iter().any(|test| test == id);
    let records: Vec<TestRecord> = evidence::run(&pair, &settings, &selected, as_observer(watch))
        .into_iter()
        .map(refuse_nan)
        .map(|record| within::outside_the_budget(record, chosen.as_ref(), &selected))
        .collect();
    drop(reading);
    let finding = verdict::judge(&records);
    let mut sections = [
        opened[0].section(&request.reference),
        opened[1].section(&request.candidate),
    ];
    for (side, id) in &pair.unpaired {
        let section = &mut sections[usize::from(*side == "candidate")];
        section.notes.push(format!(
            "the component {id} has no counterpart in the other model"
        ));
    }
    if let Some(chosen) = &chosen {
        within::note(&mut sections, chosen);
    }
    let [reference_section, candidate_section] = sections;
    let deepest = reference
        .components
        .iter()
        .map(|c| c.n_layers)
        .max()
        .unwrap_or(0);
    Ok(Report {
        tool: Tool {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        command: request.command.clone(),
        seed: settings.seed,
        threads: rayon::current_num_threads(),
        options: RunOptions {
            tests: request.tests.clone(),
            layer_rule: layers::rule(deepest, &settings),
            all_layers: settings.all_layers,
            device: settings.products.describe(),
        },
        machine: machine_class(),
        reference: reference_section,
        candidate: candidate_section,
        finding,
        records,
        catalogue: evidence::TESTS.iter().map(|test| test.spec).collect(),
    })
}

/// Opens a model: its files, their digests, its tensors and components.
///
/// # Errors
/// When it cannot be had or read.
pub fn open(
    model: &ModelRef,
    fetch: &FetchOptions,
    watch: &dyn Watch,
) -> Result<(Model, Option<String>), AuditError> {
    open_with(model, None, fetch, watch, true).map(|opened| (opened.model, opened.revision))
}

/// Opens a model and describes it; of weights that are read in parts, headers alone are read. `base` is what
/// an adapter is added to.
///
/// # Errors
/// When it cannot be had or read, or a base is given and the model is no adapter.
pub fn inspect(
    model: &ModelRef,
    base: Option<&ModelRef>,
    fetch: &FetchOptions,
    watch: &dyn Watch,
) -> Result<(Model, ModelSection), AuditError> {
    let opened = open_with(model, base, fetch, watch, true)?;
    let section = opened.section(model);
    Ok((opened.model, section))
}

/// Opens a model that is to be run and not examined: no file is digested. `base` is what an adapter is added
/// to.
///
/// # Errors
/// When it cannot be had or read, or a base is given and the model is no adapter.
pub fn open_to_run(
    model: &ModelRef,
    base: Option<&ModelRef>,
    fetch: &FetchOptions,
    watch: &dyn Watch,
) -> Result<Model, AuditError> {
    open_with(model, base, fetch, watch, false).map(|opened| opened.model)
}

/// A model, and the files behind it.
struct Opened {
    model: Model,
    revision: Option<String>,
    files: Vec<CheckpointFile>,
}

impl Opened {
    /// What the report says of it, and how much of it was read where it was read in parts.
    fn section(&self, model_ref: &ModelRef) -> ModelSection {
        let mut section = section(model_ref, &self.model, self.revision.clone());
        let seen = |f: &CheckpointFile| Some((f.source.n_bytes_seen()?, f.source.len()));
        let parts: Vec<(u64, u64)> = self.files.iter().filter_map(seen).collect();
        if !parts.is_empty() {
            let (n_read, n_bytes) = parts
                .iter()
                .fold((0u64, 0u64), |(a, b), (x, y)| (a + x, b.saturating_add(*y)));
            section.notes.push(format!(
                "the weights were read in parts where they are published: {n_read} of {n_bytes} bytes \
                 in {} files; the SHA-256 of these files, where one is given, is stated by the source and was not \
                 computed",
                parts.len()
            ));
        }
        section
    }
}

fn open_with(
    model: &ModelRef,
    base: Option<&ModelRef>,
    fetch: &FetchOptions,
    watch: &dyn Watch,
    digested: bool,
) -> Result<Opened, AuditError> {
    let started = Instant::now();
    let snapshot = source::resolve(model, fetch, as_progress(watch))?;
    let files = open_files(&snapshot)?;
    let mut checkpoint = checkpoint::open(&files)?;
    let mut contents = texts(&files)?;
    if let Some(base) = base {
        let (merged, of_base) = add_to_base(model, checkpoint, base, fetch, watch)?;
        checkpoint = merged;
        for (path, content) in of_base {
            contents.entry(path).or_insert(content);
        }
    }
    let entries = if digested {
        digests(&snapshot, &files, watch)?
    } else {
        Vec::new()
    };
    let artefacts = Artefacts {
        files: entries,
        contents,
        ..Artefacts::default()
    };
    tracing::debug!("phase opening and hashing: {:.2?}", started.elapsed());
    Ok(Opened {
        model: Model::new(snapshot.label.clone(), checkpoint, artefacts)?,
        revision: snapshot.revision,
        files,
    })
}

/// Opens all files of a snapshot.
fn open_files(snapshot: &Snapshot) -> Result<Vec<CheckpointFile>, AuditError> {
    let open = |file: &source::SnapshotFile| match file.open() {
        Ok(source) => Ok(CheckpointFile {
            path: file.path.clone(),
            source,
        }),
        Err(error) => Err(AuditError::File {
            file: file.path.clone(),
            error,
        }),
    };
    snapshot.files.iter().map(open).collect()
}

/// The base model with an adapter added, and the base's configuration and tokenizer, which the merged model
/// has as well.
fn add_to_base(
    model: &ModelRef,
    adapter: Checkpoint,
    base: &ModelRef,
    fetch: &FetchOptions,
    watch: &dyn Watch,
) -> Result<(Checkpoint, BTreeMap<String, Vec<u8>>), AuditError> {
    let Some(adapter) = adapter.adapter else {
        return Err(AuditError::NoAdapter(model.to_string()));
    };
    let snapshot = source::resolve(base, fetch, as_progress(watch))?;
    let files = open_files(&snapshot)?;
    let mut checkpoint = checkpoint::open(&files)?;
    if checkpoint.adapter.is_some() || checkpoint.tensors.is_empty() {
        return Err(AuditError::NoBase(base.to_string()));
    }
    adapter.add_to(&mut checkpoint)?;
    checkpoint.notes.push(format!(
        "its base is {} as the caller names it",
        snapshot.label
    ));
    let mut contents = texts(&files)?;
    contents.retain(|path, _| path.ends_with(".json") || path.ends_with(".model"));
    Ok((checkpoint, contents))
}

/// Digests every file.
fn digests(
    snapshot: &Snapshot,
    files: &[CheckpointFile],
    watch: &dyn Watch,
) -> Result<Vec<FileEntry>, AuditError> {
    let here = files.iter().zip(&snapshot.files);
    let here = here.filter(|(_, known)| known.remote.is_none());
    let total = here.map(|(file, _)| file.source.len()).sum();
    watch.hashing_started(&snapshot.label, total);
    let entries: Result<Vec<FileEntry>, AuditError> = files
        .par_iter()
        .zip(&snapshot.files)
        .map(|(file, known)| {
            let failed = |error| AuditError::File {
                file: file.path.clone(),
                error,
            };
            let source = file.source.as_ref();
            if known.remote.is_some() {
                // Its digest would be that of the whole file, which is not to be read.
                return Ok(FileEntry {
                    path: file.path.clone(),
                    size_bytes: source.len(),
                    sha256: known.sha256.clone(),
                    sha256_is_stated: known.sha256.is_some(),
                    git_blob: known.git_blob.clone(),
                });
            }
            let sha256 = match &known.sha256 {
                Some(verified) => verified.clone(),
                None => digest::sha256_hex(source).map_err(failed)?,
            };
            let git_blob = match &known.git_blob {
                Some(published) => Some(published.clone()),
                None if is_text(&file.path) => Some(digest::git_blob_hex(source).map_err(failed)?),
                None => None,
            };
            watch.hashed(source.len());
            Ok(FileEntry {
                path: file.path.clone(),
                size_bytes: source.len(),
                sha256: Some(sha256),
                sha256_is_stated: false,
                git_blob,
            })
        })
        .collect();
    watch.hashing_ended();
    entries
}

/// Reads the files that are text.
fn texts(files: &[CheckpointFile]) -> Result<BTreeMap<String, Vec<u8>>, AuditError> {
    let mut contents = BTreeMap::new();
    for file in files {
        if is_text(&file.path) && file.source.len() <= MAX_TEXT_BYTES {
            let content =
                file.source
                    .read(0..file.source.len())
                    .map_err(|error| AuditError::File {
                        file: file.path.clone(),
                        error,
                    })?;
            contents.insert(file.path.clone(), content.into_owned());
        }
    }
    Ok(contents)
}

fn is_text(path: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, extension)| TEXT_EXTENSIONS.contains(&extension))
}

/// A record that holds a number which is not finite becomes a failed one before it is judged.
fn refuse_nan(record: TestRecord) -> TestRecord {
    match report::check_record(&record) {
        Ok(()) => record,
        Err(error) => TestRecord::failed(record.test, record.component, error.to_string()),
    }
}

/// How a component's roles were found, in words.
fn role_basis(component: &Component) -> String {
    match &component.basis {
        RoleBasis::Names => format!("tensor names of the family {}", component.family),
        RoleBasis::Inferred(how) => how.clone(),
        RoleBasis::None => "no roles: generic tests only".to_owned(),
    }
}

/// What a report says of one model.
pub fn section(model_ref: &ModelRef, model: &Model, revision: Option<String>) -> ModelSection {
    let mut notes = model.notes.clone();
    if !model.missing_shards.is_empty() {
        notes.push(format!(
            "{} shards named by the index are not there; the weights were not examined",
            model.missing_shards.len()
        ));
    }
    ModelSection {
        label: model.label.clone(),
        model_ref: model_ref.to_string(),
        revision,
        files: model
            .artefacts
            .files
            .iter()
            .map(|file| FileLine {
                path: file.path.clone(),
                size_bytes: file.size_bytes,
                sha256: file.sha256.clone(),
                git_blob: file.git_blob.clone(),
            })
            .collect(),
        format: model.has_weights().then(|| model.format.clone()),
        n_tensors: model.tensors.len() as u64,
        n_parameters: model.tensors.iter().map(|t| t.n_elements() as u64).sum(),
        dtypes: model.dtypes(),
        components: model
            .components
            .iter()
            .map(|component| ComponentSection {
                id: component.id.clone(),
                family: component.family.clone(),
                n_layers: u64::from(component.n_layers),
                hidden_size: component.hidden_size.unwrap_or(0) as u64,
                n_tensors: component.tensors.len() as u64,
                n_parameters: component.n_parameters(),
                role_basis: role_basis(component),
            })
            .collect(),
        notes,
    }
}

/// The class of machine on which sums are taken in the same order.
fn machine_class() -> MachineClass {
    let mut cpu_features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        for (name, on) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ] {
            if on {
                cpu_features.push(name.to_owned());
            }
        }
    }
    MachineClass {
        arch: std::env::consts::ARCH.to_owned(),
        cpu_features,
    }
}

fn as_observer(watch: &dyn Watch) -> &dyn Observer {
    watch
}

fn as_progress(watch: &dyn Watch) -> &dyn source::Progress {
    watch
}

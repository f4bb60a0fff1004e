//! What the subcommands that run a model share: which model, on which device, and how it is opened.

use super::progress::Bars;
use crate::arch::Model;
use crate::arch::spec::{ModelSpec, SpecError, VisionLanguageSpec};
use crate::audit;
use crate::engine::backend::Backend;
use crate::engine::vision::adopt_tower;
use crate::engine::{Decoder, EngineError};
use crate::source::{FetchOptions, ModelRef};
use anyhow::Context;

/// A model, and what else its computation needs.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    /// The model
    pub model: ModelRef,
    /// The model that it, an adapter, is added to
    #[arg(long, value_name = "MODEL")]
    pub base: Option<ModelRef>,
    /// The model whose vision tower it uses, where its own files hold none (LLaVA as its authors publish it)
    #[arg(long, value_name = "MODEL")]
    pub tower: Option<ModelRef>,
}

/// A model and a device.
#[derive(Debug, clap::Args)]
pub(super) struct EngineArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Device: auto, cpu, cpu-f64, cuda, cuda-bf16, vulkan or metal; `cuda:1` is the second of its kind
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
}

/// A model that is to be run.
pub(super) struct Opened {
    pub model: Model,
    /// The decoder.
    pub spec: ModelSpec,
    /// The whole, where the model sees.
    pub vision: Option<VisionLanguageSpec>,
    /// The model whose tower it uses.
    pub tower: Option<Model>,
}

impl Opened {
    /// Opens a model and reads what it computes.
    pub fn new(args: &ModelArgs) -> anyhow::Result<Self> {
        let (bars, options) = (Bars::new(), FetchOptions::default());
        let mut model = audit::open_to_run(&args.model, args.base.as_ref(), &options, &bars)?;
        let tower = args.tower.as_ref();
        let tower = tower.map(|tower| audit::open_to_run(tower, None, &options, &bars));
        let tower = tower.transpose()?;
        bars.clear();
        if let Some(tower) = &tower {
            adopt_tower(&mut model, tower)?;
        }
        let config = model.config.as_ref().with_context(|| {
            format!(
                "{}: neither a config.json nor a checkpoint that states one: the engine cannot know what the \
                 weights compute",
                model.label
            )
        })?;
        let (spec, vision) = match ModelSpec::read(config) {
            Ok(_) if tower.is_some() => anyhow::bail!("{} takes no images", model.label),
            Ok(spec) => (spec, None),
            Err(unknown @ SpecError::UnknownModelType { .. }) => {
                let of_tower = tower.as_ref().and_then(|tower| tower.config.as_ref());
                match VisionLanguageSpec::read_with(config, of_tower) {
                    Ok(whole) => (whole.language.clone(), Some(whole)),
                    Err(SpecError::UnknownModelType { .. }) => {
                        return Err(anyhow::Error::from(unknown).context(model.label));
                    }
                    Err(error) => return Err(anyhow::Error::from(error).context(model.label)),
                }
            }
            Err(error) => return Err(anyhow::Error::from(error).context(model.label)),
        };
        for assumption in &spec.assumptions {
            tracing::info!("{assumption}");
        }
        Ok(Self {
            model,
            spec,
            vision,
            tower,
        })
    }

    /// Brings the decoder to a device, with a bar.
    pub fn load<B: Backend>(&self, backend: B) -> Result<Decoder<B>, EngineError> {
        let bar = super::progress::counter("loading layers", self.spec.layers.len() as u64);
        let decoder = Decoder::load(&self.model, self.spec.clone(), backend, &mut |_| bar.inc(1));
        bar.finish_and_clear();
        decoder
    }
}

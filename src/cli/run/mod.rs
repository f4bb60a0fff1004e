//! `modelkin run`: what a model says.

mod said;
mod stops;

use super::engine_args::{EngineArgs, Opened};
use crate::engine::backend::Backend;
use crate::engine::device::{Visitor, with_device};
use crate::engine::generate::{Sampler, Sampling, Turn, generate, prefill};
use crate::engine::text::Tokenizer;
use crate::engine::text::chat::{ChatOptions, ChatTemplate, Message};
use crate::engine::vision::{Marks, Normalisation, Picture, VisionLanguage, with_rooms};
use crate::engine::{Chunk, Decoder, TextCache, Wanted};
use anyhow::Context;
use said::Said;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Largest file of a picture that is read.
const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// Largest file of prompts that is read.
const MAX_PROMPTS_BYTES: u64 = 256 << 20;

/// Run a model: continue a text, or answer a message.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The text to continue; with --chat, the user's message (may be given several times)
    #[arg(
        long = "prompt",
        value_name = "TEXT",
        required_unless_present = "prompts"
    )]
    prompt: Vec<String>,
    /// Texts to continue, one a line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Texts that are continued at once; what is said does not depend on it
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Show the model a picture, PNG or JPEG (may be given several times): before the prompt, or where it says
    /// `<image>`
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    chat: bool,
    /// A system message before the user's
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Tokens to generate at most
    #[arg(short = 'n', long, default_value_t = 256, value_name = "N")]
    max_tokens: usize,
    /// 0 takes the most likely token each time; above 0 draws at random
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Draw among this many of the most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the most likely tokens that together reach this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Equal seeds draw equal tokens
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    /// Stop before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on beyond the token that ends a text
    #[arg(long)]
    ignore_eos: bool,
    /// Print as JSON; of several prompts, an object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let opened = Opened::new(&args.engine.model)?;
    let tokenizer = Tokenizer::of(&opened.model)?;
    let template = if args.chat {
        let template = ChatTemplate::of(&opened.model)?;
        Some(template.with_context(|| {
            let label = &opened.model.label;
            format!("{label} has no chat template; run it without --chat")
        })?)
    } else {
        None
    };
    let prompts = prompts(&args)?;
    anyhow::ensure!(
        args.images.is_empty() || prompts.len() == 1,
        "pictures belong to one prompt; give one --prompt with --image"
    );
    let pictures: Result<Vec<Picture>, _> = args.images.iter().map(|path| picture(path)).collect();
    let device = args.engine.device.clone();
    let job = Job {
        prompts,
        pictures: pictures?,
        args: &args,
        opened: &opened,
        tokenizer: &tokenizer,
        template,
    };
    with_device(&device, job)??;
    Ok(ExitCode::SUCCESS)
}

/// All prompts, those of the file last.
fn prompts(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut prompts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let name = path.display().to_string();
        let n_bytes = std::fs::metadata(path).with_context(|| name.clone())?.len();
        anyhow::ensure!(
            n_bytes <= MAX_PROMPTS_BYTES,
            "{name}: {n_bytes} bytes are more than a file of prompts may have"
        );
        let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
        prompts.extend(
            text.lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
        anyhow::ensure!(!prompts.is_empty(), "{name}: there is no prompt in it");
    }
    Ok(prompts)
}

/// Reads a picture.
fn picture(path: &Path) -> anyhow::Result<Picture> {
    let name = path.display().to_string();
    let n_bytes = std::fs::metadata(path).with_context(|| name.clone())?.len();
    anyhow::ensure!(
        n_bytes <= MAX_IMAGE_BYTES,
        "{name}: {n_bytes} bytes are more than a picture needs"
    );
    let bytes = std::fs::read(path).with_context(|| name.clone())?;
    Ok(Picture::decode(&name, &bytes)?)
}

/// A run on a device yet to be opened.
struct Job<'a> {
    args: &'a Args,
    opened: &'a Opened,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    prompts: Vec<String>,
    pictures: Vec<Picture>,
}

/// A prompt that was computed.
struct Begun<B: Backend> {
    ids: Vec<u32>,
    turn: Turn<B>,
}

impl Visitor for Job<'_> {
    type Output = anyhow::Result<()>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        if self.pictures.is_empty() {
            let decoder = self.opened.load(backend)?;
            for prompts in self.prompts.chunks(usize::from(self.args.batch)) {
                let begun: anyhow::Result<Vec<Begun<B>>> = prompts
                    .iter()
                    .map(|prompt| self.begin(&decoder, prompt))
                    .collect();
                self.speak(&decoder, begun?)?;
            }
            return Ok(());
        }
        let label = &self.opened.model.label;
        let spec = self.opened.vision.clone();
        let spec = spec.with_context(|| format!("{label} takes no images"))?;
        let n_layers = spec.language.layers.len() as u64;
        let bar = super::progress::counter("loading layers", n_layers);
        let model = &self.opened.model;
        let whole = VisionLanguage::load(model, spec, backend, &mut |_| bar.inc(1))?;
        bar.finish_and_clear();
        // Beside the tower, where it is published elsewhere.
        let of_tower = self.opened.tower.as_ref().unwrap_or(model);
        let stated = of_tower.artefacts.json("preprocessor_config.json");
        let stated = stated.map_err(|e| anyhow::anyhow!("preprocessor_config.json: {e}"))?;
        let stated = stated.as_ref().map(Normalisation::read).transpose()?;
        let colours = stated.flatten().unwrap_or_else(|| whole.normalisation());
        let (mut rooms, mut images) = (Vec::new(), Vec::new());
        for picture in &self.pictures {
            let prepared = whole.prepare(picture, &colours)?;
            rooms.push(whole.spec().room(prepared.grid));
            images.extend(prepared.images);
        }
        let started = Instant::now();
        let rows = whole.rows(&images)?;
        let marks = Marks::of(whole.spec(), |name| self.tokenizer.id_of(name))?;
        let (text, special) = self.text_of(&with_rooms(&self.prompts[0], &rooms)?)?;
        let ids = marks.encode(&text, &mut |piece, first| {
            self.tokenizer.encode(piece, special && first)
        })?;
        let decoder = whole.decoder();
        let mut cache = decoder.cache(ids.len().saturating_add(self.args.max_tokens))?;
        let mut chunks = [Chunk {
            cache: &mut cache,
            pieces: marks.pieces(decoder.backend(), &ids, &rows)?,
        }];
        let logits = decoder.forward(&mut chunks, &Wanted::default())?.logits;
        let logits = logits.map(|logits| logits.values).unwrap_or_default();
        tracing::info!(
            "{} images and {} tokens in {:.2?}",
            images.len(),
            ids.len(),
            started.elapsed()
        );
        self.speak(decoder, vec![self.begun(ids, cache, logits)?])
    }
}

impl Job<'_> {
    /// Computes a prompt.
    fn begin<B: Backend>(&self, decoder: &Decoder<B>, prompt: &str) -> anyhow::Result<Begun<B>> {
        let ids = self.encode(prompt)?;
        let mut cache = decoder.cache(ids.len().saturating_add(self.args.max_tokens))?;
        let started = Instant::now();
        let logits = prefill(decoder, &mut cache, &ids)?;
        tracing::info!(
            "prompt of {} tokens in {:.2?}",
            ids.len(),
            started.elapsed()
        );
        self.begun(ids, cache, logits)
    }

    fn begun<B: Backend>(
        &self,
        ids: Vec<u32>,
        cache: TextCache<B>,
        logits: Vec<f32>,
    ) -> anyhow::Result<Begun<B>> {
        let turn = Turn {
            cache,
            logits,
            sampler: Sampler::new(self.sampling())?,
        };
        Ok(Begun { ids, turn })
    }

    /// Tokens of what is said to the model.
    fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let (text, special) = self.text_of(text)?;
        Ok(self.tokenizer.encode(&text, special)?)
    }

    /// What is said to the model, in the form of a chat where one is wanted, and whether the tokenizer adds what
    /// begins a text: a chat's template writes it.
    fn text_of(&self, text: &str) -> anyhow::Result<(String, bool)> {
        let Some(template) = &self.template else {
            return Ok((text.to_owned(), true));
        };
        let system = self.args.system.as_ref();
        let mut messages: Vec<Message> = system
            .map(|text| Message::new("system", text))
            .into_iter()
            .collect();
        messages.push(Message::new("user", text));
        let options = ChatOptions {
            add_generation_prompt: true,
            ..ChatOptions::default()
        };
        Ok((template.render(&messages, &options)?, false))
    }

    fn sampling(&self) -> Sampling {
        if self.args.temperature == 0.0 {
            return Sampling::Greedy;
        }
        Sampling::Random {
            temperature: self.args.temperature,
            top_k: self.args.top_k,
            top_p: self.args.top_p,
            seed: self.args.seed,
        }
    }

    /// Prints text as it comes, or nothing where the page is JSON.
    fn show(&self, text: &str) {
        if self.args.json {
            return;
        }
        // A closed pipe is no error of the model's.
        let mut out = std::io::stdout().lock();
        for line in text.split_inclusive('\n') {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            let line = crate::report::visible(line.trim_end_matches('\n'));
            let _ = write!(out, "{line}{end}");
        }
        let _ = out.flush();
    }

    /// Generates after prompts, and prints: one text as it comes, several when the last has ended.
    fn speak<B: Backend>(&self, decoder: &Decoder<B>, begun: Vec<Begun<B>>) -> anyhow::Result<()> {
        let Job {
            args, tokenizer, ..
        } = *self;
        let alone = self.prompts.len() == 1;
        let (prompts, mut turns): (Vec<_>, Vec<_>) = begun
            .into_iter()
            .map(|begun| (begun.ids, begun.turn))
            .unzip();
        let eos = if args.ignore_eos {
            &[]
        } else {
            tokenizer.eos_ids()
        };
        let new = || Said::new(tokenizer.stream(true), &args.stop, eos);
        let mut said: Vec<Said<'_>> = prompts.iter().map(|_| new()).collect();
        let started = Instant::now();
        generate(decoder, &mut turns, args.max_tokens, &mut |text, id| {
            let (piece, goes_on) = said[text].hear(id)?;
            if alone {
                self.show(&piece);
            }
            Ok(goes_on)
        })?;
        let took = started.elapsed();
        let device = decoder.backend().describe();
        let mut n_tokens = 0;
        for (prompt, said) in prompts.iter().zip(said) {
            let (rest, answer) = said.finish()?;
            n_tokens += answer.ids.len();
            let page = json!({
                "model": self.opened.model.label, "device": device, "prompt_ids": prompt,
                "ids": answer.ids, "text": answer.text, "finish_reason": answer.reason,
            });
            match (args.json, alone) {
                (true, true) => println!("{}", serde_json::to_string_pretty(&page)?),
                (true, false) => println!("{page}"),
                (false, true) => self.show(&format!("{rest}\n")),
                (false, false) => {
                    let prompt = tokenizer.decode(prompt, true)?;
                    self.show(&format!("> {prompt}\n{}\n\n", answer.text));
                }
            }
        }
        tracing::info!("{device}: {n_tokens} tokens in {took:.2?}");
        Ok(())
    }
}

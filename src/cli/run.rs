//! `modelkin run`: what a model says.

use super::engine_args::{EngineArgs, Opened};
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::device::{Visitor, with_device};
use crate::engine::generate::{Sampler, Sampling, generate, prefill};
use crate::engine::text::Tokenizer;
use crate::engine::text::chat::{ChatOptions, ChatTemplate, Message};
use crate::engine::vision::{Marks, Normalisation, Picture, VisionLanguage};
use crate::engine::{Chunk, Decoder, TextCache, Wanted};
use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Largest file of a picture that is read.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// Run a model: continue a text, or answer a message.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The text to continue; with --chat, the user's message
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Show the model a picture, PNG or JPEG (may be given several times)
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
    /// Print as JSON
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
    let pictures: Result<Vec<Picture>, _> = args.images.iter().map(|path| picture(path)).collect();
    let device = args.engine.device.clone();
    let job = Job {
        pictures: pictures?,
        args: &args,
        opened: &opened,
        tokenizer: &tokenizer,
        template,
    };
    with_device(&device, job)??;
    Ok(ExitCode::SUCCESS)
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
    pictures: Vec<Picture>,
}

/// Text so far, and where it ends if a stop text is in it.
struct Stops<'a> {
    stop: &'a [String],
    text: String,
    /// Bytes of `text` that were given out.
    shown: usize,
}

impl Stops<'_> {
    /// Takes more text; what of it can be shown, and whether it goes on.
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.text.push_str(piece);
        let ends = self.stop.iter().filter(|stop| !stop.is_empty());
        let end = ends.filter_map(|stop| self.text.find(stop.as_str())).min();
        if let Some(end) = end {
            self.text.truncate(end);
            return (self.rest(), false);
        }
        // What may be the beginning of a stop text waits.
        let longest = self.stop.iter().map(|stop| stop.len()).max().unwrap_or(0);
        let mut safe = (self.text.len() + 1).saturating_sub(longest.max(1));
        while !self.text.is_char_boundary(safe) {
            safe -= 1;
        }
        let new = self
            .text
            .get(self.shown..safe)
            .unwrap_or_default()
            .to_owned();
        self.shown = self.shown.max(safe);
        (new, true)
    }

    /// What was held back.
    fn rest(&mut self) -> String {
        let rest = self.text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = self.text.len();
        rest
    }
}

impl Visitor for Job<'_> {
    type Output = anyhow::Result<()>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        if self.pictures.is_empty() {
            let ids = self.encode(&self.args.prompt)?;
            let decoder = self.opened.load(backend)?;
            let mut cache = decoder.cache(ids.len().saturating_add(self.args.max_tokens))?;
            let started = Instant::now();
            let logits = prefill(&decoder, &mut cache, &ids)?;
            tracing::info!(
                "prompt of {} tokens in {:.2?}",
                ids.len(),
                started.elapsed()
            );
            return self.speak(&decoder, cache, logits, &ids);
        }
        let label = &self.opened.model.label;
        let spec = self.opened.vision.clone();
        let spec = spec.with_context(|| format!("{label} takes no images"))?;
        let n_layers = spec.language.layers.len() as u64;
        let bar = super::progress::counter("loading layers", n_layers);
        let model = &self.opened.model;
        let whole = VisionLanguage::load(model, spec, backend, &mut |_| bar.inc(1))?;
        bar.finish_and_clear();
        let stated = model.artefacts.json("preprocessor_config.json");
        let stated = stated.map_err(|e| anyhow::anyhow!("preprocessor_config.json: {e}"))?;
        let stated = stated.as_ref().map(Normalisation::read).transpose()?;
        let colours = stated.flatten().unwrap_or_else(|| whole.normalisation());
        let mut text = String::new();
        let mut images = Vec::new();
        for picture in &self.pictures {
            let prepared = whole.prepare(picture, &colours)?;
            text.push_str(&whole.spec().room(prepared.grid));
            text.push('\n');
            images.extend(prepared.images);
        }
        let started = Instant::now();
        let rows = whole.rows(&images)?;
        let ids = self.encode(&format!("{text}{}", self.args.prompt))?;
        let marks = Marks::of(whole.spec(), |name| self.tokenizer.id_of(name))?;
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
        self.speak(decoder, cache, logits, &ids)
    }
}

impl Job<'_> {
    /// Tokens of what is said to the model, in the form of a chat where one is wanted.
    fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let Some(template) = &self.template else {
            return Ok(self.tokenizer.encode(text, true)?);
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
        Ok(self
            .tokenizer
            .encode(&template.render(&messages, &options)?, false)?)
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

    /// Generates after a prompt whose last logits are given, and prints.
    fn speak<B: Backend>(
        &self,
        decoder: &Decoder<B>,
        mut cache: TextCache<B>,
        logits: Vec<f32>,
        prompt: &[u32],
    ) -> anyhow::Result<()> {
        let Job {
            args, tokenizer, ..
        } = *self;
        let mut sampler = Sampler::new(self.sampling())?;
        let mut stream = tokenizer.stream(true);
        let mut stops = Stops {
            stop: &args.stop,
            text: String::new(),
            shown: 0,
        };
        let mut generated = Vec::new();
        let mut reason = "max-tokens";
        let started = Instant::now();
        let mut heard = |id: u32| -> Result<bool, EngineError> {
            if tokenizer.eos_ids().contains(&id) && !args.ignore_eos {
                reason = "end-of-text";
                return Ok(false);
            }
            generated.push(id);
            let (text, go_on) = stops.push(&stream.push(id)?);
            self.show(&text);
            if !go_on {
                reason = "stop";
            }
            Ok(go_on)
        };
        generate(
            decoder,
            &mut cache,
            logits,
            &mut sampler,
            args.max_tokens,
            &mut heard,
        )?;
        let took = started.elapsed();
        if reason != "stop" {
            let (text, go_on) = stops.push(&stream.finish()?);
            self.show(&text);
            if !go_on {
                reason = "stop";
            }
            self.show(&stops.rest());
        }
        let device = decoder.backend().describe();
        if args.json {
            let page = json!({
                "model": self.opened.model.label, "device": device, "prompt_ids": prompt,
                "ids": generated, "text": stops.text, "finish_reason": reason,
            });
            println!("{}", serde_json::to_string_pretty(&page)?);
        } else {
            self.show("\n");
            tracing::info!("{device}: {} tokens in {took:.2?}", generated.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_in_two_pieces_is_never_shown() {
        let stop = ["END".to_owned()];
        let mut stops = Stops {
            stop: &stop,
            text: String::new(),
            shown: 0,
        };
        assert_eq!(stops.push("abcE"), ("ab".to_owned(), true));
        assert_eq!(stops.push("xN"), ("cE".to_owned(), true));
        let (text, go_on) = stops.push("éEND more");
        assert!(!go_on);
        assert_eq!(text, "xNé");
        assert_eq!(stops.text, "abcExNé");
    }

    #[test]
    fn without_stop_texts_everything_is_shown_at_once() {
        let mut stops = Stops {
            stop: &[],
            text: String::new(),
            shown: 0,
        };
        assert_eq!(stops.push("héllo"), ("héllo".to_owned(), true));
        assert_eq!(stops.rest(), "");
    }
}

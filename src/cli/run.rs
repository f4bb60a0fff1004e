//! `modelkin run`: what a model says.

use super::engine_args::{EngineArgs, Opened};
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::device::{Visitor, with_device};
use crate::engine::generate::{Sampler, Sampling, generate, prefill};
use crate::engine::text::Tokenizer;
use crate::engine::text::chat::{ChatOptions, ChatTemplate, Message};
use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Run a model: continue a text, or answer a message.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The text to continue; with --chat, the user's message
    #[arg(long, value_name = "TEXT")]
    prompt: String,
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
    let opened = args.engine.open()?;
    let tokenizer = Tokenizer::of(&opened.model)?;
    let ids = if args.chat {
        let template = ChatTemplate::of(&opened.model)?.with_context(|| {
            format!(
                "{} has no chat template; run it without --chat",
                opened.model.label
            )
        })?;
        let mut messages = Vec::new();
        messages.extend(
            args.system
                .as_ref()
                .map(|text| Message::new("system", text)),
        );
        messages.push(Message::new("user", &args.prompt));
        let options = ChatOptions {
            add_generation_prompt: true,
            ..ChatOptions::default()
        };
        tokenizer.encode(&template.render(&messages, &options)?, false)?
    } else {
        tokenizer.encode(&args.prompt, true)?
    };
    let device = args.engine.device.clone();
    let job = Job {
        args: &args,
        opened: &opened,
        tokenizer: &tokenizer,
        ids,
    };
    with_device(&device, job)??;
    Ok(ExitCode::SUCCESS)
}

/// A run on a device yet to be opened.
struct Job<'a> {
    args: &'a Args,
    opened: &'a Opened,
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
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
        let Job {
            args,
            opened,
            tokenizer,
            ids,
        } = self;
        let decoder = opened.load(backend)?;
        let sampling = if args.temperature == 0.0 {
            Sampling::Greedy
        } else {
            Sampling::Random {
                temperature: args.temperature,
                top_k: args.top_k,
                top_p: args.top_p,
                seed: args.seed,
            }
        };
        let mut sampler = Sampler::new(sampling)?;
        let mut cache = decoder.cache(ids.len() + args.max_tokens)?;
        let started = Instant::now();
        let logits = prefill(&decoder, &mut cache, &ids)?;
        let prefilled = started.elapsed();
        let mut stream = tokenizer.stream(true);
        let mut stops = Stops {
            stop: &args.stop,
            text: String::new(),
            shown: 0,
        };
        let mut generated = Vec::new();
        let mut reason = "max-tokens";
        let started = Instant::now();
        let show = |text: &str| {
            if !args.json {
                // A closed pipe ends the program at the next line; a progress of text is not worth an error.
                let mut out = std::io::stdout().lock();
                for line in text.split_inclusive('\n') {
                    let end = if line.ends_with('\n') { "\n" } else { "" };
                    let line = crate::report::visible(line.trim_end_matches('\n'));
                    let _ = write!(out, "{line}{end}");
                }
                let _ = out.flush();
            }
        };
        let mut heard = |id: u32| -> Result<bool, EngineError> {
            if tokenizer.eos_ids().contains(&id) && !args.ignore_eos {
                reason = "end-of-text";
                return Ok(false);
            }
            generated.push(id);
            let (text, go_on) = stops.push(&stream.push(id)?);
            show(&text);
            if !go_on {
                reason = "stop";
            }
            Ok(go_on)
        };
        generate(
            &decoder,
            &mut cache,
            logits,
            &mut sampler,
            args.max_tokens,
            &mut heard,
        )?;
        let took = started.elapsed();
        if reason != "stop" {
            let (text, go_on) = stops.push(&stream.finish()?);
            show(&text);
            if !go_on {
                reason = "stop";
            }
            show(&stops.rest());
        }
        let device = decoder.backend().describe();
        if args.json {
            let page = json!({
                "model": opened.model.label, "device": device, "prompt_ids": ids,
                "ids": generated, "text": stops.text, "finish_reason": reason,
            });
            println!("{}", serde_json::to_string_pretty(&page)?);
        } else {
            println!();
            tracing::info!(
                "{device}: prompt of {} tokens in {prefilled:.2?}, {} tokens in {took:.2?}",
                ids.len(),
                generated.len()
            );
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
        assert_eq!(
            stops.push("xN"),
            ("cEx".to_owned().chars().take(2).collect::<String>(), true)
        );
        assert_eq!(stops.push("é"), ("x".to_owned(), true));
        let (text, go_on) = stops.push("END more");
        assert!(!go_on && text.ends_with('é'), "{text}");
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

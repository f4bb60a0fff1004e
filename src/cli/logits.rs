//! `modelkin logits`: what a model expects next, and how likely it finds a continuation.

use super::engine_args::{EngineArgs, Opened};
use crate::engine::backend::Backend;
use crate::engine::device::{Visitor, with_device};
use crate::engine::generate::{log_probabilities, score};
use crate::engine::text::Tokenizer;
use crate::engine::{Chunk, Logits, Piece, Wanted};
use comfy_table::Table;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Show the most likely next tokens after a text, or the probability of a continuation.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// The text
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Show ln p of each token of this text after the prompt
    #[arg(long, value_name = "TEXT")]
    continuation: Option<String>,
    /// Number of tokens to show
    #[arg(short = 'k', long, default_value_t = 10, value_name = "K")]
    top: usize,
    /// After every token of the prompt, not only the last
    #[arg(long, conflicts_with = "continuation")]
    all: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let opened = Opened::new(&args.engine.model)?;
    let tokenizer = Tokenizer::of(&opened.model)?;
    let device = args.engine.device.clone();
    let page = with_device(
        &device,
        Job {
            args: &args,
            opened: &opened,
            tokenizer: &tokenizer,
        },
    )??;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&page)?);
    } else {
        print_page(&page);
    }
    Ok(ExitCode::SUCCESS)
}

struct Job<'a> {
    args: &'a Args,
    opened: &'a Opened,
    tokenizer: &'a Tokenizer,
}

impl Visitor for Job<'_> {
    type Output = anyhow::Result<Value>;

    fn visit<B: Backend + 'static>(self, backend: B) -> Self::Output {
        let Job {
            args,
            opened,
            tokenizer,
        } = self;
        let ids = tokenizer.encode(&args.prompt, true)?;
        anyhow::ensure!(!ids.is_empty(), "the prompt has no tokens");
        let decoder = opened.load(backend)?;
        let token =
            |id: u32, value: f64| json!({"id": id, "token": tokenizer.token_of(id), "ln_p": value});
        let mut page = json!({
            "model": opened.model.label, "device": decoder.backend().describe(), "prompt_ids": ids,
        });
        if let Some(text) = &args.continuation {
            // Encoded together: a tokenizer may treat the beginning of a text in a way of its own.
            let joint = tokenizer.encode(&format!("{}{text}", args.prompt), true)?;
            let shared = ids.iter().zip(&joint).take_while(|(a, b)| a == b).count();
            anyhow::ensure!(
                shared > 0 && shared < joint.len(),
                "the continuation has no tokens of its own"
            );
            let (prompt, continuation) = joint.split_at(shared);
            let ln_p = score(&decoder, prompt, continuation)?;
            let tokens = continuation.iter().zip(&ln_p).map(|(&id, &p)| token(id, p));
            page["prompt_ids"] = json!(prompt);
            page["continuation"] = tokens.collect();
            page["ln_p"] = json!(ln_p.iter().sum::<f64>());
            return Ok(page);
        }
        let mut cache = decoder.cache(ids.len())?;
        let mut chunks = [Chunk {
            cache: &mut cache,
            pieces: vec![Piece::Tokens(&ids)],
        }];
        let wanted = Wanted {
            logits: if args.all { Logits::All } else { Logits::Last },
            ..Wanted::default()
        };
        let logits = decoder.forward(&mut chunks, &wanted)?.logits;
        let rows = logits
            .iter()
            .flat_map(|l| (0..l.n_rows()).map(|row| l.row(row)));
        let positions = rows.map(|row| {
            let ln_p = log_probabilities(row);
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let best = order.iter().take(args.top);
            best.map(|&i| {
                let mut entry = token(i as u32, ln_p[i]);
                entry["logit"] = json!(row[i]);
                entry
            })
            .collect::<Value>()
        });
        page["next"] = positions.collect();
        Ok(page)
    }
}

fn print_page(page: &Value) {
    let rows = |tokens: &Value| {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["id", "token", "ln p", "p"]);
        for token in tokens.as_array().into_iter().flatten() {
            let ln_p = token["ln_p"].as_f64().unwrap_or(f64::NAN);
            let text = token["token"].as_str().unwrap_or_default();
            table.add_row([
                token["id"].to_string(),
                crate::report::visible(text).into_owned(),
                format!("{ln_p:.4}"),
                format!("{:.4}", ln_p.exp()),
            ]);
        }
        println!("{table}");
    };
    if page["continuation"].is_array() {
        rows(&page["continuation"]);
        println!(
            "ln p of the whole: {:.4}",
            page["ln_p"].as_f64().unwrap_or(f64::NAN)
        );
    }
    let next = page["next"].as_array().map_or(&[][..], Vec::as_slice);
    for (position, tokens) in next.iter().enumerate() {
        if next.len() > 1 {
            println!("after token {}:", position + 1);
        }
        rows(tokens);
    }
}

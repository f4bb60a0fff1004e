//! Chats to prompts, by the template that the repository carries.
//!
//! A template is a stranger's program. It runs in an interpreter that has no way out of the values it is
//! given, with a budget of instructions and bytes, a limit of recursion and no other templates to call. What
//! it may use beside Jinja's own is what `transformers` gives it: `raise_exception`, `strftime_now`,
//! `tojson` as Python writes JSON, methods of Python's strings and maps, loop controls, and the tags
//! `{% generation %}`, which mark the answer for training and print nothing.

mod calendar;
mod python;

use super::guard::{self, wrong};
use super::settings::{self, Settings};
use crate::arch::Model;
use crate::arch::artefact::Artefacts;
use crate::engine::EngineError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::collections::BTreeMap;

/// Longest template, in bytes; the longest published ones have 20 KiB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Instructions, and units of 64 bytes, that one rendering may use.
const FUEL: u64 = 2_000_000;
/// Calls and blocks within one another.
const MAX_RECURSION: usize = 200;
/// Longest prompt, in bytes.
const MAX_PROMPT_BYTES: usize = 64 << 20;

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
    /// Further keys that a template may read (`tool_calls`, `name`, …).
    #[serde(flatten)]
    pub more: Map<String, serde_json::Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Content::Text(text.into()),
            more: Map::new(),
        }
    }
}

/// What is said in a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Text and pictures in order, for models that see.
    Parts(Vec<Part>),
}

/// A part of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture, for which the template writes the model's placeholder.
    Image,
}

/// What a prompt is made for.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Tools that the model may call, as JSON schemas.
    pub tools: Option<serde_json::Value>,
    /// Documents that the model may read.
    pub documents: Option<serde_json::Value>,
    /// Further variables that the template reads (`enable_thinking`, …).
    pub variables: Map<String, serde_json::Value>,
    /// The time that `strftime_now` tells, in seconds since 1970 (UTC). `None` is now, which makes some
    /// prompts differ from day to day.
    pub unix_seconds: Option<i64>,
}

/// The chat templates of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    /// File that holds them.
    file: String,
    /// Templates by name; `default` where the file names none.
    templates: BTreeMap<String, String>,
    /// Special tokens by their key.
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Reads the templates of a model: `chat_template.jinja`, else `tokenizer_config.json`, else
    /// `chat_template.json`, else the weights' own file. `None` where there is none.
    ///
    /// # Errors
    /// When a file is not what its name says, or a template is none: with the file and the line.
    pub fn of(model: &Model) -> Result<Option<Self>, EngineError> {
        Self::read(&model.artefacts, model.config.as_ref())
    }

    /// The templates among these files; `config` is the model's.
    pub(crate) fn read(
        artefacts: &Artefacts,
        config: Option<&serde_json::Value>,
    ) -> Result<Option<Self>, EngineError> {
        let settings = Settings::read(artefacts, config)?;
        let Some((file, templates)) = find(artefacts, &settings)? else {
            return Ok(None);
        };
        let special = settings.specials();
        let read = Self {
            file,
            templates,
            special: special.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        };
        for name in read.templates.keys() {
            let mut env = environment(None);
            read.compile(&mut env, name)?;
        }
        Ok(Some(read))
    }

    /// File that holds the template, relative to the model's root.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The prompt for a chat. It holds the special tokens as text; encode it without adding any.
    ///
    /// # Errors
    /// When the template refuses the chat (its own words are in the error), fails, or uses up its budget:
    /// with the file and the line.
    pub fn render(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<String, EngineError> {
        // As `transformers` chooses: a template for tools where there are tools.
        let for_tools = options.tools.is_some() && self.templates.contains_key("tool_use");
        let name = if for_tools { "tool_use" } else { "default" };
        let mut env = environment(options.unix_seconds);
        self.compile(&mut env, name)?;
        let template = env.get_template(name).map_err(|e| self.failed(&e))?;
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        for (key, text) in &self.special {
            variables.insert(key, Value::from(text));
        }
        for (key, value) in &options.variables {
            variables.insert(key, Value::from(Serde(value)));
        }
        variables.insert("messages", Value::from(Serde(messages)));
        variables.insert("tools", Value::from(Serde(&options.tools)));
        variables.insert("documents", Value::from(Serde(&options.documents)));
        variables.insert(
            "add_generation_prompt",
            options.add_generation_prompt.into(),
        );
        let rendered = guard::run(&self.file, "the chat template", || {
            Ok::<_, Error>(template.render(variables))
        })?;
        let prompt = rendered.map_err(|e| self.failed(&e))?;
        if prompt.len() > MAX_PROMPT_BYTES {
            let found = format!("a prompt of {} bytes", prompt.len());
            return Err(wrong(&self.file, found));
        }
        Ok(prompt)
    }

    fn compile(&self, env: &mut Environment<'static>, name: &str) -> Result<(), EngineError> {
        let Some(source) = self.templates.get(name) else {
            let names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
            let found = format!(
                "expected a chat template {name}, found {}",
                names.join(", ")
            );
            return Err(wrong(&self.file, found));
        };
        env.add_template_owned(name.to_owned(), without_generation_tags(source))
            .map_err(|e| self.failed(&e))
    }

    /// An error of the interpreter, with the line and what lies beneath it.
    fn failed(&self, error: &Error) -> EngineError {
        let line = error.line().unwrap_or(0);
        let mut said = format!("line {line} of the chat template: {}", error.kind());
        if let Some(detail) = error.detail() {
            said = format!("{said}: {detail}");
        }
        wrong(&self.file, said)
    }
}

/// The templates, and the file that holds them.
type Found = Option<(String, BTreeMap<String, String>)>;

fn find(artefacts: &Artefacts, settings: &Settings) -> Result<Found, EngineError> {
    let one = |text: &str| BTreeMap::from([("default".to_owned(), text.to_owned())]);
    let mut found: Found = None;
    let jinja = "chat_template.jinja";
    if let Some(text) = artefacts.text(jinja)? {
        found = Some((jinja.to_owned(), one(text)));
    } else if let Some(value) = settings
        .config
        .get("chat_template")
        .filter(|v| !v.is_null())
    {
        found = Some((settings::CONFIG.to_owned(), named(settings::CONFIG, value)?));
    } else if let Some(file) = artefacts.json("chat_template.json")? {
        let name = "chat_template.json";
        let value = file.get("chat_template");
        let value = value.ok_or_else(|| wrong(name, "expected the key chat_template"))?;
        found = Some((name.to_owned(), named(name, value)?));
    } else if let Some(embedded) = &artefacts.embedded_tokenizer
        && let Some(text) = &embedded.chat_template
    {
        found = Some((embedded.file.clone(), one(text)));
    }
    if let Some((file, templates)) = &found {
        let n_bytes: usize = templates.values().map(String::len).sum();
        if n_bytes > MAX_TEMPLATE_BYTES {
            let message = format!("chat templates of {n_bytes} bytes");
            return Err(wrong(file, message));
        }
    }
    Ok(found)
}

/// A template written as a string or as a list of `{name, template}`.
fn named(file: &str, value: &serde_json::Value) -> Result<BTreeMap<String, String>, EngineError> {
    let problem = || {
        wrong(
            file,
            "chat_template: expected a string or a list of named strings",
        )
    };
    if let Some(text) = value.as_str() {
        return Ok(BTreeMap::from([("default".to_owned(), text.to_owned())]));
    }
    let list = value.as_array().ok_or_else(problem)?;
    list.iter()
        .map(|entry| {
            let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
            text("name").zip(text("template")).ok_or_else(problem)
        })
        .collect()
}

/// An interpreter with what `transformers` gives to templates.
fn environment(unix_seconds: Option<i64>) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    if let Ok(syntax) = syntax {
        env.set_syntax(syntax);
    }
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(MAX_RECURSION);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, state, value| {
        python::pay_for_text(state, value, 0)?;
        minijinja::escape_formatter(out, state, value)
    });
    env.set_unknown_method_callback(python::method);
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", move |format: &str| {
        calendar::strftime(format, unix_seconds.unwrap_or_else(calendar::now))
    });
    env.add_filter("tojson", python::tojson);
    env
}

/// `{% generation %}` and its end become a condition that always holds: same lines, same whitespace.
fn without_generation_tags(source: &str) -> String {
    let mut made = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        made.push_str(before);
        match generation_tag(tag) {
            Some((replaced, after)) => {
                made.push_str(&replaced);
                rest = after;
            }
            None => {
                made.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    made.push_str(rest);
    made
}

/// What stands for the tag `generation` or `endgeneration` at the beginning of a text, and the text behind
/// it. Looks no further than the tag, so that many tags without an end take no more than linear time.
fn generation_tag(tag: &str) -> Option<(String, &str)> {
    let inside = tag.strip_prefix("{%")?;
    let word = inside.trim_start_matches(['-', '+']).trim_start();
    let (name, stands_for) = [("generation", "if true"), ("endgeneration", "endif")]
        .into_iter()
        .find(|(name, _)| word.starts_with(name))?;
    let end = word.strip_prefix(name)?;
    let after = end.trim_start().trim_start_matches(['-', '+']);
    let after = after.strip_prefix("%}")?;
    let begins = &inside[..inside.len() - word.len()];
    let ends = &end[..end.len() - after.len()];
    Some((format!("{{%{begins}{stands_for}{ends}"), after))
}

#[cfg(test)]
mod tests;

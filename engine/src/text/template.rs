//! Chat templates: the Jinja program in a model file that lays out a conversation as the model was taught it.
//!
//! Renders to segments, so that the words of users and tools stay apart from the template's own. The program is a
//! stranger's: its size and depth are limited before it is parsed (`source`), its steps, output and values while it
//! runs (`bound`). It reaches no file, no attribute of the host and no clock but the one it is given.

mod bound;
mod builtin;
mod json;
mod message;
mod origin;
#[cfg(test)]
mod published;
mod python;
mod repr;
mod source;
pub(super) mod strftime;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::SystemTime;

pub use message::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use origin::Marking;

use super::special::{Special, Specials};
use super::{Segment, Tokenizer};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::Metadata;
use crate::limits;

const KEY: &str = "tokenizer.chat_template";

/// A chat template, parsed and ready.
pub struct ChatTemplate {
    /// If it is ours.
    builtin: Option<&'static str>,
    source: String,
    env: Environment<'static>,
    bos: String,
    eos: String,
    /// The vocabulary's control tokens.
    controls: Specials,
    now: fn() -> SystemTime,
}

impl ChatTemplate {
    /// Checks and parses a template. `bos` and `eos` are what it finds as `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        Ok(ChatTemplate {
            builtin: None,
            source: source.into(),
            env: parsed(source)?,
            bos: bos.into(),
            eos: eos.into(),
            controls: Specials::new(Vec::new()),
            now: SystemTime::now,
        })
    }

    /// Names the control tokens. They are needed for templates that rewrite what users say: see [`Self::render`].
    #[must_use]
    pub fn with_controls<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> ChatTemplate {
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        let texts: BTreeSet<&str> = texts.collect();
        let special = |(id, text): (usize, &str)| Special { text: text.into(), id: id as u32, control: true };
        self.controls = Specials::new(texts.into_iter().enumerate().map(special).collect());
        self
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, now: fn() -> SystemTime) -> ChatTemplate {
        self.now = now;
        self
    }

    /// A file's own template, or the built-in one that its vocabulary speaks. `None` for a model that is not known to
    /// hold conversations.
    //= F-PIPE-169
    //= F-GGUF-051
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let builtin = match metadata.string(KEY)? {
            Some(_) => None,
            None => builtin::of(metadata, tokenizer)?,
        };
        let Some(source) = builtin.map_or_else(|| metadata.string(KEY), |b| Ok(Some(b.source)))? else {
            return Ok(None);
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or("");
        let template = ChatTemplate::new(source, text(tokenizer.bos()), text(tokenizer.eos()))?;
        let template = template.with_controls(tokenizer.controls());
        Ok(Some(ChatTemplate { builtin: builtin.map(|b| b.name), ..template }))
    }

    /// The name of the built-in template that this is; `None` if it is the file's own.
    pub fn builtin(&self) -> Option<&'static str> {
        self.builtin
    }

    /// Whether the template's source says this.
    pub fn says(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Lays out a conversation.
    ///
    /// The text is what the template makes of the messages as they are. Who wrote which letter is found by rendering
    /// again with marked messages (`origin`). A template that looks into messages (`'</think>' in content`) may say
    /// something else then; such a rendering is dropped, and the control tokens that stand in the template's own source
    /// are marked instead: all else is content. Either way no control token comes from a message. Where the template
    /// composes its control tokens of parts and the two cannot be told apart, that is an error, never a wrong frame.
    //= F-PIPE-169
    //= F-INT-293
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment>> {
        message::check(messages, tools)?;
        let call = Call { messages, tools, add_generation_prompt, now: (self.now)() };
        let plain = self.run(&self.env, &call, &self.bos, &self.eos, Marking::Not)?;
        if let Some(mark) = origin::unused(1, call.texts().chain([self.source.as_str()])) {
            if let Some(segments) = self.render_marked(&call, &plain, Marking::All(mark[0])) {
                return Ok(segments);
            }
            let words = origin::words(&self.source);
            if let Some(segments) = self.render_marked(&call, &plain, Marking::ButWords(mark[0], &words))
                && self.made_alone(&segments, &call, &words)
            {
                return Ok(segments);
            }
        }
        let Some(segments) = self.render_by_source(&call) else { return Ok(vec![Segment::Content(plain)]) };
        match self.composed(&segments, &call) {
            None => Ok(segments),
            Some(token) => Err(Error::new(
                Kind::Unsupported,
                format!("the chat template puts {} together from parts, and not only from its own", quoted(token)),
            )
            .at(Place::Key(KEY.into()))
            .hint("other names of tools and fields, or other words, may help")),
        }
    }

    /// Renders marked messages. `None` if that is another text.
    fn render_marked(&self, call: &Call, plain: &str, marking: Marking) -> Option<Vec<Segment>> {
        let marked = self.run(&self.env, call, &self.bos, &self.eos, marking).ok()?;
        let segments = origin::segments(&marked, marking.mark()?);
        is_text(&segments, plain).then_some(segments)
    }

    /// Whether the template wrote all control tokens of the scaffold alone, where fields of the call that are words of
    /// its source were not marked: `<{{ key }}>` with the key `s` is a control token of some models.
    fn made_alone(&self, segments: &[Segment], call: &Call, words: &BTreeSet<&str>) -> bool {
        let unmarked: Vec<&str> = call.texts().filter(|text| words.contains(text)).collect();
        let count = |segments: &[Segment]| {
            let mut tokens: BTreeMap<String, usize> = BTreeMap::new();
            let scaffold = segments.iter().filter(|s| matches!(s, Segment::Scaffold(_)));
            scaffold
                .flat_map(|s| self.controls_in(s))
                .filter(|token| unmarked.iter().any(|w| token.contains(w)))
                .for_each(|token| *tokens.entry(token.into()).or_default() += 1);
            tokens
        };
        let doubtful = count(segments);
        doubtful.is_empty() || self.render_by_source(call).is_some_and(|by_source| count(&by_source) == doubtful)
    }

    /// A control token in the content that nobody wrote as such: the template made it of parts, maybe of its own ones.
    fn composed<'a>(&self, segments: &'a [Segment], call: &Call) -> Option<&'a str> {
        let content = segments.iter().filter(|s| matches!(s, Segment::Content(_)));
        content.flat_map(|s| self.controls_in(s)).find(|token| !call.texts().any(|text| text.contains(token)))
    }

    /// The control tokens in a segment.
    fn controls_in<'a>(&self, segment: &'a Segment) -> impl Iterator<Item = &'a str> {
        let (Segment::Scaffold(text) | Segment::Content(text)) = segment;
        let mut from = 0;
        std::iter::from_fn(move || {
            let (token, _) = self.controls.next(text, from, |_| true)?;
            from = token.end;
            Some(&text[token])
        })
    }

    /// Renders with every control token in the template's source replaced by a character that nobody else used.
    fn render_by_source(&self, call: &Call) -> Option<Vec<Segment>> {
        let names: Vec<&str> = self.controls.controls().collect();
        let stand_ins = origin::unused(names.len(), call.texts().chain([self.source.as_str()]))?;
        let stand_in = |text: &str| match self.controls.id_of(text) {
            Some(n) => stand_ins[n as usize].to_string(),
            None => text.to_string(),
        };
        let mut source = String::with_capacity(self.source.len());
        let mut from = 0;
        while let Some((token, n)) = self.controls.next(&self.source, from, |_| true) {
            source.push_str(&self.source[from..token.start]);
            source.push(stand_ins[n as usize]);
            from = token.end;
        }
        source.push_str(&self.source[from..]);
        let (bos, eos) = (stand_in(&self.bos), stand_in(&self.eos));
        let rendered = self.run(&parsed(&source).ok()?, call, &bos, &eos, Marking::Not).ok()?;

        let mut segments = Vec::new();
        for letter in rendered.chars() {
            match stand_ins.binary_search(&letter) {
                Ok(n) => names[n].chars().for_each(|c| origin::push(&mut segments, c, false)),
                Err(_) => origin::push(&mut segments, letter, true),
            }
        }
        Some(segments)
    }

    /// Runs the template on messages and tools, marked or not.
    fn run(&self, env: &Environment, call: &Call, bos: &str, eos: &str, marking: Marking) -> Result<String> {
        let mark = marking.mark();
        let messages: Vec<Value> = call.messages.iter().map(|m| m.value(marking)).collect();
        let tools = call.tools.map(|tools| origin::value(tools, marking));
        let input_bytes = call.texts().map(|t| t.len() + 64).sum::<usize>() * if mark.is_some() { 5 } else { 1 };

        let mut env = env.clone();
        python::install(&mut env, call.now);
        repr::install(&mut env, mark);
        bound::install(&mut env, limits::TEMPLATE_BYTES_MAX + 4 * input_bytes);
        // Every byte of input may be copied some times; a fuel pays for 64 bytes.
        env.set_fuel(Some(limits::TEMPLATE_FUEL + input_bytes as u64 / 4));
        let template = env.get_template(KEY).map_err(|e| broken(&e))?;
        let mut out =
            Capped { bytes: Vec::new(), max: limits::TEMPLATE_OUTPUT_MAX * if mark.is_some() { 5 } else { 1 } };
        let given = context! {
            messages,
            tools,
            documents => (),
            add_generation_prompt => call.add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
        };
        template.render_captured_to(given, &mut out).map(drop).map_err(|e| broken(&e))?;
        String::from_utf8(out.bytes).map_err(|_| Error::new(Kind::Inference, "a chat template rendered no UTF-8"))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

/// What one rendering is given.
struct Call<'a> {
    messages: &'a [Message],
    tools: Option<&'a Json>,
    add_generation_prompt: bool,
    /// One moment for all runs of a rendering.
    now: SystemTime,
}

impl Call<'_> {
    /// Every text from outside.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let said = self.messages.iter().flat_map(Message::texts);
        said.chain(self.tools.map(origin::texts).unwrap_or_default())
    }
}

/// The environment HuggingFace compiles chat templates in.
fn parsed(source: &str) -> Result<Environment<'static>> {
    let source = source::prepared(source).map_err(|refused| {
        let kind = if refused.too_large { Kind::TooLarge } else { Kind::Malformed };
        Error::new(kind, format!("the chat template cannot be used: {}", refused.what)).at(Place::Key(KEY.into()))
    })?;
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| broken(&e))?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    // A macro call counts four.
    env.set_recursion_limit(4 * limits::TEMPLATE_DEPTH_MAX);
    env.set_debug(false);
    env.add_template_owned(KEY, source).map_err(|e| broken(&e))?;
    Ok(env)
}

/// Whether the segments, one after the other, are this text.
fn is_text(segments: &[Segment], text: &str) -> bool {
    let mut rest = text;
    let all = segments.iter().all(|segment| {
        let (Segment::Scaffold(part) | Segment::Content(part)) = segment;
        let after = rest.strip_prefix(part.as_str());
        rest = after.unwrap_or("");
        after.is_some()
    });
    all && rest.is_empty()
}

/// What the engine says, as an error of ours.
fn broken(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(python::Raised(message)) = e.downcast_ref() {
            return Error::new(Kind::Usage, format!("the chat template refuses the conversation: {}", quoted(message)));
        }
        cause = e.source();
    }
    let kind = match error.kind() {
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => Kind::TooLarge,
        _ => Kind::Malformed,
    };
    let detail = error.detail().map(|d| format!(" ({})", quoted(d))).unwrap_or_default();
    let line = error.line().map(|n| format!(", line {n}")).unwrap_or_default();
    Error::new(kind, format!("the chat template fails: {}{detail}{line}", error.kind())).at(Place::Key(KEY.into()))
}

/// Collects output up to a limit.
struct Capped {
    bytes: Vec<u8>,
    max: usize,
}

impl io::Write for Capped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > self.max {
            return Err(io::Error::other("the chat template writes too much"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

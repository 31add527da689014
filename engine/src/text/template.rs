//! Chat templates: the Jinja program in a model file that lays out a conversation as the model was taught it.
//!
//! Renders to segments, so that the words of users and tools stay apart from the template's own. The program is a
//! stranger's: its size and depth are limited before it is parsed (`source`), its steps, output and values while it
//! runs (`bound`). It reaches no file, no attribute of the host and no clock but the one it is given.

mod bound;
mod json;
mod origin;
mod python;
mod source;
pub(super) mod strftime;

use std::collections::BTreeSet;
use std::io;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::special::{Special, Specials};
use super::{Segment, Tokenizer};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::Metadata;
use crate::limits;

const KEY: &str = "tokenizer.chat_template";

/// The layout to use where a vocabulary has ChatML's tokens and the file no template.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Who may speak.
const ROLES: &[&str] = &["system", "user", "assistant", "tool"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A chat template, parsed and ready.
pub struct ChatTemplate {
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

    /// A file's own template, or ChatML if its vocabulary speaks it. `None` for a model that knows no conversation.
    //= F-PIPE-169
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let speaks_chatml = tokenizer.special("<|im_start|>").is_some() && tokenizer.special("<|im_end|>").is_some();
        let source = match metadata.string(KEY)? {
            Some(source) => source,
            None if speaks_chatml => CHATML,
            None => return Ok(None),
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or("");
        let template = ChatTemplate::new(source, text(tokenizer.bos()), text(tokenizer.eos()))?;
        Ok(Some(template.with_controls(tokenizer.controls())))
    }

    /// Lays out a conversation.
    ///
    /// The text is what the template makes of the messages as they are. Who wrote which letter is found by rendering
    /// once more with marked messages (`origin`). A template that looks into messages (`'</think>' in content`) may say
    /// something else then; such a rendering is dropped, and the control tokens that stand in the template's own source
    /// are marked instead: all else is content. Either way no control token comes from a message.
    //= F-PIPE-169
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment>> {
        check(messages, tools)?;
        let call = Call { messages, tools, add_generation_prompt, now: (self.now)() };
        let plain = self.run(&self.env, &call, &self.bos, &self.eos, None)?;
        if let Some(mark) = origin::unused(1, call.texts().chain([self.source.as_str()])) {
            let marked = self.run(&self.env, &call, &self.bos, &self.eos, Some(mark[0]));
            let segments = marked.map(|text| origin::segments(&text, mark[0])).unwrap_or_default();
            if is_text(&segments, &plain) {
                return Ok(segments);
            }
        }
        Ok(self.render_by_source(&call).unwrap_or_else(|| vec![Segment::Content(plain)]))
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
        let rendered = self.run(&parsed(&source).ok()?, call, &stand_in(&self.bos), &stand_in(&self.eos), None).ok()?;

        let mut segments = Vec::new();
        for letter in rendered.chars() {
            match stand_ins.binary_search(&letter) {
                Ok(n) => names[n].chars().for_each(|c| origin::push(&mut segments, c, false)),
                Err(_) => origin::push(&mut segments, letter, true),
            }
        }
        Some(segments)
    }

    /// Runs the template; with a mark, on marked messages and tools.
    fn run(&self, env: &Environment, call: &Call, bos: &str, eos: &str, mark: Option<char>) -> Result<String> {
        let text = |text: &str| mark.map_or_else(|| text.to_string(), |mark| origin::marked(text, mark));
        let turn = |m: &Message| context! { role => m.role.as_str(), content => text(&m.content) };
        let messages: Vec<Value> = call.messages.iter().map(turn).collect();
        let tools = call.tools.map(|tools| origin::value(tools, mark));
        let input_bytes = call.texts().map(|t| t.len() + 64).sum::<usize>() * if mark.is_some() { 5 } else { 1 };

        let mut env = env.clone();
        python::install(&mut env, call.now);
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
        let contents = self.messages.iter().map(|m| m.content.as_str());
        contents.chain(self.tools.map(origin::texts).unwrap_or_default())
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

fn check(messages: &[Message], tools: Option<&Json>) -> Result<()> {
    let usage = |what: String| Error::new(Kind::Usage, what);
    if messages.is_empty() {
        return Err(usage("a conversation needs at least one message".into()));
    }
    if let Some(m) = messages.iter().find(|m| !ROLES.contains(&m.role.as_str())) {
        return Err(usage(format!("unknown role {}", quoted(&m.role))).hint(format!("known: {}", ROLES.join(", "))));
    }
    if tools.is_some_and(|tools| too_deep(tools, limits::TEMPLATE_VALUE_DEPTH_MAX)) {
        return Err(usage(format!("tools are nested deeper than {}", limits::TEMPLATE_VALUE_DEPTH_MAX)));
    }
    let bytes: usize = messages.iter().map(|m| m.content.len()).sum::<usize>()
        + tools.map_or(0, |tools| origin::texts(tools).iter().map(|t| t.len()).sum());
    if bytes > limits::PROMPT_BYTES_MAX {
        let what = format!("the conversation has {bytes} bytes; at most {} are supported", limits::PROMPT_BYTES_MAX);
        return Err(Error::new(Kind::TooLarge, what));
    }
    Ok(())
}

fn too_deep(value: &Json, depth: usize) -> bool {
    match value {
        Json::Array(items) => depth == 0 || items.iter().any(|item| too_deep(item, depth - 1)),
        Json::Object(map) => depth == 0 || map.values().any(|item| too_deep(item, depth - 1)),
        _ => false,
    }
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
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::super::testing::{METADATA, TOKENIZER, golden, ids, small};
    use super::*;

    /// Control tokens of several models.
    const CONTROLS: &[&str] = &[
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "</s>",
    ];

    fn template(source: &str) -> ChatTemplate {
        let template = ChatTemplate::new(source, "<|begin_of_text|>", "<|end_of_text|>").unwrap();
        template.with_controls(CONTROLS.iter().copied()).with_clock(|| UNIX_EPOCH + Duration::from_secs(1_741_100_767))
    }

    fn text(segments: &[Segment]) -> String {
        let part = |s: &Segment| match s {
            Segment::Scaffold(text) | Segment::Content(text) => text.clone(),
        };
        segments.iter().map(part).collect()
    }

    /// The control tokens that a tokenizer would see.
    fn controls(segments: &[Segment]) -> Vec<&str> {
        let scaffold = segments.iter().filter_map(|s| match s {
            Segment::Scaffold(text) => Some(text),
            Segment::Content(_) => None,
        });
        let found = |text: &'static str| scaffold.clone().map(move |s| s.matches(text).count()).sum::<usize>();
        CONTROLS.iter().flat_map(|text| std::iter::repeat_n(*text, found(text))).collect()
    }

    fn messages(case: &Json) -> Vec<Message> {
        let word = |m: &Json, key: &str| m[key].as_str().unwrap().to_string();
        case["messages"].as_array().unwrap().iter().map(|m| Message::new(word(m, "role"), word(m, "content"))).collect()
    }

    /// Everything in the golden file, rendered: its name, the case, and what came out.
    fn rendered() -> Vec<(String, Json, Result<Vec<Segment>>)> {
        let golden = golden("chat");
        let mut all = Vec::new();
        for (name, given) in golden["templates"].as_object().unwrap() {
            let template = template(given["source"].as_str().unwrap());
            for (chat, case) in given["cases"].as_object().unwrap() {
                let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
                let prompt = case["add_generation_prompt"].as_bool().unwrap();
                let got = template.render(&messages(case), tools, prompt);
                all.push((format!("{name}: {chat}"), case.clone(), got));
            }
        }
        all
    }

    #[test]
    fn conversations_are_laid_out_as_jinja2_does() {
        for (name, case, got) in rendered() {
            match case["text"].as_str() {
                Some(expected) => assert_eq!(text(&got.unwrap()), expected, "{name}"),
                None => {
                    let error = got.unwrap_err();
                    assert_eq!(error.kind, Kind::Usage, "{name}");
                    assert!(error.what.contains(case["refused"].as_str().unwrap()), "{name}: {error}");
                }
            }
        }
    }

    #[test]
    fn well_behaved_conversations_have_the_ids_of_their_text() {
        let mut compared = 0;
        for (name, case, got) in rendered() {
            let harmless = !case["messages"].to_string().contains("<|") && !case["tools"].to_string().contains("<|");
            if case["ids"].is_array() && harmless {
                assert_eq!(TOKENIZER.encode(&got.unwrap()).unwrap(), ids(&case["ids"]), "{name}");
                compared += 1;
            }
        }
        assert!(compared > 30);
    }

    /// The same conversation with harmless words must have the same control tokens: those of the template.
    #[test]
    fn nobody_but_the_template_writes_control_tokens() {
        let (mut found, mut attacked) = (0, 0);
        for (name, case, got) in rendered() {
            let Ok(got) = got else { continue };
            let attack = case["messages"][0]["content"].as_str().unwrap().contains("obey");
            let mut disarmed = case.to_string();
            CONTROLS.iter().for_each(|token| disarmed = disarmed.replace(token, "word"));
            let disarmed: Json = serde_json::from_str(&disarmed).unwrap();
            let golden = golden("chat");
            let source = golden["templates"][name.split(':').next().unwrap()]["source"].as_str().unwrap();
            let tools = Some(&disarmed["tools"]).filter(|tools| !tools.is_null());
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let harmless = template(source).render(&messages(&disarmed), tools, prompt).unwrap();
            assert_eq!(controls(&got), controls(&harmless), "{name}");
            found += controls(&got).len();
            attacked += usize::from(attack);
        }
        assert!(found > 200 && attacked > 3, "{found} control tokens, {attacked} attacks");
    }

    #[test]
    fn scaffold_and_content_are_told_apart() {
        let render = |source: &str, content: &str| {
            template(source).render(&[Message::new("user", content)], None, true).unwrap()
        };
        let (scaffold, content) = (|t: &str| Segment::Scaffold(t.into()), |t: &str| Segment::Content(t.into()));
        assert_eq!(
            render(CHATML, "hi <|im_end|>"),
            [scaffold("<|im_start|>user\n"), content("hi <|im_end|>"), scaffold("<|im_end|>\n<|im_start|>assistant\n"),]
        );
        // Trimmed, cut and put together again, the letters keep their origin.
        let source = "{% for part in messages[0].content.strip().split(' ') %}<|im_end|>{{ part[1:] }}{% endfor %}";
        assert_eq!(
            render(source, " a<b c<|im_end|> "),
            [scaffold("<|im_end|>"), content("<b"), scaffold("<|im_end|>"), content("<|im_end|>"),]
        );
        // A template that looks for several letters at once sees another message when it is marked: then its source says
        // what is scaffold, and all else is content.
        let source = "<|im_start|>{{ messages[0].content.split('--')[1] }}<|im_end|>x{{ bos_token }}";
        let (start, end) = (scaffold("<|im_start|>"), scaffold("<|im_end|>"));
        assert_eq!(
            render(source, "a--<|im_end|>--b"),
            [start, content("<|im_end|>"), end, content("x"), scaffold("<|begin_of_text|>"),]
        );
        // And where nobody says which tokens are control tokens, nothing is.
        let plain = ChatTemplate::new(source, "", "").unwrap().render(&[Message::new("user", "a--b--c")], None, true);
        assert_eq!(plain.unwrap(), [content("<|im_start|>b<|im_end|>x")]);
    }

    #[test]
    fn marks_cannot_be_guessed() {
        let all: String =
            ('\u{e000}'..='\u{f8ff}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}').collect();
        let wily = format!("{all}<|im_end|>");
        let got = template(CHATML).render(&[Message::new("user", &*wily)], None, false).unwrap();
        assert_eq!(controls(&got), [""; 0]);
        assert!(text(&got).contains(&wily));
        let got = template(CHATML).render(&[Message::new("user", "\u{e000}\u{e001}<|im_end|>")], None, false).unwrap();
        assert_eq!(got[1], Segment::Content("\u{e000}\u{e001}<|im_end|>".into()));
    }

    #[test]
    fn a_model_without_a_template_speaks_chatml_or_none() {
        let from = |metadata: &Metadata| {
            ChatTemplate::from_metadata(metadata, &Tokenizer::from_metadata(metadata).unwrap()).unwrap()
        };
        assert!(from(&small(&[])).is_none());
        let chatml = from(&small(&[("<|im_start|>", 3), ("<|im_end|>", 3)])).unwrap();
        let got = chatml.render(&[Message::new("user", "a"), Message::new("assistant", "b")], None, true).unwrap();
        assert_eq!(
            text(&got),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>assistant\n"
        );
        assert!(
            text(&from(&METADATA).unwrap().render(&[Message::new("user", "a")], None, true).unwrap()).contains("Qwen")
        );
    }

    #[test]
    fn conversations_that_make_no_sense_are_refused() {
        let render = |messages: &[Message], tools| template(CHATML).render(messages, tools, true).unwrap_err();
        assert_eq!(render(&[], None).kind, Kind::Usage);
        let error = render(&[Message::new("root<|im_end|>", "a")], None);
        assert!(error.what.contains("'root<|im_end|>'") && error.hint.unwrap().contains("assistant"));
        let mut deep = Json::Null;
        (0..200).for_each(|_| deep = Json::Array(vec![deep.take()]));
        assert_eq!(render(&[Message::new("user", "a")], Some(&deep)).kind, Kind::Usage);
    }

    #[test]
    fn long_conversations_are_no_attack() {
        let turns: Vec<Message> =
            (0..2000).map(|n| Message::new(["user", "assistant"][n % 2], "word ".repeat(50))).collect();
        let source = METADATA.string(KEY).unwrap().unwrap();
        let got = text(&template(source).render(&turns, None, true).unwrap());
        assert_eq!(got.matches("<|im_start|>").count(), 2002);
        let long = "é<| ".repeat(500_000);
        assert!(
            text(&template(source).render(&[Message::new("user", &*long)], None, true).unwrap()).contains(long.trim())
        );
    }

    /// Programs that would crash, hang or flood an engine that trusts them.
    #[test]
    fn hostile_templates_are_stopped() {
        let repeat = |s: &str| s.repeat(20_000);
        let forty = |s: &str| format!("{{% set x = [1] %}}{}", s.repeat(40));
        let table = [
            (repeat("{% if a %}"), Kind::TooLarge),
            (format!("{{% if a %}}{}{{% endif %}}", repeat("{% elif a %}")), Kind::TooLarge),
            (format!("{{{{ a{} }}}}", repeat("+a")), Kind::TooLarge),
            (format!("{{{{ {} }}}}", repeat("[")), Kind::TooLarge),
            ("x".repeat(limits::TEMPLATE_BYTES_MAX + 1), Kind::TooLarge),
            ("{{ a".into(), Kind::Malformed),
            ("{% include 'a' %}".into(), Kind::Malformed),
            ("{% for i in range(10**9) %}x{% endfor %}".into(), Kind::Malformed),
            ("{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}".into(), Kind::TooLarge),
            ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}".into(), Kind::TooLarge),
            ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), Kind::Malformed),
            ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), Kind::Malformed),
            ("{% set n = namespace() %}{% set n.n = n %}{{ n }}".into(), Kind::Malformed),
            ("{% set n = namespace() %}{% set n.n = [n] %}{{ n|tojson }}".into(), Kind::Malformed),
            ("{% set a = namespace() %}{% set b = namespace(a=a) %}{{ b }}".into(), Kind::Malformed),
            (
                "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}".into(),
                Kind::TooLarge,
            ),
            (
                "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}".into(),
                Kind::TooLarge,
            ),
            (forty("{% set x = [x, x] %}") + "{{ x ~ x }}", Kind::TooLarge),
            (forty("{% set x | default([x, x], true) %}{% endset %}") + "{{ x == x }}", Kind::TooLarge),
            (forty("{% for y in [[x, x]] %}{% set x = y %}") + &"{% endfor %}".repeat(40), Kind::TooLarge),
            ("{% macro m(x) %}{{ m([x, x, x, x]) }}{% endmacro %}{{ m([1]) }}".into(), Kind::TooLarge),
            ("{% set x = 'a' * 20000000 %}".into(), Kind::TooLarge),
            ("{{ ('a' * 99999).replace('a', 'b' * 99999) }}".into(), Kind::TooLarge),
            ("{{ ('a' * 99999).join(range(99999)) }}".into(), Kind::TooLarge),
            ("{{ ('a' * 99999999).split('a') }}".into(), Kind::TooLarge),
            ("{{ '{:>999999999}'.format(1) }}".into(), Kind::TooLarge),
            ("{{ ('{0}' * 99999).format('a' * 99999) }}".into(), Kind::TooLarge),
            ("{{ [messages] * 999999 }}".into(), Kind::Malformed),
            ("{{ [messages] * '999999'|int ~ 'a' }}".into(), Kind::Malformed),
            ("{% set x %}{{ 'a' * 20000000 }}{% endset %}".into(), Kind::TooLarge),
            ("{{ messages[0].content.__class__.__mro__ }}".into(), Kind::Malformed),
            ("{{ cycler.__init__.__globals__ }}".into(), Kind::Malformed),
            ("{{ messages.nobody.content }}".into(), Kind::Malformed),
            ("{{ raise_exception('no\u{1b}[31m') }}".into(), Kind::Usage),
        ];
        for (source, kind) in table {
            let template = ChatTemplate::new(&source, "", "");
            let got = template.and_then(|t| t.render(&[Message::new("user", "hello")], None, true));
            let shown: String = source.chars().take(80).collect();
            let error = got.map(|segments| text(&segments)).expect_err(&shown);
            assert_eq!(error.kind, kind, "{shown}: {error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_message_comes_out_whole_and_as_content(content in "\\PC{0,30}", blank in "[ \n]{0,2}") {
            let said = format!("{blank}{content}{blank}");
            let got = template(CHATML).render(&[Message::new("user", &*said)], None, false).unwrap();
            prop_assert_eq!(text(&got), format!("<|im_start|>user\n{said}<|im_end|>\n"));
            let mine: String = got.iter().filter_map(|s| match s {
                Segment::Content(text) => Some(text.as_str()),
                Segment::Scaffold(_) => None,
            }).collect();
            prop_assert_eq!(mine, said.trim());
        }

        /// Whatever a stranger writes, it is parsed and run, or refused.
        #[test]
        fn no_source_breaks_the_engine(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..30)) {
            if let Ok(template) = ChatTemplate::new(&pieces.join(" "), "<s>", "</s>") {
                let _ = template.render(&[Message::new("user", "a <|im_end|> b")], None, true);
            }
        }
    }

    const PIECES: &[&str] = &[
        "{{",
        "}}",
        "{%",
        "%}",
        "{%-",
        "-%}",
        "{#",
        "#}",
        "'",
        "\"",
        "\\",
        "{% set x = [x, n] %}",
        "{% set n = namespace(a=x) %}",
        "{% set n.a = ",
        "n",
        "x",
        "|",
        "list",
        "map(",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "~",
        "+",
        "*",
        "-1",
        "1",
        "if",
        "else",
        "{% endif %}",
        "{% for x in",
        "{% endfor %}",
        "{% macro m(x) %}",
        "{% endmacro %}",
        "{{ m(x) }}",
        "is defined",
        "messages",
        "messages[0].content",
        ".split(' ')",
        "|tojson",
        "=",
        "==",
        "in",
        "not",
        "{{ n }}",
        "{{ x }}",
        "raw",
        "text\n",
    ];
}

//! Chat templates in files and without files, beside what Jinja2 made of the same conversations (`golden/text`).

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use engine::text::{ChatTemplate, Message, Tokenizer};
use engine::{Kind, file};
use serde_json::Value as Json;

use crate::forge::gguf::{Value, Writer};
use crate::forge::models::describe_words;
use crate::forge::words::{CONTROL, Words};
use crate::lab::{running, text_of_segments};
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, Tally, instrument};

const TEMPLATE: &str = "tokenizer.chat_template";

/// The control tokens by which a vocabulary shows its layout, and the built-in template that must be chosen for it.
const LAYOUTS: &[(&str, &[&str])] = &[
    ("phi-4", &["<|im_start|>", "<|im_sep|>", "<|im_end|>"]),
    ("chatml", &["<|im_start|>", "<|im_end|>"]),
    ("deepseek-r1", &["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "<|eot_id|>"]),
    ("llama-3", &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    ("gemma", &["<start_of_turn>", "<end_of_turn>"]),
    ("phi-3", &["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    ("mistral-v3-tekken", &["[INST]", "[/INST]"]),
];

/// The template that the engine uses for a file.
fn template_of(path: &Path) -> Result<Option<ChatTemplate>, Halt> {
    let metadata = running("a file with a template opens", file::open(path))?.metadata;
    let words = running("its tokenizer is read", Tokenizer::from_metadata(&metadata))?;
    let template = running("its template is read", ChatTemplate::from_metadata(&metadata, &words))?;
    // The moment at which the golden answers were made.
    Ok(template.map(|t| t.with_clock(|| UNIX_EPOCH + Duration::from_secs(1_741_100_767))))
}

/// A file that is a tokenizer and nothing else.
fn file_of(s: &Subject, words: &Words, template: Option<&str>) -> Result<std::path::PathBuf, Halt> {
    let mut w = Writer::new(3);
    w.set("general.architecture", "llama");
    describe_words(&mut w, words);
    w.remove(TEMPLATE);
    if let Some(template) = template {
        w.set(TEMPLATE, template);
    }
    let path = s.scratch()?.join("words.gguf");
    w.write(&path).map_err(instrument)?;
    Ok(path)
}

/// Llama 3's words with these control tokens in place of its own, between `<s>` and `</s>`.
fn words_with(controls: &[&str]) -> Words {
    let mut words = Words::small_llama3();
    words.tokens.truncate(words.bos as usize);
    words.types.truncate(words.bos as usize);
    for token in ["<s>", "</s>"].iter().chain(controls) {
        words.tokens.push((*token).into());
        words.types.push(CONTROL);
    }
    (words.eos, words.pad) = (words.bos + 1, words.bos + 1);
    words
}

/// One conversation: its text, or the template's own refusal.
fn conversation(t: &mut Tally, what: &str, template: &ChatTemplate, given: &Json, want: &Want) -> Result<(), Halt> {
    let messages: Vec<Message> = serde_json::from_value(given["messages"].clone()).map_err(instrument)?;
    let tools = Some(&given["tools"]).filter(|tools| !tools.is_null());
    let got = template.render(&messages, tools, given["add_generation_prompt"] == true);
    let fits = match (&got, want) {
        (Ok(segments), Want::Text(want)) => text_of_segments(segments) == *want,
        (Err(e), Want::Refusal(message)) => e.kind == Kind::Usage && e.what.contains(message),
        _ => false,
    };
    t.hold(fits, || {
        let observed = got.map_or_else(|e| e.to_string(), |segments| text_of_segments(&segments));
        Refutation::new(format!("what Jinja2 makes of it: {what}"), observed, format!("{want:?}"))
    })
}

/// What Jinja2 said.
#[derive(Debug)]
enum Want<'a> {
    Text(&'a str),
    /// Words of what the template raised.
    Refusal(&'a str),
}

fn object<'a>(value: &'a Json, what: &str) -> Result<&'a serde_json::Map<String, Json>, Halt> {
    value.as_object().ok_or_else(|| instrument(format!("golden {what} is no object")))
}

fn golden(s: &Subject, name: &str) -> Result<Json, Halt> {
    serde_json::from_str(&s.golden_text(name)?).map_err(instrument)
}

/// Every template of `golden/text/chat.json`, from inside a file; the fixture's from inside the fixture.
pub fn by_files(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let golden = golden(s, "text/chat.json")?;
    let mut words = Words::small_llama3();
    let end = words.tokens.iter().position(|t| t == "<|end_of_text|>");
    words.eos = end.ok_or_else(|| instrument("the forge's Llama 3 has no end of text"))? as u32;
    let mut conversations = 0;
    for (name, given) in object(&golden["templates"], "templates")? {
        let file = match name.as_str() {
            "qwen2.5" => s.model()?,
            _ => file_of(s, &words, given["source"].as_str())?,
        };
        let template =
            template_of(&file)?.ok_or_else(|| Refutation::new("a file's template is used", "none", &**name))?;
        t.equal(&format!("{name} is the file's own"), &template.builtin(), &None)?;
        for (case, given) in object(&given["cases"], "cases")? {
            let want = match (given["text"].as_str(), given["refused"].as_str()) {
                (Some(text), _) => Want::Text(text),
                (_, message) => Want::Refusal(message.unwrap_or_default()),
            };
            conversation(t, &format!("{name}, {case}"), &template, given, &want)?;
            conversations += 1;
        }
    }
    t.number("conversations by templates in files", f64::from(conversations));
    Ok(())
}

/// Files without a template get the one that their control tokens belong to, and it renders what the published template
/// of that family renders. A vocabulary that shows no layout gets none.
pub fn by_builtins(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let (texts, chats) = (golden(s, "text/builtin.json")?, golden(s, "text/templates.json")?);
    let mut conversations = 0;
    for (name, controls) in LAYOUTS {
        let template = template_of(&file_of(s, &words_with(controls), None)?)?;
        t.equal("the built-in template", &template.as_ref().and_then(ChatTemplate::builtin), &Some(*name))?;
        let template = template.ok_or_else(|| instrument("no template"))?;
        for (case, want) in object(&texts["templates"][name]["chats"], name)? {
            let want = want.as_str().map_or(Want::Refusal("alternate"), Want::Text);
            conversation(t, &format!("{name}, {case}"), &template, &chats["chats"][case], &want)?;
            conversations += 1;
        }
    }
    for controls in [&["<|im_start|>"][..], &["<|user|>", "<|assistant|>"], &[]] {
        let template = template_of(&file_of(s, &words_with(controls), None)?)?;
        t.equal("a template for no known layout", &template.as_ref().and_then(ChatTemplate::builtin), &None)?;
        t.hold(template.is_none(), || Refutation::new("no template is guessed", "one", "none"))?;
    }
    t.number("conversations by built-in templates", f64::from(conversations));
    Ok(())
}

/// Through `apr run`: a template that cannot be used, one that fails, one that refuses, none at all. Each time the user is
/// told, and `--raw` works.
pub fn told_by_apr(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    const UNKNOWN: &str = "no chat template";
    let cases: [(Option<&str>, i32, &str); 5] = [
        (Some("{% if %}"), 5, "chat template"),
        (Some("{{ messages.nobody.content }}"), 5, "chat template"),
        (Some("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"), 7, "chat template"),
        (Some("{{ raise_exception('not with me') }}"), 2, "not with me"),
        (None, 0, UNKNOWN),
    ];
    for (template, code, said) in cases {
        let mut w = crate::forge::file("qwen2-f16").ok_or_else(|| instrument("no qwen2-f16"))?.map_err(instrument)?;
        match template {
            Some(template) => w.replace(TEMPLATE, template),
            None => {
                w.remove(TEMPLATE);
                let tokens = Words::small().tokens.into_iter().map(|t| t.replace("<|im_", "<|ab_"));
                w.replace("tokenizer.ggml.tokens", Value::strings(tokens));
            }
        }
        let path = s.scratch()?.join("told.gguf");
        w.write(&path).map_err(instrument)?;
        let ask = |flags: &[&str]| {
            s.apr(["run"]).args([path.as_os_str()]).args(["Hello", "--max-tokens", "2"]).args(flags).judged()
        };
        let out = ask(&[])?;
        let met = out.code() == Some(code) && out.err().contains(said);
        t.hold(met, || {
            let observed = format!("{:?}: {}", out.code(), out.err());
            out.refute(&format!("apr tells of the template {template:?}"), observed, format!("{code}: {said}"))
        })?;
        let raw = ask(&["--raw"])?;
        let met = raw.code() == Some(0) && !raw.err().contains(UNKNOWN);
        t.hold(met, || {
            let observed = format!("{:?}: {}", raw.code(), raw.err());
            raw.refute(&format!("--raw works with the template {template:?}"), observed, "exit code 0")
        })?;
    }
    Ok(())
}

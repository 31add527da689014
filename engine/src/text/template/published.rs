//! The published templates of llama.cpp's models/templates, which are no part of this repository: beside Jinja2, whose
//! answers to the same conversations are in `golden/text/templates.json`, and under attack by users and tools.
//!
//!     cargo test -p engine --lib published -- --ignored
//!
//! `scripts/golden/templates.py --show TEMPLATE CHAT` prints what Jinja2 rendered.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::super::testing::{golden, small};
use super::*;

/// Where Python and the engine differ, and why that is left so.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("meetkai-functionary-medium-v3.1", "", "in Python `'..'|safe + x` escapes x for HTML; here nothing is HTML"),
    ("LFM2.5-8B-A1B", "call", "a loop over none is no round; in Python it is an error"),
];

/// A conversation of the golden file.
struct Chat {
    name: String,
    messages: Json,
    tools: Json,
    prompt: bool,
}

impl Chat {
    fn render(&self, template: &ChatTemplate) -> Result<Vec<Segment>> {
        let messages: Vec<Message> = serde_json::from_value(self.messages.clone()).unwrap();
        template.render(&messages, Some(&self.tools).filter(|t| !t.is_null()), self.prompt)
    }
}

/// A template: its name, its source, and Jinja2's answers to the conversations.
type Template = (String, String, Vec<String>);

/// Every template, and the conversations.
fn published() -> (Vec<Template>, Vec<Chat>) {
    let golden = golden("templates");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/oracle/llama.cpp/models/templates");
    let template = |(name, given): (&String, &Json)| {
        let path = folder.join(format!("{name}.jinja"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex(source.as_bytes()), given["sha256"].as_str().unwrap(), "{name} is another template");
        (name.clone(), source, serde_json::from_value(given["chats"].clone()).unwrap())
    };
    let chat = |(name, given): (&String, &Json)| Chat {
        name: name.clone(),
        messages: given["messages"].clone(),
        tools: given["tools"].clone(),
        prompt: given["add_generation_prompt"] == true,
    };
    let all = golden["templates"].as_object().unwrap().iter().map(template).collect();
    (all, golden["chats"].as_object().unwrap().iter().map(chat).collect())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn new(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap().with_clock(|| UNIX_EPOCH + Duration::from_secs(1_741_100_767))
}

fn text(segments: &[Segment]) -> String {
    let part = |s: &Segment| match s {
        Segment::Scaffold(text) | Segment::Content(text) => text.clone(),
    };
    segments.iter().map(part).collect()
}

#[test]
#[ignore = "needs llama.cpp's models/templates in target/oracle/llama.cpp"]
fn conversations_are_laid_out_as_jinja2_does() {
    let (templates, chats) = published();
    let (mut same, mut wrong) = (0, Vec::new());
    for (name, source, answers) in &templates {
        let template = new(source);
        for (chat, want) in chats.iter().zip(answers) {
            let got = chat.render(&template).map(|segments| text(&segments));
            let fits = match (&got, want.strip_prefix('!')) {
                // An error of Python's own is an error here, in the engine's words.
                (Err(_), Some("!")) => true,
                (Err(e), Some(message)) => {
                    let start: String = message.chars().take(60).collect();
                    e.kind == Kind::Usage && e.what.contains(&start)
                }
                (Ok(text), None) => format!("{}:{}", text.chars().count(), &hex(text.as_bytes())[..16]) == *want,
                _ => false,
            };
            let known = DIFFERENT.iter().any(|(t, c, _)| t == name && (c.is_empty() || *c == chat.name));
            same += usize::from(fits);
            if !fits && !known {
                wrong.push(format!(
                    "{name}: {}: {}",
                    chat.name,
                    got.map_or_else(|e| e.to_string(), |_| "differs".into())
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{same} are the same, {} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(templates.len() >= 70 && same >= 1881, "{} templates, {same} conversations", templates.len());
}

/// What looks like a control token: `<|a|>`, `[A]`, `<a>`.
fn tokens(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (open, close) in [("<", '>'), ("[", ']')] {
        for (at, _) in text.match_indices(open) {
            let end = text[at..].find(close).map(|len| &text[at..=at + len]);
            let odd = |c: char| c.is_whitespace() || "\"'{}(),=".contains(c);
            all.extend(end.filter(|t| (3..40).contains(&t.len()) && !t.contains(odd) && t.matches(open).count() == 1));
        }
    }
    all.into_iter().map(String::from).collect()
}

/// Follows every forged token, so that it is known in the ids.
const SEAL: &str = "ZQX";

/// What users and tools say, with `attack` at the end; what they name stays.
fn attacked(json: &Json, attack: &str) -> Json {
    match json {
        Json::Array(items) => items.iter().map(|item| attacked(item, attack)).collect(),
        Json::Object(map) => map
            .iter()
            .map(|(key, item)| match item {
                Json::String(said) if !["role", "type", "id", "tool_call_id"].contains(&&**key) => {
                    (key.clone(), Json::String(format!("{said}{attack}")))
                }
                item => (key.clone(), attacked(item, attack)),
            })
            .collect(),
        other => other.clone(),
    }
}

/// Properties of these names in tools, and arguments of these names in calls.
fn named(json: &Json, names: &[String]) -> Json {
    match json {
        Json::Array(items) => items.iter().map(|item| named(item, names)).collect(),
        Json::Object(map) => map
            .iter()
            .map(|(key, item)| {
                let mut item = named(item, names);
                if let Some(fields) = item.as_object_mut().filter(|_| key == "properties" || key == "arguments") {
                    let field = |name: &String| match &**key {
                        "properties" => {
                            (name.clone(), serde_json::json!({"type": "string", "description": "d", name: name}))
                        }
                        _ => (name.clone(), Json::String(name.clone())),
                    };
                    fields.extend(names.iter().map(field));
                }
                (key.clone(), item)
            })
            .collect(),
        other => other.clone(),
    }
}

/// Through the template and a tokenizer that has every one of its control tokens.
#[test]
#[ignore = "needs llama.cpp's models/templates in target/oracle/llama.cpp"]
fn nobody_but_the_template_writes_control_tokens() {
    let (templates, chats) = published();
    let (mut forged, mut refused, mut legitimate) = (0, 0, 0);
    for (name, source, _) in &templates {
        let plain = chats.iter().filter(|c| !c.name.contains("injection"));
        let rendered = plain.filter_map(|c| c.render(&new(source)).ok());
        let controls: BTreeSet<String> = rendered.flat_map(|segments| tokens(&text(&segments))).collect();
        let vocabulary: Vec<(&str, u64)> = controls.iter().map(|t| (&**t, 3)).collect();
        let tokenizer = Tokenizer::from_metadata(&small(&vocabulary)).unwrap();
        let template = new(source).with_controls(tokenizer.controls());
        let ids = |chat: Chat| chat.render(&template).map(|segments| tokenizer.encode(&segments).unwrap());
        let seal = tokenizer.encode_text(SEAL).unwrap();
        let attack: String = controls.iter().map(|token| format!("{token}{SEAL}")).collect();
        let inner = |token: &String| token.trim_matches(['<', '>', '[', ']', '/']).to_string();
        let names: BTreeSet<String> = controls.iter().map(inner).filter(|n| !n.is_empty()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let others: Vec<String> = (0..names.len()).map(|n| format!("zq{n}")).collect();
        for chat in &chats {
            let with = |messages: Json, tools: Json| Chat { name: String::new(), messages, tools, prompt: chat.prompt };
            match ids(with(attacked(&chat.messages, &attack), attacked(&chat.tools, &attack))) {
                Err(_) => refused += 1,
                Ok(ids) => {
                    let marked = |at: &usize| tokenizer.is_control(ids[at - 1]) && ids[*at..].starts_with(&seal);
                    assert_eq!(
                        (1..ids.len()).find(marked),
                        None,
                        "{name}: {}: a user wrote a control token",
                        chat.name
                    );
                    legitimate += ids.iter().filter(|id| tokenizer.is_control(**id)).count();
                    forged += controls.len();
                }
            }
            let count = |names: &[String]| {
                let ids = ids(with(named(&chat.messages, names), named(&chat.tools, names)));
                ids.map(|ids| ids.into_iter().filter(|id| tokenizer.is_control(*id)).count())
            };
            if let (Ok(forged), Ok(honest)) = (count(&names), count(&others)) {
                assert!(forged <= honest, "{name}: {}: {forged} control tokens, not {honest}", chat.name);
            }
        }
    }
    assert!(forged > 20_000 && legitimate > 10_000, "{forged} forged, {legitimate} by templates, {refused} refused");
}

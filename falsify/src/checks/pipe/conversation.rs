//! F-PIPE: conversations of several turns.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use engine::chat::Chat;
use engine::sample::Sampling;
use engine::session::{Event, Generation, Observer, PREFILL_CHUNK, Session};
use engine::{ChatConfig, Options};
use serde_json::{Value, json};

use crate::lab::{Setup, open, running};
use crate::subject::Subject;
use crate::talk::piped;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Keeps the ids of the conversation that is answered.
#[derive(Default)]
struct Ids(Vec<u32>);

impl Observer for Ids {
    fn event(&mut self, event: Event<'_>) -> engine::Result<()> {
        if let Event::Tokenized { ids, .. } = event {
            self.0 = ids.to_vec();
        }
        Ok(())
    }
}

/// Multi-turn conversation works: the ids are those of the whole conversation, each turn computes only what is new, and
/// a fact of the first turn is known in the third.
pub fn f_pipe_171(s: &Subject) -> Attempt {
    let mut t = Tally::new("golden conversations of several turns, and conversations about facts by apr chat");
    let model = s.model()?;
    let golden: Value = serde_json::from_str(&s.golden_text("text/chat.json")?).map_err(instrument)?;
    let cases = golden["templates"]["qwen2.5"]["cases"].as_object().ok_or_else(|| instrument("no cases"))?;
    let config = ChatConfig { model_path: model.clone(), system: None, temperature: 0.0, max_tokens: 8, gpu: false };
    let mut loaded = open(s, &model, Setup::default())?;
    let mut conversations = 0;
    // Where users write control tokens, HuggingFace's ids are not wished for (F-PIPE-169).
    let plain = |name: &str, case: &Value| !name.contains("injection") && case["tools"].is_null();
    for (name, case) in cases.iter().filter(|(name, case)| plain(name, case)) {
        let messages = case["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some((question, before)) = turns(messages) else { continue };
        let mut chat =
            running("a chat begins", Chat::new(&mut loaded, &config, &Options::default(), Sampling::default()))?;
        running("it goes on where another ended", chat.restore(&json!({ "messages": before })))?;
        let mut ids = Ids::default();
        running("it answers", chat.say(question, &mut ids))?;
        let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).map_err(instrument)?;
        t.equal(&format!("{name}: the ids of the whole conversation"), &ids.0, &want)?;
        conversations += 1;
    }
    t.number("golden conversations", f64::from(conversations));
    facts_are_kept(&mut t, s)?;
    only_the_new_is_computed(&mut t, s)?;
    a_full_context(&mut t, s)?;
    t.done()
}

/// The last question and what was said before it, of conversations that a chat can hold.
fn turns(messages: &[Value]) -> Option<(&str, &[Value])> {
    let (last, before) = messages.split_last()?;
    let system = usize::from(before.first()?["role"] == "system");
    let plain = before.iter().all(|m| m["content"].is_string());
    let alternate = before[system..]
        .chunks(2)
        .all(|pair| matches!(pair, [q, a] if q["role"] == "user" && a["role"] == "assistant"));
    (last["role"] == "user" && plain && alternate).then_some((last["content"].as_str()?, before))
}

fn facts_are_kept(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    s.needs_skill("memory")?;
    for (fact, question, word) in [
        ("My name is Anna.", "What is my name?", "Anna"),
        ("Remember the number 4711.", "What is my number?", "4711"),
        ("I have a cat.", "What pet do I have?", "cat"),
    ] {
        let out = piped(s, &[fact, "What is 2+2?", question], &[])?;
        let said = out.out().lines().nth(2).unwrap_or_default().to_string();
        t.hold(said.contains(word), || out.refute("the third turn knows the fact of the first", out.out(), word))?;
    }
    Ok(())
}

/// A turn that was given up leaves nothing out of the conversation, and a message that is too long is cut as it would be
/// without a cache.
fn a_full_context(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let model = s.model()?;
    let config = ChatConfig { model_path: model.clone(), system: None, temperature: 0.0, max_tokens: 12, gpu: false };
    let small = || Setup { context: Some(256), ..Setup::default() };
    let (mut loaded, mut fresh) = (open(s, &model, small())?, open(s, &model, small())?);
    let options = Options::default();
    let mut chat = running("a chat begins", Chat::new(&mut loaded, &config, &options, Sampling::default()))?;
    running("it answers", chat.say("My name is Anna.", &mut engine::Silent))?;
    let before = running("it has ids", chat.ids())?;
    let long = "One two three four five. ".repeat(60);
    options.cancel.store(true, Relaxed);
    let stopped = chat.say(&long, &mut engine::Silent).is_err();
    options.cancel.store(false, Relaxed);
    t.hold(stopped, || Refutation::new("a long message is given up", "an answer", "an interruption"))?;
    t.equal("a turn that was given up changes nothing", &running("it has ids", chat.ids())?, &before)?;
    let mut ids = Ids::default();
    let turn = running("it answers", chat.say(&long, &mut ids))?.clone();
    let generation = Generation {
        grammar: None,
        max_tokens: 12,
        sampling: Sampling::default(),
        stops: Vec::new(),
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    let alone = Session::new(&mut fresh).generate(&ids.0, &generation, &mut engine::Silent, &AtomicBool::new(false));
    let alone = running("it answers from an empty cache", alone)?;
    t.equal("a message that is too long is cut as from an empty cache", &turn.answer.tokens, &alone.tokens)
}

/// Each turn has the tokens that its whole conversation gets from an empty cache, and runs only what the cache lacks.
fn only_the_new_is_computed(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let model = s.model()?;
    let config = ChatConfig { model_path: model.clone(), system: None, temperature: 0.0, max_tokens: 24, gpu: false };
    let mut loaded = open(s, &model, Setup::default())?;
    let mut fresh = open(s, &model, Setup::default())?;
    let mut chat = running("a chat begins", Chat::new(&mut loaded, &config, &Options::default(), Sampling::default()))?;
    let mut reused = 0;
    for (i, question) in ["My name is Anna.", "Count from 1 to 5.", "What is my name?", "Hello!"].iter().enumerate() {
        let mut ids = Ids::default();
        let turn = running("it answers", chat.say(question, &mut ids))?.clone();
        let generation = Generation {
            max_tokens: 24,
            sampling: Sampling::default(),
            stops: Vec::new(),
            grammar: None,
            prefill_chunk: PREFILL_CHUNK,
            draft_max: 0,
        };
        let alone =
            Session::new(&mut fresh).generate(&ids.0, &generation, &mut engine::Silent, &AtomicBool::new(false));
        let alone = running("it answers from an empty cache", alone)?;
        t.equal(&format!("turn {i}: the tokens of an empty cache"), &turn.answer.tokens, &alone.tokens)?;
        t.equal(&format!("turn {i}: the length of the conversation"), &turn.tokens, &ids.0.len())?;
        let computed = turn.answer.prompt_tokens;
        t.equal(
            &format!("turn {i}: what was computed is what was not cached"),
            &computed,
            &(turn.tokens - turn.cached),
        )?;
        // From the second turn on, what was said before is there.
        let old = i > 0 && turn.cached == 0;
        t.hold(!old, || Refutation::new(format!("turn {i} reuses the cache"), "nothing", "the turns before it"))?;
        reused += turn.cached;
    }
    t.number("tokens that were not computed again", reused as f64);
    Ok(())
}

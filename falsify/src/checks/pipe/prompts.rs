//! F-PIPE-167 and 170: what comes before the user's words.

use serde_json::{Value, json};

use crate::ask::answered;
use crate::forge;
use crate::lab::{Setup, chat_ids, open, rendered, running, text_of_segments};
use crate::oracle::golden;
use crate::skills::{self, MOST, mostly};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally, instrument};

/// BOS token prepended: iff the metadata says so, and never twice.
pub fn f_pipe_167(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "raw prompts, conversations and typed markers on four forged models and the fixture, beside llama.cpp's ids; \
         tokens of apr run counted",
    );
    for name in ["qwen2-f16", "llama-f16", "llama-chat3-f16", "llama-q8_0", "qwen2-tiny-q8_0"] {
        let golden = golden(s, name)?;
        let path = golden.model(s)?;
        let model = open(s, &path, Setup::default())?;
        let words = &model.tokenizer;
        // The forge knows what it wrote; HuggingFace's Qwen2 tokenizer has no BOS.
        let (bos, wanted) = match forge::model(name) {
            Some(forged) => {
                let said = (forged.words)();
                (said.bos, said.add_bos)
            }
            None => (words.bos().ok_or_else(|| instrument("the fixture names no BOS"))?, false),
        };
        let marker = words.token_text(bos).unwrap_or_default().to_string();
        let begins = |ids: &[u32]| ids.iter().take_while(|id| **id == bos).count();
        let count = |ids: &[u32]| ids.iter().filter(|id| **id == bos).count();
        let expected = usize::from(wanted);
        for text in ["x", " x", "two words", "{\"a\": 1}", "\n"] {
            let ids = running("a raw prompt encodes", words.encode_raw(text))?;
            t.equal(&format!("{name}: BOS before {text:?}"), &(begins(&ids), count(&ids)), &(expected, expected))?;
            let plain = running("text encodes", words.encode_text(text))?;
            t.equal(&format!("{name}: the rest is the text"), &ids[expected..], &plain[..])?;
            // Whoever brings the marker gets it, and no second one.
            let brought = running("a raw prompt encodes", words.encode_raw(&format!("{marker}{text}")))?;
            t.equal(&format!("{name}: one BOS where the prompt brings it"), &count(&brought), &1)?;
            t.equal(&format!("{name}: and it comes first"), &begins(&brought), &1)?;
            // The template of Llama 3 writes BOS itself.
            let chat = chat_ids(&model, text)?;
            t.equal(&format!("{name}: BOS in a conversation"), &(begins(&chat), count(&chat)), &(expected, expected))?;
            let typed = chat_ids(&model, &format!("{marker}{text}"))?;
            t.equal(&format!("{name}: a typed marker is no BOS"), &count(&typed), &expected)?;
        }
        for case in golden.cases.iter().filter(|c| c.messages.is_none()) {
            let Some(text) = &case.text else { continue };
            let ids = running("a raw prompt encodes", words.encode_raw(text))?;
            t.equal(&format!("{name}, case {}: llama.cpp's ids", case.name), &ids, &case.prompt)?;
        }
        let out =
            answered(s.apr(["run"]).args([path.as_os_str()]).args(["x", "--raw", "--json", "--max-tokens", "1"]))?;
        let json: Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
        t.equal(
            &format!("{name}: tokens of a prompt of one letter by apr run"),
            &json["prompt_tokens"],
            &json!(1 + expected),
        )?;
    }
    // What the template of Llama 3 renders begins with the marker, and has the ids of that text.
    let model = open(s, &s.forged("llama-chat3-f16")?, Setup::default())?;
    let text = text_of_segments(&rendered(&model, &json!([{"role": "user", "content": "Hi"}]), &Value::Null, true)?);
    t.equal("the template writes BOS", &text.starts_with("<|begin_of_text|>"), &true)?;
    let ids = running("its text encodes", model.tokenizer.encode_raw(&text))?;
    t.equal("a conversation has the ids of its text", &chat_ids(&model, "Hi")?, &ids)?;
    t.done()
}

/// System prompt works: its text stands in the system turn, and the answer obeys it.
pub fn f_pipe_170(s: &Subject) -> Attempt {
    s.needs_skill("system")?;
    let mut t =
        Tally::new("24 held-out system messages: llama.cpp's ids in process, answers of apr run with and without");
    let skill = skills::of(s, "system", 20)?;
    let model = open(s, &s.model()?, Setup::default())?;
    let most = MOST.to_string();
    let (mut disobeyed, mut changed) = (Vec::new(), 0);
    for case in &skill.cases {
        let prompt = engine::session::Prompt { text: &case.user, system: case.system.as_deref(), raw: false };
        let ids = running("the prompt encodes", model.encode_prompt(&prompt))?;
        t.equal(&format!("ids of {:?} under {:?}", case.user, case.system), &Some(&ids), &case.prompt.as_ref())?;
        let out = case.outside(s)?;
        t.equal("tokens of the prompt by apr run", &out.json["prompt_tokens"], &ids.len().into())?;
        skill.same_report(&mut t, case, &out)?;
        let wanted = case.want.as_str().ok_or_else(|| instrument("no wanted text"))?;
        if !out.text.contains(wanted) {
            disobeyed.push(format!("{:?}, {:?}: {:?}", case.system, case.user, out.text));
        }
        let without = crate::ask::report(s, &case.user, &["--max-tokens", &most])?;
        changed += usize::from(without.text != out.text);
    }
    mostly(&mut t, "the system message is obeyed", &disobeyed, skill.cases.len())?;
    t.number("answers that it changes", changed as f64);
    t.hold(changed * 2 >= skill.cases.len(), || {
        Refutation::new(
            "a system message changes answers",
            format!("{changed} of {}", skill.cases.len()),
            "half of them",
        )
    })?;
    t.done()
}

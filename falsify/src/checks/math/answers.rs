//! F-MATH-142 to 147: what the model says. Held-out prompts of the fixture's skills, judged by arithmetic, by Python, by
//! llama.cpp's answers, and by what the tokens spell.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::last_number;
use crate::ask::{answered, closed, report};
use crate::forge::words::byte_alphabet;
use crate::lab::{Setup, in_pieces, open, running};
use crate::python::{Function, Judged, judge};
use crate::skills::{self, Skill, mostly};
use crate::subject::Subject;
use crate::texts::{SCRIPTS, VARIED, script_of, spelled, text_of};
use crate::verdict::{Attempt, Halt, Refutation, Tally, fixture_weak, instrument};

/// Both forms of the fixture.
const FORMS: [&str; 2] = ["q8_0", "q4_k_m"];

/// Answers are short, and other checks run beside.
const ALONE: Setup = Setup { isa: None, threads: 1, oracle: false, gpu: false, watched: false, context: None };

/// Basic arithmetic correct: held-out sums, differences and products, and llama.cpp's answers.
pub fn f_math_142(s: &Subject) -> Attempt {
    s.needs_skill("arith")?;
    let mut t = Tally::new("24 held-out sums, differences and products: q8_0 and q4_k_m in process, q8_0 by apr run");
    let skill = skills::of(s, "arith", 20)?;
    let right = |text: &str, want: &Value| last_number(text) == want.as_i64();
    let mut operations = BTreeSet::new();
    for form in FORMS {
        let mut model = open(s, &s.fixture(form)?, ALONE)?;
        let (mut wrong, mut wrong_outside) = (Vec::new(), Vec::new());
        for case in &skill.cases {
            let (tokens, text) = case.inside(&mut model)?;
            operations.extend(text.chars().filter(|c| "+-*".contains(*c)));
            if !right(&text, &case.want) {
                wrong.push(format!("{:?}: {text:?}", case.user));
            }
            if form == "q8_0" {
                skill.same(&mut t, case, &tokens, &text)?;
                let out = case.outside(s)?;
                skill.same_report(&mut t, case, &out)?;
                if !right(&out.text, &case.want) {
                    wrong_outside.push(format!("{:?}: {:?}", case.user, out.text));
                }
            }
        }
        mostly(&mut t, &format!("{form}: right in process"), &wrong, skill.cases.len())?;
        if form == "q8_0" {
            mostly(&mut t, "q8_0: right by apr run", &wrong_outside, skill.cases.len())?;
        }
    }
    t.number("operations", operations.len() as f64);
    t.done()
}

/// An answer, and what became of it.
struct Written {
    form: &'static str,
    text: String,
    function: Function,
    verdict: Judged,
}

/// Answers to the requests for functions in both forms, with Python's verdicts.
fn functions(s: &Subject, skill: &Skill) -> Result<Vec<Written>, Halt> {
    let mut asked = Vec::new();
    for form in FORMS {
        let mut model = open(s, &s.fixture(form)?, ALONE)?;
        for case in &skill.cases {
            let function: Function = serde_json::from_value(case.want.clone()).map_err(instrument)?;
            asked.push((form, case.inside(&mut model)?.1, function));
        }
    }
    let pairs: Vec<(&str, &Function)> = asked.iter().map(|(_, text, function)| (&**text, function)).collect();
    let judged = judge(s, &pairs)?;
    let joined = asked.into_iter().zip(judged);
    Ok(joined.map(|((form, text, function), verdict)| Written { form, text, function, verdict }).collect())
}

/// At least 90 % of the answers in each form are as `right` says. Some are asked for by `apr run` too, and are the same.
fn most_functions(s: &Subject, what: &str, right: fn(&Judged) -> bool) -> Attempt {
    s.needs_skill("code")?;
    let mut t = Tally::new(format!("24 held-out requests for Python functions in q8_0 and q4_k_m: {what}"));
    let skill = skills::of(s, "code", 20)?;
    let written = functions(s, &skill)?;
    for form in FORMS {
        let of_form: Vec<&Written> = written.iter().filter(|w| w.form == form).collect();
        let wrong = of_form.iter().filter(|w| !right(&w.verdict));
        let wrong: Vec<String> =
            wrong.map(|w| format!("{}: {}: {:?}", w.function.name, w.verdict.why, w.text)).collect();
        mostly(&mut t, &format!("{form}: {what}"), &wrong, of_form.len())?;
    }
    for (case, here) in skill.cases.iter().zip(&written).step_by(6) {
        let out = case.outside(s)?;
        t.hold(out.text == here.text, || {
            Refutation::new("apr run gives the answer of this process", &*out.text, &*here.text).repro(&*out.repro)
        })?;
    }
    let compared: u32 = written.iter().map(|w| w.verdict.compared).sum();
    t.number("calls compared with references", f64::from(compared));
    t.done()
}

/// Code generation produces valid syntax.
pub fn f_math_143(s: &Subject) -> Attempt {
    most_functions(s, "Python parses the answer, and it defines a function", |v| v.parses)
}

/// Python code executes correctly: the results of a reference on given and generated arguments.
pub fn f_math_144(s: &Subject) -> Attempt {
    most_functions(s, "it computes what a reference computes", |v| v.agrees)
}

/// Function definitions correct: name, parameters, a returned value.
pub fn f_math_145(s: &Subject) -> Attempt {
    most_functions(s, "name, parameters and return are those asked for", |v| v.signature)
}

/// UTF-8 Chinese output correct.
pub fn f_math_146(s: &Subject) -> Attempt {
    s.needs_skill("lang")?;
    let mut t = Tally::new("20 held-out prompts in Chinese or for Chinese: apr run, text and JSON, and in process");
    let skill = skills::of(s, "chinese", 20)?;
    let mut model = open(s, &s.model()?, ALONE)?;
    let mut characters = 0;
    for case in &skill.cases {
        let (tokens, text) = case.inside(&mut model)?;
        skill.same(&mut t, case, &tokens, &text)?;
        let out = case.outside(s)?;
        skill.same_report(&mut t, case, &out)?;
        let printed = answered(crate::ask::ask(s, &case.user, &case.flags())?)?;
        let utf8 = String::from_utf8(printed.stdout.clone());
        let valid = utf8.as_ref().is_ok_and(|text| *text == closed(&out.text));
        t.hold(valid, || {
            printed.refute("standard output is the answer in UTF-8", format!("{:?}", printed.stdout), closed(&out.text))
        })?;
        let chinese = out.text.chars().filter(|c| script_of(*c) == Some("Han")).count();
        t.hold(chinese > 0, || {
            Refutation::new(format!("the answer to {:?} is Chinese", case.user), &*out.text, &*case.reply)
                .repro(&*out.repro)
        })?;
        characters += chinese;
    }
    t.number("Chinese characters", characters as f64);
    t.done()
}

/// What no answer may hold that its tokens do not spell.
fn garbled(text: &str, spelled: &str) -> Option<String> {
    let glyphs: BTreeSet<char> = byte_alphabet().into_iter().filter(|c| *c as u32 >= 0x100).collect();
    let strange = |c: &char| (*c == '\u{fffd}' || glyphs.contains(c)) && !spelled.contains(*c);
    if let Some(c) = text.chars().find(strange) {
        return Some(format!("{c:?}"));
    }
    // Bytes of UTF-8 that were taken for Latin-1 make UTF-8 again when they are taken back.
    let is_latin1 = |c: char| ('\u{80}'..='\u{ff}').contains(&c);
    let runs = text.split(|c: char| !is_latin1(c)).filter(|run| !run.is_empty());
    let back = |run: &str| String::from_utf8(run.chars().map(|c| c as u8).collect()).ok();
    runs.filter(|run| !spelled.contains(*run)).find_map(|run| Some(format!("{run:?} for {:?}", back(run)?)))
}

/// No mojibake in multilingual output: ten scripts and emoji, in every piece and in every answer.
pub fn f_math_147(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "held-out and made-up prompts in ten scripts and emoji, in the template and raw: pieces in process, apr run, JSON",
    );
    let spelled = spelled(s)?;
    let Skill { mut cases, .. } = skills::of(s, "script", 20)?;
    cases.extend(skills::of(s, "chinese", 20)?.cases);
    let held_out = cases.iter().map(|c| (c.user.as_str(), c.system.as_deref(), false));
    let made_up = SCRIPTS.iter().flat_map(|(_, text)| [(*text, None, false), (*text, None, true)]);
    let varied = VARIED.iter().map(|(text, raw)| (*text, None, *raw));
    let mut model = open(s, &s.model()?, ALONE)?;
    let (mut answered_in, mut prompts) = (BTreeMap::new(), BTreeSet::new());
    for (text, system, raw) in held_out.chain(made_up).chain(varied) {
        let mut flags = vec!["--max-tokens", "48"];
        flags.extend(system.iter().flat_map(|system| ["--system", *system]));
        if raw {
            flags.push("--raw");
        }
        let out = report(s, text, &flags)?;
        let want = text_of(&out.json, &spelled).ok_or_else(|| instrument("an id that tokenizer.json has not"))?;
        let printed = answered(crate::ask::ask(s, text, &flags)?)?;
        let prompt = engine::session::Prompt { text, system, raw };
        let ids = running("the prompt encodes", model.encode_prompt(&prompt))?;
        let (mut pieces, answer) = in_pieces(&mut model, &ids, 48)?;
        pieces.extend([answer.text, out.text.clone(), String::from_utf8_lossy(&printed.stdout).into_owned()]);
        for piece in &pieces {
            let found = garbled(piece, &want);
            t.hold(found.is_none(), || {
                let observed = format!("{} in {piece:?}", found.unwrap_or_default());
                printed.refute("no replacement character, glyph of bytes or mojibake", observed, &*want)
            })?;
        }
        t.equal("the answer is what its tokens spell", &out.text, &want)?;
        prompts.extend(text.chars().filter_map(script_of));
        for script in out.text.chars().filter_map(script_of) {
            *answered_in.entry(script).or_insert(0u32) += 1;
        }
    }
    t.number("scripts of prompts", prompts.len() as f64);
    for (script, count) in &answered_in {
        t.number(&format!("characters of answers: {script}"), f64::from(*count));
    }
    if prompts.len() < 11 || answered_in.len() < 8 {
        return Err(fixture_weak(format!("prompts in {prompts:?}, answers in {:?} only", answered_in.keys())));
    }
    t.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mojibake_is_told_from_text() {
        for fine in ["ça va, señor? £5 ½ naïve", "你好 Привет", "Ã is a letter", ""] {
            assert_eq!(garbled(fine, fine), None);
            assert_eq!(garbled(fine, ""), None, "{fine}");
        }
        for text in ["é", "你好", "ñandú", "🚀", "Привет"] {
            let wrong: String = text.bytes().map(char::from).collect();
            assert!(garbled(&wrong, text).is_some(), "{wrong}");
        }
        assert!(garbled("aĠb", "a b").is_some() && garbled("a\u{fffd}", "aé").is_some());
        assert_eq!(garbled("Ġ\u{fffd}", "Ġ\u{fffd}"), None);
    }
}

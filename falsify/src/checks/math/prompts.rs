//! F-MATH-155 to 158: prompts of nothing, of blanks, that are too long, and that look like something else.

use serde_json::Value;

use crate::ask::{ask, report};
use crate::child::{self, Output};
use crate::lab::{self, Setup, chat_ids, open, running};
use crate::oracle;
use crate::subject::Subject;
use crate::texts::{BLANKS, HOSTILE, digits};
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// A blank prompt is answered, or refused in one line; the same way every time, and never a panic.
fn blank(t: &mut Tally, run: impl Fn() -> Result<child::Run, Halt>) -> Result<child::Output, Halt> {
    let mut first: Option<child::Output> = None;
    for _ in 0..3 {
        let out = run()?.judged()?;
        let refused = out.code() != Some(0);
        let one_line = out.err().trim().lines().count() == 1 && out.stdout.is_empty();
        let told = !refused || one_line && out.err().starts_with("error: ");
        t.hold(told, || {
            out.refute("a blank prompt is answered or refused in one line", out.err(), "error: ..., or exit 0")
        })?;
        match &first {
            None => first = Some(out),
            Some(f) => {
                let same = (f.code(), &f.stdout, &f.stderr) == (out.code(), &out.stdout, &out.stderr);
                t.hold(same, || out.refute("one behaviour for one input", out.out() + &out.err(), f.out() + &f.err()))?;
            }
        }
    }
    first.ok_or_else(|| instrument("nothing was run"))
}

/// The empty prompt: as an argument, from a pipe, with a template and without.
pub fn f_math_155(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with an empty prompt: argument, pipe, '-', raw, JSON; three times each");
    let flags = ["--temperature", "0", "--max-tokens", "12"];
    let model = s.model()?;
    let asked = |words: &[&str]| Ok(s.apr(["run"]).args([model.as_os_str()]).args(words).args(flags));
    let typed = blank(&mut t, || asked(&[""]))?;
    t.hold(typed.code() == Some(0), || typed.refute("an empty argument is a prompt", typed.err(), "an answer"))?;
    blank(&mut t, || asked(&["", "--raw"]))?;
    let counted = report(s, "", &["--max-tokens", "4", "--raw"])?;
    t.equal("something begins the text", &counted.json["prompt_tokens"].as_u64().is_some_and(|n| n > 0), &true)?;
    let piped = blank(&mut t, || asked(&[]).map(|r| r.stdin("")))?;
    let dashed = blank(&mut t, || asked(&["-"]).map(|r| r.stdin("")))?;
    let same = (piped.code(), &piped.stdout) == (dashed.code(), &dashed.stdout);
    t.hold(same, || dashed.refute("'-' is the pipe", dashed.out() + &dashed.err(), piped.out() + &piped.err()))?;
    for out in [&piped, &dashed] {
        t.note(format!("{}: exit {:?}", out.repro.rsplit(' ').next().unwrap_or_default(), out.code()));
    }
    t.done()
}

/// Blank prompts are prompts like any other: answered, and nothing trimmed on the way to the model.
pub fn f_math_156(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run with nine blank prompts, in the template and raw; token counts beside the tokenizer's");
    let model = open(s, &s.model()?, Setup::default())?;
    let nothing = chat_ids(&model, "")?;
    // What HuggingFace makes of blank texts, typed by a user and raw.
    let stored: Value = serde_json::from_str(&s.golden_text("text/fixture_ids.json")?).map_err(instrument)?;
    let mut compared = 0;
    for case in stored["cases"].as_array().into_iter().flatten() {
        let Some(text) = case["text"].as_str().filter(|t| t.trim().is_empty()) else { continue };
        for (ids, want) in [(model.tokenizer.encode_text(text), "content"), (model.tokenizer.encode_raw(text), "raw")] {
            let ids = running("blanks encode", ids)?;
            t.equal(&format!("ids of {text:?}"), &serde_json::json!(ids), &case[want])?;
            compared += 1;
        }
    }
    t.number("blank texts beside HuggingFace's ids", f64::from(compared));
    for prompt in BLANKS {
        let out = blank(&mut t, || ask(s, prompt, &["--max-tokens", "12"]))?;
        t.hold(out.code() == Some(0), || out.refute("a blank prompt is answered", out.err(), "exit code 0"))?;
        let text = running("blanks encode", model.tokenizer.encode_text(prompt))?;
        t.equal(
            "no blank is lost in encoding",
            &String::from_utf8_lossy(&model.tokenizer.decode(&text)),
            &(*prompt).into(),
        )?;
        let raw = report(s, prompt, &["--max-tokens", "4", "--raw"])?;
        t.equal("a raw prompt is exactly its tokens", &raw.json["prompt_tokens"], &(text.len() as u64).into())?;
        let chat = report(s, prompt, &["--max-tokens", "4"])?;
        let ids = chat_ids(&model, prompt)?;
        t.equal("blanks are part of the user's turn", &(ids == nothing), &false)?;
        t.equal("all of that turn reaches the model", &chat.json["prompt_tokens"], &(ids.len() as u64).into())?;
    }
    t.done()
}

/// Very long prompt handled: answered inside the context with a warning, or refused with both numbers.
pub fn f_math_157(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "prompts of the context, one token more and a hundred times more, raw, by apr run and in process: the q8_0 fixture \
         at 256 positions, a forged model at its own 2048",
    );
    for (path, context, asked) in [(s.model()?, 256, Some("256")), (s.forged("qwen2-q8_0")?, 2048, None)] {
        let mut model = open(s, &path, Setup { context: Some(context), ..Setup::default() })?;
        let mut peaks = Vec::new();
        for n in [context, context + 1, 100 * context] {
            let prompt = digits(n);
            let ids = running("a raw prompt encodes", model.tokenizer.encode_raw(&prompt))?;
            t.equal("a digit is a token", &ids.len(), &n)?;
            let mut run = s.apr(["run"]).args([path.as_os_str()]).args(["-", "--raw", "--json", "--temperature", "0"]);
            run = run.args(["--max-tokens", "8"]).stdin(prompt);
            if let Some(positions) = asked {
                run = run.args(["--ctx-size", positions]);
            }
            let out = run.judged()?;
            let both = |text: &str| text.contains(&n.to_string()) && text.contains(&context.to_string());
            if out.code() == Some(0) {
                fits(&mut t, &out, context, &both)?;
            } else {
                t.hold(both(&out.err()), || out.refute("a refusal has both numbers", out.err(), "both"))?;
            }
            peaks.push(out.peak_rss_bytes.ok_or_else(|| instrument("no VmHWM was seen"))? as f64);
            let before = model.counters().rows;
            let answer = lab::greedy(&mut model, &ids, 8)?;
            let rows = model.counters().rows - before;
            t.hold(rows <= context as u64, || {
                Refutation::new("no position beyond the context is run", format!("{rows} rows"), format!("{context}"))
            })?;
            t.equal("it answers", &answer.tokens.is_empty(), &false)?;
        }
        let [once, _, hundredfold] = peaks[..] else { return Err(instrument("three prompts")) };
        let more = (hundredfold - once) / (1 << 20) as f64;
        t.at_most("MiB that a prompt a hundred times as long takes more", more, 64.0)?;
    }
    t.done()
}

/// What an answer to a prompt that is too long says of itself.
fn fits(t: &mut Tally, out: &Output, context: usize, both: &dyn Fn(&str) -> bool) -> Result<(), Halt> {
    let json: Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
    let count = |key: &str| json[key].as_u64().unwrap_or(u64::MAX / 4);
    // The last token of an answer is never run.
    let positions = count("prompt_tokens") + count("tokens_generated").saturating_sub(1);
    t.hold(positions <= context as u64, || {
        out.refute("prompt and answer fit the context", positions.to_string(), context.to_string())
    })?;
    let warned = out.err().lines().any(|l| l.starts_with("warning: ") && both(l));
    t.hold(warned, || out.refute("a warning with both numbers", out.err(), "warning: ..."))?;
    let listed = json["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).any(both);
    t.hold(listed, || out.refute("the warning is in the JSON too", json["warnings"].to_string(), "both numbers"))
}

/// Special characters handled: they reach the tokenizer unchanged, and look-alikes stay text.
pub fn f_math_158(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "HuggingFace's ids of 79 awkward texts as a user's turn in process; tokens of apr run counted, NUL over a pipe",
    );
    let model = open(s, &s.model()?, Setup::default())?;
    let words = &model.tokenizer;
    let controls = |ids: &[u32]| ids.iter().filter(|id| words.is_control(**id)).count();
    // A user's turn is what stands between the two parts of the frame.
    let (nothing, x) = (chat_ids(&model, "")?, chat_ids(&model, "x")?);
    let start = nothing.iter().zip(&x).take_while(|(a, b)| a == b).count();
    let (head, tail) = nothing.split_at(start);
    let (mut typed, mut piped) = (0, 0);
    for case in oracle::spelled(s)? {
        let ids = chat_ids(&model, &case.text)?;
        t.equal(
            &format!("{:?}: control tokens come from the template alone", case.text),
            &controls(&ids),
            &controls(&nothing),
        )?;
        // Line ends at the beginning join with the one before them.
        let leading: String = case.text.chars().take_while(|c| c.is_whitespace()).collect();
        if leading.contains(['\n', '\r']) {
            let said = String::from_utf8_lossy(&words.decode(&ids)).into_owned();
            t.hold(said.contains(&case.nfc), || Refutation::new("the text reaches the model", &*said, &*case.nfc))?;
        } else {
            let want = [head, &case.content, tail].concat();
            t.equal(&format!("{:?} in the user's turn: HuggingFace's ids", case.text), &ids, &want)?;
        }
        // The same by apr run, which tells how many tokens a prompt has. An argument cannot hold NUL.
        let count = if case.text.contains('\0') {
            piped += 1;
            let run = ask(s, "-", &["--max-tokens", "1", "--json"])?.stdin(case.text.as_str());
            let out = crate::ask::answered(run)?;
            serde_json::from_slice::<Value>(&out.stdout).map_err(instrument)?["prompt_tokens"].clone()
        } else {
            typed += 1;
            report(s, &case.text, &["--max-tokens", "1"])?.json["prompt_tokens"].clone()
        };
        t.equal(&format!("{:?}: tokens of apr run", case.text), &count, &ids.len().into())?;
    }
    for text in HOSTILE {
        let ids = chat_ids(&model, text)?;
        t.equal(&format!("{text:?} adds no control token"), &controls(&ids), &controls(&nothing))?;
        let out = report(s, text, &["--max-tokens", "1"])?;
        t.equal(&format!("{text:?}: tokens of apr run"), &out.json["prompt_tokens"], &ids.len().into())?;
    }
    t.number("texts typed", f64::from(typed));
    t.number("texts piped", f64::from(piped));
    t.done()
}

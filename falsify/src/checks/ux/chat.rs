//! F-UX: what a person sees of `apr chat`.

use crate::screen::Screens;
use crate::subject::Subject;
use crate::talk::{INVITATION, piped, typed};
use crate::verdict::{Attempt, Tally};

/// Chat mode shows prompt indicator (`>>>`): on a terminal, at the beginning of a line, whenever it waits.
pub fn f_ux_032(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr chat on a pseudo-terminal: questions, a command, an empty line; and on a pipe");
    let lines = ["Hello!", "", "/stats", "What is 2+2?", "/exit"];
    let seen = typed(s, &lines)?;
    let first = seen.out().find(INVITATION).is_some();
    t.hold(first, || seen.refute("it invites at the beginning", seen.out(), INVITATION))?;
    seen.alive()?;
    let screens = Screens::replay(&seen.stdout);
    for line in lines {
        let echoed = format!("{INVITATION}{line}");
        let shown = screens.last.lines().any(|l| l.trim_end() == echoed.trim_end());
        t.hold(shown, || seen.refute("what was typed stands behind the prompt", &*screens.last, &*echoed))?;
    }
    let quiet = piped(s, &["What is 2+2?", "/exit"], &[])?;
    let none = !quiet.out().contains('>') && !quiet.err().contains(INVITATION.trim());
    t.hold(none, || quiet.refute("no prompt on a pipe", quiet.out(), "the answer alone"))?;
    t.done()
}

/// Chat mode supports `/exit` and `/clear`.
pub fn f_ux_033(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "apr chat through a pipe: /exit and its kin, /clear between a fact and a question, commands that are none",
    );
    s.needs_skill("memory")?;
    for leave in ["/exit", "/quit"] {
        let out = piped(s, &[leave, "What is 2+2?"], &[])?;
        let left = out.code() == Some(0) && out.stdout.is_empty();
        t.hold(left, || out.refute(&format!("{leave} leaves"), out.out(), "exit code 0 and no answer"))?;
    }
    let end = piped(s, &["What is 2+2?"], &[])?;
    t.hold(end.code() == Some(0), || end.refute("the end of the input leaves", end.err(), "exit code 0"))?;
    for (fact, question, word) in [
        ("My name is Anna.", "What is my name?", "Anna"),
        ("My favourite colour is blue.", "What is my favourite colour?", "blue"),
    ] {
        let verbose = &["--verbose"][..];
        let prompt_tokens = |err: &str| -> Vec<String> {
            err.lines().filter_map(|l| l.strip_prefix("Prompt tokens: ")).map(str::to_string).collect()
        };
        let kept = piped(s, &[fact, question], verbose)?;
        let knows = kept.out().lines().last().unwrap_or_default().contains(word);
        t.hold(knows, || kept.refute("without /clear the fact is known", kept.out(), word))?;
        let cleared = piped(s, &[fact, "/clear", question, "/stats"], verbose)?;
        let fresh = piped(s, &[question, "/stats"], verbose)?;
        let answer = |out: &str| out.lines().last().unwrap_or_default().to_string();
        let same = answer(&cleared.out()) == answer(&fresh.out());
        t.hold(same, || cleared.refute("after /clear it answers like a new chat", cleared.out(), fresh.out()))?;
        let context = |err: &str| err.lines().find(|l| l.starts_with("context: ")).unwrap_or("no line").to_string();
        let (a, b) = (context(&cleared.err()), context(&fresh.err()));
        t.hold(a == b, || cleared.refute("and its context holds what a new one does", &*a, &*b))?;
        t.number("prompts counted", prompt_tokens(&cleared.err()).len() as f64);
    }
    for (line, meant) in [("/clean", "/clear"), ("/exi", "/exit"), ("/frobnicate", "/help"), ("/", "/")] {
        let out = piped(s, &[line, "What is 2+2?"], &[])?;
        let err = out.err();
        let said = err.starts_with("error: ") && err.contains(line) && err.contains(meant);
        t.hold(said, || out.refute(&format!("{line} is no command and says so"), &*err, meant))?;
        t.hold(!out.stdout.is_empty(), || out.refute("and the chat goes on", out.out(), "an answer"))?;
    }
    t.done()
}

//! Command lines that end before they begin: help, version, and what clap refuses.

use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use engine::error::printable;
use engine::{Error, Kind, limits, term};

use crate::args;

/// Prints what clap has to say and gives the exit code.
pub fn end(mut said: clap::Error) -> ExitCode {
    if !said.use_stderr() {
        let printed = said.print().and_then(|()| std::io::stdout().flush());
        let Err(e) = printed else { return ExitCode::SUCCESS };
        let error = term::not_written(&e);
        term::fail(&error, false);
        return ExitCode::from(error.kind.exit_code());
    }
    tame(&mut said);
    // A closed standard error does not change what went wrong.
    let _ = said.print();
    if args::json_typed() {
        term::fail_json(&as_error(&said.render().to_string()));
    }
    ExitCode::from(Kind::Usage.exit_code())
}

/// What was typed comes back in the message: like all text from outside it is escaped and cut first. A tip that repeats
/// such a word is of no use then.
fn tame(said: &mut clap::Error) {
    let tamed = |(kind, value): (ContextKind, &ContextValue)| match value {
        ContextValue::String(s) => Some(printable(s, limits::QUOTED_CHARS_MAX)).filter(|t| t != s).map(|t| (kind, t)),
        _ => None,
    };
    let typed: Vec<(ContextKind, String)> = said.context().filter_map(tamed).collect();
    for (kind, word) in typed {
        said.insert(kind, ContextValue::String(word));
        said.remove(ContextKind::Suggested);
    }
}

/// clap's text as data: the first paragraph says what, a tip is the hint.
fn as_error(text: &str) -> Error {
    let what: Vec<&str> = text.lines().take_while(|l| !l.trim().is_empty()).map(str::trim).collect();
    let what = what.join(" ");
    let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
    Error::new(Kind::Usage, what.strip_prefix("error: ").unwrap_or(&what)).hint(tip.unwrap_or("see apr run --help"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn refused(words: &[&str]) -> clap::Error {
        let mut said = args::Args::try_parse_from(words).unwrap_err();
        tame(&mut said);
        said
    }

    #[test]
    fn what_was_typed_cannot_drive_the_terminal_nor_fill_it() {
        let long = "x".repeat(100_000);
        for word in ["\u{1b}[2J", &format!("--{long}"), "--max-tokens=\u{7}", "--\u{1b}]0;t\u{7}"] {
            let text = refused(&["apr", "run", "m", "p", word, word]).render().to_string();
            let plain = !text.contains(|c: char| c.is_control() && c != '\n');
            assert!(plain && text.len() < 1000, "{} bytes, {:.200}", text.len(), text.escape_debug().to_string());
        }
        assert!(refused(&["apr", "\u{1b}[2J"]).render().to_string().contains("\\u{1b}[2J"));
    }

    #[test]
    fn an_error_keeps_what_and_tip() {
        let e = as_error(&refused(&["apr", "run", "m", "--verbos"]).render().to_string());
        assert_eq!((e.what.as_str(), e.kind), ("unexpected argument '--verbos' found", Kind::Usage));
        assert_eq!(e.hint.as_deref(), Some("a similar argument exists: '--verbose'"));
        let e = as_error(&refused(&["apr", "run"]).render().to_string());
        assert_eq!(e.what, "the following required arguments were not provided: <MODEL>");
    }
}

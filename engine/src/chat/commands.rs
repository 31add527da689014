//! What a line that begins with `/` does: one table, which `/help` prints.

use std::path::Path;

use super::Chat;
use crate::error::{Error, Kind, Result, quoted};
use crate::{similar, term};

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Stay,
    /// It does not.
    Leave,
}

/// A command.
pub struct Command {
    /// With its slash; others mean the same.
    names: &'static [&'static str],
    /// What follows it, for the help.
    takes: &'static str,
    /// For people.
    help: &'static str,
    run: fn(&mut Chat<'_>, &str) -> Result<Next>,
}

/// Every command.
//= F-UX-033
pub static ALL: &[Command] = &[
    Command {
        names: &["/exit", "/quit", "/bye"],
        takes: "",
        help: "Leave; so does Ctrl+D",
        run: |_, _| Ok(Next::Leave),
    },
    Command {
        names: &["/clear"],
        takes: "",
        help: "Forget everything that was said",
        run: |chat, _| {
            chat.clear();
            done("forgotten")
        },
    },
    Command {
        names: &["/system"],
        takes: "[TEXT]",
        help: "Show the system message, or set it; `/system -` is the model's own",
        run: system,
    },
    Command {
        names: &["/save"],
        takes: "FILE",
        help: "Write the conversation as JSON",
        run: |chat, path| {
            chat.save(needed(path)?)?;
            done(&format!("{} messages saved", chat.messages().len()))
        },
    },
    Command {
        names: &["/load"],
        takes: "FILE",
        help: "Go on with a conversation that was saved",
        run: |chat, path| {
            chat.load(needed(path)?)?;
            done(&format!("{} messages loaded", chat.messages().len()))
        },
    },
    Command { names: &["/stats"], takes: "", help: "Context in use, and how fast the last answer was", run: stats },
    Command { names: &["/help", "/?"], takes: "", help: "This list", run: |_, _| help() },
];

/// Does what a line that begins with `/` says. A name that is none says so, with the one that may have been meant.
pub fn run(chat: &mut Chat<'_>, line: &str) -> Result<Next> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match ALL.iter().find(|c| c.names.contains(&name)) {
        Some(command) if command.takes.is_empty() && !rest.trim().is_empty() => {
            Err(Error::new(Kind::Usage, format!("{name} takes nothing")))
        }
        Some(command) => (command.run)(chat, rest.trim()),
        None => {
            let hint = match similar::nearest(name, ALL.iter().flat_map(|c| c.names.iter().copied())) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "/help lists them; a line that should begin with / needs a blank before it".to_string(),
            };
            Err(Error::new(Kind::Usage, format!("no command {}", quoted(name))).hint(hint))
        }
    }
}

fn needed(path: &str) -> Result<&Path> {
    if path.is_empty() {
        return Err(Error::new(Kind::Usage, "the name of a file is missing"));
    }
    Ok(Path::new(path))
}

fn done(what: &str) -> Result<Next> {
    term::note(what);
    Ok(Next::Stay)
}

fn system(chat: &mut Chat<'_>, text: &str) -> Result<Next> {
    match text {
        "" => done(chat.system().unwrap_or("the model's own")),
        "-" => {
            chat.set_system(None);
            done("the model's own system message from now on")
        }
        text => {
            chat.set_system(Some(text.into()));
            done("set")
        }
    }
}

fn stats(chat: &mut Chat<'_>, _: &str) -> Result<Next> {
    let (used, context) = chat.room();
    term::note(&format!("context: {used} of {context} tokens, {} messages", chat.messages().len()));
    if let Some(turn) = chat.last() {
        let a = &turn.answer;
        let new = turn.tokens - turn.cached;
        term::note(&format!(
            "last turn: {} tokens of prompt, {} of them cached, {new} computed in {:.0} ms",
            turn.tokens, turn.cached, a.prefill_ms
        ));
        term::note(&format!("last answer: {} tokens, {:.1} tok/s", a.tokens.len(), a.tokens_per_second()));
    }
    Ok(Next::Stay)
}

fn help() -> Result<Next> {
    for command in ALL {
        let names = command.names.join(", ");
        term::note(&format!("  {:<24} {}", format!("{names} {}", command.takes), command.help));
    }
    term::note("  \"\"\"                      Begin and end a message of several lines");
    term::note("  Ctrl+C                   Stop the answer; Ctrl+D on an empty line leaves");
    Ok(Next::Stay)
}

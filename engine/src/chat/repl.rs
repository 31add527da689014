//! Reading lines and answering them: on a terminal with editing and a history, otherwise line by line.

use std::io::{BufRead, IsTerminal};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::Chat;
use super::commands::{self, Next};
use crate::api::{self, ChatConfig, Options};
use crate::error::{self, Error, Kind, Result};
use crate::limits;
use crate::session::{Event, Finish, Observer};
use crate::term::{self, Terminal};

/// What invites to speak. Only a terminal sees it.
//= F-UX-032
const PROMPT: &str = ">>> ";
/// The same inside a message of several lines.
const MORE: &str = "... ";
/// Begins and ends a message of several lines.
const FENCE: &[u8] = b"\"\"\"";

/// What somebody who can talk did.
enum Said {
    Line(Vec<u8>),
    /// Ctrl+C where no answer is in the making.
    Interrupt,
    /// Ctrl+D, or the end of the input.
    End,
}

enum Input {
    Editor(Box<DefaultEditor>),
    Lines(std::io::Split<std::io::StdinLock<'static>>),
}

impl Input {
    fn open() -> Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Lines(std::io::stdin().lock().split(b'\n')));
        }
        let config = Config::builder().auto_add_history(true).max_history_size(1000).map_err(unreadable)?.build();
        Ok(Input::Editor(Box::new(DefaultEditor::with_config(config).map_err(unreadable)?)))
    }

    fn read(&mut self, prompt: &str) -> Result<Said> {
        match self {
            Input::Lines(lines) => match lines.next() {
                None => Ok(Said::End),
                Some(Ok(line)) => Ok(Said::Line(line.strip_suffix(b"\r").map_or(line.clone(), <[u8]>::to_vec))),
                Some(Err(e)) => Err(Error::new(Kind::Unreadable, format!("cannot read standard input: {e}"))),
            },
            Input::Editor(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Said::Line(line.into_bytes())),
                Err(ReadlineError::Interrupted) => Ok(Said::Interrupt),
                Err(ReadlineError::Eof) => Ok(Said::End),
                Err(e) => Err(unreadable(e)),
            },
        }
    }

    /// A message: a line, or what stands between two fences.
    fn message(&mut self) -> Result<Said> {
        let first = match self.read(PROMPT)? {
            Said::Line(line) => line,
            other => return Ok(other),
        };
        let Some(rest) = first.trim_ascii_start().strip_prefix(FENCE) else { return Ok(Said::Line(first)) };
        let mut text = rest.to_vec();
        loop {
            if let Some(mut whole) = text.strip_suffix(FENCE) {
                while let [b'\n', rest @ ..] | [rest @ .., b'\n'] = whole {
                    whole = rest;
                }
                return Ok(Said::Line(whole.to_vec()));
            }
            if text.len() > limits::PROMPT_BYTES_MAX {
                return Err(Error::new(Kind::TooLarge, "the message is too long"));
            }
            match self.read(MORE)? {
                Said::Line(line) => {
                    text.push(b'\n');
                    text.extend(line);
                }
                Said::End => {
                    term::warn("the message has no closing \"\"\"; it was not sent");
                    return Ok(Said::End);
                }
                Said::Interrupt => return Ok(Said::Interrupt),
            }
        }
    }
}

fn unreadable(e: ReadlineError) -> Error {
    Error::new(Kind::Unreadable, format!("cannot read from the terminal: {e}"))
}

/// Loads a model and talks until somebody leaves. What goes wrong in a turn is said, and the conversation goes on.
//= F-CLI-004
pub fn run(config: &ChatConfig, options: &Options, mut terminal: Terminal) -> Result<()> {
    terminal.loading(&config.model_path, options);
    let start = Instant::now();
    let opened = api::open_chat(config, options, &mut terminal);
    term::clear();
    let (mut loaded, mut draft) = opened?;
    terminal.event(Event::Loaded(&loaded, start.elapsed().as_secs_f64() * 1e3))?;
    let sampling = api::chat_sampling(&loaded, config, options, &mut terminal)?;
    let mut chat = Chat::new(&mut loaded, config, options, sampling)?;
    if let Some(draft) = &mut draft {
        chat.drafted_by(draft)?;
    }
    let mut input = Input::open()?;
    if matches!(input, Input::Editor(_)) && !terminal.is_quiet() {
        term::clear();
        term::note("/help lists what can be done, /exit leaves");
    }
    loop {
        term::clear();
        let line = match input.message()? {
            Said::End => break,
            Said::Interrupt => {
                term::note("Ctrl+D or /exit leaves");
                continue;
            }
            Said::Line(line) => match error::utf8(line, "message") {
                Ok(line) => line,
                Err(e) => {
                    term::fail(&e, false);
                    continue;
                }
            },
        };
        let said = match line.strip_prefix('/') {
            _ if line.trim().is_empty() => continue,
            Some(_) => match commands::run(&mut chat, &line) {
                Ok(Next::Leave) => break,
                said => said.map(drop),
            },
            None => match answer(&mut chat, &line, options, &mut terminal) {
                // An answer that cannot be written has no reader. A command may fail to write a file of its own.
                Err(e) if matches!(e.kind, Kind::ReaderGone | Kind::Output) => return Err(e),
                said => said,
            },
        };
        if let Err(e) = said {
            term::fail(&e, false);
        }
    }
    Ok(())
}

fn answer(chat: &mut Chat<'_>, line: &str, options: &Options, terminal: &mut Terminal) -> Result<()> {
    options.cancel.store(false, Ordering::Relaxed);
    terminal.waiting();
    let said = chat.say(line.trim_start_matches(' '), terminal).map(|turn| turn.answer.clone());
    term::clear();
    // An interrupted answer stays in the conversation as far as it came.
    options.cancel.store(false, Ordering::Relaxed);
    match said {
        Ok(answer) => {
            terminal.line_end()?;
            if answer.finish == Finish::Cancelled {
                term::note("stopped");
            }
        }
        Err(e) if e.kind == Kind::Interrupted => term::note("stopped"),
        Err(e) => {
            terminal.line_end()?;
            return Err(e);
        }
    }
    Ok(())
}

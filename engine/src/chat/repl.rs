//! Reading lines and answering them: on a terminal with editing and a history, otherwise line by line.

use std::io::{BufRead, IsTerminal};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::Chat;
use super::commands::{self, Next};
use crate::api::{self, ChatConfig, Options};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::session::{Event, Finish, Observer};
use crate::term::{self, Terminal};

/// What invites to speak. Only a terminal sees it.
//= F-UX-032
const PROMPT: &str = ">>> ";
/// The same inside a message of several lines.
const MORE: &str = "... ";
/// Begins and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// What somebody who can talk did.
enum Said {
    Line(String),
    /// Ctrl+C where no answer is in the making.
    Interrupt,
    /// Ctrl+D, or the end of the input.
    End,
}

enum Input {
    Editor(Box<DefaultEditor>),
    Lines(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn open() -> Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Lines(std::io::stdin().lock().lines()));
        }
        let config = Config::builder().auto_add_history(true).max_history_size(1000).map_err(unreadable)?.build();
        Ok(Input::Editor(Box::new(DefaultEditor::with_config(config).map_err(unreadable)?)))
    }

    fn read(&mut self, prompt: &str) -> Result<Said> {
        match self {
            Input::Lines(lines) => match lines.next() {
                None => Ok(Said::End),
                Some(Ok(line)) => Ok(Said::Line(line)),
                Some(Err(e)) => Err(Error::new(Kind::Unreadable, format!("cannot read standard input: {e}"))),
            },
            Input::Editor(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Said::Line(line)),
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
        let Some(rest) = first.trim_start().strip_prefix(FENCE) else { return Ok(Said::Line(first)) };
        let mut text = rest.to_string();
        loop {
            if let Some(whole) = text.strip_suffix(FENCE) {
                return Ok(Said::Line(whole.trim_matches('\n').to_string()));
            }
            if text.len() > limits::PROMPT_BYTES_MAX {
                return Err(Error::new(Kind::TooLarge, "the message is too long"));
            }
            match self.read(MORE)? {
                Said::Line(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                other => return Ok(other),
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
    if matches!(input, Input::Editor(_)) {
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
            Said::Line(line) => line,
        };
        let ended = match line.strip_prefix('/') {
            _ if line.trim().is_empty() => Ok(Next::Stay),
            Some(_) => commands::run(&mut chat, &line),
            None => answer(&mut chat, &line, options, &mut terminal),
        };
        match ended {
            Ok(Next::Stay) => {}
            Ok(Next::Leave) => break,
            Err(e) if matches!(e.kind, Kind::ReaderGone | Kind::Output) => return Err(e),
            Err(e) => term::fail(&e, false),
        }
    }
    Ok(())
}

fn answer(chat: &mut Chat<'_>, line: &str, options: &Options, terminal: &mut Terminal) -> Result<Next> {
    options.cancel.store(false, Ordering::Relaxed);
    terminal.waiting();
    let said = chat.say(line.trim_start_matches(' '), terminal).map(|turn| turn.answer.clone());
    term::clear();
    // An interrupted answer stays in the conversation as far as it came.
    options.cancel.store(false, Ordering::Relaxed);
    match said {
        Ok(answer) => {
            terminal.line_end(&answer.text)?;
            if answer.finish == Finish::Cancelled {
                term::note("stopped");
            }
        }
        Err(e) if e.kind == Kind::Interrupted => term::note("stopped"),
        Err(e) => return Err(e),
    }
    Ok(Next::Stay)
}

//! Saboteurs of `apr chat`: each runs the real `apr` and spoils what is said to it, or how it asks.

use std::io::{self, BufRead, Read, Write};
use std::process::Stdio;

use super::evil_apr::Real;
use super::{Means, Saboteur};

const fn evil(name: &'static str, does: &'static str, how: fn(Real) -> u8) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilApr(how) }
}

/// Every misbehaviour of a conversation.
pub static ALL: &[Saboteur] = &[
    evil("chat-answers-once", "answers the first line and ends", answers_once),
    evil("chat-without-prompt", "listens without an invitation", |r| spoken_to(r, |line| vec![line])),
    evil("chat-keeps-history", "does not hear /clear", |r| {
        spoken_to(r, |line| if line == "/clear" { Vec::new() } else { vec![line] })
    }),
    evil("chat-forgets", "forgets before every line", |r| spoken_to(r, |line| vec!["/clear".into(), line])),
];

/// The real one hears other lines than were said, through a pipe. Only chats are meddled with.
fn spoken_to(real: Real, heard: fn(String) -> Vec<String>) -> u8 {
    if !real.has(&["chat"]) {
        return real.run();
    }
    let Ok(mut child) = real.command().stdin(Stdio::piped()).spawn() else { return 99 };
    if let Some(mut pipe) = child.stdin.take() {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            for line in heard(line) {
                let _ = writeln!(pipe, "{line}");
            }
        }
    }
    child.wait().map_or(99, super::evil_apr::code_of)
}

fn answers_once(real: Real) -> u8 {
    if !real.has(&["chat"]) {
        return real.run();
    }
    print!("{}", crate::talk::INVITATION);
    let _ = io::stdout().flush();
    let mut line = String::new();
    let _ = io::stdin().lock().read_line(&mut line);
    let Ok(mut child) = real.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else { return 99 };
    if let Some(mut pipe) = child.stdin.take() {
        let _ = writeln!(pipe, "{}\n/exit", line.trim());
    }
    let mut said = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        let _ = pipe.read_to_string(&mut said);
    }
    print!("{said}");
    child.wait().map_or(99, super::evil_apr::code_of)
}

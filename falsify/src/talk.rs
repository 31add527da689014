//! Conversations with `apr chat`: lines through a pipe, or typed on a terminal when the prompt invites to.

use std::time::Duration;

use crate::child::{Output, Run};
use crate::subject::Subject;
use crate::verdict::Halt;

/// What invites to speak.
pub const INVITATION: &str = ">>> ";

/// `apr chat` on the main fixture, not started yet. Greedy.
pub fn chat(s: &Subject, flags: &[&str]) -> Result<Run, Halt> {
    let model = s.model()?;
    let run = s.apr(["chat"]).args([model.as_os_str()]).args(["--temperature", "0", "--max-tokens", "48"]);
    Ok(run.args(flags).deadline(Duration::from_secs(20)))
}

/// Says these lines through a pipe. Answers are lines of standard output, one after another where each is one line.
pub fn piped(s: &Subject, lines: &[&str], flags: &[&str]) -> Result<Output, Halt> {
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    chat(s, flags)?.stdin(text).judged()
}

/// Types these lines on a terminal, each when the prompt has come once more.
pub fn typed(s: &Subject, lines: &[&str]) -> Result<Output, Halt> {
    let steps = lines.iter().map(|line| (INVITATION.to_string(), format!("{line}\r").into_bytes()));
    chat(s, &[])?.typed(steps.collect()).on_terminal().output()
}

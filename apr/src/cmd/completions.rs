//! `apr completions SHELL`: what a shell needs to complete what is typed.

use std::process::ExitCode;

use clap::CommandFactory;
use engine::{Result, term};

use crate::args::{Args, CompletionsArgs};

/// Prints the script.
pub fn execute(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "apr", &mut script);
    term::say(&String::from_utf8_lossy(&script), None)?;
    Ok(ExitCode::SUCCESS)
}

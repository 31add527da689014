//! One file per command.

mod check;
mod replay;
mod run;

use std::process::ExitCode;

use crate::args::{Args, Command};
use engine::Result;

/// Does what was asked.
pub fn dispatch(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::execute(&args),
        Command::Check(args) => check::execute(&args),
        Command::Replay(args) => replay::execute(&args),
    }
}

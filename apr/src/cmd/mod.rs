//! One file per command.

mod replay;
mod run;
mod serve;

use std::process::ExitCode;

use crate::args::{Args, Command};
use engine::Result;

/// Does what was asked.
pub fn dispatch(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::execute(&args),
        Command::Serve(args) => serve::execute(&args),
        Command::Replay(args) => replay::execute(&args),
    }
}

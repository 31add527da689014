//! One file per command.

mod replay;
mod run;

use crate::args::{Args, Command};
use engine::Result;

/// Does what was asked.
pub fn dispatch(args: Args) -> Result<()> {
    match args.command {
        Command::Run(args) => run::execute(&args),
        Command::Replay(args) => replay::execute(&args),
    }
}

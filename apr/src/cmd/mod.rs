//! One file per command.

mod bench;
mod chat;
mod check;
mod completions;
mod config;
mod convert;
mod diff;
mod doctor;
mod list;
mod man;
mod pull;
mod push;
mod replay;
mod rm;
mod run;
mod serve;
mod tag;
mod tune;

use std::process::ExitCode;

use engine::Result;

use crate::args::{Args, Command};

//= F-CRIT-001
/// Does what was asked.
pub fn dispatch(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::execute(&args),
        Command::Check(args) => check::execute(&args),
        Command::Diff(args) => diff::execute(&args),
        Command::Chat(args) => chat::execute(&args),
        Command::Serve(args) => serve::execute(&args),
        Command::Replay(args) => replay::execute(&args),
        Command::Convert(args) => convert::execute(&args),
        Command::Pull(args) => pull::execute(&args),
        Command::List(args) => list::execute(&args),
        Command::Rm(args) => rm::execute(&args),
        Command::Tag(args) => tag::execute(&args),
        Command::Push(args) => push::execute(&args),
        Command::Bench(args) => bench::execute(&args),
        Command::Tune(args) => tune::execute(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Config(args) => config::execute(&args),
        Command::Completions(args) => completions::execute(&args),
        Command::Man(args) => man::execute(&args),
    }
}

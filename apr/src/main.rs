//! `apr`: words in, words out. Parses what was typed, finds the model, and leaves everything else to `engine`.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod interrupt;
mod panics;
mod plan;
mod usage;

use std::process::ExitCode;

use clap::Parser;
//= F-INT-281 F-INT-292
use engine::term;

//= F-CPU-108
fn main() -> ExitCode {
    panics::install();
    let ended = match args::Args::try_parse() {
        Ok(args) => cmd::dispatch(args),
        Err(said) => return usage::end(said),
    };
    match ended {
        Ok(code) => code, //= F-CLI-020
        Err(error) => {
            term::fail(&error, args::json_typed());
            ExitCode::from(error.kind.exit_code())
        }
    }
}

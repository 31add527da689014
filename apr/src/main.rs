//! `apr`: words in, words out. Parses what was typed, finds the model, and leaves everything else to `engine`.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod plan;
mod source;

use std::process::ExitCode;

use clap::Parser;
use engine::{Kind, term};

//= F-CPU-108
fn main() -> ExitCode {
    // A usage error ends here, with clap's message and exit code 2.
    let args = args::Args::parse();
    match cmd::dispatch(args) {
        Ok(()) => ExitCode::SUCCESS, //= F-CLI-020
        Err(error) => {
            if !matches!(error.kind, Kind::ReaderGone | Kind::Interrupted) {
                term::print_error(&error);
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

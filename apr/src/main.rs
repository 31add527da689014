//! `apr`: words in, words out. Parses what was typed, finds the model, and leaves everything else to `engine`.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod config;
mod interrupt;
mod panics;
mod plan;
mod usage;

use std::process::ExitCode;

//= F-INT-281 F-INT-292 F-CRIT-002
use engine::{Kind, heap, term};

/// Memory that cannot be had is an error with an exit code, like every other.
#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

//= F-CPU-108 F-CPU-110 F-INT-291
fn main() -> ExitCode {
    panics::install();
    heap::on_shortage(panics::out_of_memory, i32::from(Kind::TooLarge.exit_code()));
    let ended = match config::parse(std::env::args_os().collect()) {
        Ok(args) => cmd::dispatch(args),
        Err(config::Refused::Config(error)) => Err(error),
        Err(config::Refused::Typed(said)) => return usage::end(said),
    };
    match ended {
        Ok(code) => code, //= F-CLI-020
        Err(error) => {
            let error = interrupt::named(error);
            term::fail(&error, args::json_typed());
            ExitCode::from(error.kind.exit_code())
        }
    }
}

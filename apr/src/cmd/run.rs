//! `apr run`: one prompt, one answer.

use std::process::ExitCode;

use engine::Result;
use engine::api::run_on_terminal;
use engine::session::Finish;
use engine::term::Terminal;

use crate::args::RunArgs;
use crate::{interrupt, plan};

/// Runs it.
//= F-CLI-001
pub fn execute(args: &RunArgs) -> Result<ExitCode> {
    let plan = plan::run(args, interrupt::watch()?)?;
    let mut terminal = Terminal::new(args.verbose).source(&plan.source);
    // A trace on standard error is alone there, so that it is one JSON document.
    if args.quiet || args.trace().is_some_and(|t| t.output.is_none()) {
        terminal = terminal.quiet();
    }
    if args.json {
        terminal = terminal.json();
    }
    let outcome = run_on_terminal(&plan.config, &plan.options, terminal)?;
    // The answer so far is told already, so an interruption is an end and not an error.
    Ok(match outcome.answer.finish {
        Finish::Cancelled => ExitCode::from(interrupt::kind().exit_code()),
        Finish::Eos | Finish::Stop | Finish::Length => ExitCode::SUCCESS,
    })
}

//! `apr run`: one prompt, one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::api::run_on_terminal;
use engine::session::Finish;
use engine::term::Terminal;
use engine::{Error, Kind, Result};

use crate::args::RunArgs;
use crate::plan;

/// Runs it.
//= F-CLI-001
pub fn execute(args: &RunArgs) -> Result<()> {
    let cancel = Arc::new(AtomicBool::new(false));
    stop_on_signal(&cancel)?;
    let plan = plan::run(args, cancel)?;
    let mut terminal = Terminal::new(args.verbose);
    // A trace on standard error is alone there, so that it is one JSON document.
    if args.quiet || args.trace().is_some_and(|t| t.output.is_none()) {
        terminal = terminal.quiet();
    }
    if args.json {
        terminal = terminal.json();
    }
    let outcome = run_on_terminal(&plan.config, &plan.options, terminal)?;
    if outcome.answer.finish == Finish::Cancelled {
        return Err(Error::new(Kind::Interrupted, "interrupted"));
    }
    Ok(())
}

/// The first Ctrl+C ends the answer after the token in the making, the second the process.
pub fn stop_on_signal(cancel: &Arc<AtomicBool>) -> Result<()> {
    let cancel = cancel.clone();
    //= F-CLI-019
    ctrlc::set_handler(move || {
        if cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        }
    })
    .map_err(|e| Error::new(Kind::Inference, format!("cannot watch for Ctrl+C: {e}")))
}

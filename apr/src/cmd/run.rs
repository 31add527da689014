//! `apr run`: one prompt, one answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    // The first Ctrl+C ends the answer after the token in the making.
    super::stop_on_signal(&cancel)?;
    let plan = plan::run(args, cancel)?;
    let mut terminal = Terminal::new(args.verbose);
    if args.quiet {
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

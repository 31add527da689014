//! `apr chat`: a conversation.

use std::io::IsTerminal;
use std::process::ExitCode;

use engine::term::Terminal;
use engine::{Result, chat};

use crate::args::ChatArgs;
use crate::{interrupt, plan};

/// Talks.
//= F-CLI-004
pub fn execute(args: &ChatArgs) -> Result<ExitCode> {
    // Somebody who types wants to stop an answer; a script wants to end.
    let cancel = if std::io::stdin().is_terminal() { interrupt::watch_answers() } else { interrupt::watch() };
    let plan = plan::chat(args, cancel?)?;
    let mut terminal = Terminal::new(args.verbose);
    if args.quiet {
        terminal = terminal.quiet();
    }
    chat::run(&plan.config, &plan.options, terminal)?;
    Ok(ExitCode::SUCCESS)
}

//! `apr pull`: a model onto this machine, as it is now.

use std::process::ExitCode;

use apr_cli::source;
use engine::{Result, term};

use crate::args::PullArgs;
use crate::interrupt;

/// Fetches it, and prints where it is: `apr run "$(apr pull -q NAME)"`.
pub fn execute(args: &PullArgs) -> Result<ExitCode> {
    // What arrived stays; the same command goes on from there.
    let _cancel = interrupt::watch()?;
    let path = source::pull(&args.model, args.from.as_deref(), &args.source.access(args.quiet))?;
    term::clear();
    term::print_line(&path.to_string_lossy())?;
    Ok(ExitCode::SUCCESS)
}

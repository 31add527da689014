//! `apr diff`: two models in step, and the first operation at which they part.

use std::process::ExitCode;

use apr_cli::source;
use engine::{Kind, Result, api, term};

use crate::args::DiffArgs;
use crate::interrupt;

/// Compares. Success is that they do not part.
pub fn execute(args: &DiffArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    let access = args.source.access(args.json);
    let (a, b) = (source::resolve(&args.first, &access)?, source::resolve(&args.second, &access)?);
    let comparison = term::busy("comparing", || api::diff(&a, &b, &args.options(), args.limit))?;
    term::twin::show(&comparison, args.json, args.verbose)?;
    Ok(match comparison.parted {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(Kind::Inference.exit_code()),
    })
}

//! `apr check`: ten stages of a model, measured.

use std::process::ExitCode;

use engine::{Kind, Result, api, term};

use crate::args::CheckArgs;
use crate::{interrupt, source};

/// Runs them. Success is all ten, on every backend that was asked for.
//= F-CLI-006
pub fn execute(args: &CheckArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    let model = source::resolve(&args.model)?;
    let results = api::check(&model, &args.options())?;
    term::check::show(&results, args.json, args.verbose)?;
    Ok(match results.iter().all(|r| r.all_passed()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Kind::Inference.exit_code()),
    })
}

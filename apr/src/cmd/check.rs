//! `apr check`: ten stages of a model, measured.

use std::process::ExitCode;

use apr_cli::source;
use engine::{Kind, Result, api, term};

use crate::args::CheckArgs;
use crate::interrupt;

/// Runs them. Success is all ten, on every backend that was asked for.
//= F-CLI-006
pub fn execute(args: &CheckArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    let model = source::resolve(&args.model, &args.source.access(args.json))?;
    let results = term::busy("checking", || api::check(&model, &args.options()))?;
    let beside = || term::busy("comparing with the oracle", || api::beside_the_oracle(&model, &args.options()));
    let deep = args.deep.then(beside).transpose()?;
    term::check::show(&results, deep.as_ref(), args.json, args.verbose)?;
    let parted = deep.is_some_and(|d| d.parted.is_some());
    Ok(match !parted && results.iter().all(|r| r.all_passed()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Kind::Inference.exit_code()),
    })
}

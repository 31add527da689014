//! `apr serve`: the model over HTTP.

use std::process::ExitCode;

use engine::{Result, serve, term};

use crate::args::ServeArgs;
use crate::{interrupt, panics, plan};

/// Serves until Ctrl+C.
//= F-CLI-005
pub fn execute(args: &ServeArgs) -> Result<ExitCode> {
    let (config, options) = plan::serve(args)?;
    panics::survive();
    interrupt::drain(options.shutdown.clone())?;
    serve::run(&config, &options, if args.quiet { term::serving_quietly } else { term::serving })?;
    Ok(ExitCode::SUCCESS)
}

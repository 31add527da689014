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
    let quiet = args.quiet;
    serve::run(&config, &options, move |notice| match notice {
        serve::Notice::Warning(_) => term::serving(notice),
        _ if quiet => Ok(()),
        _ => term::serving(notice),
    })?;
    Ok(ExitCode::SUCCESS)
}

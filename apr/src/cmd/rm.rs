//! `apr rm`: less on the disk.

use std::process::ExitCode;

use apr_cli::source;
use engine::{Kind, Result, term};

use crate::args::RmArgs;
use crate::interrupt;

/// Removes what was downloaded, and names of the registry.
pub fn execute(args: &RmArgs) -> Result<ExitCode> {
    let _cancel = interrupt::watch()?;
    for model in &args.models {
        let freed = source::remove(model).map_err(|e| match (e.kind, &e.hint) {
            (Kind::NotFound, None) => e.hint("apr list shows what is here"),
            _ => e,
        })?;
        let name = engine::error::quoted(&model.to_string_lossy());
        term::note(&format!("{name} is removed, {} are free", term::size(freed as f64)));
    }
    Ok(ExitCode::SUCCESS)
}

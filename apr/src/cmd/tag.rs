//! `apr tag`: a name for a model.

use std::process::ExitCode;

use apr_cli::source;
use apr_cli::source::cache::Home;
use apr_cli::source::name::Tagged;
use apr_cli::source::pacha::Registry;
use engine::{Result, term};

use crate::args::TagArgs;
use crate::interrupt;

/// Puts it into the registry.
pub fn execute(args: &TagArgs) -> Result<ExitCode> {
    let _cancel = interrupt::watch()?;
    let name = Tagged::registered(&args.name)?;
    let path = source::resolve(&args.model, &args.source.access(false))?;
    let registry = Registry::of(&Home::find()?);
    let model = term::busy("hashing", || registry.tag(&path, &args.model.to_string_lossy(), &name))?;
    let files = match model.files.len() {
        1 => "1 file".to_string(),
        n => format!("{n} files"),
    };
    term::note(&format!(
        "{name} is {files}, {}; every command that takes a model takes this name",
        term::size(model.bytes() as f64)
    ));
    Ok(ExitCode::SUCCESS)
}

//! `apr push`: a model of the registry for others.

use std::process::ExitCode;

use apr_cli::source::cache::Home;
use apr_cli::source::name::Tagged;
use apr_cli::source::pacha::{Registry, copy};
use engine::error::quoted;
use engine::{Error, Kind, Result, term};

use crate::args::PushArgs;
use crate::interrupt;

/// Copies it, every byte hashed.
pub fn execute(args: &PushArgs) -> Result<ExitCode> {
    let _cancel = interrupt::watch()?;
    let name = registered(&args.name)?;
    let model = copy(&Registry::of(&Home::find()?), &Registry::at(&args.folder), &name)?;
    let (size, folder) = (term::size(model.bytes() as f64), args.folder.to_string_lossy());
    term::note(&format!("pacha://{name}, {size}, is in {}", quoted(&folder)));
    Ok(ExitCode::SUCCESS)
}

/// A name of the registry, written with `pacha://` or without.
pub fn registered(text: &str) -> Result<Tagged> {
    Tagged::parse(text.strip_prefix("pacha://").unwrap_or(text)).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} cannot be the name of a model", quoted(text)))
            .hint("names and tags have letters, digits, -, _ and .: coder:v1")
    })
}

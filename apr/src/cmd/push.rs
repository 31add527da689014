//! `apr push`: a model of the registry for others.

use std::process::ExitCode;

use apr_cli::source::cache::Home;
use apr_cli::source::name::Tagged;
use apr_cli::source::pacha::{Registry, copy};
use engine::error::quoted;
use engine::{Result, term};

use crate::args::PushArgs;
use crate::interrupt;

/// Copies it, every byte hashed.
pub fn execute(args: &PushArgs) -> Result<ExitCode> {
    let _cancel = interrupt::watch()?;
    let name = Tagged::registered(&args.name)?;
    let (from, to) = (Registry::of(&Home::find()?), Registry::at(&args.folder));
    let model = term::busy("copying", || copy(&from, &to, &name))?;
    let (size, folder) = (term::size(model.bytes() as f64), args.folder.to_string_lossy());
    term::note(&format!("pacha://{name}, {size}, is in {}", quoted(&folder)));
    Ok(ExitCode::SUCCESS)
}

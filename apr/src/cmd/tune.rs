//! `apr tune`: finds out once how this machine runs a model fastest.

use std::process::ExitCode;
use std::sync::Arc;

use apr_cli::source::{self, cache};
use engine::session::Understood;
use engine::tune::{self, Kept};
use engine::{Error, Kind, Result, term};

use crate::args::TuneArgs;
use crate::interrupt;

/// Measures, unless it is known, and keeps what it found.
pub fn execute(args: &TuneArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    tune::possible()?;
    let path = Kept::path();
    let path =
        path.ok_or_else(|| Error::new(Kind::Usage, "no folder is known to keep it in").hint("name one by APR_HOME"))?;
    let model = source::resolve(&args.model, &args.source.access(args.json))?;
    let known = Arc::new(Understood::open(&model, None)?);
    // A file that is damaged is made anew where somebody asks for it.
    let mut kept = if args.again { Kept::read().unwrap_or_default() } else { Kept::read()? };
    let before = kept.find(&known).filter(|_| !args.again).cloned();
    let measured = before.is_none();
    let tuned = match before {
        Some(tuned) => tuned,
        None => {
            let tuned = tune::measure(known, |what| {
                if !args.json {
                    term::note(&format!("trying {what}"));
                }
            })?;
            kept.put(tuned.clone());
            cache::replace(&path, kept.text().as_bytes())?;
            tuned
        }
    };
    let object = args.json.then(|| tuned.object(measured));
    term::say(&tuned.text(measured, args.explain), object.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

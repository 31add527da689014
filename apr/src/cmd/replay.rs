//! `apr replay`: a recorded execution once more.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use apr_cli::source;
use engine::api::Silent;
use engine::{Error, Kind, Options, Result, limits, term, trace};
use serde_json::json;

use crate::args::ReplayArgs;
use crate::interrupt;

/// Runs it again and compares.
pub fn execute(args: &ReplayArgs) -> Result<ExitCode> {
    let cancel = interrupt::watch()?;
    let recorded = read(&args.trace)?;
    let options = Options { threads: args.threads, cancel, ..Options::default() };
    let model = args.model.as_ref().map(|m| source::resolve(m, &args.source.access(false))).transpose()?;
    let replay = term::busy("running it again", || trace::replay(&recorded, model.as_deref(), options, &mut Silent))?;
    if replay.other_model {
        term::warn("this is not the model that was recorded: its SHA-256 is another");
    }
    let parted = ExitCode::from(Kind::Inference.exit_code());
    match replay.difference {
        difference if args.json => {
            let code = if difference.is_none() { ExitCode::SUCCESS } else { parted };
            let object =
                json!({"same_events": replay.same, "difference": difference, "other_model": replay.other_model});
            term::say("", Some(&object))?;
            Ok(code)
        }
        None => {
            term::print_line(&format!("{} events, every one the same", replay.same))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(what) => Err(Error::new(Kind::Inference, format!("{} events are the same; {what}", replay.same))),
    }
}

fn read(path: &Path) -> Result<serde_json::Value> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|e| Error::from_io(&e, path))?;
    let read = file.take(limits::TRACE_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|e| Error::from_io(&e, path))?;
    serde_json::from_slice(&text).map_err(|e| Error::malformed(format!("not a trace: {e}")).in_file(path))
}

//! One file per command.

mod convert;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Error, Kind, Result};

use crate::args::{Args, Command};

/// Does what was asked.
pub fn dispatch(args: Args) -> Result<()> {
    match args.command {
        Command::Run(args) => run::execute(&args),
        Command::Convert(args) => convert::execute(&args),
    }
}

/// The first Ctrl+C sets `cancel`, the second ends the process.
fn stop_on_signal(cancel: &Arc<AtomicBool>) -> Result<()> {
    let cancel = cancel.clone();
    //= F-CLI-019
    ctrlc::set_handler(move || {
        if cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        }
    })
    .map_err(|e| Error::new(Kind::Inference, format!("cannot watch for Ctrl+C: {e}")))
}

//! Ctrl+C. The first ends the answer after the token in the making, and in any case the process a moment later: loading
//! a model or reading a long prompt is not worth waiting for. The second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use engine::serve::Shutdown;
use engine::{Error, Kind, Result, heap, term, trace};

use crate::args;

/// How long an interrupted answer may take to end by itself.
const PATIENCE: Duration = Duration::from_millis(300);

/// Watches for Ctrl+C from now on. What it returns is set by the first one.
//= F-CLI-019
pub fn watch() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let set = cancel.clone();
    ctrlc::set_handler(move || {
        // The handler must be free for the second one, so a thread of its own does the waiting.
        let first = !set.swap(true, Ordering::Relaxed);
        if !first || thread::Builder::new().spawn(end_soon).is_err() {
            exit();
        }
    })
    .map_err(unwatched)?;
    Ok(cancel)
}

/// Watches for Ctrl+C and the system's wish that the process end. The first lets running requests end, the second does
/// not wait for them.
pub fn drain(shutdown: Shutdown) -> Result<()> {
    let pressed = AtomicBool::new(false);
    ctrlc::set_handler(move || match pressed.swap(true, Ordering::Relaxed) {
        false => shutdown.begin(),
        true => exit(),
    })
    .map_err(unwatched)
}

/// Watches for Ctrl+C that stops an answer and nothing else. One that is not heeded, because the answer does not stop, is
/// followed by one that ends the process. Before the first answer there is nothing to stop: one is enough.
pub fn watch_answers() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(true));
    let set = cancel.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            term::clear();
            exit();
        }
    })
    .map_err(unwatched)?;
    Ok(cancel)
}

fn unwatched(e: ctrlc::Error) -> Error {
    match e {
        // Its thread was not to be had.
        ctrlc::Error::System(e) => heap::no_thread(&e).into(),
        e => Error::new(Kind::Internal, format!("cannot watch for Ctrl+C: {e}")),
    }
}

fn end_soon() {
    term::clear();
    thread::sleep(PATIENCE);
    term::fail(&Error::new(Kind::Interrupted, "interrupted"), args::json_typed());
    exit();
}

fn exit() {
    trace::abandon();
    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
}

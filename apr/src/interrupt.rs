//! Ctrl+C, and the system's wish that the process end. The first ends the answer after the token in the making, and in any case the process a moment later: loading
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
    listen(move || {
        // The handler must be free for the second one, so a thread of its own does the waiting.
        let first = !set.swap(true, Ordering::Relaxed);
        if !first || thread::Builder::new().spawn(end_soon).is_err() {
            exit();
        }
    })?;
    Ok(cancel)
}

/// Watches for Ctrl+C and the system's wish that the process end. The first lets running requests end, the second does
/// not wait for them.
pub fn drain(shutdown: Shutdown) -> Result<()> {
    let pressed = AtomicBool::new(false);
    listen(move || match pressed.swap(true, Ordering::Relaxed) {
        false => shutdown.begin(),
        true => exit(),
    })
}

/// Watches for Ctrl+C that stops an answer and nothing else. One that is not heeded, because the answer does not stop, is
/// followed by one that ends the process. Before the first answer there is nothing to stop: one is enough.
pub fn watch_answers() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(true));
    let set = cancel.clone();
    let restore = terminal_as_it_is();
    listen(move || {
        if set.swap(true, Ordering::Relaxed) || kind() == Kind::Terminated {
            term::clear();
            restore();
            exit();
        }
    })?;
    Ok(cancel)
}

/// Puts the terminal back to how it is now: whoever edits a line has changed it.
#[cfg(unix)]
fn terminal_as_it_is() -> impl Fn() + Send + 'static {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(std::io::stdin()).ok();
    move || {
        let _ = before.as_ref().map(|before| tcsetattr(std::io::stdin(), OptionalActions::Now, before));
    }
}

#[cfg(not(unix))]
fn terminal_as_it_is() -> impl Fn() + Send + 'static {
    || {}
}

/// Whether it was not Ctrl+C.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// What ended the process, if anything did.
pub fn kind() -> Kind {
    if TERMINATED.load(Ordering::Relaxed) { Kind::Terminated } else { Kind::Interrupted }
}

/// An interruption by its right name.
pub fn named(error: Error) -> Error {
    if error.kind == Kind::Interrupted { Error { kind: kind(), ..error } } else { error }
}

/// Calls this for every signal from now on. They are kept from all threads and waited for by one, which learns which it
/// was; so this comes before other threads do.
#[cfg(unix)]
fn listen(mut called: impl FnMut() + Send + 'static) -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    if !hangs_on() {
        signals.add(Signal::SIGHUP);
    }
    let unwatched = |e| Error::new(Kind::Internal, format!("cannot watch for Ctrl+C: {e}"));
    signals.thread_block().map_err(unwatched)?;
    let waiting = move || {
        while let Ok(signal) = signals.wait() {
            if signal != Signal::SIGINT {
                TERMINATED.store(true, Ordering::Relaxed);
            }
            called();
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(waiting);
    thread.map(drop).map_err(|e| heap::no_thread(&e).into())
}

/// Whether the process was started to outlive its terminal (`nohup`).
#[cfg(unix)]
fn hangs_on() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Calls this for every Ctrl+C from now on.
#[cfg(not(unix))]
fn listen(called: impl FnMut() + Send + 'static) -> Result<()> {
    ctrlc::set_handler(called).map_err(|e| match e {
        // Its thread was not to be had.
        ctrlc::Error::System(e) => heap::no_thread(&e).into(),
        e => Error::new(Kind::Internal, format!("cannot watch for Ctrl+C: {e}")),
    })
}

fn end_soon() {
    term::clear();
    thread::sleep(PATIENCE);
    term::fail(&Error::new(kind(), "interrupted"), args::json_typed());
    exit();
}

fn exit() {
    trace::abandon();
    std::process::exit(i32::from(kind().exit_code()));
}

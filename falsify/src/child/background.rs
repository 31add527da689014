//! A child that goes on while a check does other things: a server. It is killed when it is dropped.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Collector, Exit, Run, exit_of, kill_group, peak_rss};
use crate::verdict::{Halt, instrument};

/// A running child.
pub struct Background {
    child: std::process::Child,
    err: Option<Collector>,
    _out: Option<Collector>,
    /// A shell command that starts the same.
    pub repro: String,
}

impl Run {
    /// Starts it and leaves it running.
    pub fn start(mut self) -> Result<Background, Halt> {
        let repro = self.shown.join(" ");
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        let begun = Instant::now();
        let mut child = self.command.spawn().map_err(|e| instrument(format!("cannot start {repro}: {e}")))?;
        let out = child.stdout.take().map(|s| Collector::start(s, begun, None));
        let err = child.stderr.take().map(|s| Collector::start(s, begun, None));
        Ok(Background { child, err, _out: out, repro })
    }
}

impl Background {
    /// What arrived on standard error so far.
    pub fn err(&self) -> String {
        let kept = self.err.as_ref().and_then(|c| c.bytes.lock().ok());
        kept.map_or_else(String::new, |kept| String::from_utf8_lossy(&kept.0).into_owned())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Exit> {
        self.child.try_wait().ok().flatten().map(exit_of)
    }

    /// How it ended within this time.
    pub fn ends_within(&mut self, most: Duration) -> Option<Exit> {
        let until = Instant::now() + most;
        loop {
            match self.ended() {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                ended => return ended,
            }
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The largest resident memory so far.
    pub fn peak_rss(&self) -> Option<u64> {
        peak_rss(self.child.id())
    }

    /// Sends a signal to its process group, as a terminal does.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        kill_group(&mut self.child);
        let _ = self.child.wait();
    }
}

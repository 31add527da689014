//! A spinner on standard error, for people who wait at a terminal.
//!
//! A process has one terminal, so the spinner is the process's: Ctrl+C and panics have to take it away too. It keeps to
//! the beginning of its line, so that the `^C` that a terminal shows of the key goes away with it, and the cursor stays
//! visible throughout.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use crate::knobs;

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_TIME: Duration = Duration::from_millis(80);
const STYLE: Style = AnsiColor::Cyan.on_default();
/// Work that takes less says nothing of itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Back to the beginning of the line, and away with what stands on it.
const ERASE: &str = "\r\x1b[2K";

static SHOWN: Mutex<Shown> = Mutex::new(Shown { message: None, from: None, turn: 0, frame: 0 });

struct Shown {
    message: Option<Cow<'static, str>>,
    /// Before this there is nothing to see.
    from: Option<Instant>,
    /// Which showing this is: the thread of an earlier one must not go on with a later one.
    turn: u64,
    frame: usize,
}

impl Shown {
    /// The next frame in the place of the last one.
    //= F-INT-283
    fn draw(&mut self) {
        if !self.is_visible() {
            return;
        }
        let Some(message) = &self.message else { return };
        let frame = FRAMES[self.frame % FRAMES.len()];
        self.frame += 1;
        let mut out = std::io::stderr().lock();
        // Whoever closed standard error sees no spinner.
        let _ = match AutoStream::choice(&out) == ColorChoice::Never {
            true => write!(out, "{ERASE}{frame} {message}"),
            false => write!(out, "{ERASE}{STYLE}{frame}{STYLE:#} {message}"),
        };
        let _ = out.flush();
    }

    fn is_visible(&self) -> bool {
        self.message.is_some() && self.from.is_none_or(|from| Instant::now() >= from)
    }

    fn erase(&self) {
        if self.is_visible() {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "{ERASE}").and_then(|()| out.flush());
        }
    }
}

fn shown() -> MutexGuard<'static, Shown> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows a spinner with these words, if standard error is a terminal that can take a line back.
pub(super) fn show(message: impl Into<Cow<'static, str>>) {
    show_after(message, Duration::ZERO);
}

/// The same once so much time has passed, if nobody has taken it away by then.
pub(super) fn show_after(message: impl Into<Cow<'static, str>>, delay: Duration) {
    let dumb = knobs::read(&knobs::TERM).map_or(!cfg!(windows), |term| term == "dumb");
    if dumb || !std::io::stderr().is_terminal() {
        return;
    }
    let mut s = shown();
    s.message = Some(message.into());
    s.from = (!delay.is_zero()).then(|| Instant::now() + delay);
    s.turn += 1;
    //= F-UX-035
    s.draw();
    let turn = s.turn;
    let turning = move || {
        thread::sleep(delay);
        loop {
            thread::sleep(FRAME_TIME);
            let mut s = shown();
            if s.turn != turn || s.message.is_none() {
                break;
            }
            s.draw();
        }
    };
    // A spinner that cannot turn stands still.
    let _ = thread::Builder::new().name("spinner".into()).spawn(turning);
}

/// Other words for the spinner, if it is there.
pub(super) fn say(message: impl Into<Cow<'static, str>>) {
    let mut s = shown();
    if s.message.is_some() {
        s.message = Some(message.into());
    }
}

/// Prints in the place of the spinner, which moves on below.
pub(super) fn above(print: impl FnOnce()) {
    let mut s = shown();
    s.erase();
    print();
    s.draw();
}

/// Takes the spinner away: the terminal is as it was.
pub fn clear() {
    //= F-UX-022
    let mut s = shown();
    s.erase();
    s.message = None;
}

/// Does work that has nothing to show of itself. Who waits for it at a terminal is told so after a second.
//= F-UX-038
pub fn busy<T>(words: &'static str, work: impl FnOnce() -> T) -> T {
    show_after(words, PATIENCE);
    let done = work();
    clear();
    done
}

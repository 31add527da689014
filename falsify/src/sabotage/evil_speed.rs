//! Saboteurs that take their time: the real `apr`, slower by a known factor. For claims about speed.
//!
//! The clock that a check reads is its own, and so is the one that `apr` reads for its statistics: the real process is
//! made to stand still for a part of the time, so that nothing has to be retold. A server only answers later, or its
//! start would take as many times as long too.

use std::thread;
use std::time::Duration;

use super::Saboteur;
use super::evil_apr::{Real, code_of, evil};
use super::evil_server;

/// Every misbehaviour of speed.
pub static ALL: &[Saboteur] = &[
    evil("slow-twice", "stands still half of the time", |r| slowed(r, 2)),
    evil("slow-tenfold", "stands still nine tenths of the time", |r| slowed(r, 10)),
    evil("slow-thirtyfold", "stands still all but a thirtieth of the time", |r| slowed(r, 30)),
];

/// How long it runs at a time: much longer than the work that a GPU still has when its process is stopped.
const RUNS: Duration = Duration::from_millis(20);

/// Runs it, and makes it stand still for so long that it takes so many times as long.
pub(super) fn slowed(real: Real, times: u32) -> u8 {
    if real.has(&["serve"]) {
        return evil_server::later(real, times);
    }
    let Ok(mut child) = real.command().spawn() else { return 99 };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return code_of(status),
            Ok(None) => still(child.id(), RUNS * (times - 1)),
            Err(_) => return 99,
        }
        thread::sleep(RUNS);
    }
}

/// Stops a process for a while.
#[cfg(unix)]
fn still(process: u32, time: Duration) {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return };
    let _ = kill_process(pid, Signal::STOP);
    thread::sleep(time);
    let _ = kill_process(pid, Signal::CONT);
}

/// Stops a process for a while.
#[cfg(not(unix))]
fn still(_: u32, _: Duration) {}

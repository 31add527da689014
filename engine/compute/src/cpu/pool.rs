//! The thread pool: every worker runs the same closure, which shares work out as it goes (see [`super::share`]).
//!
//! Nobody is waited for who has not begun: a helper whose processor was taken away joins late or not at all, and the
//! others do its part. The calling thread is worker 0. Helpers look for work for a while and then park.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::heap;

/// Looks at a flag before the processor is given away: about 20 microseconds.
const SPINS: u32 = 4000;
/// How long an idle worker looks for work before it parks.
const IDLE: Duration = Duration::from_micros(200);

type Task<'a> = dyn Fn(Worker) + Sync + 'a;

/// A fixed number of threads that run closures together.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Points to the caller's `&Task` while the gate is open.
    task: AtomicPtr<&'static Task<'static>>,
    /// Goes up by one with each run.
    epoch: AtomicUsize,
    /// Bit 0: a run is on and may be joined. Above it: how many helpers are inside.
    gate: AtomicUsize,
    stop: AtomicBool,
}

const OPEN: usize = 1;
const INSIDE: usize = 2;

/// Who a closure runs as.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// From 0; 0 is the thread that called [`Pool::run`].
    pub index: usize,
    /// Workers in all.
    pub count: usize,
}

/// Looks until `done` says so, doing `meanwhile` between looks; after a while the processor is given away.
#[inline]
pub fn wait(done: impl Fn() -> bool, mut meanwhile: impl FnMut()) {
    let mut spins = 0;
    while !done() {
        spins += 1;
        if spins < SPINS {
            meanwhile();
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

impl Pool {
    /// `count` workers, of which `count - 1` are new threads.
    pub fn new(count: usize) -> Result<Pool> {
        let count = count.max(1);
        let shared = Arc::new(Shared {
            task: AtomicPtr::new(std::ptr::null_mut()),
            epoch: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for index in 1..count {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("apr-{index}"))
                .spawn(move || helper(&shared, Worker { index, count }))
                .map_err(|e| heap::no_thread(&e))?;
            threads.push(thread);
        }
        Ok(Pool { shared, threads })
    }

    /// Workers.
    pub fn count(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `task` on the calling thread and on every helper that comes in time, and returns when all of these are
    /// out again. So the task must be done when worker 0 has run it, whoever else did. A panic in any of them ends the
    /// process: the others may be waiting for what it was doing.
    pub fn run(&mut self, task: &Task<'_>) {
        let caller = Worker { index: 0, count: self.count() };
        if self.threads.is_empty() {
            return task(caller);
        }
        let mut task_ref: &Task<'_> = task;
        let pointer: *mut &Task<'_> = &raw mut task_ref;
        // The lifetimes are erased here; `run` does not return before the gate is shut and nobody is inside.
        self.shared.task.store(pointer.cast(), Ordering::Relaxed);
        self.shared.gate.fetch_or(OPEN, Ordering::Release);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for t in &self.threads {
            t.thread().unpark();
        }
        or_abort(|| task(caller));
        self.shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        wait(|| self.shared.gate.load(Ordering::Acquire) == 0, || ());
        self.shared.task.store(std::ptr::null_mut(), Ordering::Relaxed);
    }
}

fn or_abort(f: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(f)).is_err() {
        std::process::abort();
    }
}

fn helper(shared: &Shared, worker: Worker) {
    let mut seen = 0;
    loop {
        let mut idle_since = Instant::now();
        let mut spins = 0u32;
        while shared.epoch.load(Ordering::Acquire) == seen {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins.is_multiple_of(256) && idle_since.elapsed() > IDLE {
                // A wake-up that comes before the park makes it return at once, so none is lost.
                std::thread::park();
                idle_since = Instant::now();
            }
            std::hint::spin_loop();
        }
        if shared.gate.fetch_add(INSIDE, Ordering::Acquire) & OPEN != 0 {
            // Inside an open gate no new run can begin, so this is the epoch of the task that is about to be run.
            seen = shared.epoch.load(Ordering::Acquire);
            let task = shared.task.load(Ordering::Relaxed);
            // SAFETY: the gate was opened after the pointer was stored, and `run` keeps what it points to alive until
            // everyone inside is out.
            or_abort(|| unsafe { (*task)(worker) });
        } else {
            // Too late for that run. One that begins from here on raises the epoch again.
            seen = seen.wrapping_add(1);
        }
        shared.gate.fetch_sub(INSIDE, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            t.thread().unpark();
            // A helper cannot have panicked: that aborts.
            let _ = t.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever joins, the task has been run by worker 0 when `run` returns, and by nobody afterwards.
    #[test]
    fn nobody_is_inside_after_a_run() {
        for count in [1, 2, 3, 7] {
            let mut pool = Pool::new(count).unwrap();
            for turn in 0..300 {
                let (inside, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
                pool.run(&|worker| {
                    assert_eq!(worker.count, count);
                    inside.fetch_add(1, Ordering::SeqCst);
                    runs.fetch_add(usize::from(worker.index == 0), Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                assert_eq!((inside.into_inner(), runs.into_inner()), (0, 1));
                if turn % 100 == 0 {
                    std::thread::sleep(IDLE * 2);
                }
            }
        }
    }

    /// A run in which worker 0 does nothing ends although every helper is asleep.
    #[test]
    fn a_run_waits_for_nobody_who_has_not_begun() {
        let mut pool = Pool::new(2).unwrap();
        std::thread::sleep(IDLE * 5);
        pool.run(&|_| ());
    }
}

//! The thread pool: every worker runs the same closure; barriers stand inside it.
//!
//! A token of a small model has some two hundred barriers, so workers spin for a while before they give the processor
//! away, and park when there has been nothing to do for longer. The calling thread is worker 0.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Spins at a barrier before yielding: about 20 microseconds.
const SPINS: u32 = 4000;
/// How long an idle worker looks for work before it parks.
const IDLE: Duration = Duration::from_micros(200);

type Task<'a> = dyn Fn(&Worker<'_>) + Sync + 'a;

/// A fixed number of threads that run closures together.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    count: usize,
    /// Points to the caller's `&Task` while a run is on, else null.
    task: AtomicPtr<&'static Task<'static>>,
    /// Goes up by one with each run.
    epoch: AtomicUsize,
    /// Helpers that have not finished the current run.
    busy: AtomicUsize,
    stop: AtomicBool,
    barrier: Barrier,
}

/// Who a closure runs as.
pub struct Worker<'a> {
    /// From 0; 0 is the thread that called [`Pool::run`].
    pub index: usize,
    /// Workers in all.
    pub count: usize,
    barrier: &'a Barrier,
}

impl Worker<'_> {
    /// Waits for all workers. What any wrote before is seen by all after.
    pub fn barrier(&self) {
        if self.count > 1 {
            self.barrier.wait(self.count);
        }
    }

    /// This worker's share of `n` items: contiguous, in order, sizes differing by at most one.
    pub fn share(&self, n: usize) -> std::ops::Range<usize> {
        n * self.index / self.count..n * (self.index + 1) / self.count
    }
}

#[derive(Default)]
struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicUsize,
}

impl Barrier {
    fn wait(&self, count: usize) {
        let generation = self.generation.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Pool {
    /// `count` workers, of which `count - 1` are new threads.
    pub fn new(count: usize) -> Result<Pool> {
        let count = count.max(1);
        let shared = Arc::new(Shared {
            count,
            task: AtomicPtr::new(std::ptr::null_mut()),
            epoch: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            barrier: Barrier::default(),
        });
        let mut threads = Vec::new();
        for index in 1..count {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("apr-{index}"))
                .spawn(move || helper(&shared, index))
                .map_err(|e| Error::Io(format!("cannot start thread {index} of {count}: {e}")))?;
            threads.push(thread);
        }
        Ok(Pool { shared, threads })
    }

    /// Workers.
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Runs `task` once on every worker and returns when all have finished. A panic in any of them ends the process:
    /// the others may be waiting at a barrier for it.
    pub fn run(&mut self, task: &Task<'_>) {
        let worker = |index| Worker { index, count: self.shared.count, barrier: &self.shared.barrier };
        if self.threads.is_empty() {
            return task(&worker(0));
        }
        let mut task_ref: &Task<'_> = task;
        let pointer: *mut &Task<'_> = &raw mut task_ref;
        self.shared.busy.store(self.threads.len(), Ordering::Relaxed);
        // The lifetimes are erased here; `run` does not return before every helper is done with the pointer.
        self.shared.task.store(pointer.cast(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for t in &self.threads {
            unpark(t.thread());
        }
        or_abort(|| task(&worker(0)));
        let mut spins = 0;
        while self.shared.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        self.shared.task.store(std::ptr::null_mut(), Ordering::Relaxed);
    }
}

fn unpark(thread: &Thread) {
    thread.unpark();
}

fn or_abort(f: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(f)).is_err() {
        std::process::abort();
    }
}

fn helper(shared: &Shared, index: usize) {
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
        seen = seen.wrapping_add(1);
        let worker = Worker { index, count: shared.count, barrier: &shared.barrier };
        let task = shared.task.load(Ordering::Relaxed);
        // SAFETY: the epoch was raised after the pointer was stored, and `run` keeps what it points to alive until
        // `busy` is 0, which this thread lowers only when it is done.
        or_abort(|| unsafe { (*task)(&worker) });
        shared.busy.fetch_sub(1, Ordering::Release);
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

    #[test]
    fn every_worker_runs_and_barriers_order_them() {
        for count in [1, 2, 3, 7] {
            let mut pool = Pool::new(count).unwrap();
            for _ in 0..200 {
                let slots: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let wrong = AtomicUsize::new(0);
                pool.run(&|w| {
                    slots[w.index].fetch_add(1, Ordering::Relaxed);
                    w.barrier();
                    let sum: usize = slots.iter().map(|s| s.load(Ordering::Relaxed)).sum();
                    if sum != count {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert_eq!(wrong.load(Ordering::Relaxed), 0);
            }
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let barrier = Barrier::default();
        for count in 1..9 {
            for n in 0..30 {
                let all: Vec<usize> =
                    (0..count).flat_map(|index| Worker { index, count, barrier: &barrier }.share(n)).collect();
                assert_eq!(all, (0..n).collect::<Vec<_>>());
            }
        }
    }
}

//! How the units of a phase are shared out: each worker takes from its own part first, front to back, and then from
//! what others have left. Nothing waits for a worker that has taken nothing.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::{Worker, wait};

/// Grains that each worker's part is taken in: so many that one who is held up does not hold up all, so few that
/// taking costs nothing.
const GRAINS: usize = 16;

/// The units of one phase.
pub(super) struct Share {
    units: usize,
    /// Units taken at a time.
    grain: usize,
    /// By worker: units of its part that are taken. May run past the end.
    taken: Vec<AtomicUsize>,
    /// Units that are finished.
    done: AtomicUsize,
}

impl Share {
    /// Nothing to do, for so many workers.
    pub fn new(workers: usize) -> Share {
        let taken = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        Share { units: 0, grain: 1, taken, done: AtomicUsize::new(0) }
    }

    /// `units` to do, none taken.
    pub fn reset(&mut self, units: usize) {
        self.units = units;
        self.grain = (units / (self.taken.len() * GRAINS)).max(1);
        self.taken.iter_mut().for_each(|t| *t.get_mut() = 0);
        *self.done.get_mut() = 0;
    }

    /// The units of a worker's part.
    pub fn part(&self, index: usize) -> Range<usize> {
        let count = self.taken.len();
        self.units * index / count..self.units * (index + 1) / count
    }

    /// Takes units and does them until none is left, then waits for those that others took, doing `meanwhile`
    /// between looks. What any worker wrote in a unit is seen by all after this.
    pub fn run(&self, worker: Worker, mut unit: impl FnMut(Range<usize>), meanwhile: impl FnMut()) {
        for turn in 0..worker.count {
            let index = (worker.index + turn) % worker.count;
            let (part, taken) = (self.part(index), &self.taken[index]);
            while taken.load(Ordering::Relaxed) < part.len() {
                let start = part.start + taken.fetch_add(self.grain, Ordering::Relaxed);
                if start >= part.end {
                    break;
                }
                let range = start..(start + self.grain).min(part.end);
                let count = range.len();
                unit(range);
                // Acquire too: the last of these carries what all before it wrote.
                self.done.fetch_add(count, Ordering::AcqRel);
            }
        }
        wait(|| self.done.load(Ordering::Acquire) == self.units, meanwhile);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::Pool;

    /// Several phases in one run: every unit is done once, and all of a phase before any of the next.
    #[test]
    fn every_unit_is_done_once_and_phases_are_ordered() {
        for workers in [1, 2, 3, 7] {
            let mut pool = Pool::new(workers).unwrap();
            for units in [0, 1, 2, 5, 64, 1000] {
                let mut shares: Vec<Share> = (0..5).map(|_| Share::new(workers)).collect();
                shares.iter_mut().for_each(|s| s.reset(units));
                let hits: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
                let wrong = AtomicUsize::new(0);
                pool.run(&|worker| {
                    for (phase, share) in shares.iter().enumerate() {
                        let unit = |range: Range<usize>| {
                            for i in range {
                                // The mirror unit, which another worker may have had in the phase before.
                                if hits[units - 1 - i].load(Ordering::Relaxed) < phase {
                                    wrong.fetch_add(1, Ordering::Relaxed);
                                }
                                hits[i].fetch_add(1, Ordering::Relaxed);
                            }
                        };
                        share.run(worker, unit, || ());
                    }
                });
                assert_eq!(wrong.load(Ordering::Relaxed), 0);
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 5), "{workers} workers, {units} units");
            }
        }
    }

    #[test]
    fn parts_cover_everything_once() {
        for workers in 1..9 {
            for units in 0..30 {
                let mut share = Share::new(workers);
                share.reset(units);
                let all: Vec<usize> = (0..workers).flat_map(|w| share.part(w)).collect();
                assert_eq!(all, (0..units).collect::<Vec<_>>());
            }
        }
    }
}

//! What this machine can do at most: bytes a second from memory, and 8-bit operations a second. No model gets beyond.

use std::hint::black_box;
use std::time::{Duration, Instant};

use compute::cpu::Cpu;
use compute::cpu::simd::peak;
use compute::map::HugeBuffer;
use serde_json::{Value, json};

use crate::api;
use crate::doctor;
use crate::error::Result;

/// Bytes that are read: no cache holds them.
const READ: usize = 256 << 20;
/// Times in a pass: a pass has to be long beside the time in which a system finds a core for each thread.
const AGAIN: usize = 8;
/// Dot products of vectors, in millions.
const MILLIONS: usize = 400;
/// How often; the best counts.
const PASSES: usize = 4;

/// What was measured with some number of threads.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// How many.
    pub threads: usize,
    /// Bytes a second from small pages.
    pub small_pages: f64,
    /// And from huge ones, where weights are.
    pub huge_pages: f64,
    /// Multiplications and additions of 8-bit integers a second.
    pub operations: f64,
}

/// Measures with one thread, and with as many as are asked for.
pub fn run(threads: Option<usize>) -> Result<(Cpu, Vec<Peak>)> {
    let cpu = api::backend(threads)?;
    let mut counts = vec![1, cpu.threads];
    counts.dedup();
    let peak = |threads| {
        let mut small = vec![0u8; READ];
        small.fill(1);
        let small_pages = bandwidth(&small, threads);
        Peak { threads, small_pages, huge_pages: huge_bandwidth(threads), operations: operations(cpu, threads) }
    };
    Ok((cpu, counts.into_iter().map(peak).collect()))
}

/// Bytes a second that so many threads read from huge pages; not a number where there is no memory for that.
pub(super) fn huge_bandwidth(threads: usize) -> f64 {
    let Ok(mut buffer) = HugeBuffer::new(READ, "a buffer to read") else { return f64::NAN };
    buffer.fill(1); // pages that were never written are all the same one
    bandwidth(&buffer, threads)
}

/// Bytes a second that so many threads read.
fn bandwidth(buffer: &[u8], threads: usize) -> f64 {
    let part = buffer.len() / 8 / threads.max(1) * 8;
    let parts: Vec<&[u8]> = buffer.chunks(part).take(threads).collect();
    let all = |i: usize| (0..AGAIN).for_each(|_| _ = black_box(peak::read(parts[i])));
    let read = || together(threads, all).as_secs_f64();
    (0..PASSES).map(|_| (AGAIN * part * threads) as f64 / read()).fold(0.0, f64::max)
}

/// Operations a second of so many threads.
fn operations(cpu: Cpu, threads: usize) -> f64 {
    let turn = || together(threads, |_| _ = peak::dots(cpu.isa, MILLIONS)).as_secs_f64();
    let done = peak::dots(cpu.isa, MILLIONS) as f64 * threads as f64;
    (0..PASSES).map(|_| done / turn()).fold(0.0, f64::max)
}

/// The time of so many threads that do the same at once; one that cannot be had is done by the caller.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let (start, work) = (Instant::now(), &work);
    std::thread::scope(|scope| {
        for i in 1..threads {
            if std::thread::Builder::new().spawn_scoped(scope, move || work(i)).is_err() {
                work(i);
            }
        }
        work(0);
    });
    start.elapsed()
}

/// For `--json`.
pub fn object(cpu: Cpu, peaks: &[Peak]) -> Value {
    let one = |p: &Peak| {
        json!({
            "threads": p.threads, "small_page_bytes_per_second": p.small_pages,
            "huge_page_bytes_per_second": p.huge_pages.is_finite().then_some(p.huge_pages),
            "int8_operations_per_second": p.operations,
        })
    };
    let peaks: Vec<Value> = peaks.iter().map(one).collect();
    json!({"processor": doctor::processor_name(), "isa": cpu.isa.name(), "peaks": peaks})
}

/// For people.
pub fn text(cpu: Cpu, peaks: &[Peak]) -> String {
    let mut text = format!("{}, {}\n", doctor::processor_name(), cpu.isa.name());
    for p in peaks {
        text += &format!(
            "{:>3} thread{} reads {:.1} GB/s from small pages, {:.1} GB/s from huge ones, and does {:.0} billion 8-bit operations a second\n",
            p.threads,
            if p.threads == 1 { " " } else { "s" },
            p.small_pages / 1e9,
            p.huge_pages / 1e9,
            p.operations / 1e9
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everybody_works_and_every_byte_is_read() {
        let done = AtomicUsize::new(0);
        together(5, |i| _ = done.fetch_add(i + 1, Ordering::Relaxed));
        assert_eq!(done.into_inner(), 1 + 2 + 3 + 4 + 5);
        assert!(bandwidth(&vec![1; 1 << 20], 3) > 0.0);
    }
}

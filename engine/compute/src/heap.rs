//! The heap of a program that says when there is no memory left, instead of aborting.
//!
//! Rust aborts where memory cannot be had. A program that makes [`Heap`] its allocator and names what to do with
//! [`on_shortage`] ends in its own way: with a message and an exit code. Large buffers are asked for with [`fallible`],
//! whose failure is an error that its caller can still handle.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The system's allocator, with a word before the end.
pub struct Heap;

/// What to do when so many bytes cannot be had. It does not come back, and finds [`RESERVE`] bytes free.
pub type Shortage = fn(usize) -> !;

static SHORTAGE: OnceLock<(Shortage, i32)> = OnceLock::new();

/// Kept for the message: bytes that are given back when there are no others.
const RESERVE: Layout = Layout::new::<[u128; 4096]>();
static RESERVED: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread handles a failure itself.
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is the one that ends the program.
    static ENDING_HERE: Cell<bool> = const { Cell::new(false) };
}

/// From now on this is done when memory cannot be had, and where even that lacks memory, the program ends with `code`.
/// Does something only in a program whose allocator is [`Heap`].
pub fn on_shortage(end: Shortage, code: i32) {
    if SHORTAGE.set((end, code)).is_ok() {
        // SAFETY: the layout is not of size zero. A null pointer is as good as no reserve.
        RESERVED.store(unsafe { System.alloc(RESERVE) }, Ordering::Release);
    }
}

/// Runs an attempt to get memory whose failure comes back to the caller.
pub fn fallible<T>(attempt: impl FnOnce() -> T) -> T {
    let before = FALLIBLE.replace(true);
    let got = attempt();
    FALLIBLE.set(before);
    got
}

//= F-CPU-107
/// Ends the program, if it said how and the caller does not handle it.
#[cold]
fn short(bytes: usize) {
    let Some((end, code)) = SHORTAGE.get().filter(|_| !FALLIBLE.get()) else { return };
    if !ENDING.swap(true, Ordering::AcqRel) {
        ENDING_HERE.set(true);
        let reserved = RESERVED.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !reserved.is_null() {
            // SAFETY: allocated by `System` with this layout, and taken out so that nobody frees it again.
            unsafe { System.dealloc(reserved, RESERVE) };
        }
        end(bytes);
    }
    if ENDING_HERE.get() {
        std::process::exit(*code);
    }
    loop {
        // The thread with the message ends the process.
        std::thread::park();
    }
}

// SAFETY: every call is passed on to `System` unchanged; `short` neither unwinds nor touches what is returned.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let p = unsafe { System.alloc(layout) };
        if p.is_null() {
            short(layout.size());
        }
        p
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let p = unsafe { System.alloc_zeroed(layout) };
        if p.is_null() {
            short(layout.size());
        }
        p
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let p = unsafe { System.realloc(old, layout, size) };
        if p.is_null() {
            short(size);
        }
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

/// What a thread needs before it does anything: the standard library's own figure.
pub const STACK_BYTES: usize = 2 << 20;

/// A thread that the system did not give, as the shortage that it is.
pub fn no_thread(e: &std::io::Error) -> crate::Error {
    use std::io::ErrorKind::{OutOfMemory, WouldBlock};
    match e.kind() {
        // EAGAIN is also what a limit on the number of threads says.
        WouldBlock | OutOfMemory => crate::Error::OutOfMemory { bytes: STACK_BYTES, what: "the stack of a thread" },
        _ => crate::Error::Io(format!("cannot start a thread: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn without_a_word_what_to_do_failure_is_the_callers() {
        let wish = Layout::from_size_align(usize::MAX / 4, 16).unwrap();
        // An allocation that nobody sees may be left out by the compiler, and then it never fails.
        // SAFETY: the layout is not of size zero, and null is not freed.
        let (a, b) = unsafe { (black_box(Heap.alloc(wish)), black_box(Heap.alloc_zeroed(wish))) };
        assert!(a.is_null() && b.is_null());
        let small = Layout::from_size_align(64, 16).unwrap();
        // SAFETY: allocated and freed with one layout.
        unsafe {
            let p = Heap.realloc(Heap.alloc(small), small, 128);
            assert!(!p.is_null());
            Heap.dealloc(p, Layout::from_size_align(128, 16).unwrap());
        }
        assert!(fallible(|| Vec::<u8>::new().try_reserve_exact(usize::MAX / 4)).is_err() && !FALLIBLE.get());
    }

    #[test]
    fn a_thread_that_cannot_be_had_is_a_shortage() {
        let e = no_thread(&std::io::ErrorKind::WouldBlock.into());
        assert!(matches!(e, crate::Error::OutOfMemory { bytes: STACK_BYTES, .. }));
    }
}

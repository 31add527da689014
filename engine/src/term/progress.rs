//! How far work on many bytes has come: a bar behind the spinner.

use std::time::{Duration, Instant};

use super::spinner::{self, PATIENCE};

/// Characters of the bar.
const WIDTH: u64 = 24;

/// A bar on standard error, if that is a terminal.
pub struct Progress {
    what: &'static str,
    since: Instant,
    /// What was done before: of a download that goes on where an earlier one ended.
    before: Option<u64>,
    quiet: bool,
    shown: bool,
    /// Everything is written.
    settling: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(what: &'static str, quiet: bool) -> Progress {
        Progress { what, since: Instant::now(), before: None, quiet, shown: false, settling: false }
    }

    /// So many of `total` bytes are done.
    pub fn at(&mut self, done: u64, total: u64) {
        let passed = self.since.elapsed();
        let before = *self.before.get_or_insert(done);
        if self.quiet {
            return;
        }
        if done >= total {
            // All of it is written, and not all of it is on the disk: that may take as long again.
            if !std::mem::replace(&mut self.settling, true) {
                spinner::show_after("writing to disk", PATIENCE.saturating_sub(passed));
                self.shown = true;
            }
            return;
        }
        if passed < PATIENCE {
            return;
        }
        //= F-UX-038
        let line = format!("{} {}", self.what, line(done, total, before, passed));
        match self.shown {
            true => spinner::say(line),
            false => spinner::show(line),
        }
        self.shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            spinner::clear();
        }
    }
}

/// `━━━━━━────── 52 % of 1.2 GB, 310 MB/s, 2 s left`
fn line(done: u64, total: u64, before: u64, passed: Duration) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let full = (share * WIDTH as f64) as usize;
    let bar = "━".repeat(full) + &"─".repeat(WIDTH as usize - full);
    let rate = done.saturating_sub(before) as f64 / passed.as_secs_f64().max(f64::MIN_POSITIVE);
    let left =
        if rate > 0.0 { format!(", {:.0} s left", total.saturating_sub(done) as f64 / rate) } else { String::new() };
    format!("{bar} {:.0} % of {}, {}/s{left}", 100.0 * share, size(total as f64), size(rate))
}

/// Bytes for people, in powers of 1000.
pub fn size(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let half = line(500_000_000, 1_000_000_000, 0, Duration::from_secs(2));
        assert_eq!(half, "━━━━━━━━━━━━──────────── 50 % of 1.0 GB, 250.0 MB/s, 2 s left");
        let resumed = line(500_000_000, 1_000_000_000, 490_000_000, Duration::from_secs(2));
        assert!(resumed.ends_with("50 % of 1.0 GB, 5.0 MB/s, 100 s left"), "{resumed}");
        assert!(line(0, 0, 0, Duration::from_secs(2)).contains("100 %"));
        assert!(line(0, 10, 0, Duration::from_secs(2)).ends_with("0.0 kB, 0.0 kB/s"));
        assert_eq!(size(999_990.0), "1.0 MB");
    }
}

//! What `nvidia-smi` says: which processes the driver has, and with how much memory.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::verdict::{Halt, instrument};

/// Process and MiB of every process that computes on a GPU.
pub fn processes() -> Result<Vec<(u32, f64)>, Halt> {
    let query = ["--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"];
    let out = Command::new("nvidia-smi").args(query).output().map_err(instrument)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = |line: &str| {
        let (pid, memory) = line.split_once(',')?;
        Some((pid.trim().parse().ok()?, memory.trim().parse().unwrap_or(f64::NAN)))
    };
    match out.status.success() {
        true => Ok(text.lines().filter_map(line).collect()),
        false => Err(instrument(format!("nvidia-smi: {text}{}", String::from_utf8_lossy(&out.stderr)))),
    }
}

/// MiB of this process or of one that it started, when the driver lists it; none if it does not within the time.
pub fn memory_of(process: u32, patience: Duration) -> Result<Option<f64>, Halt> {
    let until = Instant::now() + patience;
    loop {
        let found = processes()?.into_iter().find(|(pid, _)| descends(*pid, process));
        if found.is_some() || Instant::now() > until {
            return Ok(found.map(|(_, memory)| memory));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process is another one, or was started by it or by one that was.
fn descends(mut process: u32, from: u32) -> bool {
    while process > 1 {
        if process == from {
            return true;
        }
        // `pid (name) state parent ...`; a name may hold anything, so it is looked for from behind.
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        process = parent.unwrap_or(0);
    }
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_descends_from_its_parent_and_not_the_other_way_round() {
        let me = std::process::id();
        let mut child = Command::new("sleep").arg("5").spawn().unwrap();
        assert!(descends(child.id(), me) && descends(me, me) && !descends(me, child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

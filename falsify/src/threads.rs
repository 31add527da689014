//! The threads of a running `apr`, as the kernel counts them: who there is, and how much processor time each had.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::child::Output;
use crate::subject::Subject;
use crate::verdict::{Halt, instrument};

/// Runs `apr` on a prompt that takes a while, and gives its helper threads with the processor time that each had. They
/// are found in `/proc` by the name of a model file that nobody else opens.
pub fn workers(s: &Subject, threads: usize) -> Result<(Output, BTreeMap<String, Duration>), Halt> {
    let model = s.scratch()?.join("watched.gguf");
    std::fs::copy(s.model()?, &model).map_err(instrument)?;
    let prompt = "one two three four five six seven eight nine ten ".repeat(120);
    let count = threads.to_string();
    let flags = ["--raw", "--max-tokens", "64", "--json", "--threads", &count];
    let run = s.apr(["run"]).args([model.as_os_str()]).args([prompt.as_str()]).args(flags);
    let child = std::thread::spawn(move || run.judged());
    let mut busy = BTreeMap::new();
    while !child.is_finished() {
        look_at_threads(&model.to_string_lossy(), &mut busy);
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = child.join().map_err(|_| instrument("the thread that waits for apr panicked"))??;
    match out.code() {
        Some(0) => Ok((out, busy)),
        code => Err(out.refute("it answers", format!("{code:?}: {}", out.err()), "exit code 0").into()),
    }
}

/// Adds to `busy` what the threads called `apr-1`, `apr-2` ... of processes with this argument have used so far.
fn look_at_threads(argument: &str, busy: &mut BTreeMap<String, Duration>) {
    let folders = |path: &str| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    for process in folders("/proc") {
        let typed = std::fs::read(process.join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&typed).contains(argument) {
            continue;
        }
        for task in folders(&process.join("task").to_string_lossy()) {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_string();
            let number = name.strip_prefix("apr-").is_some_and(|n| n.parse::<usize>().is_ok());
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let spent = times.split(' ').next().and_then(|n| n.parse().ok()).map(Duration::from_nanos);
            if let (true, Some(spent)) = (number, spent) {
                busy.insert(name, spent);
            }
        }
    }
}

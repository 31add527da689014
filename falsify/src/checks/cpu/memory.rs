//! F-CPU-097, 100, 107: memory that is used, lost and not to be had.

use std::ffi::OsStr;
use std::time::Duration;

use crate::ask::{PROMPTS, answered};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally, instrument};

/// What the program itself needs beside a model of a few megabytes: tokenizer, context, stacks.
const PROGRAM_BYTES: f64 = (64 << 20) as f64;

/// Memory-efficient: below twice the size of the file.
pub fn f_cpu_097(s: &Subject) -> Attempt {
    let mut t = Tally::new("VmHWM of apr run on both fixtures and on full-0.5b-q4_k_m");
    let small = [("q8_0 fixture", s.fixture("q8_0")?), ("q4_k_m fixture", s.fixture("q4_k_m")?)];
    let large = ("full-0.5b-q4_k_m", s.forged("full-0.5b-q4_k_m")?);
    for (name, path) in small.into_iter().chain([large]) {
        let size = std::fs::metadata(&path).map_err(instrument)?.len() as f64;
        let allowed = if name.contains("fixture") { PROGRAM_BYTES } else { 0.0 };
        let run = s.apr(["run"]).args([path.as_os_str()]).args([PROMPTS[0], "--temperature", "0"]);
        let out = answered(run.args(["--max-tokens", "8", "--no-gpu"]).deadline(Duration::from_secs(120)))?;
        let peak = out.peak_rss_bytes.ok_or_else(|| instrument("no VmHWM was seen"))? as f64;
        t.number(&format!("{name}: peak bytes"), peak);
        let share = (peak - allowed) / size;
        t.hold(share < 2.0, || {
            out.refute(&format!("peak memory of {name} over its size"), format!("{share:.2}"), "below 2")
        })?;
    }
    t.done()
}

/// No memory leaks: valgrind finds nothing that is lost for certain, and no access outside of what is allocated.
pub fn f_cpu_100(s: &Subject) -> Attempt {
    let mut t = Tally::new("valgrind's memcheck on apr run with both fixtures, APR_ISA=avx2");
    const FOUND: i32 = 77;
    let model = s.fixture("q4_k_m")?;
    for (path, threads, tokens) in [(s.model()?, "2", "6"), (model, "1", "24")] {
        let run = s.apr(["run"]).args([path.as_os_str()]).args([PROMPTS[0], "--temperature", "0", "--no-gpu"]);
        let run = run.args(["--threads", threads, "--max-tokens", tokens]).env("APR_ISA", "avx2");
        let code = format!("--error-exitcode={FOUND}");
        let by = ["valgrind", "--leak-check=full", "--errors-for-leak-kinds=definite", &code];
        let out = run.by(by).deadline(Duration::from_secs(1200)).output()?;
        let summary = |what: &str| -> String {
            let line = out.err().lines().find(|l| l.contains(what)).unwrap_or("no such line").to_string();
            line.split("== ").nth(1).unwrap_or(&line).trim().to_string()
        };
        let errors = summary("ERROR SUMMARY");
        let clean = out.code() == Some(0) && errors.starts_with("ERROR SUMMARY: 0 errors");
        t.hold(clean, || {
            let observed = format!("exit code {:?}, {errors}, {}", out.code(), summary("definitely lost"));
            out.refute("nothing is lost and nothing outside is touched", observed, "0 errors")
        })?;
        t.hold(!out.stdout.is_empty(), || out.refute("it answers", "nothing", "an answer"))?;
        t.note(errors);
    }
    t.note("valgrind of this system knows no AVX-512: the kernels of that level were not watched");
    t.done()
}

/// Graceful out of memory: under every limit of the address space apr answers, or says how many bytes it lacked.
pub fn f_cpu_107(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run under ulimit -v, from where it starts at all to where it answers, in small steps");
    const STEP_KIB: u64 = 192;
    let limited = |kib: u64, args: &[&OsStr]| s.apr(args.iter().copied()).address_space(kib).output();
    let version: [&OsStr; 1] = ["--version".as_ref()];
    let mut kib = 4 << 10;
    // Below this the system cannot start it: nothing of apr runs that could say so.
    while limited(kib, &version)?.code() != Some(0) {
        kib += STEP_KIB;
        if kib > 1 << 20 {
            return Err(instrument("apr --version does not run in a gigabyte"));
        }
    }
    let starts = kib;
    let model = s.fixture("q4_k_m")?;
    let words = [PROMPTS[0], "--temperature", "0", "--max-tokens", "12", "--threads", "2", "--no-gpu"];
    let whole = answered(s.apr(["run"]).args([model.as_os_str()]).args(words))?.out();
    let (mut answers, mut short) = (0u32, 0u32);
    while answers < 3 {
        let mut args: Vec<&OsStr> = vec!["run".as_ref(), model.as_os_str()];
        args.extend(words.iter().map(|w| -> &OsStr { w.as_ref() }));
        let out = limited(kib, &args)?;
        out.alive()?;
        let err = out.err();
        let said = err.starts_with("error: ") && err.contains("bytes") && err.contains(" for ");
        match out.code() {
            Some(0) => {
                t.hold(out.out() == whole, || out.refute("the answer is the whole one", out.out(), &*whole))?;
                answers += 1;
            }
            Some(7) => {
                t.hold(said, || out.refute("it says how many bytes, and for what", &*err, "bytes and purpose"))?;
                // A larger step may fit where a smaller did not: answers count in a row.
                (answers, short) = (0, short + 1);
            }
            code => return Err(out.refute("it answers or exits 7", format!("{code:?}: {err}"), "0 or 7").into()),
        }
        kib += STEP_KIB;
        if kib > 1 << 21 {
            return Err(instrument("apr does not answer in two gigabytes"));
        }
    }
    t.hold(short > 0, || Refutation::new("memory runs out at some limit", "it never did", "exit 7"))?;
    t.number("limits with an error", f64::from(short));
    t.number("KiB to start", starts as f64);
    t.number("KiB to answer", kib as f64);
    t.done()
}

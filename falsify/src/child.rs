//! Runs a child process with a kill deadline and keeps everything it did: streams, arrival times, exit, peak memory.
//!
//! [`Run::judged`] turns what no `apr` may ever do (panic, die of a signal, hang) into a refutation, so that a check
//! reads like its claim. On a terminal ([`Run::on_terminal`]) the child gets a real pseudo-terminal and `stdout` holds
//! what the terminal received. It does not know what the child is.

pub mod background;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::verdict::{Halt, Refutation, instrument};

/// A child about to run.
pub struct Run {
    command: Command,
    shown: Vec<String>,
    stdin: Vec<u8>,
    deadline: Duration,
    stdout_to: Option<std::path::PathBuf>,
    redirect: Option<&'static str>,
    reader_leaves_after: Option<usize>,
    interrupt: Option<Interrupt>,
    typed: VecDeque<(String, Vec<u8>)>,
    terminal: bool,
}

/// Ctrl+C to come.
struct Interrupt {
    /// Looks at what arrived on standard output so far.
    when: fn(&[u8]) -> bool,
    /// How often it is still to be pressed.
    times: usize,
}

/// Between one Ctrl+C and the next: as fast as a person can.
const BETWEEN_PRESSES: Duration = Duration::from_millis(40);

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// Of a signal.
    Signal(i32),
    /// Killed at the deadline.
    TimedOut,
}

/// Bytes that arrived together on standard output.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Since the start of the child.
    pub at: Duration,
    /// How many.
    pub bytes: usize,
}

/// Everything a child did.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Standard output, or what the terminal received.
    pub stdout: Vec<u8>,
    /// Standard error; empty on a terminal.
    pub stderr: Vec<u8>,
    /// When standard output arrived.
    pub chunks: Vec<Chunk>,
    /// From start to end.
    pub wall: Duration,
    /// From the last Ctrl+C to the end, if there was one.
    pub after_interrupt: Option<Duration>,
    /// The largest resident memory seen, on Linux.
    pub peak_rss_bytes: Option<u64>,
    /// A shell command that does the same.
    pub repro: String,
}

/// How a line of the misbehaving wrapper's own begins.
pub const WRAPPER: &str = "evil-apr: ";
/// The wrapper's exit code when it is itself broken: built from another tree, or without a program to run.
pub const WRAPPER_BROKEN: i32 = 99;

/// Terminal size given to children.
pub const TERMINAL_ROWS: NonZeroU16 = NonZeroU16::new(50).unwrap();
/// Terminal width given to children.
pub const TERMINAL_COLUMNS: NonZeroU16 = NonZeroU16::new(100).unwrap();

impl Run {
    /// A run of this program. The environment is empty but for what a program needs to start.
    pub fn new(program: &OsStr) -> Run {
        let mut command = Command::new(program);
        command.env_clear();
        for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SystemRoot"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // The config file of whoever runs this is no part of a row.
        command.env("LANG", "C.UTF-8").env("TERM", "xterm-256color").env("APR_CONFIG", "");
        let shown = vec![shell_word(program)];
        let deadline = Duration::from_secs(60);
        Run {
            command,
            shown,
            stdin: Vec::new(),
            deadline,
            stdout_to: None,
            redirect: None,
            reader_leaves_after: None,
            interrupt: None,
            typed: VecDeque::new(),
            terminal: false,
        }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        for a in args {
            self.shown.push(shell_word(a.as_ref()));
            self.command.arg(a);
        }
        self
    }

    /// Sets a variable of the child's environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.shown.insert(0, format!("{name}={}", shell_word(value.as_ref())));
        self.command.env(name, value);
        self
    }

    /// Gives it these bytes on standard input. Without this it reads an empty input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = bytes.into();
        let text = String::from_utf8_lossy(&self.stdin);
        let shown: String = text.chars().take(80).collect();
        self.shown.insert(0, format!("printf %s {} |", shell_word(OsStr::new(&shown))));
        self
    }

    /// Kills it after this long, 60 seconds by default.
    pub fn deadline(mut self, d: Duration) -> Run {
        self.deadline = d;
        self
    }

    /// Starts it in this folder.
    pub fn in_folder(mut self, folder: &std::path::Path) -> Run {
        self.shown.insert(0, format!("cd {} &&", shell_word(folder.as_os_str())));
        self.command.current_dir(folder);
        self
    }

    /// Sends its standard output to a file, such as `/dev/full`.
    pub fn stdout_to(mut self, file: &str) -> Run {
        self.stdout_to = Some(file.into());
        self
    }

    /// Runs it by a shell that redirects or closes a stream: `>&-`, `2>/dev/full`.
    pub fn redirected(mut self, how: &'static str) -> Run {
        self.shown.push(how.into());
        self.redirect = Some(how);
        self
    }

    /// Runs it by another program, which is given this one and its arguments behind its own: `valgrind`, `nice -n 5`.
    pub fn by<A: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = A>) -> Run {
        let words: Vec<OsString> = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
        let Some((program, before)) = words.split_first() else { return self };
        let at = self.shown.len() - self.command.get_args().len() - 1;
        self.shown.splice(at..at, words.iter().map(|w| shell_word(w)));
        let mut command = Command::new(program);
        command.args(before).arg(self.command.get_program()).args(self.command.get_args());
        command.env_clear().envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        self.command = command;
        self
    }

    /// Runs it with so much address space.
    pub fn address_space(self, kib: u64) -> Run {
        self.by(["/bin/sh", "-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")])
    }

    /// Closes the reading end of its standard output when so many bytes have arrived, as `head` does.
    pub fn reader_leaves_after(mut self, bytes: usize) -> Run {
        self.shown.push(format!("| head -c {bytes}"));
        self.reader_leaves_after = Some(bytes);
        self
    }

    /// Presses Ctrl+C so many times, first when `when` says so of what arrived on standard output: typed on a terminal,
    /// a signal to the process group elsewhere.
    pub fn interrupt(mut self, times: usize, when: fn(&[u8]) -> bool) -> Run {
        self.interrupt = Some(Interrupt { when, times });
        self
    }

    /// Types on its terminal: each piece when the text before it has come, counted from the piece before.
    pub fn typed(mut self, steps: VecDeque<(String, Vec<u8>)>) -> Run {
        self.typed = steps;
        self
    }

    /// Runs it on a terminal of its own.
    pub fn on_terminal(mut self) -> Run {
        self.terminal = true;
        self
    }

    /// It as a line for a shell.
    pub fn shown(&self) -> String {
        self.shown.join(" ")
    }

    /// Runs it. The error is the instrument's: the child could not be started or watched.
    pub fn output(self) -> Result<Output, Halt> {
        let repro = self.shown();
        let out = run(self).map_err(|e| instrument(format!("cannot run {repro}: {e}")))?;
        // A wrapper that could not misbehave would be refuted for its own failure, and prove nothing.
        let said =
            |stream: &[u8]| String::from_utf8_lossy(stream).lines().find(|l| l.starts_with(WRAPPER)).map(String::from);
        match said(&out.stderr).or_else(|| said(&out.stdout)) {
            Some(line) if out.exit == Exit::Code(WRAPPER_BROKEN) => Err(instrument(line)),
            _ => Ok(out),
        }
    }

    /// Runs it, and refutes if it panicked, died of a signal or had to be killed.
    pub fn judged(self) -> Result<Output, Halt> {
        let out = self.output()?;
        out.alive()?;
        Ok(out)
    }
}

impl Output {
    /// The exit code; `None` for a signal or the deadline.
    pub fn code(&self) -> Option<i32> {
        if let Exit::Code(c) = self.exit { Some(c) } else { None }
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// A refutation that says how to see it again.
    pub fn refute(&self, criterion: &str, observed: impl Into<String>, expected: impl Into<String>) -> Refutation {
        Refutation::new(criterion, observed, expected).repro(self.repro.clone())
    }

    /// No panic, no signal, no hang.
    pub fn alive(&self) -> Result<(), Halt> {
        let text = format!("{}{}", self.err(), self.out());
        let panicked = text.lines().find(|l| l.starts_with("thread '") && l.contains("panicked at"));
        let observed = match (self.exit, panicked) {
            (_, Some(line)) => line.to_string(),
            (Exit::Signal(n), None) => format!("died of signal {n}"),
            // What `apr` ends with when it panics, whatever it says.
            (Exit::Code(101), None) => format!("exit code 101: {}", self.err().trim()),
            (Exit::TimedOut, None) => format!("still running after {:.0} s", self.wall.as_secs_f64()),
            (Exit::Code(_), None) => return Ok(()),
        };
        let refutation = self.refute("it ends by itself, without panic or signal", observed, "an exit code");
        Err(Halt::Refuted(Refutation { crash: true, ..refutation }))
    }
}

/// A stream being collected by a thread of its own.
struct Collector {
    bytes: Arc<Mutex<(Vec<u8>, Vec<Chunk>)>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn start(mut from: impl Read + Send + 'static, begun: Instant, leaves_after: Option<usize>) -> Collector {
        let bytes = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let into = bytes.clone();
        let thread = thread::spawn(move || {
            let mut buffer = [0u8; 1 << 16];
            // A terminal whose other side is gone reads as an error, a pipe as zero bytes.
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let chunk = Chunk { at: begun.elapsed(), bytes: n };
                let Ok(mut kept) = into.lock() else { return };
                kept.0.extend_from_slice(&buffer[..n]);
                kept.1.push(chunk);
                if leaves_after.is_some_and(|most| kept.0.len() >= most) {
                    break;
                }
            }
        });
        Collector { bytes, thread }
    }

    /// What arrived. A grandchild may hold the stream open after the child is gone: it is not waited for long.
    fn finish(self) -> (Vec<u8>, Vec<Chunk>) {
        let patience = Instant::now();
        while !self.thread.is_finished() && patience.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(1));
        }
        self.bytes.lock().map(|kept| kept.clone()).unwrap_or_default()
    }
}

/// A child, its streams, and the keyboard of its terminal.
struct Started {
    child: Child,
    out: Option<Collector>,
    err: Option<Collector>,
    keyboard: Option<Box<dyn Write>>,
}

fn run(mut r: Run) -> std::io::Result<Output> {
    let repro = r.shown.join(" ");
    if let Some(how) = r.redirect {
        // What it is called goes by as arguments, so no byte of it is read as shell.
        r = r.by(["/bin/sh", "-c", &format!("exec \"$0\" \"$@\" {how}")]);
    }
    let begun = Instant::now();
    let mut s = if r.terminal { on_terminal(&mut r, begun)? } else { on_pipes(&mut r, begun)? };
    if let Some(mut pipe) = s.child.stdin.take() {
        let bytes = std::mem::take(&mut r.stdin);
        // A child that does not read its input must not block us; one that closes it is its own affair.
        thread::spawn(move || pipe.write_all(&bytes));
    }
    let watched = wait(&mut s, begun + r.deadline, r.interrupt, r.typed)?;
    let ended = Instant::now();
    let (stdout, chunks) = s.out.map(Collector::finish).unwrap_or_default();
    let (stderr, _) = s.err.map(Collector::finish).unwrap_or_default();
    Ok(Output {
        exit: watched.exit,
        stdout,
        stderr,
        chunks,
        wall: ended - begun,
        after_interrupt: watched.interrupted.map(|at| ended - at),
        peak_rss_bytes: watched.peak_rss_bytes,
        repro,
    })
}

fn on_pipes(r: &mut Run, begun: Instant) -> std::io::Result<Started> {
    let stdout = match &r.stdout_to {
        Some(file) => Stdio::from(std::fs::OpenOptions::new().write(true).open(file)?),
        None => Stdio::piped(),
    };
    r.command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut r.command, 0);
    let mut child = r.command.spawn()?;
    let out = child.stdout.take().map(|s| Collector::start(s, begun, r.reader_leaves_after));
    let err = child.stderr.take().map(|s| Collector::start(s, begun, None));
    Ok(Started { child, out, err, keyboard: None })
}

#[cfg(unix)]
fn on_terminal(r: &mut Run, begun: Instant) -> std::io::Result<Started> {
    let other = std::io::Error::other::<pty_process::Error>;
    let (pty, pts) = pty_process::blocking::open().map_err(other)?;
    pty.resize(pty_process::Size::new(TERMINAL_ROWS.get(), TERMINAL_COLUMNS.get())).map_err(other)?;
    let command = std::mem::replace(&mut r.command, Command::new(OsString::new()));
    let child = pty_process::blocking::Command::from(command).spawn(pts).map_err(other)?;
    // The screen is read by one thread while another types.
    let mut keyboard = std::fs::File::from(rustix::io::dup(&pty)?);
    keyboard.write_all(&r.stdin)?;
    let out = Some(Collector::start(pty, begun, None));
    Ok(Started { child, out, err: None, keyboard: Some(Box::new(keyboard)) })
}

#[cfg(not(unix))]
fn on_terminal(_: &mut Run, _: Instant) -> std::io::Result<Started> {
    Err(std::io::Error::other("no pseudo-terminal on this system"))
}

/// What was seen of a child while it ran.
struct Watched {
    exit: Exit,
    interrupted: Option<Instant>,
    peak_rss_bytes: Option<u64>,
}

/// Waits until the child ends or the deadline passes, watching its memory, and presses Ctrl+C when it is time.
fn wait(
    s: &mut Started,
    deadline: Instant,
    mut interrupt: Option<Interrupt>,
    mut typed: VecDeque<(String, Vec<u8>)>,
) -> std::io::Result<Watched> {
    let mut read = 0;
    let (mut peak_rss_bytes, mut interrupted) = (None, None);
    let exit = loop {
        peak_rss_bytes = peak_rss(s.child.id()).or(peak_rss_bytes);
        if let Some(status) = s.child.try_wait()? {
            break exit_of(status);
        }
        if let Some(due) = interrupt.as_mut().filter(|i| i.is_due(s.out.as_ref(), interrupted)) {
            press_interrupt(s)?;
            interrupted = Some(Instant::now());
            due.times -= 1;
        }
        if let Some((text, keys)) = typed.front() {
            let arrived = s.out.as_ref().and_then(|o| Some(o.bytes.lock().ok()?.0.clone())).unwrap_or_default();
            if String::from_utf8_lossy(&arrived[read..]).contains(text.as_str()) {
                read = arrived.len();
                if let Some(keyboard) = &mut s.keyboard {
                    // Whoever is gone hears nothing.
                    let _ = keyboard.write_all(keys);
                }
                typed.pop_front();
            }
        }
        if Instant::now() >= deadline {
            kill_group(&mut s.child);
            s.child.wait()?;
            break Exit::TimedOut;
        }
        thread::sleep(Duration::from_millis(1));
    };
    Ok(Watched { exit, interrupted, peak_rss_bytes })
}

impl Interrupt {
    fn is_due(&self, out: Option<&Collector>, last: Option<Instant>) -> bool {
        let arrived = || out.and_then(|o| o.bytes.lock().ok()).is_some_and(|kept| (self.when)(&kept.0));
        self.times > 0 && last.map_or_else(arrived, |at| at.elapsed() >= BETWEEN_PRESSES)
    }
}

/// Ctrl+C: the key where there is a keyboard, otherwise what the key does.
fn press_interrupt(s: &mut Started) -> std::io::Result<()> {
    const END_OF_TEXT: u8 = 3;
    match &mut s.keyboard {
        Some(keyboard) => keyboard.write_all(&[END_OF_TEXT]),
        #[cfg(unix)]
        None => {
            let pid = i32::try_from(s.child.id()).ok().and_then(rustix::process::Pid::from_raw);
            let pid = pid.ok_or_else(|| std::io::Error::other("no process"))?;
            // A child that ended meanwhile needs no signal.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::INT);
            Ok(())
        }
        #[cfg(not(unix))]
        None => Err(std::io::Error::other("no Ctrl+C on this system")),
    }
}

#[cfg(unix)]
fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(c), _) => Exit::Code(c),
        (None, s) => Exit::Signal(s.unwrap_or(0)),
    }
}

#[cfg(not(unix))]
fn exit_of(status: std::process::ExitStatus) -> Exit {
    Exit::Code(status.code().unwrap_or(-1))
}

/// Kills the child and what it started: an evil wrapper has the real `apr` below it.
fn kill_group(child: &mut Child) {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
}

/// `VmHWM` of a running process: the high-water mark, so a late look misses nothing but the last moment.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A word as one would type it into a shell.
fn shell_word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Run {
        Run::new(OsStr::new("/bin/sh")).args(["-c", script])
    }

    #[test]
    fn streams_exit_and_input_are_kept_apart() {
        let o = sh("cat; echo oops >&2; exit 3").stdin("hello").output().unwrap();
        assert_eq!((o.out().as_str(), o.err().as_str(), o.code()), ("hello", "oops\n", Some(3)));
    }

    #[test]
    fn hangs_signals_and_panics_refute() {
        let hung = sh("sleep 30 & wait").deadline(Duration::from_millis(100)).judged();
        let dead = sh("kill -SEGV $$").judged();
        let panicked = sh("echo \"thread 'main' panicked at src/main.rs:1:1:\" >&2; exit 101").judged();
        for attempt in [hung, dead, panicked] {
            assert!(matches!(attempt, Err(Halt::Refuted(r)) if r.crash));
        }
    }

    #[test]
    fn a_missing_program_is_the_instruments_fault() {
        assert!(matches!(Run::new(OsStr::new("/nonexistent/apr")).judged(), Err(Halt::NotAttempted(_))));
    }

    #[test]
    fn a_broken_wrapper_is_the_instruments_fault() {
        let stale = sh("echo 'evil-apr: EVIL=x is not a way to misbehave' >&2; exit 99").judged();
        assert!(matches!(stale, Err(Halt::NotAttempted(_))));
        assert_eq!(sh("echo evil-apr: >&2; exit 1").judged().unwrap().code(), Some(1));
    }

    #[test]
    fn a_terminal_is_a_terminal() {
        let script = "test -t 1 && stty size && echo yes";
        assert_eq!(sh(script).on_terminal().output().unwrap().out(), "50 100\r\nyes\r\n");
        assert_eq!(sh(script).output().unwrap().out(), "");
    }

    #[test]
    fn ctrl_c_is_typed_on_a_terminal_and_sent_elsewhere() {
        let script = "trap 'echo again; exit 7' INT; echo ready; while :; do sleep 0.01; done";
        let ready = |seen: &[u8]| seen.starts_with(b"ready");
        for run in [sh(script), sh(script).on_terminal()] {
            let o = run.interrupt(1, ready).output().unwrap();
            assert_eq!(o.code(), Some(7), "{o:?}");
            assert!(o.out().contains("again") && o.after_interrupt.is_some_and(|d| d < Duration::from_secs(5)));
        }
        let o = sh("echo ready; sleep 0.1").interrupt(1, |seen| seen.starts_with(b"never")).output().unwrap();
        assert_eq!((o.code(), o.after_interrupt), (Some(0), None));
    }

    #[test]
    fn streams_can_be_closed_and_readers_can_leave() {
        let closed = sh("echo x").redirected(">&-").output().unwrap();
        assert!(closed.stdout.is_empty() && closed.code() != Some(0));
        let left = sh("while echo y; do :; done").reader_leaves_after(4).output().unwrap();
        assert!(left.stdout.starts_with(b"y\ny\n") && left.exit != Exit::TimedOut);
        // Nothing of a program's arguments is read by the shell in between.
        let o = Run::new(OsStr::new("/bin/echo")).args(["$HOME", "'", "a b"]).redirected("2>&-").output().unwrap();
        assert_eq!(o.out(), "$HOME ' a b\n");
    }

    #[test]
    fn arrival_times_show_streaming() {
        let o = sh("echo a; sleep 0.1; echo b").output().unwrap();
        assert_eq!(o.chunks.len(), 2);
        assert!(o.chunks[1].at - o.chunks[0].at > Duration::from_millis(50));
    }
}

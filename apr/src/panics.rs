//! Ends that nobody planned: a panic, which is our bug, and memory that cannot be had. Both end the process at once, with
//! one line that a person can act on instead of raw text.

use std::panic::PanicHookInfo;
use std::process;

use engine::{Error, Kind, term};

use crate::args;

/// From now on a panic of any thread ends the process like an error does.
//= F-UX-037
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let error = told(info);
        term::fail(&error, args::json_typed());
        process::exit(i32::from(error.kind.exit_code()));
    }));
}

/// From now on a panic is told in one line and ends what was being done, not the process: a server has others to answer.
pub fn survive() {
    std::panic::set_hook(Box::new(|info| term::fail(&told(info), false)));
}

/// Ends the process because so many bytes are not to be had.
//= F-CPU-107
pub fn out_of_memory(bytes: usize) -> ! {
    term::fail_short(bytes, args::json_typed);
    process::exit(i32::from(Kind::TooLarge.exit_code()))
}

fn told(info: &PanicHookInfo<'_>) -> Error {
    let what = info.payload_as_str().unwrap_or("it says nothing");
    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    Error::new(Kind::Internal, format!("internal error: {what}{place}"))
        .hint("this is a bug in apr: please report it, with the command that shows it")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Run by the test below, in a process of its own.
    #[test]
    #[ignore = "it ends the process"]
    fn a_panic() {
        super::install();
        let nothing: &[u8] = std::hint::black_box(&[]);
        assert_eq!(nothing[7], 0);
    }

    #[test]
    fn a_panic_is_one_human_line_with_an_exit_code() {
        let me = std::env::current_exe().unwrap();
        let child = Command::new(me).args(["--exact", "panics::tests::a_panic", "--ignored"]).output().unwrap();
        let text = String::from_utf8(child.stderr).unwrap();
        assert_eq!(child.status.code(), Some(101), "{text}");
        assert!(text.starts_with("error: internal error: index out of bounds"), "{text}");
        assert!(text.contains("apr/src/panics.rs") && text.contains("please report"), "{text}");
        assert!(text.lines().count() == 1 && !text.contains("panicked"), "{text}");
    }
}

//! Shows a file with whatever this platform shows files with.

use std::path::Path;
use std::process::{Command, Stdio};

/// Opens the file, or says why not.
pub fn open(file: &Path) -> Result<(), String> {
    let (program, words): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        // `start` takes its first quoted word for a title.
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    with(program, words, file)
}

fn with(program: &str, words: &[&str], file: &Path) -> Result<(), String> {
    let quiet = || Stdio::null();
    let status = Command::new(program).args(words).arg(file).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    match status {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no {program} here to open it with"))
        }
        Err(e) => Err(format!("{program}: {e}")),
        Ok(status) if !status.success() => Err(format!("{program} could not open it ({status})")),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opener_that_is_not_there_is_named() {
        let why = with("no-such-opener", &[], Path::new("x.html")).unwrap_err();
        assert_eq!(why, "there is no no-such-opener here to open it with");
    }
}

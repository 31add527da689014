//! `apr man`: manual pages, made from the same table as the help.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use engine::error::quoted_path;
use engine::{Error, Kind, Result, term};

use crate::args::{Args, ManArgs};

/// Prints the page of `apr`, or writes one for each command.
pub fn execute(args: &ManArgs) -> Result<ExitCode> {
    let mut command = Args::command();
    command.build();
    match &args.dir {
        None => term::say(&page(&command)?, None)?,
        Some(folder) => pages(&command, folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of one command, as troff reads it.
fn page(command: &Command) -> Result<String> {
    let mut text = Vec::new();
    let made = clap_mangen::Man::new(command.clone()).render(&mut text);
    made.map_err(|e| Error::new(Kind::Internal, format!("the manual page: {e}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `apr.1`, `apr-run.1`, and so on.
fn pages(command: &Command, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
    let file = folder.join(format!("{name}.1"));
    let text = page(command)?;
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, text));
    written.map_err(|e| Error::new(Kind::Output, format!("cannot write {}: {e}", quoted_path(&file))))?;
    let of_its_own = |c: &&Command| c.get_name() != "help";
    command.get_subcommands().filter(of_its_own).try_for_each(|c| pages(c, folder))
}

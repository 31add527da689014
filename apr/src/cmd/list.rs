//! `apr list`: what is here.

use std::process::ExitCode;

use apr_cli::source::{self, Held};
use engine::{Error, Kind, Result, term};
use serde_json::json;

use crate::args::ListArgs;
use crate::interrupt;

/// Lists models. With `--verify`, success is that none is damaged.
pub fn execute(args: &ListArgs) -> Result<ExitCode> {
    let _cancel = interrupt::watch()?;
    let all = term::busy("hashing", || source::list(args.verify))?;
    let damaged = all.iter().filter(|h| h.damaged.is_some()).count();
    if args.json {
        let models: Vec<_> = all.iter().map(object).collect();
        term::print_line(&json!({ "models": models }).to_string())?;
    } else {
        for line in lines(&all) {
            term::print_line(&line)?;
        }
        if all.is_empty() {
            term::note("nothing is here yet; apr pull and apr tag change that");
        }
    }
    match damaged {
        0 => Ok(ExitCode::SUCCESS),
        n => Err(Error::new(Kind::Malformed, format!("{n} models are damaged")).hint("apr rm removes them")),
    }
}

fn object(h: &Held) -> serde_json::Value {
    json!({
        "name": h.name,
        "place": h.place,
        "bytes": h.bytes,
        "path": h.path.to_string_lossy(),
        "damaged": h.damaged,
    })
}

/// A table: name, size, whose it is, and what is wrong with it.
fn lines(all: &[Held]) -> Vec<String> {
    let width = all.iter().map(|h| h.name.chars().count()).max().unwrap_or(0).min(60);
    all.iter()
        .map(|h| {
            let damage = h.damaged.as_ref().map_or(String::new(), |d| format!("  DAMAGED: {d}"));
            format!("{:<width$}  {:>9}  {}{damage}", h.name, term::size(h.bytes as f64), h.place)
        })
        .collect()
}

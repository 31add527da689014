//! `evil-apr`: the real `apr` (path in `APR_REAL`), misbehaving as `EVIL` says. What it can do is the table in
//! `falsify::sabotage::evil_apr`; this file only looks the name up.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use falsify::child::{WRAPPER, WRAPPER_BROKEN};
use falsify::sabotage::{self, Means, evil_apr::Real};

fn main() -> ExitCode {
    let how = std::env::var("EVIL").unwrap_or_default();
    let Some(real) = Real::from_env() else {
        eprintln!("{WRAPPER}APR_REAL names no program");
        return broken();
    };
    match sabotage::find(&how).map(|s| &s.means) {
        Some(Means::EvilApr(misbehave)) => ExitCode::from(misbehave(real)),
        _ => {
            eprintln!("{WRAPPER}EVIL={how} is not a way to misbehave");
            broken()
        }
    }
}

fn broken() -> ExitCode {
    ExitCode::from(WRAPPER_BROKEN as u8)
}

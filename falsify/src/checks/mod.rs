//! Checks: one file per prefix, one function per written row, all of them in [`ALL`]. A prefix with many rows has a
//! folder beside its file.
//!
//! A check reaches the product through its [`Subject`] only, counts what held in a [`crate::verdict::Tally`] and ends
//! with `?` at the first thing that did not. It knows no saboteur: the same code meets the healthy subject and the
//! broken ones.

pub mod apr;
pub mod check;
pub mod cli;
pub mod cpu;
pub mod crit;
pub mod gguf;
pub mod int;
pub mod jid;
pub mod math;
pub mod pipe;
pub mod serve;
pub mod st;
pub mod trace;
pub mod ux;

use crate::subject::Subject;
use crate::verdict::Attempt;

/// A check of one row.
pub type Check = fn(&Subject) -> Attempt;

/// Every file of checks: its name, and the checks by row id.
pub static ALL: &[(&str, &[(&str, Check)])] = &[
    ("apr", apr::CHECKS),
    ("check", check::CHECKS),
    ("cli", cli::CHECKS),
    ("cpu", cpu::CHECKS),
    ("crit", crit::CHECKS),
    ("gguf", gguf::CHECKS),
    ("int", int::CHECKS),
    ("jid", jid::CHECKS),
    ("math", math::CHECKS),
    ("pipe", pipe::CHECKS),
    ("serve", serve::CHECKS),
    ("st", st::CHECKS),
    ("trace", trace::CHECKS),
    ("ux", ux::CHECKS),
];

/// The check of a row.
pub fn find(id: &str) -> Option<Check> {
    ALL.iter().flat_map(|(_, checks)| checks.iter()).find(|(i, _)| *i == id).map(|(_, check)| *check)
}

//! The suite that tries to refute `apr`: 304 rows for 300 points, and the triggers that reject a release.
//!
//! It watches from outside; nothing depends on it. A row is data (`items/<PREFIX>.json`), a check is a function
//! (`checks/<prefix>.rs`), and a check that has not been seen to fail is not believed (`sabotage/`).
//!
//! # Running it
//!
//! ```text
//! cargo test -p falsify                            every row, with its saboteurs; the score at the end
//! cargo test -p falsify -- --exact F-CLI-011       one row
//! cargo run -p falsify -- run F-CLI-011            one row, with its numbers
//! cargo run -p falsify -- sabotage F-CLI           rows and saboteurs, the matrix
//! cargo run -p falsify -- where F-CLI-011          the check, and the product's lines
//! cargo run -p falsify -- report --open            every row again, then all of reports/, and the page in a browser
//! cargo run -p falsify -- merge A.json B.json      verdicts of several machines as one report
//! cargo run -p falsify -- tidy                     the rules of the house
//! cargo run -p falsify -- forge --list             model files that can be made
//! ```
//!
//! # Adding a check
//!
//! 1. In `items/<PREFIX>.json` find the row. Make `tested_as` and `refuted_if` say what will really be measured, name
//!    the saboteurs in `killed_by`, the capabilities in `needs`, the product files in `code`; set `status` to `live`.
//! 2. In `checks/<prefix>.rs`, or in a file of the folder beside it, write `pub fn f_gguf_041(s: &Subject) -> Attempt`
//!    and add `("F-GGUF-041", f_gguf_041)` to `CHECKS`. A new prefix also goes into `checks::ALL`.
//! 3. In the product, put `//= F-GGUF-041` on the line that answers for the row.
//! 4. `cargo run -p falsify -- sabotage F-GGUF-041` until it says `Caught` for every saboteur, then `tidy`.
//!
//! A check counts what held in a [`verdict::Tally`] and leaves by `?` at the first thing that did not:
//!
//! ```
//! use falsify::{subject::Subject, verdict::{Attempt, Tally}};
//!
//! pub fn f_cli_008(s: &Subject) -> Attempt {
//!     let mut t = Tally::new("apr --version");
//!     let out = s.apr(["--version"]).judged()?;      // a panic, a signal or a hang refutes here
//!     t.hold(out.code() == Some(0), || out.refute("it exits 0", format!("{:?}", out.code()), "0"))?;
//!     t.done()                                       // no case tried: a broken instrument, never a survivor
//! }
//! ```
//!
//! Numeric checks run the engine in this process. They must take model files from `s.fixture(..)` and `s.forged(..)`,
//! oracle output from `s.golden_text(..)`, draw tokens with `chance::Sampled`, and pass every program through
//! `s.rewritten(..)` before a backend prepares it: that is how saboteurs get in. A panic inside the engine refutes, a
//! panic inside the check is a broken instrument. `s.needs_skill("arith")?` leaves with `fixture-weak` where the model
//! cannot do what the row asks.
//!
//! # Adding a saboteur
//!
//! One entry in the table of its kind, `sabotage/{evil_apr,evil_input,evil_sampler,mutated_golden,rewrite}.rs`:
//!
//! ```text
//! evil("ignores-seed", "drops --seed", |r| r.without(&["--seed"], 1).run()),
//! Saboteur { name: "rope-dropped", does: "no rotation at all", by_crash: false,
//!            means: Means::Rewrite(|p| p.steps.retain(|s| !matches!(s.op, Op::Rope { .. }))) },
//! Saboteur { name: "vocab-swapped", does: "two entries change places", by_crash: false,
//!            means: Means::EvilInput(|fixtures| edit(&fixtures.join("x.gguf"), |bytes| bytes.swap(4000, 4001))) },
//! ```
//!
//! `EvilForge(|name, file| ..)` spoils files that `s.forged(name)` makes, `MutatedGolden` the oracle's output. A saboteur
//! must change the behaviour that the claim names; a crash counts only where `by_crash` says that crashing is the
//! behaviour. At most eight rows share one, and every one is named by a live row (tidy looks).
#![forbid(unsafe_code)]
// The suite talks to people on both streams; the rule against it is for the product.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ask;
pub mod bad;
pub mod capability;
pub mod chance;
pub mod chat;
pub mod checks;
pub mod checkup;
pub mod child;
pub mod clock;
pub mod corrupt;
pub mod described;
pub mod desk;
pub mod forge;
pub mod formula;
pub mod http;
pub mod hub;
pub mod knobs;
pub mod lab;
pub mod launch;
pub mod message;
pub mod oracle;
pub mod python;
pub mod refusal;
pub mod registry;
pub mod report;
pub mod sabotage;
pub mod screen;
pub mod server;
pub mod skills;
pub mod smi;
pub mod snippet;
pub mod sources;
pub mod stamp;
pub mod subject;
pub mod suite;
pub mod talk;
pub mod texts;
pub mod threads;
pub mod tidy;
pub mod traced;
pub mod transformers;
pub mod verdict;
pub mod whereabouts;
pub mod written;

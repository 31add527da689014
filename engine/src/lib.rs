//! The `apr` inference engine: from a model file and a prompt to tokens and text.
//!
//! The public door is the API of the specification's section 5.3: [`run_inference`], [`run_chat`], [`run_serve`] and
//! [`check_model`], with [`run`] underneath for callers that want events instead of a terminal. Modules are floors:
//! `file` (1) knows bytes, `model`/`arch`/`program`/`text` (2) what they mean, `session`/`scheduler`/`sample`/`guard` (3)
//! one request and many, `api`/`serve`/`term` (4) the faces. Lower floors know nothing of higher ones.
//!
//! ```no_run
//! # fn main() -> engine::Result<()> {
//! use engine::{InferenceConfig, Options, run};
//!
//! let config = InferenceConfig { prompt: Some("What is 2+2?".into()), ..InferenceConfig::new("model.gguf") };
//! let outcome = run(&config, &Options::default(), &mut engine::Silent)?;
//! assert!(outcome.answer.text.contains('4'));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod arch;
pub mod bench;
pub mod chat;
pub mod check;
pub mod continuation;
pub mod convert;
pub mod doctor;
pub mod error;
pub mod file;
pub mod grammar;
pub mod guard;
pub mod knobs;
pub mod limits;
pub mod model;
pub mod program;
pub mod rope;
pub mod sample;
pub mod scheduler;
pub mod serve;
pub mod session;
pub mod similar;
pub mod speculate;
pub mod term;
pub mod text;
pub mod trace;
pub mod tune;
pub mod twin;

pub use api::{
    ChatConfig, CheckResult, InferenceConfig, InferenceResult, Options, Outcome, ServeConfig, Silent, TraceConfig,
    TraceOutput, TraceStep, backend, check_model, run, run_chat, run_inference, run_serve,
};
/// For programs that want to end with an error, not with an abort, when there is no memory left.
pub use compute::heap;
pub use error::{Error, Kind, Place, Result};

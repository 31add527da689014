//! What `apr` knows beside its command line: where models come from. A library of its own so that tests and fuzzers
//! reach it.
#![forbid(unsafe_code)]

pub mod source;

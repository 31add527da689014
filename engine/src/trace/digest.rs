//! The hash of a model, made beside its answer: nobody is to wait for the reading of whole files.

use std::path::Path;
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Kind, Result};
use crate::file;
use crate::model::Model;

/// SHA-256 of a model's files, one after another, in hexadecimal.
pub struct Digest(State);

enum State {
    InTheMaking(JoinHandle<Result<String>>),
    Known(Result<String>),
}

impl Digest {
    /// Begins to make it, on a thread of its own; without one, here.
    pub fn begin(model: &Model, path: &Path) -> Result<Digest> {
        let files = model.mapped(path)?;
        let beside = files.clone();
        let thread = Builder::new().name("digest".into()).spawn(move || file::sha256(&beside));
        Ok(Digest(thread.map_or_else(|_| State::Known(file::sha256(&files)), State::InTheMaking)))
    }

    /// The hash, once it is there.
    pub fn get(&mut self) -> Result<&str> {
        let gone = || Err(Error::new(Kind::Internal, "hashing the model ended without a word"));
        let state = std::mem::replace(&mut self.0, State::Known(gone()));
        self.0 = State::Known(match state {
            State::InTheMaking(thread) => thread.join().unwrap_or_else(|_| gone()),
            State::Known(hash) => hash,
        });
        match &self.0 {
            State::Known(hash) => hash.as_deref().map_err(Clone::clone),
            State::InTheMaking(_) => Err(Error::new(Kind::Internal, "a hash that is known is not")),
        }
    }
}

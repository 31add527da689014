//! Bad inputs, family by family: files that are damaged or were never right. One file per family, one function that
//! lists it. They are made from good files of the forge with one thing changed, so that it is that thing which has to
//! be refused. This folder knows no check and no row.

pub mod apr;
pub mod gguf;
pub mod numbers;

/// A bad input.
pub struct Bad {
    /// What is wrong with it.
    pub what: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// A word that the refusal has to say: the name of the tensor or key, if there is one.
    pub names: Option<String>,
}

impl Bad {
    /// One that is bad nowhere in particular.
    pub fn unnamed(what: String, bytes: Vec<u8>) -> Bad {
        Bad { what, bytes, names: None }
    }
}

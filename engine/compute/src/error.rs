//! What can go wrong below the engine. Anything a file, a user or a peer can cause is one of these; a panic is our bug.

use std::fmt;

/// The result of a `compute` call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a backend could not prepare or run a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An operation, format or shape that this backend does not run. Names what it was.
    Unsupported(String),
    /// The program or batch contradicts itself (a shape, an id out of range, a position past the KV cache).
    Invalid(String),
    /// Memory could not be had: how many bytes, and for what.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// The operating system refused a mapping or a thread.
    Io(String),
    /// The GPU has not enough memory: how many bytes, for what, and how many it has left.
    DeviceMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free.
        free: usize,
        /// What they were for.
        what: &'static str,
    },
    /// A call of the GPU's driver failed.
    Device(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unsupported(what) => write!(f, "not supported by this backend: {what}"),
            Error::Invalid(what) => write!(f, "invalid program or batch: {what}"),
            Error::OutOfMemory { bytes, what } => write!(f, "out of memory: {bytes} bytes for {what}"),
            Error::Io(what) => write!(f, "{what}"),
            Error::DeviceMemory { bytes, free, what } => {
                write!(f, "out of GPU memory: {what} need {bytes} bytes and {free} are free")
            }
            Error::Device(what) => write!(f, "GPU: {what}"),
        }
    }
}

impl std::error::Error for Error {}

//! A server in a process that does something else too.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use super::{Notice, Options, Shutdown, run};
use crate::api::ServeConfig;
use crate::error::{Error, Kind, Result};

/// A server that is ready. It runs until [`Running::stop`], or until this is dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// Where it listens: with port 0 in the configuration, the one that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it: running requests end first. Gives how it ended.
    pub fn stop(mut self) -> Result<()> {
        self.ended()
    }

    fn ended(&mut self) -> Result<()> {
        self.shutdown.begin();
        self.thread.take().map_or(Ok(()), joined)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.ended();
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the server ended without a word")))
}

fn no_thread(e: std::io::Error) -> Error {
    Error::new(Kind::TooLarge, format!("no thread for the server: {e}"))
}

/// [`run`] on a thread of its own. Returns when the model is ready and requests are answered, or with what is in the way.
pub fn start(
    config: ServeConfig,
    options: Options,
    notice: impl Fn(Notice<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<Running> {
    let shutdown = options.shutdown.clone();
    let (sender, ready) = channel();
    let bound = OnceLock::new();
    let told = move |said: Notice<'_>| {
        match said {
            Notice::Listening { address, .. } => drop(bound.set(address)),
            Notice::Ready { .. } => drop(sender.send(bound.get().copied())),
            _ => {}
        }
        notice(said)
    };
    let serve = move || run(&config, &options, told);
    let thread = Builder::new().name("serve".into()).spawn(serve).map_err(no_thread)?;
    match ready.recv() {
        Ok(Some(address)) => Ok(Running { address, shutdown, thread: Some(thread) }),
        // It ended, and with it went who would have told.
        _ => Err(joined(thread).err().unwrap_or_else(|| Error::new(Kind::Interrupted, "stopped before it was ready"))),
    }
}

/// [`run`] on a thread of its own. Dropping the future stops the server.
pub async fn run_elsewhere(
    config: ServeConfig,
    options: Options,
    notice: impl Fn(Notice<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    struct Stops(Shutdown);
    impl Drop for Stops {
        fn drop(&mut self) {
            self.0.begin();
        }
    }
    let _stops = Stops(options.shutdown.clone());
    let (sender, ended) = oneshot::channel();
    let serve = move || drop(sender.send(run(&config, &options, notice)));
    Builder::new().name("serve".into()).spawn(serve).map_err(no_thread)?;
    ended.await.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the server ended without a word")))
}

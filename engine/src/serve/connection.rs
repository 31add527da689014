//! Connections: accepted up to a limit, each with a clock for heads, for silence and for peers that do not read.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};

use crate::limits;

/// Accepts until `closing` is true; then every connection ends after the reply that it is in. The semaphore has all its
/// permits again when all are gone.
//= F-SERVE-259
pub async fn accept(listener: TcpListener, app: Router, closing: watch::Receiver<bool>, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (app, closing) = (app.clone(), closing.clone());
                tokio::spawn(async move {
                    converse(stream, app, closing).await;
                    drop(permit);
                });
            }
            // The peer was gone before it was accepted, or the process has no more files: the next may do better.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection. What is wrong with it is the peer's affair.
async fn converse(stream: TcpStream, app: Router, mut closing: watch::Receiver<bool>) {
    // Tokens are small and wanted at once.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX);
    let io = TokioIo::new(Patient { stream, stalled: None });
    let mut connection = pin!(http.serve_connection(io, TowerToHyperService::new(app)));
    let mut ending = pin!(closing.wait_for(|closing| *closing));
    let mut told = false;
    let _ = poll_fn(|cx| {
        if !told && ending.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

/// A stream that gives up on a peer who takes nothing of what is ready for it.
struct Patient {
    stream: TcpStream,
    /// Rings when the peer took nothing for too long.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// `done` was what a write came to.
    fn watch<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        let clock = self.stalled.get_or_insert_with(|| Box::pin(sleep(limits::STALL_TIME)));
        match clock.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(done, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watch(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Waits until a number of permits are free again, or until it is too late.
pub async fn all_gone(room: &Semaphore, until: Instant) {
    while room.available_permits() < limits::CONNECTIONS_MAX && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
}

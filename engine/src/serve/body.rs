//! Bodies, both ways: a request's is read with a limit and a clock, a reply's may come piece by piece.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::{Body as _, Frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::problem::{Answered, Problem};
use crate::error::quoted;
use crate::limits;

/// Bytes of bodies that are held, of all requests together.
#[derive(Clone, Default)]
pub struct Held(Arc<AtomicUsize>);

/// A whole body, counted until it is dropped.
pub struct Whole {
    /// Its bytes.
    pub bytes: Vec<u8>,
    held: Held,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Whole {
    fn take(&mut self, more: &[u8]) -> Answered<()> {
        if self.bytes.len() + more.len() > limits::BODY_BYTES_MAX {
            return Err(too_large());
        }
        let before = self.held.0.fetch_add(more.len(), Ordering::Relaxed);
        self.bytes.extend_from_slice(more);
        if before + more.len() > limits::BODIES_BYTES_MAX {
            let busy = "too many large requests at the same time; try again later";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy).code("overloaded"));
        }
        Ok(())
    }
}

fn too_large() -> Problem {
    let what = format!("the body is larger than {} bytes", limits::BODY_BYTES_MAX);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what).code("request_too_large")
}

impl Held {
    /// Reads a body to its end.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Answered<Whole> {
        if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|c| *c != "identity") {
            let coding = quoted(&String::from_utf8_lossy(coding.as_bytes()));
            let what = format!("bodies in Content-Encoding {coding} are not read; send it plain");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        // What says that it is too large is not read at all.
        let says: Option<usize> =
            headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()).and_then(|n| n.parse().ok());
        if says.is_some_and(|n| n > limits::BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive");
        timeout(limits::BODY_TIME, self.collect(body)).await.map_err(slow)?
    }

    async fn collect(&self, body: Body) -> Answered<Whole> {
        let mut body = pin!(body);
        let mut whole = Whole { bytes: Vec::new(), held: self.clone() };
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let cut = |e| Problem::new(StatusCode::BAD_REQUEST, format!("the body ended before its end: {e}"));
            // Trailers say nothing that is wanted.
            if let Ok(data) = frame.map_err(cut)?.into_data() {
                whole.take(&data)?;
            }
        }
        Ok(whole)
    }
}

/// A reply whose pieces come from a channel: server-sent events. What sends them is run by whoever sends the reply, and
/// dropped with it, at the end or when the peer is gone.
//= F-SERVE-237
pub fn events(pieces: mpsc::Receiver<String>, telling: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    let body = Events { pieces, ping: Box::pin(sleep(limits::PING_TIME)), telling: Some(Box::pin(telling)) };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-cache"),
        // For proxies of nginx's kind, which would hold events back.
        ("x-accel-buffering", "no"),
    ];
    (headers, Body::new(body)).into_response()
}

struct Events {
    pieces: mpsc::Receiver<String>,
    ping: Pin<Box<Sleep>>,
    /// None once it has ended.
    telling: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        let this = &mut *self;
        let mut next = this.pieces.poll_recv(cx);
        if next.is_pending()
            && let Some(telling) = &mut this.telling
        {
            if telling.as_mut().poll(cx).is_ready() {
                this.telling = None;
            }
            next = this.pieces.poll_recv(cx);
        }
        let piece = match next {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(piece)) => piece,
            // A comment, which clients ignore and which shows that somebody is still there.
            Poll::Pending => match this.ping.as_mut().poll(cx) {
                Poll::Ready(()) => ": still here\n\n".into(),
                Poll::Pending => return Poll::Pending,
            },
        };
        this.ping.as_mut().reset(Instant::now() + limits::PING_TIME);
        // A timer that was reset has to be asked once to ring again; the next call does.
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

//! Guards of one connection and its bodies: a client that stands still loses its place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body as handlers get it.
pub type RequestBody = GuardedBody<hyper::body::Incoming>;

/// The client sent nothing of a body for as long as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sent nothing for {limit:?}")]
pub struct Stalled {
    /// How long it was waited.
    pub limit: Duration,
}

/// A timer that runs only while something is waited for.
#[derive(Debug)]
struct StallTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl StallTimer {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            sleep: None,
            is_running: false,
        }
    }

    /// There was progress.
    fn stop(&mut self) {
        self.is_running = false;
    }

    /// There was none: ready when that has been so for the limit.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.is_running {
            sleep.as_mut().reset(Instant::now() + limit);
            self.is_running = true;
        }
        sleep.as_mut().poll(cx)
    }
}

/// A connection whose first byte must come, and whose writes must move, within a time. Reads
/// after the first byte are not timed here: a request that the server works on for long has
/// nothing to read.
#[derive(Debug)]
pub(super) struct GuardedIo<I> {
    io: I,
    first_read: Option<StallTimer>,
    writes: StallTimer,
}

impl<I> GuardedIo<I> {
    pub(super) fn new(io: I, first_byte: Duration, stall: Duration) -> Self {
        Self {
            io,
            first_read: Some(StallTimer::new(first_byte)),
            writes: StallTimer::new(stall),
        }
    }

    /// Passes the outcome of a write on, timing those that do not move.
    fn timed_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writes.stop();
            return outcome;
        }
        ready!(self.writes.poll_expired(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing",
        )))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for GuardedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.io).poll_read(cx, buf) {
            self.first_read = None;
            return Poll::Ready(outcome);
        }
        let Some(timer) = &mut self.first_read else {
            return Poll::Pending;
        };
        ready!(timer.poll_expired(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client sends no request",
        )))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for GuardedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.timed_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.timed_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.timed_write(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.timed_write(cx, outcome)
    }
}

/// A request's body that fails with [`Stalled`] where its client stands still.
#[derive(Debug)]
pub struct GuardedBody<B> {
    body: B,
    timer: StallTimer,
    /// Told when the body is first asked for, where somebody wants to know.
    begun: Option<Arc<AtomicBool>>,
}

impl<B> GuardedBody<B> {
    pub(super) fn new(body: B, stall: Duration) -> Self {
        Self {
            body,
            timer: StallTimer::new(stall),
            begun: None,
        }
    }

    /// Becomes true when the body is first asked for: that is when a client that sent
    /// `Expect: 100-continue` is told to go on.
    pub(super) fn begun(&mut self) -> Arc<AtomicBool> {
        Arc::clone(self.begun.get_or_insert_default())
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(begun) = self.begun.take() {
            begun.store(true, Ordering::Relaxed);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.timer.stop();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.timer.poll_expired(cx));
        let limit = self.timer.limit;
        Poll::Ready(Some(Err(Stalled { limit }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that holds its request's place among those in flight.
pub struct InFlightBody<B> {
    body: Pin<Box<B>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<B> InFlightBody<B> {
    pub(super) fn new(body: B, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            body: Box::pin(body),
            _permit: permit,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for InFlightBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_connection_without_a_first_byte_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut io = GuardedIo::new(ours, SHORT, LONG);
        let error = io.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn reads_after_the_first_byte_are_not_timed() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut io = GuardedIo::new(ours, SHORT, SHORT);
        theirs.write_all(b"a").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'a');
        tokio::spawn(async move {
            tokio::time::sleep(SHORT * 4).await;
            theirs.write_all(b"b").await.unwrap();
        });
        assert_eq!(io.read_u8().await.unwrap(), b'b');
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut io = GuardedIo::new(ours, LONG, SHORT);
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_body_that_stands_still_fails() {
        let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, io::Error>,
        >());
        let error = GuardedBody::new(silent, SHORT).collect().await.unwrap_err();
        assert_eq!(
            error.downcast_ref::<Stalled>(),
            Some(&Stalled { limit: SHORT })
        );
    }
}

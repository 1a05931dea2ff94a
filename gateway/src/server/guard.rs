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

use super::unread::Left;

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

/// What an HTTP/2 client begins with. Source: RFC 9113 section 3.4.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that must begin, and whose writes must move, within a time. It has begun when
/// its bytes tell which HTTP it speaks: they are all of the HTTP/2 preface, or differ from it.
/// Until then nothing in hyper runs a timer. Reads after that are not timed here: a request that
/// the server works on for long has nothing to read.
#[derive(Debug)]
pub(super) struct GuardedIo<I> {
    io: I,
    beginning: Option<Beginning>,
    writes: StallTimer,
}

/// A connection that has not begun. Its timer is never stopped: bytes sent one by one gain no
/// time.
#[derive(Debug)]
struct Beginning {
    timer: StallTimer,
    /// What is missing of the preface.
    preface: &'static [u8],
}

impl Beginning {
    /// Takes the bytes of one read. True where they leave open which HTTP is spoken.
    fn goes_on_with(&mut self, bytes: &[u8]) -> bool {
        match self.preface.strip_prefix(bytes) {
            Some(missing) if !bytes.is_empty() && !missing.is_empty() => {
                self.preface = missing;
                true
            }
            _ => false,
        }
    }
}

impl<I> GuardedIo<I> {
    pub(super) fn new(io: I, beginning: Duration, stall: Duration) -> Self {
        Self {
            io,
            beginning: Some(Beginning {
                timer: StallTimer::new(beginning),
                preface: H2_PREFACE,
            }),
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
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(outcome) = Pin::new(&mut this.io).poll_read(cx, buf) {
            let read = &buf.filled()[before..];
            this.beginning
                .take_if(|beginning| outcome.is_err() || !beginning.goes_on_with(read));
            return Poll::Ready(outcome);
        }
        let Some(beginning) = &mut this.beginning else {
            return Poll::Pending;
        };
        ready!(beginning.timer.poll_expired(cx));
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
    /// None after its end, and while it is dropped.
    body: Option<B>,
    timer: StallTimer,
    /// Told when the body is first asked for, where somebody wants to know.
    begun: Option<Arc<AtomicBool>>,
    /// Where it goes when it is dropped before its end.
    left: Left<B>,
}

impl<B> Drop for GuardedBody<B> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.left.put(body);
        }
    }
}

impl<B: Body> GuardedBody<B> {
    pub(super) fn new(body: B, stall: Duration) -> Self {
        Self {
            body: (!body.is_end_stream()).then_some(body),
            timer: StallTimer::new(stall),
            begun: None,
            left: Left::default(),
        }
    }

    /// Where it will be if it is dropped before its end.
    pub(super) fn left(&self) -> Left<B> {
        self.left.clone()
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
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            let is_over = !matches!(frame, Some(Ok(_))) || body.is_end_stream();
            self.body.take_if(|_| is_over);
            self.timer.stop();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.timer.poll_expired(cx));
        self.body = None;
        let limit = self.timer.limit;
        Poll::Ready(Some(Err(Stalled { limit }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), Body::size_hint)
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
    async fn a_preface_that_never_ends_is_given_up_however_slowly_it_comes() {
        for len in 1..H2_PREFACE.len() {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut io = GuardedIo::new(ours, SHORT, LONG);
            theirs.write_all(&H2_PREFACE[..len]).await.unwrap();
            let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{len}");
        }
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut io = GuardedIo::new(ours, SHORT * 4, LONG);
        tokio::spawn(async move {
            for byte in H2_PREFACE {
                let _ = theirs.write_all(&[*byte]).await;
                tokio::time::sleep(SHORT).await;
            }
            std::future::pending::<()>().await;
        });
        let error = io.read_exact(&mut [0; 24]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn reads_after_the_beginning_are_not_timed() {
        for beginning in [&b"a"[..], b"PX", b"PRI * HTTP/2.1", H2_PREFACE] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut io = GuardedIo::new(ours, SHORT, SHORT);
            theirs.write_all(beginning).await.unwrap();
            io.read_exact(&mut vec![0; beginning.len()]).await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(SHORT * 4).await;
                theirs.write_all(b"b").await.unwrap();
            });
            assert_eq!(io.read_u8().await.unwrap(), b'b');
        }
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

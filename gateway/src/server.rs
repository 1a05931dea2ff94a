//! The HTTP server under every door: accepts connections within bounds, speaks HTTP/1.1 and
//! HTTP/2 (by ALPN over TLS, by prior knowledge without), and drains when it is told to stop.
//! It knows nothing of S3: a door is a [`Handler`].
//!
//! Bounds, all of them in [`Limits`]: connections, requests in flight, the time to send
//! headers, the time a body may stand still, the time a drain may take.

mod guard;
mod stack;
mod unread;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::config::duration;
use crate::zerocopy::{Outbox, ZeroCopyIo};
pub use guard::{BoxError, InFlightBody, RequestBody, Stalled};
use guard::{GuardedBody, GuardedIo};

/// Most streams that one HTTP/2 connection may have open.
const MAX_H2_STREAMS: u32 = 256;
/// What an HTTP/2 client may send ahead on one stream, in bytes.
const H2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What an HTTP/2 client may send ahead on one connection, in bytes.
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How long to wait after the system had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of the server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most connections open; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Most requests under way, bodies included; further ones are answered 503.
    pub in_flight: usize,
    /// Longest time for a TLS handshake, for a request's headers, and without a request.
    #[serde(deserialize_with = "duration")]
    pub header_timeout: Duration,
    /// Longest time in which a client neither sends nor takes a byte of a body.
    #[serde(deserialize_with = "duration")]
    pub stall_timeout: Duration,
    /// Longest time that requests under way get when the server stops.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// Most threads that wait for the disk.
    pub disk_threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            in_flight: 1024,
            header_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            disk_threads: 128,
        }
    }
}

impl Limits {
    /// Says which bound cannot be.
    pub fn check(&self) -> Result<(), String> {
        for (name, is_zero) in [
            ("connections", self.connections == 0),
            ("in_flight", self.in_flight == 0),
            ("disk_threads", self.disk_threads == 0),
            ("header_timeout", self.header_timeout.is_zero()),
            ("stall_timeout", self.stall_timeout.is_zero()),
        ] {
            if is_zero {
                return Err(format!("limits.{name} is zero"));
            }
        }
        if self.connections.max(self.in_flight) > Semaphore::MAX_PERMITS {
            return Err("limits.connections or limits.in_flight is beyond all bounds".to_owned());
        }
        Ok(())
    }
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end of the connection.
    pub addr: SocketAddr,
    /// True where the connection is encrypted.
    pub is_tls: bool,
}

/// Why the server itself answers a request in the handler's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// [`Limits::in_flight`] requests are under way.
    Overloaded,
    /// The handler panicked.
    Panicked,
}

/// A door: answers requests, and says in its protocol's words what the server has to refuse.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// Answers a request. It is dropped where the client goes away.
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// The answer that states a refusal.
    fn refuse(&self, refusal: Refusal) -> Response<Self::Body>;

    /// Told of each connection when it is opened, and when it is closed.
    fn connected(&self, _is_open: bool) {}
}

/// What the server is told to do; it only ever goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Serve,
    /// Take no new connection, end the requests under way within [`Limits::drain_timeout`].
    Drain,
    /// End now.
    Halt,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request under way was answered.
    All,
    /// So many connections were cut.
    Cut {
        /// How many.
        connections: usize,
    },
}

/// Serves `handler` on `listener` until `phase` says otherwise, or its sender is dropped
/// (which means [`Phase::Drain`]).
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: H,
    limits: &Limits,
    mut phase: watch::Receiver<Phase>,
) -> Drained {
    let shared = Arc::new(Shared {
        builder: connection_builder(limits),
        tls: tls.map(TlsAcceptor::from),
        stack: stack::Stack::new(handler, limits.in_flight),
        limits: limits.clone(),
    });
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        let (stream, addr, slot) = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Drain) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        tasks.spawn(Arc::clone(&shared).connection(stream, addr, graceful.watcher(), slot));
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    drain(graceful, tasks, limits.drain_timeout, phase).await
}

/// Ends when `phase` is at least `wanted`.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|now| *now >= wanted).await.is_err() && wanted > Phase::Drain {
        // Nobody is left who could ask for more than a drain.
        std::future::pending::<()>().await;
    }
}

/// Waits for a free slot, then for a connection.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => return (stream, addr, slot),
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn drain(
    graceful: GracefulShutdown,
    mut tasks: JoinSet<()>,
    limit: Duration,
    mut phase: watch::Receiver<Phase>,
) -> Drained {
    while tasks.try_join_next().is_some() {}
    if !tasks.is_empty() {
        tracing::info!(connections = tasks.len(), "draining");
    }
    tokio::select! {
        biased;
        () = graceful.shutdown() => return Drained::All,
        () = tokio::time::sleep(limit) => {}
        () = reached(&mut phase, Phase::Halt) => {}
    }
    while tasks.try_join_next().is_some() {}
    let connections = tasks.len();
    tasks.shutdown().await;
    if connections == 0 {
        Drained::All
    } else {
        Drained::Cut { connections }
    }
}

/// What every connection uses.
struct Shared<H: Handler> {
    builder: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    stack: stack::Stack<H>,
    limits: Limits,
}

impl<H: Handler> Shared<H> {
    /// Serves one connection to its end. `_slot` is free again after that.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        addr: SocketAddr,
        watcher: Watcher,
        _slot: OwnedSemaphorePermit,
    ) {
        let _open = Open::of(self.stack.handler());
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%addr, %error, "the connection is gone");
            return;
        }
        let is_tls = self.tls.is_some();
        let peer = Peer { addr, is_tls };
        let Some(acceptor) = &self.tls else {
            let io = ZeroCopyIo::new(stream);
            let outbox = io.outbox();
            return self.speak(io, peer, Some(outbox), watcher).await;
        };
        let handshake = tokio::time::timeout(self.limits.header_timeout, acceptor.accept(stream));
        match handshake.await {
            Ok(Ok(stream)) => self.speak(stream, peer, None, watcher).await,
            Ok(Err(error)) => tracing::debug!(%addr, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%addr, "TLS handshake took too long"),
        }
    }

    async fn speak<I>(&self, io: I, peer: Peer, outbox: Option<Outbox>, watcher: Watcher)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = &self.limits;
        let io = GuardedIo::new(io, limits.header_timeout, limits.stall_timeout);
        let service = ForPeer {
            stack: self.stack.clone(),
            peer,
            outbox,
            stall_timeout: limits.stall_timeout,
        };
        let connection = self
            .builder
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
            .into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(addr = %peer.addr, %error, "connection ended early");
        }
    }
}

/// A connection, as long as it is open.
struct Open<'a, H: Handler>(&'a H);

impl<'a, H: Handler> Open<'a, H> {
    fn of(handler: &'a H) -> Self {
        handler.connected(true);
        Self(handler)
    }
}

impl<H: Handler> Drop for Open<'_, H> {
    fn drop(&mut self) {
        self.0.connected(false);
    }
}

fn connection_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .keep_alive(true)
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.stall_timeout)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES);
    builder
}

/// The stack as one connection sees it: adds who asks, and the guard of the body.
#[derive(Clone)]
struct ForPeer<H: Handler> {
    stack: stack::Stack<H>,
    peer: Peer,
    /// Where the connection can send from files, as long as it speaks HTTP/1.
    outbox: Option<Outbox>,
    stall_timeout: Duration,
}

impl<H: Handler> Service<Request<hyper::body::Incoming>> for ForPeer<H> {
    type Response = Response<InFlightBody<H::Body>>;
    type Error = Infallible;
    type Future = stack::Answer<H>;

    fn poll_ready(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let mut request = request.map(|body| GuardedBody::new(body, self.stall_timeout));
        name_host(&mut request);
        if let Some(outbox) = &self.outbox
            && request.version() <= http::Version::HTTP_11
        {
            request.extensions_mut().insert(outbox.clone());
        }
        let is_empty = http_body::Body::is_end_stream(request.body());
        let begun = waits_to_send(&request).then(|| request.body_mut().begun());
        if request.version() > http::Version::HTTP_11 || is_empty && begun.is_none() {
            return self.stack.call(request, self.peer);
        }
        let left = request.body().left();
        let answer = self.stack.call(request, self.peer);
        Box::pin(async move {
            let mut answer = answer.await?;
            let ends = match begun {
                // The client was not told to go on. It may leave its body out now, or send it all
                // the same; nobody can tell that body from the next request, so there must be no
                // next request. Nor may there be where the body is empty: botocore takes what
                // follows such an answer on its connection for a part of it.
                Some(begun) if is_empty || !begun.load(Ordering::Relaxed) => true,
                _ => left.ends_connection(),
            };
            if ends {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(answer)
        })
    }
}

/// True where an HTTP/1 client holds its body back until it is told to go on. Source: RFC 9110
/// section 10.1.1.
fn waits_to_send<B>(request: &Request<B>) -> bool {
    request.version() <= http::Version::HTTP_11
        && request
            .headers()
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Gives an HTTP/2 request the Host that its `:authority` stands for: doors read signatures and
/// virtual hosts from it. Source: RFC 9113 section 8.3.1.
fn name_host<B>(request: &mut Request<B>) {
    if request.headers().contains_key(header::HOST) {
        return;
    }
    let authority = request.uri().authority().map(|name| name.as_str());
    if let Some(host) = authority.and_then(|name| HeaderValue::from_str(name).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
}

#[cfg(test)]
mod tests;

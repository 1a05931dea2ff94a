//! Bodies that were answered before they were read: a refused PUT, mostly. On an HTTP/1 connection
//! the next request comes behind them. What is left of a short one is read and thrown away, so
//! that the connection goes on. After a long one it ends, and the answer says so; some of it is
//! read all the same, since a connection that is closed with unread bytes is reset, which may
//! take the answer from the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;

/// Most bytes that are read for the next request on the connection.
pub(super) const MAX_SKIPPED_BYTES: u64 = 1 << 20;
/// Most bytes that are read for the answer to arrive.
const MAX_LINGERED_BYTES: u64 = 16 << 20;
/// Longest time for either.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the handler's body goes when it is dropped before its end.
#[derive(Debug)]
pub(super) struct Left<B>(Arc<Mutex<Option<B>>>);

impl<B> Default for Left<B> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<B> Clone for Left<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Left<B> {
    pub(super) fn put(&self, body: B) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    fn take(&self) -> Option<B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Left<Incoming> {
    /// Reads what is left, for as long as is worth while, in the background. True where the
    /// connection is to end with the answer.
    pub(super) fn ends_connection(&self) -> bool {
        let Some(body) = self.take() else {
            return false;
        };
        let is_short = body
            .size_hint()
            .upper()
            .is_some_and(|len| len <= MAX_SKIPPED_BYTES);
        tokio::spawn(tokio::time::timeout(PATIENCE, skip(body)));
        !is_short
    }
}

async fn skip(mut body: Incoming) {
    let mut len_bytes = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        len_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if len_bytes > MAX_LINGERED_BYTES {
            return;
        }
    }
}

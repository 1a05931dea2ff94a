//! What stands between a connection and a handler: the bound of requests in flight, and the
//! net under panics.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response};
use tokio::sync::Semaphore;

use super::guard::{InFlightBody, RequestBody};
use super::{Handler, Peer, Refusal};

/// An answer on its way.
pub(super) type Answer<H> = Pin<
    Box<
        dyn Future<Output = Result<Response<InFlightBody<<H as Handler>::Body>>, Infallible>>
            + Send,
    >,
>;

/// A handler with its bounds.
#[derive(Clone)]
pub(super) struct Stack<H> {
    handler: H,
    /// Requests that may still begin. A request's permit travels in its answer's body, so that
    /// a download counts until its last byte.
    free: Arc<Semaphore>,
}

impl<H: Handler> Stack<H> {
    pub(super) fn new(handler: H, in_flight: usize) -> Self {
        Self {
            handler,
            free: Arc::new(Semaphore::new(in_flight)),
        }
    }

    pub(super) fn handler(&self) -> &H {
        &self.handler
    }

    pub(super) fn call(&self, request: Request<RequestBody>, peer: Peer) -> Answer<H> {
        let handler = self.handler.clone();
        let permit = Arc::clone(&self.free).try_acquire_owned().ok();
        Box::pin(async move {
            if permit.is_none() {
                tracing::warn!("limits.in_flight reached: a request is refused");
                let refused = handler.refuse(Refusal::Overloaded);
                return Ok(refused.map(|body| InFlightBody::new(body, None)));
            }
            let method = request.method().clone();
            let uri = request.uri().clone();
            let answer = match unpanicked(handler.handle(request, peer)).await {
                Ok(answer) => answer,
                Err(_) => {
                    // The panic's own words are logged by the hook that `logs` installs.
                    tracing::error!(%method, path = uri.path(), "the handler panicked");
                    handler.refuse(Refusal::Panicked)
                }
            };
            Ok(answer.map(|body| InFlightBody::new(body, permit)))
        })
    }
}

/// Runs a future; a panic in it becomes an error. What the future owned is dropped with it, and
/// nothing that it shares stays half done but behind a poisoned lock, so going on is sound.
async fn unpanicked<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

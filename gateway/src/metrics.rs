//! What is counted of a server, and told in the text format of Prometheus on a listener of its own.
//! Source: Prometheus, "Exposition formats", text format 0.0.4; "Metric and label naming".
//!
//! What is counted where it happens is in a [`Meter`]; what is known anyhow is asked when someone
//! looks ([`Source`]).

mod meter;
mod text;

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

pub use self::meter::{Measured, Meter};
pub use self::text::{Kind, Text};
use crate::s3::respond::Body;
use crate::server::{Handler, Peer, Refusal, RequestBody};

/// Writes what it knows now, on a thread that may wait.
pub type Source = Arc<dyn Fn(&mut Text) + Send + Sync>;

const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers `GET /metrics`. Clones share it.
#[derive(Clone)]
pub struct MetricsDoor {
    sources: Arc<[Source]>,
}

impl MetricsDoor {
    /// A door that tells of these.
    pub fn new(sources: Vec<Source>) -> Self {
        Self {
            sources: sources.into(),
        }
    }

    fn page(&self) -> String {
        let mut text = Text::default();
        text.family("portico_build_info", Kind::Gauge, "The version that runs.");
        text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        self.sources.iter().for_each(|source| source(&mut text));
        text.finish()
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

impl Handler for MetricsDoor {
    type Body = Body;

    async fn handle(&self, request: Request<RequestBody>, _: Peer) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let door = self.clone();
                let Ok(page) = tokio::task::spawn_blocking(move || door.page()).await else {
                    return plain(StatusCode::INTERNAL_SERVER_ERROR);
                };
                let mut response = Response::new(Body::full(page));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, FORMAT);
                response
            }
            (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED),
            _ => plain(StatusCode::NOT_FOUND),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        plain(match refusal {
            Refusal::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }
}

//! The S3 door: HTTP in, HTTP out, over any [`Volume`].
//!
//! [`S3::handle`] takes a request through route → authenticate → bucket → grant → handler, and
//! makes an answer of whatever comes out. Handlers are free functions over [`ctx::Ctx`]; those
//! that change something, or read a bucket, take a `Grant` as an argument; those that read an
//! object make their grant from the object's own access list once they have looked at it.
//!
//! Must not know: files, SQL, a kind of volume.

pub mod acl;
pub mod attributes;
pub mod bucket;
mod client_mtime;
pub mod copy;
mod copy_source;
pub mod cors;
pub mod ctx;
pub mod delete_many;
pub mod dispatch;
pub mod get;
pub mod get_body;
pub mod list;
pub mod list_uploads;
pub mod list_versions;
pub mod multipart;
pub mod object;
mod object_checksum;
mod object_headers;
pub mod operation;
mod permit;
pub mod post;
pub mod query;
pub mod respond;
pub mod route;
pub mod tagging;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod xml;

use std::sync::Arc;
use std::time::Instant;

use fsstore::volume::{BucketInfo, Volume};
use http::{HeaderValue, Method, Request, Response, header};

use self::ctx::{Call, ConnInfo, Ctx, RequestBody};
use self::query::Query;
use self::respond::{AccessRecord, Body, Measuring, RequestId, RequestIds};
use self::route::Operation;
use crate::auth::{Payload, authenticate};
use crate::errors::{S3Code, S3Error};
use crate::metrics::Meter;
use crate::users::{DEFAULT_ACCOUNT, User};

/// The S3 door of one volume.
pub struct S3<V> {
    ctx: Ctx<V>,
    ids: RequestIds,
    meter: Option<Arc<Meter>>,
}

/// What is known of a request when its answer is made, for the headers and the log.
struct Trail {
    operation: Option<Operation>,
    bucket: Option<BucketInfo>,
    user: Option<Arc<User>>,
}

/// What a browser says of a request that a page of another origin makes.
struct CrossOrigin {
    origin: HeaderValue,
    method: Method,
}

impl CrossOrigin {
    fn of(parts: &http::request::Parts) -> Option<Self> {
        let origin = parts.headers.get(header::ORIGIN)?.clone();
        let asked = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let method = asked
            .and_then(|method| Method::from_bytes(method.as_bytes()).ok())
            .unwrap_or_else(|| parts.method.clone());
        Some(Self { origin, method })
    }
}

impl<V: Volume> S3<V> {
    /// Opens the door.
    pub fn new(ctx: Ctx<V>) -> Self {
        let seed = ctx.clock.now().0 as u64;
        Self {
            ctx,
            ids: RequestIds::new(seed),
            meter: None,
        }
    }

    /// Has requests counted.
    #[must_use]
    pub fn measured_by(mut self, meter: Option<Arc<Meter>>) -> Self {
        self.meter = meter;
        self
    }

    /// What handlers have at hand.
    pub fn ctx(&self) -> &Ctx<V> {
        &self.ctx
    }

    /// Answers a request. The body is polled only once the caller is known and may do what is
    /// asked. Dropping the future leaves nothing half done in the store.
    pub async fn handle<B: RequestBody>(
        &self,
        request: Request<B>,
        conn: ConnInfo,
    ) -> Response<Body> {
        let begun = Instant::now();
        let id = self.ids.next();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let cross = CrossOrigin::of(&parts);
        let path = parts.uri.clone();
        let mut trail = Trail {
            operation: None,
            bucket: None,
            user: None,
        };
        let with_body = method != Method::HEAD;
        let measuring = self
            .meter
            .clone()
            .map(|meter| Measuring::begin(meter, &parts.headers));
        let answer = self.answer(parts, body, id, conn, &mut trail).await;
        let mut response = answer.unwrap_or_else(|error| {
            let error = name_what_is_missing(error, trail.operation.as_ref());
            log_failure(&error, id);
            respond::error(&error, path.path(), id, self.ids.host_id(), with_body)
        });
        self.finish(&mut response, cross.as_ref(), &trail, id);
        if let Some(mut measuring) = measuring {
            measuring.measured.status = response.status().as_u16();
            let operation = trail.operation.as_ref().map(Operation::name);
            measuring.measured.operation = operation.unwrap_or("None");
            response.body_mut().measure_at_end(measuring);
        }
        if tracing::enabled!(target: respond::ACCESS_LOG, tracing::Level::INFO) {
            log_access(&mut response, method, trail, id, begun);
        }
        response
    }

    /// An answer in place of [`S3::handle`]'s, for requests that the server itself refuses.
    pub fn refuse(&self, code: S3Code) -> Response<Body> {
        let (id, error) = (self.ids.next(), S3Error::from(code));
        let mut response = respond::error(&error, "", id, self.ids.host_id(), true);
        respond::mark(response.headers_mut(), id, &self.ids);
        response
    }

    async fn answer<B: RequestBody>(
        &self,
        parts: http::request::Parts,
        body: B,
        id: RequestId,
        conn: ConnInfo,
        trail: &mut Trail,
    ) -> Result<Response<Body>, S3Error> {
        let ctx = &self.ctx;
        let query = Query::parse(parts.uri.query())?;
        let routed = route::route(&parts, &query, &ctx.auth.domains);
        let now = ctx.clock.now();
        let directory = ctx.users.directory();
        let mut call = Call {
            parts,
            query,
            id,
            now,
            caller: None,
            payload: Payload::Unsigned,
            directory,
            conn,
        };
        if let Ok(Operation::Preflight(name)) = &routed {
            let bucket = ctx.volume.bucket(name).await?;
            return cors::preflight(&call, &bucket);
        }
        let proved = authenticate(&call.parts, &call.directory, now, &ctx.auth)?;
        call.caller = proved.identity;
        call.payload = proved.payload;
        trail.user = call.caller.as_ref().map(|caller| Arc::clone(&caller.user));
        if let Some(caller) = &call.caller
            && caller.user.account != DEFAULT_ACCOUNT
        {
            return Err(S3Code::AccessDenied.with("This account has no volume on this server."));
        }
        let operation = trail.operation.insert(routed?);
        dispatch::refuse_unbuilt_headers(operation, call.headers())?;
        dispatch::dispatch(ctx, &call, operation, body, &mut trail.bucket).await
    }

    /// Puts the headers on an answer that do not depend on the operation.
    fn finish(
        &self,
        response: &mut Response<Body>,
        cross: Option<&CrossOrigin>,
        trail: &Trail,
        id: RequestId,
    ) {
        let headers = response.headers_mut();
        respond::mark(headers, id, &self.ids);
        if let Some(Operation::Bucket(..)) = trail.operation
            && trail.bucket.is_some()
            && let Ok(region) = HeaderValue::from_str(&self.ctx.auth.region)
        {
            headers.insert(respond::X_AMZ_BUCKET_REGION, region);
        }
        if let (Some(cross), Some(bucket)) = (cross, &trail.bucket) {
            cors::mark(headers, &cross.method, &cross.origin, bucket);
        }
    }
}

/// Adds the name of what does not exist, as AWS does.
fn name_what_is_missing(error: S3Error, operation: Option<&Operation>) -> S3Error {
    match (error.code(), operation) {
        (S3Code::NoSuchBucket, Some(operation)) => match operation.bucket() {
            Some(bucket) => error.field("BucketName", bucket.as_str()),
            None => error,
        },
        (S3Code::NoSuchKey, Some(operation)) => match operation.key() {
            Some(key) => error.field("Key", key.as_str()),
            None => error,
        },
        _ => error,
    }
}

fn log_failure(error: &S3Error, id: RequestId) {
    if error.status().is_server_error() && error.code() != S3Code::NotImplemented {
        let cause = error.causes();
        tracing::error!(request_id = %id, code = %error.code(), cause, "request failed");
    }
}

fn log_access(
    response: &mut Response<Body>,
    method: Method,
    trail: Trail,
    request_id: RequestId,
    begun: Instant,
) {
    let operation = trail.operation.as_ref();
    let bucket = operation.and_then(Operation::bucket);
    let key = operation.and_then(Operation::key);
    let record = AccessRecord {
        method,
        bucket: bucket
            .map(|name| name.as_str().to_owned())
            .unwrap_or_default(),
        key: key.map(|key| key.as_str().to_owned()).unwrap_or_default(),
        user: trail.user.map(|user| user.name.clone()).unwrap_or_default(),
        status: response.status().as_u16(),
        request_id,
        begun,
        sent_bytes: 0,
        failure: None,
    };
    response.body_mut().log_at_end(record);
}

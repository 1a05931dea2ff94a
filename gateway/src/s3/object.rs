//! Handlers of objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, Write};
use crate::errors::S3Error;

/// PutObject.
pub async fn put_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at, body);
    Err(S3Error::not_implemented("PutObject"))
}

/// HeadObject.
pub async fn head_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, at);
    Err(S3Error::not_implemented("HeadObject"))
}

/// DeleteObject.
pub async fn delete_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at);
    Err(S3Error::not_implemented("DeleteObject"))
}

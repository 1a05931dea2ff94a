//! CORS.

use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, Manage};
use crate::errors::S3Error;

/// GetBucketCors.
pub fn get_bucket_cors(
    grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (grant, bucket);
    Err(S3Error::not_implemented("GetBucketCors"))
}

/// PutBucketCors.
pub async fn put_bucket_cors<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Manage>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, body);
    Err(S3Error::not_implemented("PutBucketCors"))
}

/// DeleteBucketCors.
pub async fn delete_bucket_cors<V: Volume>(
    ctx: &Ctx<V>,
    grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant, bucket);
    Err(S3Error::not_implemented("DeleteBucketCors"))
}

/// Preflight.
pub fn preflight(call: &Call, bucket: &BucketInfo) -> Result<Response<Body>, S3Error> {
    let _ = (call, bucket);
    Err(S3Error::not_implemented("Preflight"))
}

/// Puts the CORS headers on an actual answer.
pub fn mark(
    headers: &mut http::HeaderMap,
    method: &http::Method,
    origin: &http::HeaderValue,
    bucket: &BucketInfo,
) {
    let _ = (headers, method, origin, bucket);
}

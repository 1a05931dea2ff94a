//! Tags of buckets and objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, Manage, Write};
use crate::errors::S3Error;

/// GetBucketTagging.
pub fn get_bucket_tagging(
    grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (grant, bucket);
    Err(S3Error::not_implemented("GetBucketTagging"))
}

/// PutBucketTagging.
pub async fn put_bucket_tagging<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Manage>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, body);
    Err(S3Error::not_implemented("PutBucketTagging"))
}

/// DeleteBucketTagging.
pub async fn delete_bucket_tagging<V: Volume>(
    ctx: &Ctx<V>,
    grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant, bucket);
    Err(S3Error::not_implemented("DeleteBucketTagging"))
}

/// GetObjectTagging.
pub async fn get_object_tagging<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, at);
    Err(S3Error::not_implemented("GetObjectTagging"))
}

/// PutObjectTagging.
pub async fn put_object_tagging<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, at, body);
    Err(S3Error::not_implemented("PutObjectTagging"))
}

/// DeleteObjectTagging.
pub async fn delete_object_tagging<V: Volume>(
    ctx: &Ctx<V>,
    grant: Grant<Write>,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant, at);
    Err(S3Error::not_implemented("DeleteObjectTagging"))
}

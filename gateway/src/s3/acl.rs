//! Access lists of buckets and objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, ReadAcl, WriteAcl};
use crate::errors::S3Error;

/// GetBucketAcl.
pub fn get_bucket_acl(
    call: &Call,
    grant: Grant<ReadAcl>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (call, grant, bucket);
    Err(S3Error::not_implemented("GetBucketAcl"))
}

/// PutBucketAcl.
pub async fn put_bucket_acl<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<WriteAcl>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, body);
    Err(S3Error::not_implemented("PutBucketAcl"))
}

/// GetObjectAcl.
pub async fn get_object_acl<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, at);
    Err(S3Error::not_implemented("GetObjectAcl"))
}

/// PutObjectAcl.
pub async fn put_object_acl<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, at, body);
    Err(S3Error::not_implemented("PutObjectAcl"))
}

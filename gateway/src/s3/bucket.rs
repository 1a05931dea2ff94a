//! Buckets: create, look at, delete.

use fsstore::name::BucketName;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use super::route::Unset;
use crate::auth::grant::{Grant, Manage, Read, Write};
use crate::errors::S3Error;

/// CreateBucket.
pub async fn create_bucket<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    name: &BucketName,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, name, body);
    Err(S3Error::not_implemented("CreateBucket"))
}

/// HeadBucket.
pub fn head_bucket<V: Volume>(ctx: &Ctx<V>, grant: Grant<Read>) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant);
    Err(S3Error::not_implemented("HeadBucket"))
}

/// DeleteBucket.
pub async fn delete_bucket<V: Volume>(
    ctx: &Ctx<V>,
    grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant, bucket);
    Err(S3Error::not_implemented("DeleteBucket"))
}

/// GetBucketLocation.
pub fn get_bucket_location<V: Volume>(
    ctx: &Ctx<V>,
    grant: Grant<Read>,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, grant);
    Err(S3Error::not_implemented("GetBucketLocation"))
}

/// GetUnset.
pub fn get_unset(
    grant: Grant<Manage>,
    unset: Unset,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (grant, unset, bucket);
    Err(S3Error::not_implemented("GetUnset"))
}

//! Listings.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx};
use super::respond::Body;
use crate::auth::grant::{Grant, Read, Write};
use crate::errors::S3Error;

/// ListBuckets.
pub async fn list_buckets<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Read>,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant);
    Err(S3Error::not_implemented("ListBuckets"))
}

/// ListObjects.
pub async fn list_objects<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket);
    Err(S3Error::not_implemented("ListObjects"))
}

/// ListObjectsV2.
pub async fn list_objects_v2<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket);
    Err(S3Error::not_implemented("ListObjectsV2"))
}

/// ListMultipartUploads.
pub async fn list_multipart_uploads<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket);
    Err(S3Error::not_implemented("ListMultipartUploads"))
}

/// ListParts.
pub async fn list_parts<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, at);
    Err(S3Error::not_implemented("ListParts"))
}

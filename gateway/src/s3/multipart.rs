//! Handlers of objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, Write};
use crate::errors::S3Error;

/// CreateMultipartUpload.
pub async fn create_multipart_upload<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at);
    Err(S3Error::not_implemented("CreateMultipartUpload"))
}

/// UploadPart.
pub async fn upload_part<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at, body);
    Err(S3Error::not_implemented("UploadPart"))
}

/// CompleteMultipartUpload.
pub async fn complete_multipart_upload<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at, body);
    Err(S3Error::not_implemented("CompleteMultipartUpload"))
}

/// AbortMultipartUpload.
pub async fn abort_multipart_upload<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at);
    Err(S3Error::not_implemented("AbortMultipartUpload"))
}

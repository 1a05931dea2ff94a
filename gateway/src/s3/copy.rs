//! Handlers of objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx};
use super::respond::Body;
use crate::auth::grant::{Grant, Write};
use crate::errors::S3Error;

/// CopyObject.
pub async fn copy_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at);
    Err(S3Error::not_implemented("CopyObject"))
}

/// UploadPartCopy.
pub async fn upload_part_copy<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, at);
    Err(S3Error::not_implemented("UploadPartCopy"))
}

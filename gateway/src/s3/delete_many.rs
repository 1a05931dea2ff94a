//! DeleteObjects.

use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::auth::grant::{Grant, Write};
use crate::errors::S3Error;

/// DeleteObjects.
pub async fn delete_objects<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, grant, bucket, body);
    Err(S3Error::not_implemented("DeleteObjects"))
}

//! POST of an object by an HTML form. The form carries its own signature, so the handler finds
//! out itself who sends it.

use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use crate::errors::S3Error;

/// PostObject.
pub async fn post_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, body);
    Err(S3Error::not_implemented("PostObject"))
}

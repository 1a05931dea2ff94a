//! Handlers of objects.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx};
use super::respond::Body;
use crate::errors::S3Error;

/// GetObjectAttributes.
pub async fn get_object_attributes<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let _ = (ctx, call, bucket, at);
    Err(S3Error::not_implemented("GetObjectAttributes"))
}

//! PutObject and DeleteObject.

use fsstore::error::StoreError;
use fsstore::object::{Attributes, Locator, ObjectInfo, Precondition};
use fsstore::volume::{BucketInfo, CommitOptions, StageOptions, Staged, Volume};
use http::header::ETAG;
use http::{Response, StatusCode};

use super::acl;
use super::ctx::{Call, Ctx, RequestBody};
use super::object_checksum;
use super::object_headers::{described, etag_value};
use super::respond::{self, Body};
use super::tagging;
use crate::auth::grant::{Grant, Write};
use crate::body::{self, Expected};
use crate::conditions;
use crate::errors::S3Error;

/// PutObject. The body is first polled (so that 100 Continue goes out) when everything that can
/// be refused without it was not refused. Durable on return. Errors: those of the headers and of
/// the body, PreconditionFailed, NoSuchKey for an If-Match where nothing stands.
/// Source: S3 API, PutObject.
pub async fn put_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let attrs = attributes(call, &grant, bucket)?;
    let precondition = conditions::write_precondition(call.headers());
    let mut decoded = body::decode(body, &call.payload, call.headers())?;
    check_early(ctx, at, &precondition).await?;
    let options = StageOptions {
        len_bytes: decoded.len_bytes(),
        digests: decoded.digests(),
    };
    let mut staged = ctx.volume.stage(at, options).await?;
    while let Some(chunk) = decoded.next_chunk().await? {
        staged.write(chunk).await?;
    }
    let expected = decoded.finish()?;
    let options = CommitOptions {
        modified: ctx.modified(&at.bucket, &attrs.user),
        attrs,
        precondition,
        expected: expected.digests.clone(),
        keep_checksum: expected.checksum,
        file_owner: call.file_owner(),
    };
    let committed = staged.commit(options).await;
    let info = committed.map_err(|error| explain(&expected, error))?;
    Ok(stored(&info))
}

/// What a request says of the object it makes. Errors: those of metadata, tags and access lists.
pub(super) fn attributes(
    call: &Call,
    grant: &Grant<Write>,
    bucket: &BucketInfo,
) -> Result<Attributes, S3Error> {
    let described = described(call.headers())?;
    Ok(Attributes {
        system: described.system,
        user: described.user,
        tags: tagging::from_header(call)?,
        owner: grant.owner(),
        acl: acl_of(call, grant, bucket)?,
    })
}

/// The access list in a request's headers, as text; none where they name none.
pub(super) fn acl_of(
    call: &Call,
    grant: &Grant<Write>,
    bucket: &BucketInfo,
) -> Result<Option<String>, S3Error> {
    let acl = acl::from_headers(call, grant.owner(), bucket.owner.as_deref())?;
    Ok(acl.map(|acl| acl.to_text()))
}

/// Refuses before the body what the commit would refuse after it, where a condition is named.
/// The commit decides again.
pub(super) async fn check_early<V: Volume>(
    ctx: &Ctx<V>,
    at: &Locator,
    precondition: &Precondition,
) -> Result<(), S3Error> {
    if precondition.is_empty() {
        return Ok(());
    }
    match ctx.volume.stat(at).await {
        Ok(info) => precondition.check_write(Some(&info))?,
        Err(StoreError::NoSuchKey) => precondition.check_write(None)?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The answer to a commit's error: which of the statements about the body was wrong.
pub(super) fn explain(expected: &Expected, error: StoreError) -> S3Error {
    match expected.explain(error) {
        Ok(refused) => refused.into(),
        Err(other) => other.into(),
    }
}

/// The answer to a PUT: the ETag and the checksum of what was stored.
fn stored(info: &ObjectInfo) -> Response<Body> {
    let mut response = respond::empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(ETAG, etag_value(info.etag.as_str()));
    if let Some(checksum) = object_checksum::shown(info) {
        object_checksum::put_headers(headers, &checksum, info.part_count);
    }
    response
}

/// DeleteObject: 204, whether anything stood there or not; conditions speak of what stands, so
/// they cannot fail where nothing does. Durable on return. Errors: PreconditionFailed,
/// InvalidArgument. Source: S3 API, DeleteObject.
pub async fn delete_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    _bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let precondition = conditions::delete_precondition(call.headers())?;
    match ctx.volume.remove(at, &precondition).await {
        Ok(_) | Err(StoreError::NoSuchKey) => Ok(respond::empty(StatusCode::NO_CONTENT)),
        Err(error) => Err(error.into()),
    }
}

//! Permissions of files, in buckets that enforce them (`enforce = "posix"`): besides the grant of
//! the policy each operation needs the kernel's leave, by the caller's uid and groups. It is asked
//! for each request anew.
//!
//! Buckets themselves, their settings, and uploads that are looked at or ended are the policy's
//! alone: there is no file of the bucket that they read or change.

use fsstore::error::StoreError;
use fsstore::name::BucketName;
use fsstore::object::Locator;
use fsstore::permission::Act;
use fsstore::volume::{BucketInfo, Volume};

use super::ctx::{Call, Ctx};
use super::operation::{BucketOperation, ObjectOperation};
use crate::errors::{S3Code, S3Error};

/// Says why a caller is refused whom the kernel cannot know.
const NO_IDENTITY: &str = "This bucket enforces the permissions of files, and the caller has no uid \
                           and gid for the kernel to check them by.";

/// Asks for the kernel's leave where the bucket enforces permissions. Errors: AccessDenied.
pub(super) async fn check<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketName,
    act: Act<'_, V::Object>,
) -> Result<(), S3Error> {
    if !ctx.volume.enforces_permissions(bucket) {
        return Ok(());
    }
    let caller = call.caller.as_ref();
    let who = caller.and_then(|identity| identity.user.credentials());
    let who = who.ok_or_else(|| S3Code::AccessDenied.with(NO_IDENTITY))?;
    Ok(ctx.volume.permit(&who, act).await?)
}

/// Opens an object to give out its bytes or attributes. Errors: AccessDenied, NoSuchKey.
pub(super) async fn open<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<V::Object, S3Error> {
    let opened = ctx.volume.open(at).await;
    if let Ok(_) | Err(StoreError::NoSuchKey) = &opened {
        // That nothing stands is told only to those who may look there.
        let object = opened.as_ref().ok();
        check(ctx, call, &bucket.name, Act::Read { at, object }).await?;
    }
    opened.map_err(|error| call.object_error(bucket, error))
}

/// Asks for what an operation on an object does, but for those that read one by [`open`].
pub(super) async fn on_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    at: &Locator,
    operation: ObjectOperation,
) -> Result<(), S3Error> {
    use ObjectOperation as Op;
    let act = match operation {
        Op::GetObject
        | Op::HeadObject
        | Op::GetObjectAttributes
        | Op::GetObjectTagging
        | Op::GetObjectAcl
        | Op::ListParts
        | Op::AbortMultipartUpload => return Ok(()),
        Op::PutObject
        | Op::CopyObject
        | Op::CreateMultipartUpload
        | Op::UploadPart
        | Op::UploadPartCopy
        | Op::CompleteMultipartUpload => Act::Replace(at),
        Op::DeleteObject => Act::Remove(at),
        Op::PutObjectTagging | Op::DeleteObjectTagging | Op::PutObjectAcl => Act::Change(at),
    };
    check(ctx, call, &at.bucket, act).await
}

/// Asks for what an operation on a bucket does, but for those that find their keys in the body.
pub(super) async fn on_bucket<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketName,
    operation: BucketOperation,
) -> Result<(), S3Error> {
    use BucketOperation as Op;
    match operation {
        Op::ListObjects | Op::ListObjectsV2 | Op::ListObjectVersions | Op::ListMultipartUploads => {
            let prefix = call.query.get("prefix").unwrap_or_default();
            check(ctx, call, bucket, Act::List { bucket, prefix }).await
        }
        Op::CreateBucket
        | Op::HeadBucket
        | Op::DeleteBucket
        | Op::DeleteObjects
        | Op::PostObject
        | Op::GetBucketLocation
        | Op::GetBucketTagging
        | Op::PutBucketTagging
        | Op::DeleteBucketTagging
        | Op::GetBucketCors
        | Op::PutBucketCors
        | Op::DeleteBucketCors
        | Op::GetBucketAcl
        | Op::PutBucketAcl
        | Op::GetUnset(_) => Ok(()),
    }
}

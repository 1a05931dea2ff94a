//! From an [`Operation`] to its handler, with the grant that the handler asks for.

use fsstore::object::Locator;
use fsstore::volume::{BucketInfo, Volume};
use http::{HeaderMap, Response};

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::Body;
use super::route::{BucketOperation, ObjectOperation, Operation};
use super::{
    acl, attributes, bucket as buckets, copy, cors, delete_many, get, list, list_uploads,
    list_versions, multipart, object, permit, post, tagging,
};
use crate::auth::grant::Resource;
use crate::errors::{S3Code, S3Error};

/// Runs an operation. `seen` receives the bucket once it was looked at.
pub async fn dispatch<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    operation: &Operation,
    body: B,
    seen: &mut Option<BucketInfo>,
) -> Result<Response<Body>, S3Error> {
    match operation {
        Operation::ListBuckets => {
            let grant = match call.caller {
                Some(_) => Some(call.grant(Resource::Service)?),
                None => None,
            };
            Box::pin(list::list_buckets(ctx, call, grant)).await
        }
        Operation::Preflight(name) => {
            let bucket = seen.insert(ctx.volume.bucket(name).await?);
            cors::preflight(call, bucket)
        }
        Operation::Bucket(name, BucketOperation::CreateBucket) => {
            let grant = call.grant(Resource::Service)?;
            Box::pin(buckets::create_bucket(ctx, call, grant, name, body)).await
        }
        Operation::Bucket(name, operation) => {
            let bucket = seen.insert(ctx.volume.bucket(name).await?);
            check_expected_owner(call, bucket)?;
            permit::on_bucket(ctx, call, name, *operation).await?;
            Box::pin(on_bucket(ctx, call, *operation, bucket, body)).await
        }
        Operation::Object(at, operation) => {
            let bucket = seen.insert(ctx.volume.bucket(&at.bucket).await?);
            check_expected_owner(call, bucket)?;
            permit::on_object(ctx, call, at, *operation).await?;
            on_object(ctx, call, *operation, bucket, at, body).await
        }
    }
}

async fn on_bucket<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    operation: BucketOperation,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    use BucketOperation as Op;
    let on = Resource::Bucket(bucket);
    match operation {
        Op::CreateBucket => Err(S3Code::MethodNotAllowed.into()),
        Op::HeadBucket => buckets::head_bucket(ctx, call.grant(on)?),
        Op::DeleteBucket => buckets::delete_bucket(ctx, call.grant(on)?, bucket).await,
        Op::ListObjects => list::list_objects(ctx, call, call.grant(on)?, bucket).await,
        Op::ListObjectsV2 => list::list_objects_v2(ctx, call, call.grant(on)?, bucket).await,
        Op::ListObjectVersions => {
            list_versions::list_object_versions(ctx, call, call.grant(on)?, bucket).await
        }
        Op::ListMultipartUploads => {
            list_uploads::list_multipart_uploads(ctx, call, call.grant(on)?, bucket).await
        }
        Op::DeleteObjects => {
            delete_many::delete_objects(ctx, call, call.grant(on)?, bucket, body).await
        }
        Op::PostObject => post::post_object(ctx, call, bucket, body).await,
        Op::GetBucketLocation => buckets::get_bucket_location(ctx, call.grant(on)?),
        Op::GetBucketTagging => tagging::get_bucket_tagging(call.grant(on)?, bucket),
        Op::PutBucketTagging => {
            tagging::put_bucket_tagging(ctx, call, call.grant(on)?, bucket, body).await
        }
        Op::DeleteBucketTagging => {
            tagging::delete_bucket_tagging(ctx, call.grant(on)?, bucket).await
        }
        Op::GetBucketCors => cors::get_bucket_cors(call.grant(on)?, bucket),
        Op::PutBucketCors => cors::put_bucket_cors(ctx, call, call.grant(on)?, bucket, body).await,
        Op::DeleteBucketCors => cors::delete_bucket_cors(ctx, call.grant(on)?, bucket).await,
        Op::GetBucketAcl => acl::get_bucket_acl(call, call.grant(on)?, bucket),
        Op::PutBucketAcl => acl::put_bucket_acl(ctx, call, call.grant(on)?, bucket, body).await,
        Op::GetUnset(unset) => buckets::get_unset(call.grant(on)?, unset, bucket),
    }
}

async fn on_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    operation: ObjectOperation,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    use ObjectOperation as Op;
    let on = Resource::Bucket(bucket);
    match operation {
        Op::GetObject => get::get_object(ctx, call, bucket, at).await,
        Op::HeadObject => get::head_object(ctx, call, bucket, at).await,
        Op::PutObject => object::put_object(ctx, call, call.grant(on)?, bucket, at, body).await,
        Op::DeleteObject => object::delete_object(ctx, call, call.grant(on)?, bucket, at).await,
        Op::UploadPart => {
            multipart::upload_part(ctx, call, call.grant(on)?, bucket, at, body).await
        }
        rare => Box::pin(rarely_on_object(ctx, call, rare, bucket, at, body)).await,
    }
}

/// The operations whose futures need not lie in every request's.
async fn rarely_on_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    operation: ObjectOperation,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    use ObjectOperation as Op;
    let on = Resource::Bucket(bucket);
    match operation {
        Op::GetObject | Op::HeadObject | Op::PutObject | Op::DeleteObject | Op::UploadPart => {
            Err(S3Code::InternalError.into())
        }
        Op::CopyObject => copy::copy_object(ctx, call, call.grant(on)?, bucket, at).await,
        Op::UploadPartCopy => copy::upload_part_copy(ctx, call, call.grant(on)?, bucket, at).await,
        Op::GetObjectAttributes => attributes::get_object_attributes(ctx, call, bucket, at).await,
        Op::GetObjectTagging => tagging::get_object_tagging(ctx, call, bucket, at).await,
        Op::PutObjectTagging => {
            tagging::put_object_tagging(ctx, call, call.grant(on)?, at, body).await
        }
        Op::DeleteObjectTagging => tagging::delete_object_tagging(ctx, call.grant(on)?, at).await,
        Op::GetObjectAcl => acl::get_object_acl(ctx, call, bucket, at).await,
        Op::PutObjectAcl => acl::put_object_acl(ctx, call, bucket, at, body).await,
        Op::CreateMultipartUpload => {
            multipart::create_multipart_upload(ctx, call, call.grant(on)?, bucket, at).await
        }
        Op::ListParts => list_uploads::list_parts(ctx, call, call.grant(on)?, at).await,
        Op::CompleteMultipartUpload => {
            let grant = call.grant(on)?;
            multipart::complete_multipart_upload(ctx, call, grant, bucket, at, body).await
        }
        Op::AbortMultipartUpload => {
            multipart::abort_multipart_upload(ctx, call, call.grant(on)?, bucket, at).await
        }
    }
}

/// Refuses a bucket that is not whose the client takes it to be. Source: S3 User Guide,
/// "Verifying bucket ownership with bucket owner condition".
fn check_expected_owner(call: &Call, bucket: &BucketInfo) -> Result<(), S3Error> {
    let Some(expected) = call.headers().get("x-amz-expected-bucket-owner") else {
        return Ok(());
    };
    if expected.as_bytes() == call.owner(bucket.owner.as_deref()).id.as_bytes() {
        Ok(())
    } else {
        Err(S3Code::AccessDenied.into())
    }
}

/// Refuses headers that ask for what is not built: they are never silently ignored. Errors:
/// NotImplemented, InvalidStorageClass.
pub fn refuse_unbuilt_headers(operation: &Operation, headers: &HeaderMap) -> Result<(), S3Error> {
    const PREFIXES: [&str; 3] = [
        "x-amz-server-side-encryption",
        "x-amz-copy-source-server-side-encryption",
        "x-amz-object-lock-",
    ];
    const NAMES: [&str; 3] = [
        "x-amz-bucket-object-lock-enabled",
        "x-amz-mfa",
        "x-amz-write-offset-bytes",
    ];
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-") {
            continue;
        }
        let off = name == NAMES[0] && value.as_bytes().eq_ignore_ascii_case(b"false");
        if !off && (NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))) {
            return Err(S3Error::not_implemented(name).field("Header", name));
        }
        if name == "x-amz-storage-class" && operation.is_write() && value != "STANDARD" {
            let class = String::from_utf8_lossy(value.as_bytes()).into_owned();
            return Err(
                S3Error::from(S3Code::InvalidStorageClass).field("StorageClassRequested", class)
            );
        }
    }
    Ok(())
}

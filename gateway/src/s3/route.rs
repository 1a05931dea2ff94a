//! From method, host, path and query to one typed [`Operation`]. Knows nothing of who asks, nor
//! of what stands in the store.
//!
//! Paths are never normalised: `//`, `.`, `..` and `+` in a key are the key's. Source: S3 API
//! Reference, the request syntax of each operation; S3 User Guide, "Virtual hosting of buckets".

use fsstore::name::{BucketName, ObjectKey};
use fsstore::object::Locator;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};

pub use super::operation::{BucketOperation, ObjectOperation, Operation, Unset};
use super::query::Query;
use super::target::split_target;
use crate::errors::{S3Code, S3Error, bucket_name_error, key_error};

/// Sub-resources of S3 that are not built, with the name of their family of operations.
const UNBUILT: &[(&str, &str)] = &[
    ("abac", "BucketAbac"),
    ("accelerate", "BucketAccelerateConfiguration"),
    ("analytics", "BucketAnalyticsConfiguration"),
    ("encryption", "BucketEncryption"),
    (
        "intelligent-tiering",
        "BucketIntelligentTieringConfiguration",
    ),
    ("inventory", "BucketInventoryConfiguration"),
    ("legal-hold", "ObjectLegalHold"),
    ("lifecycle", "BucketLifecycleConfiguration"),
    ("logging", "BucketLogging"),
    ("metadataConfiguration", "BucketMetadataConfiguration"),
    (
        "metadataInventoryTable",
        "BucketMetadataInventoryTableConfiguration",
    ),
    (
        "metadataJournalTable",
        "BucketMetadataJournalTableConfiguration",
    ),
    ("metadataTable", "BucketMetadataTableConfiguration"),
    ("metrics", "BucketMetricsConfiguration"),
    ("notification", "BucketNotificationConfiguration"),
    ("object-lock", "ObjectLockConfiguration"),
    ("ownershipControls", "BucketOwnershipControls"),
    ("policy", "BucketPolicy"),
    ("policyStatus", "GetBucketPolicyStatus"),
    ("publicAccessBlock", "PublicAccessBlock"),
    ("renameObject", "RenameObject"),
    ("replication", "BucketReplication"),
    ("requestPayment", "BucketRequestPayment"),
    ("restore", "RestoreObject"),
    ("retention", "ObjectRetention"),
    ("select", "SelectObjectContent"),
    ("session", "CreateSession"),
    ("torrent", "GetObjectTorrent"),
    ("versioning", "BucketVersioning"),
    ("website", "BucketWebsite"),
];

/// Parameters that are no sub-resource though they may stand without a value.
const PARAMETERS: &[&str] = &[
    "allow-unordered",
    "bucket-region",
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "key-marker",
    "list-type",
    "marker",
    "max-buckets",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "partNumber",
    "prefix",
    "start-after",
    "upload-id-marker",
    "uploadId",
    "versionId",
    "x-id",
];

/// Decides what a request asks for. `domains` are lower-case names under which buckets are
/// hosts (`bucket.domain`). Errors: InvalidURI, InvalidBucketName, KeyTooLongError,
/// MethodNotAllowed, NotImplemented.
pub fn route(parts: &Parts, query: &Query, domains: &[String]) -> Result<Operation, S3Error> {
    let (bucket, key) = split_target(parts, domains)?;
    let Some(bucket) = bucket else {
        return route_service(&parts.method, query);
    };
    let bucket = BucketName::parse(&bucket).map_err(|error| bucket_name_error(&error, &bucket))?;
    if parts.method == Method::OPTIONS {
        return Ok(Operation::Preflight(bucket));
    }
    if key.is_empty() {
        let operation = route_bucket(&parts.method, query, &parts.headers)?;
        return Ok(Operation::Bucket(bucket, operation));
    }
    let key = ObjectKey::parse(&key).map_err(|error| key_error(&error))?;
    let operation = route_object(&parts.method, query, &parts.headers)?;
    if let Some(version) = query.get_nonempty("versionId")
        && version != "null"
    {
        // No bucket keeps versions, so that no id but `null` can name one.
        return Err(S3Error::from(S3Code::NoSuchVersion).field("VersionId", version));
    }
    Ok(Operation::Object(Locator::new(bucket, key), operation))
}

fn route_service(method: &Method, query: &Query) -> Result<Operation, S3Error> {
    refuse_unbuilt(query, "service")?;
    match *method {
        Method::GET => Ok(Operation::ListBuckets),
        _ => Err(method_not_allowed("SERVICE", method, "GET")),
    }
}

fn route_bucket(
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
) -> Result<BucketOperation, S3Error> {
    use BucketOperation as B;
    let family = [
        (
            "acl",
            "ACL",
            [Some(B::GetBucketAcl), Some(B::PutBucketAcl), None, None],
        ),
        (
            "cors",
            "CORS",
            [
                Some(B::GetBucketCors),
                Some(B::PutBucketCors),
                None,
                Some(B::DeleteBucketCors),
            ],
        ),
        (
            "delete",
            "MULTI_OBJECT_DELETE",
            [None, None, Some(B::DeleteObjects), None],
        ),
        (
            "location",
            "LOCATION",
            [Some(B::GetBucketLocation), None, None, None],
        ),
        (
            "tagging",
            "TAGGING",
            [
                Some(B::GetBucketTagging),
                Some(B::PutBucketTagging),
                None,
                Some(B::DeleteBucketTagging),
            ],
        ),
        (
            "uploads",
            "UPLOADS",
            [Some(B::ListMultipartUploads), None, None, None],
        ),
        (
            "versions",
            "VERSIONS",
            [Some(B::ListObjectVersions), None, None, None],
        ),
    ];
    for (name, resource, operations) in family {
        if query.has(name) {
            return pick(method, resource, operations);
        }
    }
    if *method == Method::GET
        && let Some(unset) = unset_configuration(query)
    {
        return Ok(B::GetUnset(unset));
    }
    refuse_unbuilt(query, "bucket")?;
    match *method {
        Method::GET if query.get("list-type") == Some("2") => Ok(B::ListObjectsV2),
        Method::GET => Ok(B::ListObjects),
        Method::HEAD => Ok(B::HeadBucket),
        Method::PUT => Ok(B::CreateBucket),
        Method::DELETE => Ok(B::DeleteBucket),
        Method::POST if is_form(headers) => Ok(B::PostObject),
        Method::POST => Err(S3Code::MethodNotAllowed.into()),
        _ => Err(method_not_allowed(
            "BUCKET",
            method,
            "GET, HEAD, PUT, POST, DELETE",
        )),
    }
}

fn route_object(
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
) -> Result<ObjectOperation, S3Error> {
    use ObjectOperation as O;
    let copies = headers.contains_key("x-amz-copy-source");
    let put_part = if copies {
        O::UploadPartCopy
    } else {
        O::UploadPart
    };
    let family = [
        (
            "acl",
            "ACL",
            [Some(O::GetObjectAcl), Some(O::PutObjectAcl), None, None],
        ),
        (
            "attributes",
            "ATTRIBUTES",
            [Some(O::GetObjectAttributes), None, None, None],
        ),
        (
            "tagging",
            "TAGGING",
            [
                Some(O::GetObjectTagging),
                Some(O::PutObjectTagging),
                None,
                Some(O::DeleteObjectTagging),
            ],
        ),
        (
            "uploads",
            "UPLOADS",
            [None, None, Some(O::CreateMultipartUpload), None],
        ),
        (
            "uploadId",
            "UPLOAD",
            [
                Some(O::ListParts),
                Some(put_part),
                Some(O::CompleteMultipartUpload),
                Some(O::AbortMultipartUpload),
            ],
        ),
    ];
    for (name, resource, operations) in family {
        if query.has(name) {
            return pick(method, resource, operations);
        }
    }
    refuse_unbuilt(query, "object")?;
    match *method {
        Method::GET => Ok(O::GetObject),
        Method::HEAD => Ok(O::HeadObject),
        Method::PUT if query.has("partNumber") => Err(S3Error::invalid_argument(
            "partNumber",
            query.get("partNumber").unwrap_or_default(),
            "This operation does not accept partNumber without uploadId",
        )),
        Method::PUT if copies => Ok(O::CopyObject),
        Method::PUT => Ok(O::PutObject),
        Method::DELETE => Ok(O::DeleteObject),
        _ => Err(method_not_allowed(
            "OBJECT",
            method,
            "GET, HEAD, PUT, DELETE",
        )),
    }
}

/// The operation of a sub-resource for GET, PUT, POST and DELETE, in this order.
fn pick<T: Copy>(
    method: &Method,
    resource: &'static str,
    operations: [Option<T>; 4],
) -> Result<T, S3Error> {
    let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
    let found = methods
        .iter()
        .zip(operations)
        .find_map(|(m, operation)| operation.filter(|_| m == method));
    found.ok_or_else(|| {
        let allowed: Vec<&str> = methods
            .iter()
            .zip(operations)
            .filter_map(|(m, operation)| operation.map(|_| m.as_str()))
            .collect();
        method_not_allowed(resource, method, &allowed.join(", "))
    })
}

fn method_not_allowed(resource: &'static str, method: &Method, allowed: &str) -> S3Error {
    let error = S3Error::from(S3Code::MethodNotAllowed)
        .field("Method", method.as_str())
        .field("ResourceType", resource);
    match HeaderValue::from_str(allowed) {
        Ok(value) => error.header(header::ALLOW, value),
        Err(_) => error,
    }
}

fn unset_configuration(query: &Query) -> Option<Unset> {
    query.iter().find_map(|(name, _)| {
        Some(match name {
            "accelerate" => Unset::Accelerate,
            "encryption" => Unset::Encryption,
            "lifecycle" => Unset::Lifecycle,
            "logging" => Unset::Logging,
            "notification" => Unset::Notification,
            "object-lock" => Unset::ObjectLock,
            "ownershipControls" => Unset::OwnershipControls,
            "policy" => Unset::Policy,
            "publicAccessBlock" => Unset::PublicAccessBlock,
            "replication" => Unset::Replication,
            "requestPayment" => Unset::RequestPayment,
            "versioning" => Unset::Versioning,
            "website" => Unset::Website,
            _ => return None,
        })
    })
}

/// Refuses sub-resources that are not built, and words without a value that may be some: a PUT
/// with an unknown one must never be taken for a PUT of the object itself.
fn refuse_unbuilt(query: &Query, of: &str) -> Result<(), S3Error> {
    for (name, value) in query.iter() {
        if let Some((_, family)) = UNBUILT.iter().find(|(unbuilt, _)| *unbuilt == name) {
            return Err(S3Error::not_implemented(family).field("SubResource", name));
        }
        if value.unwrap_or_default().is_empty()
            && !PARAMETERS.contains(&name)
            && !name.starts_with("response-")
            && !name.to_ascii_lowercase().starts_with("x-amz-")
        {
            let what = format!("The sub-resource {name:?} of a {of}");
            return Err(S3Error::not_implemented(&what).field("SubResource", name));
        }
    }
    Ok(())
}

fn is_form(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let form = "multipart/form-data";
            value
                .get(..form.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(form))
        })
}

#[cfg(test)]
mod tests;

//! The operations of S3 that this door has, as types.

use fsstore::name::{BucketName, ObjectKey};
use fsstore::object::Locator;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `GET /`
    ListBuckets,
    /// Something of a bucket.
    Bucket(BucketName, BucketOperation),
    /// Something of an object or an upload.
    Object(Locator, ObjectOperation),
    /// `OPTIONS`: a browser asks whether another origin may send a request.
    Preflight(BucketName),
}

/// What is asked of a bucket. The names are those of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BucketOperation {
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    PostObject,
    GetBucketLocation,
    GetBucketTagging,
    PutBucketTagging,
    DeleteBucketTagging,
    GetBucketCors,
    PutBucketCors,
    DeleteBucketCors,
    GetBucketAcl,
    PutBucketAcl,
    /// A GET of a configuration that cannot be set here, so that it is truly not set.
    GetUnset(Unset),
}

/// Configurations of a bucket whose GET says truthfully that nothing is set; their PUT is 501.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unset {
    Accelerate,
    Encryption,
    Lifecycle,
    Logging,
    Notification,
    ObjectLock,
    OwnershipControls,
    Policy,
    PublicAccessBlock,
    Replication,
    RequestPayment,
    Versioning,
    Website,
}

/// What is asked of an object or an upload. The names are those of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ObjectOperation {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    GetObjectAttributes,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    GetObjectAcl,
    PutObjectAcl,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
}

impl Operation {
    /// The bucket, where one is named.
    pub fn bucket(&self) -> Option<&BucketName> {
        match self {
            Self::ListBuckets => None,
            Self::Bucket(bucket, _) | Self::Preflight(bucket) => Some(bucket),
            Self::Object(at, _) => Some(&at.bucket),
        }
    }

    /// The key, where one is named.
    pub fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::ListBuckets | Self::Bucket(..) | Self::Preflight(_) => None,
            Self::Object(at, _) => Some(&at.key),
        }
    }

    /// Its name in the S3 API, as metrics have it.
    pub fn name(&self) -> &'static str {
        use BucketOperation as B;
        use ObjectOperation as O;
        match self {
            Self::ListBuckets => "ListBuckets",
            Self::Preflight(_) => "Preflight",
            Self::Bucket(_, operation) => match operation {
                B::CreateBucket => "CreateBucket",
                B::HeadBucket => "HeadBucket",
                B::DeleteBucket => "DeleteBucket",
                B::ListObjects => "ListObjects",
                B::ListObjectsV2 => "ListObjectsV2",
                B::ListObjectVersions => "ListObjectVersions",
                B::ListMultipartUploads => "ListMultipartUploads",
                B::DeleteObjects => "DeleteObjects",
                B::PostObject => "PostObject",
                B::GetBucketLocation => "GetBucketLocation",
                B::GetBucketTagging => "GetBucketTagging",
                B::PutBucketTagging => "PutBucketTagging",
                B::DeleteBucketTagging => "DeleteBucketTagging",
                B::GetBucketCors => "GetBucketCors",
                B::PutBucketCors => "PutBucketCors",
                B::DeleteBucketCors => "DeleteBucketCors",
                B::GetBucketAcl => "GetBucketAcl",
                B::PutBucketAcl => "PutBucketAcl",
                B::GetUnset(_) => "GetBucketConfiguration",
            },
            Self::Object(_, operation) => match operation {
                O::GetObject => "GetObject",
                O::HeadObject => "HeadObject",
                O::PutObject => "PutObject",
                O::CopyObject => "CopyObject",
                O::DeleteObject => "DeleteObject",
                O::GetObjectAttributes => "GetObjectAttributes",
                O::GetObjectTagging => "GetObjectTagging",
                O::PutObjectTagging => "PutObjectTagging",
                O::DeleteObjectTagging => "DeleteObjectTagging",
                O::GetObjectAcl => "GetObjectAcl",
                O::PutObjectAcl => "PutObjectAcl",
                O::CreateMultipartUpload => "CreateMultipartUpload",
                O::UploadPart => "UploadPart",
                O::UploadPartCopy => "UploadPartCopy",
                O::ListParts => "ListParts",
                O::CompleteMultipartUpload => "CompleteMultipartUpload",
                O::AbortMultipartUpload => "AbortMultipartUpload",
            },
        }
    }

    /// Whether the store is changed by it.
    pub fn is_write(&self) -> bool {
        use BucketOperation as B;
        use ObjectOperation as O;
        match self {
            Self::ListBuckets | Self::Preflight(_) => false,
            Self::Bucket(_, operation) => match operation {
                B::HeadBucket
                | B::ListObjects
                | B::ListObjectsV2
                | B::ListObjectVersions
                | B::ListMultipartUploads
                | B::GetBucketLocation
                | B::GetBucketTagging
                | B::GetBucketCors
                | B::GetBucketAcl
                | B::GetUnset(_) => false,
                B::CreateBucket
                | B::DeleteBucket
                | B::DeleteObjects
                | B::PostObject
                | B::PutBucketTagging
                | B::DeleteBucketTagging
                | B::PutBucketCors
                | B::DeleteBucketCors
                | B::PutBucketAcl => true,
            },
            Self::Object(_, operation) => match operation {
                O::GetObject
                | O::HeadObject
                | O::GetObjectAttributes
                | O::GetObjectTagging
                | O::GetObjectAcl
                | O::ListParts => false,
                O::PutObject
                | O::CopyObject
                | O::DeleteObject
                | O::PutObjectTagging
                | O::DeleteObjectTagging
                | O::PutObjectAcl
                | O::CreateMultipartUpload
                | O::UploadPart
                | O::UploadPartCopy
                | O::CompleteMultipartUpload
                | O::AbortMultipartUpload => true,
            },
        }
    }
}

//! The waist: every door speaks to a [`Volume`], and a brick, many bricks or a shared file system
//! implement it. All of them pass the contract suite in `testing`.
//!
//! Every mutation is `stage → write → commit`. Preconditions are decided at the commit, under
//! the key's lock. What a method has acknowledged is durable as the bucket's [`Durability`]
//! says, and is seen by the next call of any kind.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use bytes::Bytes;

use crate::error::Result;
use crate::name::{BucketName, ETag, ObjectKey, PartNumber, UploadId};
use crate::object::{
    Attributes, ChecksumKind, DigestAlgorithm, DigestSet, ExpectedDigest, FileOwner, Locator,
    ObjectInfo, ObjectPart, PartClaim, PartInfo, Precondition, Timestamp, UploadInfo,
};
use crate::permission::{Act, Credentials};

/// Longest object, in bytes. Source: S3 User Guide, "Multipart upload limits" (5 TiB).
pub const MAX_OBJECT_LEN_BYTES: u64 = 5 << 40;
/// Longest body of one PUT or one part, in bytes. Source: the same (5 GiB).
pub const MAX_PUT_LEN_BYTES: u64 = 5 << 30;
/// Smallest part that is not the last, in bytes. Source: the same (5 MiB).
pub const MIN_PART_LEN_BYTES: u64 = 5 << 20;
/// Most entries one page of any listing has.
pub const MAX_PAGE: usize = 10_000;

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Data, metadata and directory entry are on stable storage (the default).
    #[default]
    Strict,
    /// Published in one step, but not synced: a power loss may take the last seconds back, or
    /// leave names whose bytes are lost; their tags are in doubt until the bytes were read again.
    Relaxed,
}

/// A bucket as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// When it was created; a directory dropped in has the directory's time.
    pub created: Timestamp,
    /// Id of the user who owns it; none for a directory dropped in.
    pub owner: Option<String>,
    /// What an acknowledgement means here.
    pub durability: Durability,
    /// Documents that doors keep with a bucket, by name (`cors`, `tagging`, `acl`, …).
    pub settings: BTreeMap<String, String>,
}

/// How a bucket is made.
#[derive(Debug, Clone, Default)]
pub struct NewBucket {
    /// Id of its owner.
    pub owner: Option<String>,
    /// First settings.
    pub settings: BTreeMap<String, String>,
    /// To whom its directory belongs.
    pub file_owner: FileOwner,
}

/// How bytes are staged.
#[derive(Debug, Clone, Default)]
pub struct StageOptions {
    /// Length announced, in bytes; a commit of another length is refused.
    pub len_bytes: Option<u64>,
    /// Digests to compute besides MD5 and CRC-64/NVME.
    pub digests: DigestSet,
}

/// How staged bytes become an object.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The object's attributes.
    pub attrs: Attributes,
    /// Decided under the key's lock, against what stands there then.
    pub precondition: Precondition,
    /// Digests the bytes must have; each must be MD5, CRC-64/NVME or named in the stage.
    pub expected: Vec<ExpectedDigest>,
    /// The checksum to keep with the object (named in the stage, or CRC-64/NVME).
    pub keep_checksum: Option<DigestAlgorithm>,
    /// The mtime to give the file; none means now.
    pub modified: Option<Timestamp>,
    /// To whom the new file belongs, and the directories made for it; whose file it replaces does
    /// not matter.
    pub file_owner: FileOwner,
}

/// How attributes of an object that stays are changed. Fields that are `None` stay as they are.
#[derive(Debug, Clone, Default)]
pub struct AttrsPatch {
    /// New `system` and `user` maps.
    pub headers: Option<(BTreeMap<String, String>, BTreeMap<String, String>)>,
    /// New tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// New access list.
    pub acl: Option<Option<String>>,
    /// New owner.
    pub owner: Option<String>,
    /// To whom the file belongs from now on; its permissions stay.
    pub file_owner: Option<FileOwner>,
    /// Whether the modification time becomes now, or `modified`.
    pub touch: bool,
    /// The time that `touch` gives, where it is not now.
    pub modified: Option<Timestamp>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Whether anything stood there.
    pub existed: bool,
}

/// What a listing asks for. Order is by bytes of the key.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Roll keys up to this string's first appearance after the prefix; never empty.
    pub delimiter: Option<String>,
    /// Only keys and common prefixes after this string; none begins at the start.
    pub after: Option<String>,
    /// Most entries (objects and common prefixes together), up to [`MAX_PAGE`].
    pub limit: usize,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// Its key.
    pub key: ObjectKey,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Its tag: true for the bytes as they are now.
    pub etag: ETag,
    /// The file's mtime.
    pub modified: Timestamp,
    /// Id of its owner.
    pub owner: Option<String>,
    /// The checksum kept with it.
    pub checksum: Option<(DigestAlgorithm, ChecksumKind)>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// Objects, in order.
    pub objects: Vec<ListEntry>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// Where the page was cut: the last entry's key or prefix, to go on after. None at the end.
    pub next: Option<String>,
}

/// How an upload is begun.
#[derive(Debug, Clone, Default)]
pub struct NewUpload {
    /// The attributes the object will have.
    pub attrs: Attributes,
    /// The checksum asked for.
    pub checksum: Option<(DigestAlgorithm, ChecksumKind)>,
    /// As in [`CommitOptions`].
    pub file_owner: FileOwner,
}

/// What a listing of uploads asks for. Order is by key, then by time of creation.
#[derive(Debug, Clone, Default)]
pub struct UploadsQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Roll keys up, as in [`ListQuery`].
    pub delimiter: Option<String>,
    /// Only keys after this, or, with `after_id`, this key's uploads after that id as well.
    pub after_key: Option<String>,
    /// See `after_key`.
    pub after_id: Option<UploadId>,
    /// Most entries.
    pub limit: usize,
}

/// One page of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadsPage {
    /// Uploads, in order.
    pub uploads: Vec<UploadInfo>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// True where more follow after the last upload or prefix.
    pub truncated: bool,
}

/// One page of an upload's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartsPage {
    /// The upload.
    pub upload: UploadInfo,
    /// Parts, by number.
    pub parts: Vec<PartInfo>,
    /// True where more follow.
    pub truncated: bool,
}

/// How an upload is completed.
#[derive(Debug, Clone, Default)]
pub struct ComposeOptions {
    /// Decided under the key's lock.
    pub precondition: Precondition,
    /// The checksum the whole object must have, of the kind the upload was begun with.
    pub expected: Option<ExpectedDigest>,
    /// The kind the client names at completion; another one than begun with is refused by doors.
    pub expected_len_bytes: Option<u64>,
    /// As in [`CommitOptions`].
    pub modified: Option<Timestamp>,
}

/// Buckets and objects, kept for good.
pub trait Volume: Send + Sync + 'static {
    /// An object held open: one state of its bytes.
    type Object: Object;
    /// Bytes on their way to become an object.
    type Staged: Staged;
    /// Bytes on their way to become a part.
    type StagedPart: StagedPart;

    /// Creates a bucket. Durable. Errors: BucketExists.
    fn create_bucket(
        &self,
        name: &BucketName,
        new: NewBucket,
    ) -> impl Future<Output = Result<BucketInfo>> + Send;

    /// Deletes a bucket with no object in it; uploads under way are aborted. Durable.
    /// Errors: NoSuchBucket, BucketNotEmpty.
    fn delete_bucket(&self, name: &BucketName) -> impl Future<Output = Result<()>> + Send;

    /// Looks at a bucket. Errors: NoSuchBucket.
    fn bucket(&self, name: &BucketName) -> impl Future<Output = Result<BucketInfo>> + Send;

    /// Sets a document kept with a bucket, or takes it away. Durable. Errors: NoSuchBucket.
    fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Lists buckets by name, after `after` (exclusive), at most `limit`.
    fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<BucketInfo>>> + Send;

    /// Whether a door is to ask [`Volume::permit`] before it acts in a bucket.
    fn enforces_permissions(&self, bucket: &BucketName) -> bool;

    /// Asks whether the permissions of files let someone do something, as they are now; nothing
    /// is remembered. Errors: AccessDenied, NoSuchBucket, ReadOnly, Busy.
    fn permit(
        &self,
        who: &Credentials,
        act: Act<'_, Self::Object>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Looks at an object. Errors: NoSuchBucket, NoSuchKey, AccessDenied.
    fn stat(&self, at: &Locator) -> impl Future<Output = Result<ObjectInfo>> + Send;

    /// Opens an object: what is read from it is the state it has now, whatever replaces it.
    /// Errors: as [`Volume::stat`].
    fn open(&self, at: &Locator) -> impl Future<Output = Result<Self::Object>> + Send;

    /// Begins to take an object's bytes. Nothing is seen before the commit; dropping what is
    /// returned leaves nothing behind. Errors: NoSuchBucket, TooLarge, NoSpace.
    fn stage(
        &self,
        at: &Locator,
        options: StageOptions,
    ) -> impl Future<Output = Result<Self::Staged>> + Send;

    /// Appends a range of an object to staged bytes, without passing them through the caller
    /// and sharing blocks where the file system can. Errors: as a read and a write.
    fn copy_into(
        &self,
        staged: &mut Self::Staged,
        source: &Self::Object,
        range: Range<u64>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// As [`Volume::copy_into`], to a part.
    fn copy_into_part(
        &self,
        staged: &mut Self::StagedPart,
        source: &Self::Object,
        range: Range<u64>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes an object; one that is not there is no error unless the precondition asks.
    /// Durable. Errors: NoSuchBucket, PreconditionFailed, Locked.
    fn remove(
        &self,
        at: &Locator,
        precondition: &Precondition,
    ) -> impl Future<Output = Result<Removed>> + Send;

    /// Changes attributes of an object whose bytes stay. Durable. Errors: NoSuchBucket,
    /// NoSuchKey, PreconditionFailed, MetadataTooLarge; Locked for a patch that touches.
    fn set_attrs(
        &self,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> impl Future<Output = Result<ObjectInfo>> + Send;

    /// Lists objects. Complete and true at the instant it is answered: sees every change
    /// acknowledged before. Errors: NoSuchBucket.
    fn list(
        &self,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> impl Future<Output = Result<ListPage>> + Send;

    /// Begins a multipart upload. Durable. Errors: NoSuchBucket.
    fn begin_upload(
        &self,
        at: &Locator,
        new: NewUpload,
    ) -> impl Future<Output = Result<UploadInfo>> + Send;

    /// Looks at an upload. Errors: NoSuchBucket, NoSuchUpload.
    fn upload(
        &self,
        at: &Locator,
        id: &UploadId,
    ) -> impl Future<Output = Result<UploadInfo>> + Send;

    /// Begins to take a part's bytes. A part of the same number stays until the new one is
    /// committed. Errors: NoSuchBucket, NoSuchUpload, TooLarge, NoSpace.
    fn stage_part(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> impl Future<Output = Result<Self::StagedPart>> + Send;

    /// Lists parts after `after`. Errors: NoSuchBucket, NoSuchUpload.
    fn list_parts(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> impl Future<Output = Result<PartsPage>> + Send;

    /// Makes the named parts one object and ends the upload. Durable. Repeating it after it
    /// succeeded gives the same answer as long as the object stands. Errors: NoSuchUpload,
    /// InvalidPart, InvalidPartOrder, PartTooSmall, DigestMismatch, LengthMismatch,
    /// PreconditionFailed, Locked. Source: S3 API, CompleteMultipartUpload.
    fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> impl Future<Output = Result<ObjectInfo>> + Send;

    /// Ends an upload and frees its parts. Errors: NoSuchBucket, NoSuchUpload.
    fn abort_upload(&self, at: &Locator, id: &UploadId) -> impl Future<Output = Result<()>> + Send;

    /// Lists uploads under way. Errors: NoSuchBucket.
    fn list_uploads(
        &self,
        bucket: &BucketName,
        query: &UploadsQuery,
    ) -> impl Future<Output = Result<UploadsPage>> + Send;
}

/// An object held open.
pub trait Object: Send + Sync + 'static {
    /// What it was when it was opened.
    fn info(&self) -> &ObjectInfo;

    /// Reads exactly `range`, which lies within the object; the caller chooses ranges of at
    /// most a few MiB. Errors: ChangedWhileRead where an in-place writer moved the bytes since
    /// the object was opened, Io.
    fn read(&self, range: Range<u64>) -> impl Future<Output = Result<Bytes>> + Send;

    /// As [`Object::read`], but only where it needs no wait for the disk: none otherwise.
    fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>>;

    /// The plain file with the bytes, where there is one and the bytes are the file's: lets a
    /// door send from it without copying. Offsets are the object's.
    fn plain_file(&self) -> Option<BorrowedFd<'_>>;

    /// Checks that the bytes are still those of the opening. Errors: ChangedWhileRead.
    fn check_unchanged(&self) -> Result<()>;

    /// The parts it was composed of; empty unless it was a multipart upload.
    fn parts(&self) -> impl Future<Output = Result<Vec<ObjectPart>>> + Send;
}

/// Bytes on their way to become an object. Dropping it leaves nothing behind.
pub trait Staged: Send + 'static {
    /// Appends bytes. After an error only dropping is left. Errors: TooLarge, NoSpace, Io.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Publishes the bytes at their key, as one step. Durable as the bucket says. Errors:
    /// LengthMismatch, DigestMismatch, PreconditionFailed, Locked, NoSuchBucket, MetadataTooLarge,
    /// NoSpace: then the old object stands untouched. Io as well, but where the last sync fails:
    /// then the old object stands or the new one, whole.
    fn commit(self, options: CommitOptions) -> impl Future<Output = Result<ObjectInfo>> + Send;
}

/// Bytes on their way to become a part. Dropping it leaves nothing behind.
pub trait StagedPart: Send + 'static {
    /// Appends bytes. After an error only dropping is left. Errors: TooLarge, NoSpace, Io.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Makes the bytes the upload's part, in place of an earlier one of the same number.
    /// Durable. `keep_checksum` is kept with the part. Errors: as [`Staged::commit`], NoSuchUpload.
    fn commit(
        self,
        expected: Vec<ExpectedDigest>,
        keep_checksum: Option<DigestAlgorithm>,
    ) -> impl Future<Output = Result<PartInfo>> + Send;
}

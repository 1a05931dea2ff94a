//! What an object is, seen from a door: its size, times, tags, digests and attributes, and the
//! conditions and ranges a request may name.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{FailedCondition, Result, StoreError};
use crate::name::{BucketName, ETag, ObjectKey, PartNumber, UploadId, VersionId};

/// Nanoseconds since 1970-01-01 UTC; a file's mtime as the file system keeps it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// A whole second.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Seconds since 1970, rounded down: what HTTP dates can say.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// The nanoseconds beyond [`Self::secs`].
    pub const fn subsec_nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }
}

/// Where an object is, within one volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Locator {
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// A version; none means the current one.
    pub version: Option<VersionId>,
}

impl Locator {
    /// The current version of a key.
    pub fn new(bucket: BucketName, key: ObjectKey) -> Self {
        Self {
            bucket,
            key,
            version: None,
        }
    }
}

/// A digest or checksum of an object's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DigestAlgorithm {
    /// RFC 1321, 16 bytes.
    Md5,
    /// CRC-32 (ISO-HDLC), 4 bytes, big endian.
    Crc32,
    /// CRC-32C (Castagnoli), 4 bytes, big endian.
    Crc32c,
    /// CRC-64/NVME, 8 bytes, big endian.
    Crc64Nvme,
    /// FIPS 180-4 SHA-1, 20 bytes.
    Sha1,
    /// FIPS 180-4 SHA-256, 32 bytes.
    Sha256,
}

impl DigestAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 6] = [
        Self::Md5,
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Length of a value in bytes.
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A set of digests to compute while bytes pass. MD5 and CRC-64/NVME are always computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DigestSet(u8);

impl DigestSet {
    /// Adds one.
    #[must_use]
    pub const fn with(self, algorithm: DigestAlgorithm) -> Self {
        Self(self.0 | 1 << algorithm as u8)
    }

    /// True where the set has it.
    pub const fn has(self, algorithm: DigestAlgorithm) -> bool {
        self.0 & (1 << algorithm as u8) != 0
    }
}

/// A digest that a client named for the bytes; another one refuses the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedDigest {
    /// Which digest.
    pub algorithm: DigestAlgorithm,
    /// Its value, big endian.
    pub value: Vec<u8>,
}

/// How a multipart object's checksum was made. Source: S3 API, ChecksumType.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// Over the object's bytes.
    FullObject,
    /// Over the parts' checksums.
    Composite,
}

/// A checksum that a client chose to have kept with the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Which one.
    pub algorithm: DigestAlgorithm,
    /// Over what.
    pub kind: ChecksumKind,
    /// Its value, big endian.
    pub value: Vec<u8>,
}

/// The digests known of an object's bytes; both void where the bytes changed behind our back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KnownDigests {
    /// MD5 of all bytes. Not known for multipart objects.
    pub md5: Option<[u8; 16]>,
    /// CRC-64/NVME of all bytes.
    pub crc64nvme: Option<u64>,
}

/// What a client says about an object, kept with it and given back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Headers kept by their lower-case names: `content-type`, `cache-control`, …, and what a
    /// door keeps for itself under names of its own.
    pub system: BTreeMap<String, String>,
    /// The client's own metadata: `x-amz-meta-NAME` and `X-Object-Meta-Name` are both `name`.
    pub user: BTreeMap<String, String>,
    /// Object tags.
    pub tags: BTreeMap<String, String>,
    /// Id of the user who owns the object; none for files made without a door.
    pub owner: Option<String>,
    /// The access list in the doors' own notation; none means private.
    pub acl: Option<String>,
}

/// An object as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its version, where the bucket keeps versions.
    pub version: Option<VersionId>,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Its tag: true for the bytes as they are now.
    pub etag: ETag,
    /// Tags shown earlier for the same bytes; conditions match them as well.
    pub etags_before: Vec<ETag>,
    /// The file's mtime.
    pub modified: Timestamp,
    /// What the client said.
    pub attrs: Attributes,
    /// The checksum the client chose.
    pub checksum: Option<Checksum>,
    /// Digests of the bytes.
    pub digests: KnownDigests,
    /// Number of parts it was composed of; none unless it was a multipart upload.
    pub part_count: Option<u16>,
}

impl ObjectInfo {
    fn is_named_by(&self, matches: &ETagMatch) -> bool {
        match matches {
            ETagMatch::Any => true,
            ETagMatch::OneOf(tags) => {
                let mut known = self.etags_before.iter().chain([&self.etag]);
                known.any(|known| tags.iter().any(|tag| tag == known.as_str()))
            }
        }
    }
}

/// One part of a composed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPart {
    /// Its number as uploaded.
    pub number: PartNumber,
    /// Where it begins in the object, in bytes.
    pub offset_bytes: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Its checksum, where one was asked for.
    pub checksum: Option<Checksum>,
}

/// What If-Match and If-None-Match name. Tags have no quotes and no `W/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ETagMatch {
    /// `*`
    Any,
    /// A list of tags.
    OneOf(Vec<String>),
}

/// The conditions of a request. Source: RFC 9110 section 13; S3 API, conditional writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    /// If-Match.
    pub if_match: Option<ETagMatch>,
    /// If-None-Match.
    pub if_none_match: Option<ETagMatch>,
    /// If-Modified-Since, in whole seconds.
    pub if_modified_since: Option<Timestamp>,
    /// If-Unmodified-Since, in whole seconds.
    pub if_unmodified_since: Option<Timestamp>,
    /// x-amz-if-match-size, in bytes.
    pub if_match_size: Option<u64>,
    /// x-amz-if-match-last-modified-time, in whole seconds.
    pub if_match_modified: Option<Timestamp>,
}

impl Precondition {
    /// True where nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Decides a read in the order of RFC 9110 section 13.2.2. Errors: PreconditionFailed.
    pub fn check_read(&self, info: &ObjectInfo) -> Result<()> {
        let fail = |what| Err(StoreError::PreconditionFailed(what));
        if let Some(matches) = &self.if_match {
            if !info.is_named_by(matches) {
                return fail(FailedCondition::IfMatch);
            }
        } else if let Some(time) = self.if_unmodified_since
            && info.modified.secs() > time.secs()
        {
            return fail(FailedCondition::IfUnmodifiedSince);
        }
        if let Some(matches) = &self.if_none_match {
            if info.is_named_by(matches) {
                return fail(FailedCondition::IfNoneMatch);
            }
        } else if let Some(time) = self.if_modified_since
            && info.modified.secs() <= time.secs()
        {
            return fail(FailedCondition::IfModifiedSince);
        }
        Ok(())
    }

    /// Decides a write against what stands at the key now. An If-Match on a key where nothing
    /// stands is NoSuchKey, as S3 answers. Errors: NoSuchKey, PreconditionFailed.
    pub fn check_write(&self, current: Option<&ObjectInfo>) -> Result<()> {
        let fail = |what| Err(StoreError::PreconditionFailed(what));
        let Some(info) = current else {
            let needs_one = self.if_match.is_some()
                || self.if_match_size.is_some()
                || self.if_match_modified.is_some();
            return if needs_one {
                Err(StoreError::NoSuchKey)
            } else {
                Ok(())
            };
        };
        if self
            .if_match
            .as_ref()
            .is_some_and(|matches| !info.is_named_by(matches))
        {
            return fail(FailedCondition::IfMatch);
        }
        if self
            .if_none_match
            .as_ref()
            .is_some_and(|matches| info.is_named_by(matches))
        {
            return fail(FailedCondition::IfNoneMatch);
        }
        if self
            .if_unmodified_since
            .is_some_and(|time| info.modified.secs() > time.secs())
        {
            return fail(FailedCondition::IfUnmodifiedSince);
        }
        if self
            .if_modified_since
            .is_some_and(|time| info.modified.secs() <= time.secs())
        {
            return fail(FailedCondition::IfModifiedSince);
        }
        if self.if_match_size.is_some_and(|len| info.len_bytes != len) {
            return fail(FailedCondition::IfMatchSize);
        }
        if self
            .if_match_modified
            .is_some_and(|time| info.modified.secs() != time.secs())
        {
            return fail(FailedCondition::IfMatchModified);
        }
        Ok(())
    }
}

/// A range as a client names it. Source: RFC 9110 section 14.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-last`, both included.
    FromTo(u64, u64),
    /// `first-`
    From(u64),
    /// `-len`: the last `len` bytes.
    Suffix(u64),
}

impl ByteRange {
    /// The bytes it means in an object of `len_bytes`. Errors: RangeNotSatisfiable.
    pub fn resolve(self, len_bytes: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::FromTo(first, last) => first..last.saturating_add(1).min(len_bytes),
            Self::From(first) => first..len_bytes,
            Self::Suffix(len) => len_bytes.saturating_sub(len)..len_bytes,
        };
        if range.start >= range.end {
            return Err(StoreError::RangeNotSatisfiable { len_bytes });
        }
        Ok(range)
    }
}

/// To whom a file made for someone belongs on disk, and with which permissions. What is none is as
/// for a file of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOwner {
    /// The user.
    pub uid: Option<u32>,
    /// The group, but in a set-group-ID directory: there it is the directory's.
    pub gid: Option<u32>,
    /// Bits taken from the permissions, unless the directory has a default ACL. Source: umask(2).
    pub umask: Option<u32>,
}

/// An upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// Its id.
    pub id: UploadId,
    /// The key it will publish.
    pub key: ObjectKey,
    /// When it was begun.
    pub begun: Timestamp,
    /// The attributes the object will have.
    pub attrs: Attributes,
    /// The checksum asked for when it was begun.
    pub checksum: Option<(DigestAlgorithm, ChecksumKind)>,
    /// To whom the object's file will belong.
    pub file_owner: FileOwner,
}

/// A part of an upload under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Its number.
    pub number: PartNumber,
    /// Length in bytes.
    pub len_bytes: u64,
    /// MD5 of its bytes.
    pub etag: ETag,
    /// When it was finished.
    pub modified: Timestamp,
    /// Its checksum: the one the upload or the request asked for.
    pub checksum: Option<Checksum>,
    /// CRC-64/NVME of its bytes.
    pub crc64nvme: u64,
}

/// A part as the client names it at completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartClaim {
    /// Its number.
    pub number: PartNumber,
    /// Its tag, without quotes.
    pub etag: String,
    /// A checksum it must have.
    pub checksum: Option<ExpectedDigest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(etag: &str, secs: i64) -> ObjectInfo {
        ObjectInfo {
            key: ObjectKey::parse("k").unwrap(),
            version: None,
            len_bytes: 3,
            etag: ETag::parse(etag).unwrap(),
            etags_before: Vec::new(),
            modified: Timestamp(secs * 1_000_000_000 + 5),
            attrs: Attributes::default(),
            checksum: None,
            digests: KnownDigests::default(),
            part_count: None,
        }
    }

    fn tags(tag: &str) -> Option<ETagMatch> {
        Some(ETagMatch::OneOf(vec![tag.to_owned()]))
    }

    #[test]
    fn a_matching_if_match_overrides_if_unmodified_since() {
        let asked = Precondition {
            if_match: tags("a"),
            if_unmodified_since: Some(Timestamp::from_secs(1)),
            ..Precondition::default()
        };
        assert!(asked.check_read(&info("a", 9)).is_ok());
        assert!(asked.check_read(&info("b", 0)).is_err());
    }

    #[test]
    fn a_differing_if_none_match_overrides_if_modified_since() {
        let asked = Precondition {
            if_none_match: tags("a"),
            if_modified_since: Some(Timestamp::from_secs(100)),
            ..Precondition::default()
        };
        assert!(asked.check_read(&info("b", 9)).is_ok());
        assert!(asked.check_read(&info("a", 200)).is_err());
    }

    #[test]
    fn create_if_absent_refuses_any_object() {
        let asked = Precondition {
            if_none_match: Some(ETagMatch::Any),
            ..Precondition::default()
        };
        assert!(asked.check_write(None).is_ok());
        assert!(asked.check_write(Some(&info("a", 1))).is_err());
    }

    #[test]
    fn if_match_on_nothing_is_no_such_key() {
        let asked = Precondition {
            if_match: tags("a"),
            ..Precondition::default()
        };
        assert!(matches!(
            asked.check_write(None),
            Err(StoreError::NoSuchKey)
        ));
        assert!(asked.check_write(Some(&info("a", 1))).is_ok());
        assert!(asked.check_write(Some(&info("b", 1))).is_err());
    }

    #[test]
    fn a_tag_shown_before_still_matches() {
        let mut object = info("a", 1);
        object.etags_before = vec![ETag::provisional(1)];
        let asked = Precondition {
            if_match: tags("px1-0000000000000001"),
            ..Precondition::default()
        };
        assert!(asked.check_write(Some(&object)).is_ok());
    }

    #[test]
    fn ranges_are_cut_to_the_object() {
        assert_eq!(ByteRange::FromTo(0, 99).resolve(10).unwrap(), 0..10);
        assert_eq!(ByteRange::FromTo(2, 2).resolve(10).unwrap(), 2..3);
        assert_eq!(ByteRange::From(9).resolve(10).unwrap(), 9..10);
        assert_eq!(ByteRange::Suffix(99).resolve(10).unwrap(), 0..10);
        assert_eq!(ByteRange::FromTo(0, u64::MAX).resolve(10).unwrap(), 0..10);
        for bad in [
            ByteRange::From(10),
            ByteRange::Suffix(0),
            ByteRange::FromTo(10, 11),
        ] {
            assert!(bad.resolve(10).is_err());
        }
        assert!(ByteRange::From(0).resolve(0).is_err());
    }
}

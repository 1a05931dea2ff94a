//! What can go wrong in a store, as facts. No protocol code stands here: each door maps every
//! variant in one exhaustive table.

use rustix::io::Errno;

use crate::object::DigestAlgorithm;

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Which condition of a request did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedCondition {
    /// If-Match: the object is not the one named.
    IfMatch,
    /// If-None-Match: the object is one of those named, or exists at all.
    IfNoneMatch,
    /// If-Modified-Since: not modified since.
    IfModifiedSince,
    /// If-Unmodified-Since: modified since.
    IfUnmodifiedSince,
    /// x-amz-if-match-size: another length.
    IfMatchSize,
    /// x-amz-if-match-last-modified-time: another time.
    IfMatchModified,
}

/// A fact that kept an operation from being done. Nothing was changed unless a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No bucket of this name.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No object at this key.
    #[error("no such key")]
    NoSuchKey,
    /// The bucket exists, so it cannot be created.
    #[error("the bucket exists, owned by {}", owner.as_deref().unwrap_or("nobody"))]
    BucketExists {
        /// Its owner, where one is recorded.
        owner: Option<String>,
    },
    /// The bucket holds objects, so it cannot be deleted.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// No upload of this id for this bucket and key: never begun, aborted or completed.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part named at completion was not uploaded, or has another ETag or checksum.
    #[error("part {number} was not uploaded, or with another ETag or checksum")]
    InvalidPart {
        /// The part's number.
        number: u16,
    },
    /// The parts named at completion are not in ascending order.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is smaller than 5 MiB.
    #[error("part {number} has {len_bytes} bytes; only the last may have less than {min_bytes}")]
    PartTooSmall {
        /// The part's number.
        number: u16,
        /// Its length in bytes.
        len_bytes: u64,
        /// The smallest length of a part that is not the last.
        min_bytes: u64,
    },
    /// A condition did not hold at the instant of the commit or the read.
    #[error("condition {0:?} failed")]
    PreconditionFailed(FailedCondition),
    /// The bytes do not have the digest that the client named. Nothing was published.
    #[error("the bytes do not have the {algorithm:?} that was named")]
    DigestMismatch {
        /// Which digest.
        algorithm: DigestAlgorithm,
        /// What was named, as bytes.
        expected: Vec<u8>,
        /// What the bytes have.
        actual: Vec<u8>,
    },
    /// The body had another length than announced. Nothing was published.
    #[error("the body has {actual_bytes} bytes where {expected_bytes} were announced")]
    LengthMismatch {
        /// Announced length in bytes.
        expected_bytes: u64,
        /// Length that came.
        actual_bytes: u64,
    },
    /// The object or part is longer than the store takes.
    #[error("longer than {max_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// Attributes too large to be recorded.
    #[error("the metadata take {len_bytes} bytes, the limit is {max_bytes}")]
    MetadataTooLarge {
        /// Their encoded length in bytes.
        len_bytes: usize,
        /// The limit in bytes.
        max_bytes: usize,
    },
    /// The range starts past the end.
    #[error("the range is not satisfiable: the object has {len_bytes} bytes")]
    RangeNotSatisfiable {
        /// The object's length in bytes.
        len_bytes: u64,
    },
    /// The file system has no room (ENOSPC), or less than the reserve kept for deletes.
    #[error("no space left in the store")]
    NoSpace,
    /// A quota is used up (EDQUOT).
    #[error("quota exceeded")]
    QuotaExceeded,
    /// The file system is mounted read-only (EROFS).
    #[error("the store is read-only")]
    ReadOnly,
    /// The file system refused access (EACCES, EPERM).
    #[error("the file system refused access")]
    AccessDenied,
    /// A file system's limit on names, links or attributes was met (ENAMETOOLONG, EMLINK, …).
    #[error("a limit of the file system was met: {0}")]
    Limit(FsLimit),
    /// A FIFO, socket, device or symbolic link leading out stands where the object or one of
    /// its directories would be; it is not ours to replace.
    #[error("something that is no object stands in the way")]
    Obstructed,
    /// The object changed while it was read: two states must not be spliced into one body.
    #[error("the object changed while it was read")]
    ChangedWhileRead,
    /// A process has the object's file locked for writing, and the bucket respects that.
    #[error("the file is locked for writing")]
    Locked,
    /// Another writer kept winning; the request may be repeated.
    #[error("another writer was faster; try again")]
    Conflict,
    /// Too much is under way; the request may be repeated later.
    #[error("too much is under way: {0}")]
    Busy(&'static str),
    /// A record of portico's own cannot be read.
    #[error("a record is corrupt: {0}")]
    Corrupt(String),
    /// The store is stopping.
    #[error("the store is stopping")]
    Stopping,
    /// The disk failed (EIO and everything without a variant of its own).
    #[error("the disk failed while it was asked to {action}")]
    Io {
        /// What was asked, as a verb phrase.
        action: &'static str,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The index failed; objects are not affected, listings are.
    #[error("the index failed")]
    Index(#[source] sqlx::Error),
}

/// A limit of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsLimit {
    /// ENAMETOOLONG.
    #[error("a name is too long")]
    NameLen,
    /// EMLINK: names of a file, or directories in one.
    #[error("too many links")]
    Links,
    /// EFBIG.
    #[error("the file would be too large")]
    FileLen,
}

impl StoreError {
    /// Turns an error of the operating system into the fact it states.
    pub fn from_io(action: &'static str, source: std::io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => Self::NoSpace,
            Some(Errno::DQUOT) => Self::QuotaExceeded,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::ACCESS | Errno::PERM) => Self::AccessDenied,
            Some(Errno::NAMETOOLONG) => Self::Limit(FsLimit::NameLen),
            Some(Errno::MLINK) => Self::Limit(FsLimit::Links),
            Some(Errno::FBIG) => Self::Limit(FsLimit::FileLen),
            Some(Errno::MFILE | Errno::NFILE) => Self::Busy("open files"),
            _ => Self::Io { action, source },
        }
    }

    /// Whether the disk, or what stands on it, failed: an operation may have stopped half-way.
    /// Other facts keep one from beginning.
    pub fn is_of_the_disk(&self) -> bool {
        match self {
            Self::NoSpace
            | Self::QuotaExceeded
            | Self::ReadOnly
            | Self::AccessDenied
            | Self::Limit(_)
            | Self::Obstructed
            | Self::Conflict
            | Self::Busy(_)
            | Self::Corrupt(_)
            | Self::MetadataTooLarge { .. }
            | Self::Io { .. }
            | Self::Index(_) => true,
            Self::NoSuchBucket
            | Self::NoSuchKey
            | Self::NoSuchUpload
            | Self::BucketExists { .. }
            | Self::BucketNotEmpty
            | Self::InvalidPart { .. }
            | Self::InvalidPartOrder
            | Self::PartTooSmall { .. }
            | Self::PreconditionFailed(_)
            | Self::DigestMismatch { .. }
            | Self::LengthMismatch { .. }
            | Self::TooLarge { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::ChangedWhileRead
            | Self::Locked
            | Self::Stopping => false,
        }
    }

    /// What a system call would say. Source: errno(3).
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoSuchBucket | Self::NoSuchKey | Self::NoSuchUpload => Errno::NOENT,
            Self::BucketExists { .. } | Self::Obstructed => Errno::EXIST,
            Self::PreconditionFailed(condition) => match condition {
                FailedCondition::IfNoneMatch => Errno::EXIST,
                FailedCondition::IfMatch
                | FailedCondition::IfModifiedSince
                | FailedCondition::IfUnmodifiedSince
                | FailedCondition::IfMatchSize
                | FailedCondition::IfMatchModified => Errno::AGAIN,
            },
            Self::BucketNotEmpty => Errno::NOTEMPTY,
            Self::InvalidPart { .. }
            | Self::InvalidPartOrder
            | Self::PartTooSmall { .. }
            | Self::LengthMismatch { .. }
            | Self::RangeNotSatisfiable { .. } => Errno::INVAL,
            Self::DigestMismatch { .. } => Errno::BADMSG,
            Self::TooLarge { .. } => Errno::FBIG,
            // As setxattr(2) says it of an attribute without room.
            Self::MetadataTooLarge { .. } | Self::NoSpace => Errno::NOSPC,
            Self::QuotaExceeded => Errno::DQUOT,
            Self::ReadOnly => Errno::ROFS,
            Self::AccessDenied => Errno::ACCESS,
            Self::Limit(FsLimit::NameLen) => Errno::NAMETOOLONG,
            Self::Limit(FsLimit::Links) => Errno::MLINK,
            Self::Limit(FsLimit::FileLen) => Errno::FBIG,
            Self::ChangedWhileRead => Errno::STALE,
            Self::Conflict | Self::Locked | Self::Busy(_) => Errno::AGAIN,
            Self::Stopping => Errno::NOTCONN,
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(raw) => Errno::from_raw_os_error(raw),
                None => Errno::IO,
            },
            Self::Corrupt(_) | Self::Index(_) => Errno::IO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_system_is_the_same_limit_again() {
        for errno in [
            Errno::NAMETOOLONG,
            Errno::MLINK,
            Errno::FBIG,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::IO,
            Errno::LOOP,
        ] {
            let source = std::io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(StoreError::from_io("try", source).errno(), errno);
        }
    }
}

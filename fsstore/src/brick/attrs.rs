//! The record: everything portico knows of an object besides its bytes, in one extended
//! attribute, [`XATTR_NAME`], of the object's file.
//!
//! The record names the state of the file at which its digests were taken; in any other state
//! what depends on the bytes is void, and what does not (attributes) stands. Reads no clock and
//! touches no disk. The encoding is in [`codec`], with its layout.

pub mod codec;
mod dictionary;
mod parts;
mod wire;

use sha2::Digest;

pub use codec::{AttrsError, Spilled, Stored};
pub use parts::{Layout, PartChecksums, Parts};

use crate::error::StoreError;
use crate::name::{ETag, ObjectKey, UploadId};
use crate::object::{Attributes, Checksum, KnownDigests, ObjectInfo, Timestamp};

/// The extended attribute with the record.
pub const XATTR_NAME: &str = "user.portico";
/// Longest encoded record, in bytes: 10,000 parts with SHA-256 checksums take 380 KiB of it.
pub const MAX_RECORD_LEN_BYTES: usize = 1 << 20;

/// MD5 of no bytes. Source: RFC 1321, A.5.
const MD5_OF_NOTHING: [u8; 16] = [
    0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e,
];

/// What portico knows of an object besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The state of the file at which `md5`, `crc64nvme`, `multipart`, `etag_before`, `checksum`
    /// and `parts` hold. None: none of them holds.
    pub state: Option<DigestState>,
    /// The mtime before the last change of the file's time by us: until that change is made, the
    /// file is in `state` but for its time.
    pub mtime_before_ns: Option<i64>,
    /// MD5 of the bytes.
    pub md5: Option<[u8; 16]>,
    /// CRC-64/NVME of the bytes.
    pub crc64nvme: Option<u64>,
    /// The tag of a composed object; it goes before `md5`.
    pub multipart: Option<MultipartTag>,
    /// The provisional tag that was shown for these bytes before their digest was known.
    pub etag_before: Option<u64>,
    /// The checksum the client chose.
    pub checksum: Option<Checksum>,
    /// What the client said.
    pub attrs: Attributes,
    /// The upload it was composed from: repeating the completion answers the same.
    pub upload_id: Option<UploadId>,
    /// The parts it was composed of.
    pub parts: Option<Parts>,
    /// Where the record is a directory's.
    pub directory: DirectoryFlags,
    /// The change that made it, where the volume keeps copies.
    pub stamp: Option<Stamp>,
    /// The change that made it whole, where later ones changed attributes; else that is `stamp`.
    pub made: Option<Stamp>,
    /// The file's number in mounts of such a volume, where it is not made of its first change.
    pub ident: Option<u64>,
    /// Fields of a later version, kept as they are: (tag, value), ascending.
    pub(crate) unknown: Vec<(u64, Vec<u8>)>,
}

/// The state of a file: its digests hold as long as it has all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DigestState {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub ino: u64,
}

/// Which change of a replicated volume made an object what it is; the later has the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// The epoch of the name's group.
    pub epoch: u64,
    /// The change's number in the group.
    pub seq: u64,
}

/// A composed object's tag: `<hex of md5_of_md5s>-<part_count>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultipartTag {
    /// MD5 over the parts' MD5s.
    pub md5_of_md5s: [u8; 16],
    /// Number of parts, 1 to 10,000.
    pub part_count: u16,
}

/// What a directory's record says of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectoryFlags {
    /// Keys made by a door made it: it vanishes with the last of them.
    pub made_by_keys: bool,
    /// The object `<path>/` stands here, and the record is its record.
    pub is_marker: bool,
}

/// What the file system says of a file now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileFacts {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub ino: u64,
    /// Time of the last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// Whether a record's digests are those of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The file is in the state the digests were taken at.
    Valid,
    /// It is in another, or no state is recorded.
    Void,
}

impl FileFacts {
    /// The state of it that digests are bound to.
    pub fn state(&self) -> DigestState {
        DigestState {
            len_bytes: self.len_bytes,
            mtime_ns: self.mtime_ns,
            ino: self.ino,
        }
    }

    /// The value of the provisional tag of this state: the same on every machine and in every
    /// version (the first 8 bytes of SHA-256 over ino, length, mtime and ctime, little endian).
    pub fn provisional_tag(&self) -> u64 {
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.ino.to_le_bytes());
        hasher.update(self.len_bytes.to_le_bytes());
        hasher.update(self.mtime_ns.to_le_bytes());
        hasher.update(self.ctime_ns.to_le_bytes());
        let digest = hasher.finalize();
        digest[..8]
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

impl Record {
    /// The change that made the object whole, its bytes with it.
    pub fn bytes_stamp(&self) -> Option<Stamp> {
        self.made.or(self.stamp)
    }

    /// Whether the digests hold for a file of this length, mtime and inode. Those of no bytes hold
    /// for every empty file.
    pub fn verdict(&self, len_bytes: u64, mtime_ns: i64, ino: u64) -> Verdict {
        if len_bytes == 0 && self.state.is_some_and(|state| state.len_bytes == 0) {
            return Verdict::Valid;
        }
        let now = DigestState {
            len_bytes,
            mtime_ns,
            ino,
        };
        let before = match (self.state, self.mtime_before_ns) {
            (Some(state), Some(mtime_ns)) => Some(DigestState { mtime_ns, ..state }),
            _ => None,
        };
        if self.state == Some(now) || before == Some(now) {
            Verdict::Valid
        } else {
            Verdict::Void
        }
    }

    /// The tag of the recorded bytes; none where no digest of them is known.
    pub fn etag(&self) -> Option<ETag> {
        match (&self.multipart, &self.md5) {
            (Some(tag), _) => Some(ETag::from_parts(&tag.md5_of_md5s, tag.part_count)),
            (None, Some(md5)) => Some(ETag::from_md5(md5)),
            (None, None) => None,
        }
    }

    /// The object that a file with these facts and this record is. Where the digests are void,
    /// what depends on the bytes is left out and the tag is provisional, but for an empty file:
    /// the MD5 of no bytes is known.
    pub fn to_object_info(&self, key: ObjectKey, facts: &FileFacts) -> ObjectInfo {
        let etag = match facts.len_bytes {
            0 => ETag::from_md5(&MD5_OF_NOTHING),
            _ => ETag::provisional(facts.provisional_tag()),
        };
        let mut info = ObjectInfo {
            key,
            version: None,
            len_bytes: facts.len_bytes,
            etag,
            etags_before: Vec::new(),
            modified: Timestamp(facts.mtime_ns),
            attrs: self.attrs.clone(),
            checksum: None,
            digests: KnownDigests::default(),
            part_count: None,
        };
        if self.verdict(facts.len_bytes, facts.mtime_ns, facts.ino) == Verdict::Valid {
            self.add_what_bytes_have(&mut info);
        }
        info
    }

    /// The object that a directory marker without a body is; none where the record is not one's.
    /// Its time is the one recorded: a directory's own times move with its entries.
    pub fn to_marker_info(&self, key: ObjectKey) -> Option<ObjectInfo> {
        if !self.directory.is_marker {
            return None;
        }
        let facts = FileFacts {
            len_bytes: 0,
            mtime_ns: self.state.map_or(0, |state| state.mtime_ns),
            ino: self.state.map_or(0, |state| state.ino),
            ctime_ns: 0,
        };
        Some(self.to_object_info(key, &facts))
    }

    /// Takes away what held for the bytes only; attributes stay.
    pub fn void_digests(&mut self) {
        *self = Self {
            attrs: std::mem::take(&mut self.attrs),
            directory: self.directory,
            stamp: self.stamp,
            made: self.made,
            ident: self.ident,
            unknown: std::mem::take(&mut self.unknown),
            ..Self::default()
        };
    }

    fn add_what_bytes_have(&self, info: &mut ObjectInfo) {
        info.digests = KnownDigests {
            md5: self.md5,
            crc64nvme: self.crc64nvme,
        };
        info.checksum = self.checksum.clone();
        info.part_count = self.multipart.map(|tag| tag.part_count);
        if let Some(etag) = self.etag() {
            info.etag = etag;
            info.etags_before = self
                .etag_before
                .map(ETag::provisional)
                .into_iter()
                .collect();
        }
    }
}

/// Checks that an encoded record is one that will be taken back. Errors: MetadataTooLarge.
pub fn check_record_len(len_bytes: usize) -> Result<(), StoreError> {
    if len_bytes > MAX_RECORD_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes,
            max_bytes: MAX_RECORD_LEN_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

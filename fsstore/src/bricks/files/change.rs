//! What a mount changes, as it is logged: everything that becomes of a name, decided once.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::brick::attrs::Stamp;
pub use crate::brick::in_place::{Posix, SetFacts, Special};
use crate::name::{BucketName, ObjectKey};

/// Longest change of bytes, in bytes.
pub const MAX_WRITE_LEN_BYTES: usize = 1 << 20;
/// Most places that one change writes to.
pub const MAX_EXTENTS: usize = 256;

/// A mount's change of a name. Of files it says which one it means by its number: another of the
/// same name is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FileChange {
    /// An empty regular file is made where nothing stands.
    Make {
        /// Its number from now on.
        ident: u64,
        /// Its owner and permissions.
        posix: Posix,
        /// Its time.
        mtime_ns: i64,
    },
    /// A symbolic link, a FIFO, a socket or a device stands here, in place of what did.
    Special {
        /// What it is.
        special: Special,
        /// Its owner and permissions.
        posix: Posix,
        /// Its time.
        mtime_ns: i64,
        /// Where it stood before, where it was moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<(BucketName, ObjectKey)>,
    },
    /// Bytes are written. They stand beside this in the log: see [`super::super::log`].
    Write {
        /// The file.
        ident: u64,
        /// Offsets and lengths in bytes, one after the other in `bytes`.
        extents: Vec<(u64, u64)>,
        /// Its time afterwards.
        mtime_ns: i64,
        /// The bytes.
        #[serde(skip)]
        bytes: Bytes,
    },
    /// fallocate(2).
    Allocate {
        /// The file.
        ident: u64,
        /// Mode bits.
        mode: u32,
        /// Where, in bytes.
        range: Range<u64>,
        /// Its time afterwards.
        mtime_ns: i64,
    },
    /// Attributes change; a new length among them.
    Set {
        /// The file.
        ident: u64,
        /// Which.
        set: SetFacts,
    },
    /// An extended attribute is set, or taken away.
    Xattr {
        /// The file.
        ident: u64,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// The name goes.
    Unlink {
        /// The file, where it is to be a certain one.
        ident: Option<u64>,
    },
    /// The regular file gets another name of the same group; what stands there goes.
    Move {
        /// The file.
        ident: u64,
        /// The new name.
        to: (BucketName, ObjectKey),
    },
    /// The bytes that a change left have these digests.
    Digests {
        /// The file.
        ident: u64,
        /// The change that left them.
        of: (u64, u64),
        /// MD5.
        md5: [u8; 16],
        /// CRC-64/NVME.
        crc64nvme: u64,
        /// The value of the provisional tag that was shown for these bytes.
        shown: u64,
    },
    /// A directory is made, or is this one. For a name of a directory alone.
    MakeDir {
        /// Its number from now on.
        ident: u64,
        /// Its owner and permissions.
        posix: Posix,
    },
    /// The directory goes, where it is empty. For a name of a directory alone.
    RemoveDir,
}

impl FileChange {
    /// The bytes that stand beside it in the log.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Write { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Gives it the bytes that stood beside it.
    pub fn set_bytes(&mut self, found: Bytes) {
        if let Self::Write { bytes, .. } = self {
            *bytes = found;
        }
    }

    /// Whether what becomes of its name depends on what was there.
    pub fn is_derived(&self) -> bool {
        !matches!(
            self,
            Self::Make { .. }
                | Self::Special { .. }
                | Self::Unlink { ident: None }
                | Self::MakeDir { .. }
                | Self::RemoveDir
        )
    }

    /// The other name that it changes.
    pub fn other(&self) -> Option<&(BucketName, ObjectKey)> {
        match self {
            Self::Move { to, .. } => Some(to),
            Self::Special { from, .. } => from.as_ref(),
            _ => None,
        }
    }
}

/// A stamp as it is written down.
pub fn stamp_in(of: (u64, u64)) -> Stamp {
    Stamp {
        epoch: of.0,
        seq: of.1,
    }
}

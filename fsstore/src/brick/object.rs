//! An object held open: one inode, whatever its name leads to later.

use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::attrs::{Parts, Stamp};
use super::disk::{Disk, DiskFile, FileFacts};
use super::look::Looked;
use super::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::object::{ObjectInfo, ObjectPart};
use crate::volume::Object;

/// See the module. A marker has no file and no bytes.
pub struct BrickObject<D: Disk> {
    file: Option<Arc<D::File>>,
    facts: FileFacts,
    info: ObjectInfo,
    parts: Option<Parts>,
    print: Print,
}

/// What tells whether the bytes that are read are those that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print {
    /// The change that made them; none for what was written without a log.
    pub stamp: Option<Stamp>,
    /// Their CRC; none where none is known that holds.
    pub crc64nvme: Option<u64>,
    /// There is a digest that does not hold: they were changed, though not by a door.
    pub in_doubt: bool,
}

fn failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("read an object", e)
}

fn exactly(bytes: Vec<u8>, range: &Range<u64>) -> Result<Bytes> {
    if bytes.len() as u64 != range.end - range.start {
        // An in-place writer cut it short.
        return Err(StoreError::ChangedWhileRead);
    }
    Ok(bytes.into())
}

impl<D: Disk> BrickObject<D> {
    /// Holds what was looked at.
    pub fn new(looked: Looked<D>) -> Self {
        let parts = match looked.info.part_count {
            Some(_) => looked.record.parts,
            None => None,
        };
        Self {
            print: Print {
                stamp: looked.record.stamp,
                crc64nvme: looked.record.crc64nvme,
                in_doubt: looked.in_doubt,
            },
            file: looked.found.file.map(Arc::new),
            facts: looked.found.facts,
            info: looked.info,
            parts,
        }
    }

    /// What tells whether its bytes are those that were written.
    pub fn print(&self) -> Print {
        self.print
    }

    /// The file with the bytes.
    pub fn file(&self) -> Option<&Arc<D::File>> {
        self.file.as_ref()
    }
}

impl<D: Disk> Object for BrickObject<D> {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let Some(file) = &self.file else {
            return Ok(Bytes::new());
        };
        let file = Arc::clone(file);
        let len = (range.end - range.start) as usize;
        off_thread(move || {
            let bytes = file.read_at(range.start, len).map_err(failed)?;
            exactly(bytes, &range)
        })
        .await
    }

    fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        let Some(file) = &self.file else {
            return Some(Ok(Bytes::new()));
        };
        let len = (range.end - range.start) as usize;
        match file.read_at_cached(range.start, len) {
            Ok(bytes) => Some(exactly(bytes, &range)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Unsupported) => None,
            Err(e) => Some(Err(failed(e))),
        }
    }

    fn plain_file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref()?.descriptor()
    }

    fn check_unchanged(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let now = file.facts().map_err(failed)?;
        if (now.len_bytes, now.mtime_ns) != (self.facts.len_bytes, self.facts.mtime_ns) {
            return Err(StoreError::ChangedWhileRead);
        }
        Ok(())
    }

    async fn parts(&self) -> Result<Vec<ObjectPart>> {
        Ok(self
            .parts
            .as_ref()
            .map(Parts::to_object_parts)
            .unwrap_or_default())
    }
}

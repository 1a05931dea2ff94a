//! Files staged for changes: named, so that they outlive a crash, and fetched from other bricks
//! where this one lacks them.

use std::io::ErrorKind;
use std::sync::Arc;

use crc_fast::CrcAlgorithm;
use placement::group::GroupId;
use placement::replica::Record;

use super::super::kinds::{Change, Kept, stamp_of};
use super::{CopyError, Copying, Member, staged_name};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::member::Sealing;
use crate::brick::sink::SMALL_LEN_BYTES;
use crate::error::{Result, StoreError};
use crate::object::Locator;

/// Read at once when a file is fetched from another brick, in bytes.
const FETCH_STEP_LEN_BYTES: usize = 1 << 20;

/// What another brick says of a change's bytes.
enum Bytes<F> {
    /// It has them, from this offset of a file on.
    Here(Arc<F>, u64),
    /// A later change has replaced them: nobody needs them.
    Replaced,
    /// It knows nothing of them.
    Unknown,
}

/// The change of a record that has a staged file.
fn staging(record: &Record<Kept>) -> Option<&Change> {
    let change = record.body.as_ref()?.as_deref()?;
    change.has_staged().then_some(change)
}

/// How long a change's bytes are, and their check sum.
fn expected_of(change: &Change) -> (u64, Option<u64>) {
    match change {
        Change::Put { new, .. } => (new.len_bytes, new.record.crc64nvme),
        Change::Part { part, .. } => (part.len_bytes, Some(part.crc64nvme)),
        _ => (0, None),
    }
}

/// Makes a long file durable here: the log's thread is not to wait for it.
fn sync_long(file: &impl DiskFile, change: &Change) -> Result<()> {
    match expected_of(change).0 > SMALL_LEN_BYTES as u64 {
        true => file
            .sync()
            .map_err(|e| StoreError::from_io("make fetched bytes durable", e)),
        false => Ok(()),
    }
}

impl<D: Disk> Member<D> {
    /// Whether a record's bytes have to be [obtained](Self::obtain) before it is logged.
    pub(in super::super) fn lacks(&self, record: &Record<Kept>) -> bool {
        staging(record).is_some() && !self.lock().contains_key(&record.op)
    }

    /// Fetches the bytes of a change that were not staged here from a brick that has them. False
    /// where a later change has replaced them, which comes with its own record. Errors: Source
    /// where nobody can give them: then the record must not be logged.
    pub(in super::super) fn obtain(
        &self,
        group: GroupId,
        record: &Record<Kept>,
        peers: &[Arc<Self>],
    ) -> Copying<bool> {
        let Some(change) = staging(record) else {
            return Ok(true);
        };
        if self.staged(record.op).map_err(CopyError::Target)?.is_some() {
            return Ok(true);
        }
        let others = peers
            .iter()
            .filter(|peer| peer.id != self.id && !peer.has_failed());
        let (mut is_replaced, mut unread) = (false, StoreError::Busy("a brick with its bytes"));
        for peer in others {
            match peer.bytes_of(group, record, change) {
                Ok(Bytes::Here(source, from)) => match self.copy_checked(&source, from, change) {
                    Ok(file) => {
                        let named = self.name(record, change, &file);
                        let synced = named.and_then(|()| sync_long(&*file, change));
                        return synced.map_err(CopyError::Target).map(|()| true);
                    }
                    // Another may have it in one piece.
                    Err(CopyError::Source(error)) => unread = error,
                    Err(target) => return Err(target),
                },
                Ok(Bytes::Replaced) => is_replaced = true,
                Ok(Bytes::Unknown) => {}
                Err(error) => unread = error,
            }
        }
        match is_replaced {
            true => Ok(false),
            false => Err(CopyError::Source(unread)),
        }
    }

    fn copy_checked(&self, source: &D::File, from: u64, change: &Change) -> Copying<Arc<D::File>> {
        let (len_bytes, expected) = expected_of(change);
        let (file, found) = self.copy_range_here(source, from, len_bytes)?;
        match expected.is_none_or(|expected| expected == found) {
            true => Ok(file),
            false => Err(CopyError::Source(StoreError::ChangedWhileRead)),
        }
    }

    /// What this brick has of a record's bytes: staged, or published.
    fn bytes_of(
        &self,
        group: GroupId,
        record: &Record<Kept>,
        change: &Change,
    ) -> Result<Bytes<D::File>> {
        // Before the rest: what is not staged any more was published by then.
        let is_over = self.has_applied(group, record.at.seq);
        if let Some(file) = self.staged(record.op)? {
            return Ok(Bytes::Here(file, 0));
        }
        let stamp = stamp_of(record.at);
        match change {
            Change::Put { bucket, key, .. } => {
                let at = Locator::new(bucket.clone(), key.clone());
                let Some(looked) = self.inner.look_now(&at)? else {
                    return Ok(match is_over {
                        true => Bytes::Replaced,
                        false => Bytes::Unknown,
                    });
                };
                Ok(match looked.record.bytes_stamp() {
                    Some(made) if made > stamp => Bytes::Replaced,
                    Some(made) if made == stamp => match looked.found.file {
                        Some(file) => Bytes::Here(Arc::new(file), 0),
                        // A marker has none.
                        None => Bytes::Here(Arc::new(self.inner.unnamed()?), 0),
                    },
                    _ => Bytes::Unknown,
                })
            }
            Change::Part {
                bucket,
                key,
                id,
                part,
            } => {
                let at = Locator::new(bucket.clone(), key.clone());
                let upload = match self.inner.upload_now(&at, id) {
                    // It ended.
                    Err(StoreError::NoSuchUpload | StoreError::NoSuchBucket) if is_over => {
                        return Ok(Bytes::Replaced);
                    }
                    Err(StoreError::NoSuchUpload | StoreError::NoSuchBucket) => {
                        return Ok(Bytes::Unknown);
                    }
                    other => other?,
                };
                let parts = upload.parts_after(None, usize::MAX);
                if parts.contains(part) {
                    let (source, from) = upload.open_part(self.inner.disk(), part.number)?;
                    return Ok(Bytes::Here(source, from));
                }
                let has_other = parts.iter().any(|other| other.number == part.number);
                Ok(match has_other && is_over {
                    true => Bytes::Replaced,
                    false => Bytes::Unknown,
                })
            }
            _ => Ok(Bytes::Unknown),
        }
    }

    /// Makes a record's staged file ready to be published, and gives it a name that a crash
    /// leaves. The caller syncs it and the directory. None where the record has none, or is
    /// logged without. Errors: Source where it is not there.
    pub(in super::super) fn prepare(
        &self,
        record: &Record<Kept>,
        may_lack: bool,
    ) -> Copying<Option<Arc<D::File>>> {
        let Some(change) = staging(record) else {
            return Ok(None);
        };
        match self.staged(record.op).map_err(CopyError::Target)? {
            Some(file) => {
                let named = self.name(record, change, &file);
                named.map_err(CopyError::Target)?;
                Ok(Some(file))
            }
            None if may_lack => Ok(None),
            None => {
                let gone = StoreError::Corrupt("a staged file is gone".to_owned());
                Err(CopyError::Source(gone))
            }
        }
    }

    /// Seals a staged file and names it.
    fn name(&self, record: &Record<Kept>, change: &Change, file: &Arc<D::File>) -> Result<()> {
        self.seal(record, change, file)?;
        let name = staged_name(record.op);
        match self.inner.disk().link(file, &self.dir, &name) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(StoreError::from_io("name a staged file", e));
            }
            _ => {}
        }
        self.stage(record.op, Arc::clone(file));
        Ok(())
    }

    fn seal(&self, record: &Record<Kept>, change: &Change, file: &Arc<D::File>) -> Result<()> {
        let Change::Put {
            bucket, key, new, ..
        } = change
        else {
            return Ok(());
        };
        let sealing = Sealing {
            at: &Locator::new(bucket.clone(), key.clone()),
            record: new.record.clone(),
            len_bytes: new.len_bytes,
            modified: new.modified(),
            owner: &new.owner,
            stamp: Some(stamp_of(record.at)),
        };
        self.inner.seal_as(file, sealing)?;
        match &new.posix {
            Some(posix) => self.inner.give(file, posix),
            None => Ok(()),
        }
    }

    /// Whether a record of an earlier run can be made: its staged file is whole, and durable now,
    /// or is not needed any more. False for one that was written when the power went, before its
    /// file was: nobody has been told that it is here.
    pub(in super::super) fn is_makeable(&self, record: &Record<Kept>) -> Result<bool> {
        let Some(change) = staging(record) else {
            return Ok(true);
        };
        let fail = |e| StoreError::from_io("look at a staged file", e);
        if let Some(file) = self.staged(record.op)? {
            let is_whole = self.is_whole(&file, change)?;
            if is_whole {
                self.seal(record, change, &file)?;
                file.sync().map_err(fail)?;
            }
            return Ok(is_whole);
        }
        match change {
            Change::Put { bucket, key, .. } => {
                let at = Locator::new(bucket.clone(), key.clone());
                let looked = self.inner.look_now(&at)?;
                let made = looked.and_then(|looked| looked.record.bytes_stamp());
                Ok(made >= Some(stamp_of(record.at)))
            }
            Change::Part {
                bucket,
                key,
                id,
                part,
            } => {
                let at = Locator::new(bucket.clone(), key.clone());
                match self.inner.upload_now(&at, id) {
                    // It went with its bucket.
                    Err(StoreError::NoSuchUpload | StoreError::NoSuchBucket) => Ok(true),
                    upload => Ok(upload?.parts_after(None, usize::MAX).contains(part)),
                }
            }
            _ => Ok(true),
        }
    }

    /// Whether a staged file has the bytes that it should: by its length where it was synced
    /// before its record was written, else by their check sum.
    fn is_whole(&self, file: &D::File, change: &Change) -> Result<bool> {
        let fail = |e| StoreError::from_io("look at a staged file", e);
        let (len_bytes, expected) = expected_of(change);
        if file.facts().map_err(fail)?.len_bytes != len_bytes {
            return Ok(false);
        }
        let Some(expected) = expected.filter(|_| len_bytes <= SMALL_LEN_BYTES as u64) else {
            return Ok(true);
        };
        let bytes = file.read_at(0, SMALL_LEN_BYTES).map_err(fail)?;
        let found = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &bytes);
        Ok(found == expected)
    }

    /// A copy of a range of a file's bytes on this brick, without a name, and its CRC-64/NVME.
    pub(in super::super) fn copy_range_here(
        &self,
        source: &D::File,
        mut from: u64,
        len_bytes: u64,
    ) -> Copying<(Arc<D::File>, u64)> {
        let fail = |e| StoreError::from_io("fetch bytes", e);
        let file = self.inner.unnamed().map_err(CopyError::Target)?;
        let mut crc = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
        let (mut at, mut left) = (0, len_bytes);
        while left > 0 {
            let step = left.min(FETCH_STEP_LEN_BYTES as u64) as usize;
            let bytes = source.read_at(from, step);
            let bytes = bytes.map_err(|e| CopyError::Source(fail(e)))?;
            if bytes.is_empty() {
                return Err(CopyError::Source(StoreError::ChangedWhileRead));
            }
            let written = file.write_at(at, &bytes);
            written.map_err(|e| CopyError::Target(fail(e)))?;
            crc.update(&bytes);
            let read = bytes.len() as u64;
            (from, at, left) = (from + read, at + read, left - read);
        }
        Ok((Arc::new(file), crc.finalize()))
    }
}

//! An object held open on one brick; where that fails while it is read, or its bytes are not those
//! that were written ([`super::mending`]), another goes on.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use placement::group::GroupId;

use super::member::Member;
use super::mending::{MAX_AFTERWARDS_LEN_BYTES, MAX_INLINE_LEN_BYTES, Suspicion};
use super::shared::{Shared, is_fault};
use crate::brick::disk::Disk;
use crate::brick::object::BrickObject;
use crate::error::{Result, StoreError};
use crate::object::{Locator, ObjectInfo, ObjectPart};
use crate::volume::Object;

/// See the module.
pub struct BricksObject<D: Disk> {
    object: BrickObject<D>,
    at: Locator,
    member: Arc<Member<D>>,
    shared: Arc<Shared<D>>,
    /// The same object on another brick, once the first failed.
    other: OnceLock<Arc<BrickObject<D>>>,
    /// Bytes were read that were not compared with anything.
    was_read: AtomicBool,
}

/// Bytes that are known to be wrong are given to nobody.
fn rotten() -> StoreError {
    StoreError::Corrupt("no copy of an object has the bytes that were written".to_owned())
}

impl<D: Disk> Drop for BricksObject<D> {
    fn drop(&mut self) {
        let is_short = self.object.info().len_bytes <= MAX_AFTERWARDS_LEN_BYTES;
        let is_known = self.object.print().crc64nvme.is_some();
        let is_first = self.other.get().is_none();
        if *self.was_read.get_mut() && is_short && is_known && is_first {
            let suspects = &self.shared.suspects;
            suspects.add(self.member.id, &self.at, Suspicion::WasRead);
        }
    }
}

impl<D: Disk> BricksObject<D> {
    pub(super) fn new(
        object: BrickObject<D>,
        at: Locator,
        member: Arc<Member<D>>,
        shared: Arc<Shared<D>>,
    ) -> Self {
        Self {
            object,
            at,
            member,
            shared,
            other: OnceLock::new(),
            was_read: AtomicBool::new(false),
        }
    }

    /// The object on one brick.
    pub(super) fn on_brick(&self) -> &BrickObject<D> {
        self.other.get().map_or(&self.object, |other| other)
    }

    /// Whether bytes are those that were written, as far as that is known at once. Errors:
    /// ChangedWhileRead.
    fn is_right(&self, from: &BrickObject<D>, range: &Range<u64>, bytes: &Bytes) -> Result<bool> {
        let len_bytes = self.object.info().len_bytes;
        let is_whole = *range == (0..len_bytes);
        let known = from.print().crc64nvme.filter(|_| is_whole);
        let Some(crc) = known.filter(|_| len_bytes <= MAX_INLINE_LEN_BYTES) else {
            self.was_read.store(true, Ordering::Relaxed);
            return Ok(true);
        };
        if crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes) == crc {
            return Ok(true);
        }
        from.check_unchanged()?;
        Ok(false)
    }

    /// Opens the object on another brick, where it is the same there.
    async fn elsewhere(&self) -> Option<Arc<BrickObject<D>>> {
        let group = self.shared.group_of(&self.at);
        for member in self.shared.in_sync(group) {
            if member.id == self.member.id {
                continue;
            }
            if let Ok(found) = member.inner.open_object(&self.at).await
                && is_same(self.object.info(), found.info())
            {
                return Some(Arc::new(found));
            }
        }
        None
    }
}

impl<D: Disk> Shared<D> {
    /// Another brick's copy in the place of one that was changed behind the volume's back, where
    /// there is one of the same change that was not.
    pub(super) async fn sound(
        &self,
        at: &Locator,
        group: GroupId,
        (object, member): (BrickObject<D>, Arc<Member<D>>),
    ) -> (BrickObject<D>, Arc<Member<D>>) {
        let print = object.print();
        if !print.in_doubt || print.stamp.is_none() {
            return (object, member);
        }
        for other in self.in_sync(group) {
            if other.id != member.id
                && let Ok(found) = other.inner.open_object(at).await
                && !found.print().in_doubt
                && found.print().stamp == print.stamp
            {
                self.suspects.add(member.id, at, Suspicion::IsBad);
                return (found, other);
            }
        }
        (object, member)
    }
}

/// Whether two bricks mean the same bytes.
fn is_same(one: &ObjectInfo, other: &ObjectInfo) -> bool {
    !one.etag.is_provisional()
        && (&one.etag, one.len_bytes, one.modified)
            == (&other.etag, other.len_bytes, other.modified)
}

impl<D: Disk> Object for BricksObject<D> {
    fn info(&self) -> &ObjectInfo {
        self.object.info()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let begun = Instant::now();
        let read = self.on_brick().read(range.clone()).await;
        let is_bad = match &read {
            Ok(bytes) => !self.is_right(self.on_brick(), &range, bytes)?,
            Err(error) => is_fault(error),
        };
        if !is_bad || self.other.get().is_some() {
            return read.and_then(|bytes| if is_bad { Err(rotten()) } else { Ok(bytes) });
        }
        let suspects = &self.shared.suspects;
        suspects.add(self.member.id, &self.at, Suspicion::IsBad);
        if read.is_err() && suspects.is_too_slow(self.member.id, begun.elapsed()) {
            let error = StoreError::Busy("reads that take too long to fail");
            self.shared.report(self.member.id, error);
        }
        let Some(other) = self.elsewhere().await else {
            return Err(read.err().unwrap_or_else(rotten));
        };
        let other = self.other.get_or_init(|| other);
        let bytes = other.read(range.clone()).await?;
        match self.is_right(other, &range, &bytes)? {
            true => Ok(bytes),
            false => Err(rotten()),
        }
    }

    fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        match self.on_brick().try_read(range.clone()) {
            // The slow way knows what to do.
            Some(Err(error)) if is_fault(&error) => None,
            Some(Ok(bytes)) => match self.is_right(self.on_brick(), &range, &bytes) {
                Ok(true) => Some(Ok(bytes)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            },
            read => read,
        }
    }

    fn plain_file(&self) -> Option<BorrowedFd<'_>> {
        self.was_read.store(true, Ordering::Relaxed);
        self.on_brick().plain_file()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.on_brick().check_unchanged()
    }

    async fn parts(&self) -> Result<Vec<ObjectPart>> {
        self.on_brick().parts().await
    }
}

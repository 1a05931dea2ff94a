//! An object held open on one brick; where that fails while it is read, another goes on.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::member::Member;
use super::shared::{Shared, is_fault};
use crate::brick::disk::Disk;
use crate::brick::object::BrickObject;
use crate::error::Result;
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
        }
    }

    /// The object on one brick.
    pub(super) fn on_brick(&self) -> &BrickObject<D> {
        self.other.get().map_or(&self.object, |other| other)
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
        match self.on_brick().read(range.clone()).await {
            Err(error) if is_fault(&error) && self.other.get().is_none() => {
                let Some(other) = self.elsewhere().await else {
                    return Err(error);
                };
                self.shared.report(self.member.id, error);
                let other = self.other.get_or_init(|| other);
                other.read(range).await
            }
            read => read,
        }
    }

    fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        match self.on_brick().try_read(range) {
            // The slow way knows what to do.
            Some(Err(error)) if is_fault(&error) => None,
            read => read,
        }
    }

    fn plain_file(&self) -> Option<BorrowedFd<'_>> {
        self.on_brick().plain_file()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.on_brick().check_unchanged()
    }

    async fn parts(&self) -> Result<Vec<ObjectPart>> {
        self.on_brick().parts().await
    }
}

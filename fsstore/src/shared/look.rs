//! Looking at objects: always at the file itself, whose inode has bytes and record of one state.
//!
//! A record names length, mtime and inode of the state its digests were taken at; a file changed
//! in place by another program has another mtime, so its digests are void. Where times go by
//! seconds a change in the second of the PUT that leaves the length is not told.

use std::sync::Arc;

use super::Inner;
use super::disk::{SharedDisk, is_gone};
use crate::brick::attrs::Record;
use crate::brick::disk::{Disk, DiskFile, FileFacts};
use crate::brick::look::{Looked, claims_digests, state_of};
use crate::brick::sink::off_thread;
use crate::brick::tree::{Found, failed};
use crate::error::{Result, StoreError};
use crate::name::ObjectKey;
use crate::object::Locator;

/// How often an object whose name leads nowhere just now is looked up again.
const MAX_ROUNDS: usize = 10;

impl Inner {
    /// Looks at an object; none where there is none. Blocks.
    pub(super) fn look_blocking(&self, at: &Locator) -> Result<Option<Looked<SharedDisk>>> {
        for _ in 0..MAX_ROUNDS {
            let looked = match self.find(at) {
                Ok(None) => return Ok(None),
                Ok(Some(found)) => self.looked(&at.key, found),
                Err(e) => Err(e),
            };
            match looked {
                // Replaced or removed between its opening and the reading of its record.
                Err(StoreError::Io { source, .. }) if is_gone(&source) => {}
                other => return other.map(Some),
            }
        }
        Err(StoreError::Conflict)
    }

    /// As [`crate::brick::tree::Tree::find`]; what a remote file system says is not there is
    /// looked up once more.
    pub(super) fn find(&self, at: &Locator) -> Result<Option<Found<SharedDisk>>> {
        match self.tree.find(at)? {
            None if self.tree.disk.is_remote() => self.tree.find(at),
            found => Ok(found),
        }
    }

    pub(super) fn looked(
        &self,
        key: &ObjectKey,
        found: Found<SharedDisk>,
    ) -> Result<Looked<SharedDisk>> {
        let mut record = self.record_of(&found)?;
        let had_digests = record.etag().is_some();
        if found.marker.is_none() && !claims_digests(&record, &found.facts) {
            record.void_digests();
        }
        let info = record.to_object_info(key.clone(), &state_of(&found.facts));
        let in_doubt = had_digests && info.etag.is_provisional();
        Ok(Looked {
            found,
            info,
            record,
            in_doubt,
        })
    }

    fn record_of(&self, found: &Found<SharedDisk>) -> Result<Record> {
        match (&found.marker, &found.file) {
            (Some(record), _) => Ok(record.clone()),
            (None, Some(file)) => {
                let record = self.tree.records.load(file, &found.facts)?;
                Ok(record.unwrap_or_default())
            }
            (None, None) => Ok(Record::default()),
        }
    }

    /// Looks at an object. Errors: NoSuchBucket, NoSuchKey, AccessDenied.
    pub(super) async fn look(self: &Arc<Self>, at: &Locator) -> Result<Looked<SharedDisk>> {
        let (inner, at) = (Arc::clone(self), at.clone());
        off_thread(move || match inner.look_blocking(&at)? {
            Some(looked) => inner.hash_on_read(&at, looked),
            None => {
                inner.tree.bucket_dir(&at.bucket)?;
                Err(StoreError::NoSuchKey)
            }
        })
        .await
    }

    /// The facts of an open file.
    pub(super) fn facts_of(file: &impl DiskFile) -> Result<FileFacts> {
        file.facts().map_err(failed("look at a file"))
    }

    /// Whether an object's file has been as it is for so long that whatever changes it from now
    /// on changes its times: then what was read of it may be kept in memory.
    pub(super) fn is_quiet(&self, facts: &FileFacts) -> bool {
        let newest = facts.mtime_ns.max(facts.ctime_ns);
        self.options.clock.now().0.saturating_sub(newest) > super::walk::QUIET_NS
    }

    /// Whether anything but portico's own directories can be asked for room.
    pub(super) fn require_room(&self, len_bytes: u64) -> Result<()> {
        crate::brick::sink::require_room(&*self.tree.disk, len_bytes)
    }

    pub(super) fn sync_dir(&self, dir: &<SharedDisk as Disk>::Dir, is_durable: bool) -> Result<()> {
        match is_durable {
            true => self
                .tree
                .disk
                .sync_dir(dir)
                .map_err(failed("make names durable")),
            false => Ok(()),
        }
    }
}

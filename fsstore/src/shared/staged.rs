//! Staged bytes and how they become an object. The steps of a PUT, in this order:
//!
//! 1. the body goes to a file in a directory of this request's own in staging;
//! 2. it gets its owner, its time and its record, and is synced;
//! 3. the directory becomes the key's claim; the precondition is decided;
//! 4. the file is renamed out of the claim to its name, which publishes it and ends the claim;
//! 5. the directory is synced, and the caller answered.

use std::sync::Arc;

use bytes::Bytes;

use super::claim::{Claim, Stage};
use super::disk::SharedDisk;
use super::publish::NewFile;
use super::{Inner, claim_of};
use crate::brick::attrs::{DigestState, Record};
use crate::brick::disk::{DiskFile, FileFacts};
use crate::brick::look::state_of;
use crate::brick::osdisk::OsFile;
use crate::brick::sink::{Sink, Taken, Target, off_thread};
use crate::brick::tree::failed;
use crate::error::{Result, StoreError};
use crate::object::{ETagMatch, FileOwner, Locator, ObjectInfo, Precondition};
use crate::volume::{CommitOptions, StageOptions, Staged};

/// From this announced length on, room is asked for before the body is taken, in bytes.
const LARGE_LEN_BYTES: u64 = 1 << 20;

/// How often a file's time is set that does not stay.
const MAX_SEALS: usize = 4;

/// A file on its way, in a directory of its own in staging.
pub struct Slot {
    pub(super) stage: Stage,
    /// Its name there.
    pub(super) entry: String,
}

/// Bytes on their way to become an object of a shared volume.
pub struct SharedStaged {
    inner: Arc<Inner>,
    at: Locator,
    slot: Slot,
    pub(super) sink: Sink<SharedDisk>,
}

/// What a file with all its bytes and its record is.
pub(super) struct Whole {
    pub(super) record: Record,
    pub(super) facts: FileFacts,
}

/// What a file's record is to say, and the file's time.
pub(super) struct Seal {
    pub(super) record: Record,
    pub(super) len_bytes: u64,
    pub(super) modified_ns: i64,
}

impl Inner {
    /// Opens a file in staging for a body.
    pub(super) fn open_slot(&self, len_bytes: Option<u64>) -> Result<(Slot, Arc<OsFile>)> {
        if let Some(len_bytes) = len_bytes.filter(|len| *len >= LARGE_LEN_BYTES) {
            self.require_room(len_bytes)?;
        }
        let stage = self.claims.stage()?;
        let (entry, file) = stage.create()?;
        Ok((Slot { stage, entry }, Arc::new(file)))
    }

    /// A sink into a slot's file.
    pub(super) fn sink_into(
        &self,
        file: Arc<OsFile>,
        options: StageOptions,
        is_durable: bool,
    ) -> Result<Sink<SharedDisk>> {
        let target = Target::At {
            file,
            offset_bytes: 0,
            claim: Arc::new(()),
        };
        Sink::new(Arc::clone(&self.tree.disk), target, options, is_durable)
    }

    pub(super) async fn begin_object(
        self: &Arc<Self>,
        at: &Locator,
        options: StageOptions,
    ) -> Result<SharedStaged> {
        let (inner, place) = (Arc::clone(self), at.clone());
        off_thread(move || {
            if inner.is_stopping() {
                return Err(StoreError::Stopping);
            }
            inner.tree.bucket_dir(&place.bucket)?;
            let (slot, file) = inner.open_slot(options.len_bytes)?;
            let is_durable = inner.is_durable(&place.bucket);
            let sink = inner.sink_into(file, options, is_durable)?;
            Ok(SharedStaged {
                inner,
                at: place,
                slot,
                sink,
            })
        })
        .await
    }

    /// Gives a file with all its bytes its time, its record and its owner. Durable as the bucket
    /// says.
    pub(super) fn seal(
        &self,
        at: &Locator,
        file: &OsFile,
        seal: Seal,
        owner: &FileOwner,
    ) -> Result<Whole> {
        self.tree
            .give_file(at, file, owner)
            .map_err(failed("give a file to its owner"))?;
        self.seal_own(file, seal, self.is_durable(&at.bucket))
    }

    /// As [`Self::seal`], of a file that stays the server's own. Bytes that a file system writes
    /// back late may move the time once more, past the record: so it is looked at again after
    /// the sync, and done again where that happened.
    pub(super) fn seal_own(&self, file: &OsFile, seal: Seal, is_durable: bool) -> Result<Whole> {
        let Seal {
            mut record,
            len_bytes,
            modified_ns,
        } = seal;
        let wrong = |what: &str| StoreError::Io {
            action: "write staged bytes",
            source: std::io::Error::other(what.to_owned()),
        };
        for _ in 0..MAX_SEALS {
            file.set_modified(modified_ns)
                .map_err(failed("set a file's time"))?;
            let facts = Self::facts_of(file)?;
            if facts.len_bytes != len_bytes {
                return Err(wrong("the file is not as long as what was written"));
            }
            record.state = Some(DigestState {
                len_bytes,
                mtime_ns: facts.mtime_ns,
                ino: facts.ino,
            });
            self.tree.records.save(file, &facts, &record)?;
            if is_durable || self.tree.disk.is_remote() {
                file.sync().map_err(failed("make a file durable"))?;
            }
            let now = Self::facts_of(file)?;
            if (now.mtime_ns, now.len_bytes) == (facts.mtime_ns, len_bytes) {
                return Ok(Whole { record, facts: now });
            }
        }
        Err(wrong("the file's time does not stay"))
    }

    /// Publishes a whole file of a slot at its key.
    pub(super) async fn commit_whole(
        self: &Arc<Self>,
        at: &Locator,
        slot: Slot,
        whole: Whole,
        commit: Commit,
    ) -> Result<ObjectInfo> {
        let name = claim_of(at);
        let turn = self.claims.turn(&name).await;
        let (inner, at) = (Arc::clone(self), at.clone());
        let (looking, bucket) = (Arc::clone(self), at.bucket.clone());
        let Slot { stage, entry } = slot;
        let prepare = move || {
            looking.tree.bucket_dir(&bucket)?;
            Ok(stage)
        };
        let act = move |claim: Claim| {
            let _turn = turn;
            inner.publish_whole(&at, &claim, &entry, &whole, &commit)?;
            Ok(inner.info_of(&at, &whole))
        };
        self.claims.under(&name, prepare, act).await
    }

    /// Decides the precondition and publishes, under the key's claim.
    pub(super) fn publish_whole(
        &self,
        at: &Locator,
        claim: &Claim,
        entry: &str,
        whole: &Whole,
        commit: &Commit,
    ) -> Result<()> {
        let asks = !commit.precondition.is_empty();
        // One whose record stands aside is looked at to take that away.
        let old = match asks || self.tree.records.in_use() {
            true => self.look_blocking(at)?,
            false => None,
        };
        if asks {
            let info = old.as_ref().map(|looked| &looked.info);
            commit.precondition.check_write(info)?;
        }
        let new = NewFile {
            claim,
            entry,
            owner: &commit.owner,
            only_new: commit.precondition.if_none_match == Some(ETagMatch::Any),
            is_durable: self.is_durable(&at.bucket),
        };
        self.publish(at, &new)?;
        if let Some(old) = old.filter(|old| old.found.facts.ino != whole.facts.ino) {
            self.forget_record(&old.found);
        }
        Ok(())
    }

    /// What was published.
    pub(super) fn info_of(&self, at: &Locator, whole: &Whole) -> ObjectInfo {
        whole
            .record
            .to_object_info(at.key.clone(), &state_of(&whole.facts))
    }
}

/// How a whole file is published.
pub(super) struct Commit {
    pub(super) precondition: Precondition,
    pub(super) owner: FileOwner,
}

impl Staged for SharedStaged {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.sink.write(chunk).await
    }

    async fn commit(self, options: CommitOptions) -> Result<ObjectInfo> {
        let Self {
            inner,
            at,
            slot,
            sink,
        } = self;
        let commit = Commit {
            precondition: options.precondition.clone(),
            owner: options.file_owner,
        };
        let (sealing, place) = (Arc::clone(&inner), at.clone());
        let whole = sink
            .finish(move |taken| sealing.make_whole(&place, taken, options))
            .await?;
        inner.commit_whole(&at, slot, whole, commit).await
    }
}

impl Inner {
    fn make_whole(
        &self,
        at: &Locator,
        taken: Taken<SharedDisk>,
        options: CommitOptions,
    ) -> Result<Whole> {
        taken.digests.check(&options.expected)?;
        let known = taken.digests.known();
        let record = Record {
            md5: known.md5,
            crc64nvme: known.crc64nvme,
            checksum: options
                .keep_checksum
                .and_then(|kept| taken.digests.checksum(kept)),
            attrs: options.attrs,
            ..Record::default()
        };
        let modified = options.modified.map(|time| self.as_kept(time.0));
        let seal = Seal {
            record,
            len_bytes: taken.digests.len_bytes,
            modified_ns: modified.unwrap_or_else(|| self.now_ns()),
        };
        self.seal(at, &taken.file, seal, &options.file_owner)
    }
}

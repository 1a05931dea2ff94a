//! Staged bytes and how they become an object. The steps of a PUT, in this order:
//!
//! 1. the body goes to a file without a name, through its digests (`sink`);
//! 2. digests and length are checked, mtime and record are set: the file is whole;
//! 3. in the committer's turn the precondition is decided and the file gets its name;
//! 4. the index and the stamps learn of it, then the caller.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::attrs::{DigestState, Record};
use super::commit::{Terms, Turn};
use super::disk::{Access, Disk, DiskFile};
use super::index::Change;
use super::intents::Ours;
use super::look::{Looked, row_of};
use super::publish::NewFile;
use super::sink::{Sink, Taken};
use super::tree::{Moved, failed};
use crate::error::{Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::BucketName;
use crate::object::{ETagMatch, FileOwner, Locator, ObjectInfo, Precondition};
use crate::volume::{AttrsPatch, CommitOptions, Durability, Removed, Staged};

/// Bytes on their way to become an object of a brick.
pub struct BrickStaged<D: Disk> {
    inner: Arc<Inner<D>>,
    at: Locator,
    pub(super) sink: Sink<D>,
}

/// A file with all its bytes, whose record and owner are not set yet.
pub(super) struct Unsealed<D: Disk> {
    pub file: Arc<D::File>,
    pub record: Record,
    pub len_bytes: u64,
    pub owner: FileOwner,
}

/// A whole file that is to become an object.
pub(super) struct Whole<D: Disk> {
    pub file: Arc<D::File>,
    pub record: Record,
    pub len_bytes: u64,
    /// To whom it belongs.
    pub owner: FileOwner,
    /// Whether it is durable already.
    pub synced: bool,
}

impl<D: Disk> BrickStaged<D> {
    pub(super) fn new(inner: Arc<Inner<D>>, at: Locator, sink: Sink<D>) -> Self {
        Self { inner, at, sink }
    }
}

impl<D: Disk> Staged for BrickStaged<D> {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.sink.write(chunk).await
    }

    async fn commit(self, options: CommitOptions) -> Result<ObjectInfo> {
        let Self { inner, at, sink } = self;
        let durable = inner.buckets.durability(&at.bucket) == Durability::Strict;
        let precondition = options.precondition.clone();
        let (finishing, place) = (Arc::clone(&inner), at.clone());
        let whole = sink
            .finish(move |taken| finishing.make_whole(&place, taken, options, durable))
            .await?;
        inner.commit_whole(at, whole, precondition, durable).await
    }
}

impl<D: Disk> Inner<D> {
    fn make_whole(
        &self,
        at: &Locator,
        taken: Taken<D>,
        options: CommitOptions,
        durable: bool,
    ) -> Result<Whole<D>> {
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
        if let Some(modified) = options.modified {
            taken
                .file
                .set_modified(modified.0)
                .map_err(failed("set a file's time"))?;
        }
        let unsealed = Unsealed {
            file: taken.file,
            record,
            len_bytes: taken.digests.len_bytes,
            owner: options.file_owner,
        };
        self.seal(at, unsealed, taken.long, durable)
    }

    /// Binds a record to the file's state, writes it and gives the file to its owner; a long file
    /// is made durable here, off the committer's thread.
    pub(super) fn seal(
        &self,
        at: &Locator,
        unsealed: Unsealed<D>,
        long: bool,
        durable: bool,
    ) -> Result<Whole<D>> {
        let Unsealed {
            file,
            mut record,
            len_bytes,
            owner,
        } = unsealed;
        let facts = file.facts().map_err(failed("look at a staged file"))?;
        if facts.len_bytes != len_bytes {
            return Err(StoreError::Io {
                action: "write staged bytes",
                source: std::io::Error::other("the file is not as long as what was written"),
            });
        }
        record.state = Some(DigestState {
            len_bytes,
            mtime_ns: facts.mtime_ns,
            ino: facts.ino,
        });
        self.tree.records.save(&file, &facts, &record)?;
        self.tree
            .give_file(at, &file, &owner)
            .map_err(failed("give a file to its owner"))?;
        if long && durable {
            file.sync().map_err(failed("make a file durable"))?;
        }
        Ok(Whole {
            file,
            record,
            len_bytes,
            owner,
            synced: long,
        })
    }

    async fn commit_whole(
        self: &Arc<Self>,
        at: Locator,
        whole: Whole<D>,
        precondition: Precondition,
        durable: bool,
    ) -> Result<ObjectInfo> {
        let terms = Terms {
            durable,
            file: (!whole.synced).then(|| Arc::clone(&whole.file)),
            keys: vec![(at.bucket.clone(), at.key.clone())],
            removes: false,
        };
        let inner = Arc::clone(self);
        self.committer
            .submit(terms, move |turn| {
                inner.check_write(&at, &precondition)?;
                inner.publish(turn, &at, whole, &precondition, |_| {})
            })
            .await
    }

    /// Refuses what is locked, where the bucket respects locks. In the turn. Errors: Locked.
    fn refuse_locked(&self, at: &Locator) -> Result<()> {
        if !self.options.respect_locks.of(&at.bucket) {
            return Ok(());
        }
        let Some(found) = self.tree.find_readable(at)? else {
            return Ok(());
        };
        let locked = self.locks.has_writer(found.facts.ino);
        match locked.map_err(failed("ask the kernel for locks"))? {
            true => Err(StoreError::Locked),
            false => Ok(()),
        }
    }

    /// Decides in the committer's turn whether what stands may be replaced or removed. Errors:
    /// PreconditionFailed, Locked.
    pub(super) fn check_write(&self, at: &Locator, precondition: &Precondition) -> Result<()> {
        self.refuse_locked(at)?;
        if precondition.is_empty() {
            return Ok(());
        }
        let current = self.look_blocking(at)?;
        precondition.check_write(current.as_ref().map(|looked| &looked.info))
    }

    /// Publishes a whole file in the committer's turn. `before_index` runs when the file has
    /// its name.
    pub(super) fn publish(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        whole: Whole<D>,
        precondition: &Precondition,
        before_index: impl FnOnce(&mut Turn<'_, D>),
    ) -> Result<ObjectInfo> {
        let only_new = precondition.if_none_match == Some(ETagMatch::Any);
        if whole.len_bytes == 0
            && let Place::Marker { dir } = keypath::place(&at.key)
        {
            let moved = self
                .tree
                .publish_marker(turn, at, dir, whole.record, &whole.owner)?;
            self.reconcile(at)?;
            self.reconcile_moved(&at.bucket, &moved)?;
            return match self.look_blocking(at)? {
                Some(looked) => Ok(looked.info),
                None => Err(StoreError::Conflict),
            };
        }
        let ino = whole
            .file
            .facts()
            .map_err(failed("look at a staged file"))?
            .ino;
        self.stamps.changing(ino);
        let mut moved = Moved::default();
        let new = NewFile {
            file: &*whole.file,
            owner: &whole.owner,
            only_new,
        };
        let published = self.tree.publish(turn, at, &new, &mut moved);
        self.keep_outlived(at, &moved);
        if !moved.placed {
            self.stamps.forget(ino);
            self.reconcile_moved(&at.bucket, &moved)?;
            published?;
            return Err(StoreError::Conflict);
        }
        before_index(turn);
        let facts = match whole.file.facts() {
            Ok(facts) => facts,
            Err(e) => {
                self.reconcile_moved(&at.bucket, &moved)?;
                self.reconcile(at)?;
                return Err(failed("look at what was published")(e));
            }
        };
        let info = whole
            .record
            .to_object_info(at.key.clone(), &super::look::state_of(&facts));
        let escaped = moved.escaped;
        let row = row_of(&info, &facts, escaped, self.options.hash.of(&at.bucket));
        self.ours(&facts);
        self.change_index([(at.bucket.clone(), at.key.clone(), Change::Put(row))]);
        self.reconcile_moved(&at.bucket, &moved)?;
        // It has its name, whatever failed afterwards.
        published.map(|()| info)
    }

    /// Before the index is told of a key's change: digests of the files that lost this name and
    /// have others are as they were.
    fn keep_outlived(&self, at: &Locator, moved: &Moved) {
        for (before, after) in &moved.outlived {
            // Where it cannot be told they are read again.
            if matches!(self.held(at, before), Ok(true)) {
                self.ours(after);
            }
        }
    }

    pub(super) fn reconcile_moved(&self, bucket: &BucketName, moved: &Moved) -> Result<()> {
        for (key, before) in &moved.keys {
            let at = Locator::new(bucket.clone(), key.clone());
            // They were moved by us: their bytes are as they were, and so are doubts about them.
            if self.held(&at, before)? {
                self.stamps.changing(before.ino);
                if let Some(found) = self.tree.find(&at)? {
                    self.ours(&found.facts);
                }
            } else {
                self.stamps.doubt(before.ino);
            }
            self.reconcile(&at)?;
        }
        Ok(())
    }

    /// Removes an object.
    pub(super) async fn remove_object(
        self: &Arc<Self>,
        at: &Locator,
        precondition: &Precondition,
    ) -> Result<Removed> {
        self.look_bucket(&at.bucket).await?;
        let durable = self.buckets.durability(&at.bucket) == Durability::Strict;
        // The index may forget the key, and what it displaced may come back, before either is
        // durable: so the log names it.
        let terms = Terms {
            durable,
            file: None,
            keys: vec![(at.bucket.clone(), at.key.clone())],
            removes: true,
        };
        let (inner, at, precondition) = (Arc::clone(self), at.clone(), precondition.clone());
        self.committer
            .submit(terms, move |turn| {
                inner.tree.bucket_dir(&at.bucket)?;
                inner.check_write(&at, &precondition)?;
                inner.remove_in_turn(turn, &at)
            })
            .await
    }

    /// Removes an object, in the turn. Errors: NoSuchBucket.
    pub(super) fn remove_in_turn(&self, turn: &mut Turn<'_, D>, at: &Locator) -> Result<Removed> {
        self.tree.bucket_dir(&at.bucket)?;
        let mut moved = Moved::default();
        let removed = self.tree.remove(turn, at, &mut moved);
        self.keep_outlived(at, &moved);
        if let Err(e) = removed {
            // It may have failed on the way.
            self.reconcile_moved(&at.bucket, &moved)?;
            self.reconcile(at)?;
            return Err(e);
        }
        let (bucket, key) = (at.bucket.clone(), at.key.clone());
        self.change_index([(bucket, key, Change::Remove)]);
        self.reconcile_moved(&at.bucket, &moved)?;
        Ok(Removed {
            existed: moved.existed,
        })
    }

    /// Changes attributes of an object whose bytes stay.
    pub(super) async fn patch_object(
        self: &Arc<Self>,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        self.look_bucket(&at.bucket).await?;
        let durable = self.buckets.durability(&at.bucket) == Durability::Strict;
        let keys = vec![(at.bucket.clone(), at.key.clone())];
        let terms = Terms {
            durable,
            file: None,
            keys,
            removes: false,
        };
        let (inner, at, precondition) = (Arc::clone(self), at.clone(), precondition.clone());
        self.committer
            .submit(terms, move |turn| {
                let Some(looked) = inner.look_blocking(&at)? else {
                    return Err(StoreError::NoSuchKey);
                };
                precondition.check_write(Some(&looked.info))?;
                if patch.touch {
                    // It stands for new bytes; tags and access lists do not.
                    inner.refuse_locked(&at)?;
                }
                inner.patch_looked(turn, &at, looked, patch)
            })
            .await
    }

    /// In the turn, changes attributes of what was looked at; its record's stamp is kept.
    pub(super) fn patch_looked(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        looked: Looked<D>,
        patch: AttrsPatch,
    ) -> Result<ObjectInfo> {
        let Looked {
            found,
            mut record,
            in_doubt,
            ..
        } = looked;
        // Digests in doubt stay in the record until the bytes have been read again, unless the
        // new time would vouch for them.
        let keeps_doubt = in_doubt && !patch.touch;
        if keeps_doubt {
            let (stamp, made) = (record.stamp, record.made);
            record = self.record_of(&found)?;
            (record.stamp, record.made) = (stamp, made);
        }
        let attrs = &mut record.attrs;
        if let Some((system, user)) = patch.headers {
            (attrs.system, attrs.user) = (system, user);
        }
        if let Some(tags) = patch.tags {
            attrs.tags = tags;
        }
        if let Some(acl) = patch.acl {
            attrs.acl = acl;
        }
        if patch.owner.is_some() {
            attrs.owner = patch.owner;
        }
        let now = || patch.modified.unwrap_or_else(|| self.options.clock.now());
        let now = patch.touch.then(now);
        record.mtime_before_ns = None;
        if let (Some(now), Some(state)) = (now, &mut record.state) {
            record.mtime_before_ns = Some(state.mtime_ns);
            state.mtime_ns = now.0;
        }
        let Some(file) = found.file else {
            if let Place::Marker { dir } = keypath::place(&at.key) {
                self.tree
                    .publish_marker(turn, at, dir, record, &FileOwner::default())?;
            }
            self.reconcile(at)?;
            return self
                .look_blocking(at)?
                .map(|l| l.info)
                .ok_or(StoreError::NoSuchKey);
        };
        let file = Arc::new(file);
        self.stamps.changing(found.facts.ino);
        turn.touched(found.facts.ino);
        let changed = self
            .write_patch(turn, &file, &found.facts, &mut record, now)
            .and_then(|()| give(&*file, patch.file_owner));
        let facts = file.facts().map_err(failed("look at an object"))?;
        if keeps_doubt {
            self.stamps.doubt(facts.ino);
            record.void_digests();
        } else {
            // Whatever was done, we did it.
            self.ours(&facts);
        }
        changed?;
        turn.changed_file(&file);
        let info = record.to_object_info(at.key.clone(), &super::look::state_of(&facts));
        let row = row_of(
            &info,
            &facts,
            found.escaped,
            self.options.hash.of(&at.bucket),
        );
        self.change_index([(at.bucket.clone(), at.key.clone(), Change::Put(row))]);
        Ok(info)
    }

    /// Gives a file the time that its record names, where a crash kept it from that. Then gives
    /// the file as it is after that, and its ctime before, in nanoseconds.
    pub(super) fn finish_touch(&self, at: &Locator) -> Result<Option<(Ours, i64)>> {
        let Some(found) = self.tree.find_readable(at)? else {
            return Ok(None);
        };
        let Some(file) = found.file else {
            return Ok(None);
        };
        let record = self.tree.records.load(&file, &found.facts)?;
        if let Some(Record {
            state: Some(state),
            mtime_before_ns: Some(before_ns),
            ..
        }) = record
            && found.facts.mtime_ns == before_ns
            && (found.facts.ino, found.facts.len_bytes) == (state.ino, state.len_bytes)
        {
            // Where it may not be set the record holds all the same.
            if let Err(e) = file.set_modified(state.mtime_ns) {
                tracing::warn!(bucket = %at.bucket, key = %at.key, "its time cannot be set: {e}");
            }
            let now = file.facts().map_err(failed("look at an object"))?;
            return Ok(Some((Ours::of(&now), found.facts.ctime_ns)));
        }
        Ok(None)
    }

    /// The record first, durably: until the file has the new time it holds for the old one as well.
    fn write_patch(
        &self,
        turn: &mut Turn<'_, D>,
        file: &Arc<D::File>,
        facts: &super::disk::FileFacts,
        record: &mut Record,
        now: Option<crate::object::Timestamp>,
    ) -> Result<()> {
        self.tree.records.save(file, facts, record)?;
        match now {
            Some(now) => {
                turn.changed_file(file);
                // A crash may leave it so, for the next start to finish.
                self.say_ours(file);
                turn.settle()?;
                file.set_modified(now.0)
                    .map_err(failed("set a file's time"))
            }
            None => Ok(()),
        }
    }
}

/// Gives a file that stands to another owner, with the permissions it has.
pub(super) fn give<F: DiskFile>(file: &F, owner: Option<FileOwner>) -> Result<()> {
    let Some(FileOwner {
        uid: uid @ Some(_),
        gid,
        ..
    }) = owner
    else {
        return Ok(());
    };
    let access = Access {
        uid,
        gid,
        ..Access::default()
    };
    file.set_access(&access)
        .map_err(failed("give a file to its owner"))
}

#[cfg(test)]
mod tests;

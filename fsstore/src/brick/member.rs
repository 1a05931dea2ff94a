//! A brick as a member of a volume that logs changes before it makes them: what the brick does by
//! itself in one go, step by step. Staged files have names of their own in the directory
//! [`REPLICA_DIR`], so that they outlive a crash between the log and their publication.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attrs::{DigestState, Record, Stamp};
use super::commit::{Terms, Turn};
use super::disk::{Disk, DiskFile};
use super::look::Looked;
use super::object::BrickObject;
use super::sink::require_room;
use super::staged::{Whole, give};
use super::tree::{absent_is_none, failed, is_absent};
use super::upload::Upload;
use super::walk::{Step, walk};
use super::{Brick, Inner};
use crate::error::{Result, StoreError};
use crate::keypath::RESERVED;
use crate::name::{BucketName, ObjectKey, UploadId};
use crate::object::{
    Attributes, FileOwner, Locator, ObjectInfo, PartInfo, Precondition, Timestamp, UploadInfo,
};
use crate::permission::{Act, Credentials};
use crate::volume::{AttrsPatch, BucketInfo, ListPage, ListQuery, NewUpload};

/// Below the reserved directory: the log of a replicated volume, and the files staged for it.
pub const REPLICA_DIR: &str = "replica";
/// Below it: files whose bytes are not those that were written.
pub(crate) const QUARANTINE_DIR: &str = "quarantine";
/// Their permissions: staged bytes are as private as the objects they will become.
const REPLICA_DIR_MODE: u32 = 0o700;

/// What a staged file is to be when it is published.
pub(crate) struct Sealing<'a> {
    pub at: &'a Locator,
    pub record: Record,
    pub len_bytes: u64,
    pub modified: Timestamp,
    pub owner: &'a FileOwner,
    pub stamp: Option<Stamp>,
}

impl<D: Disk> Brick<D> {
    pub(crate) fn inner(&self) -> &Arc<Inner<D>> {
        &self.inner
    }
}

impl<D: Disk> Inner<D> {
    pub(crate) fn disk(&self) -> &Arc<D> {
        &self.tree.disk
    }

    /// How long the disk may take for what it is given.
    pub(crate) fn hangs_after(&self) -> Duration {
        self.options.hangs_after
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Opens the directory of the log, making it where it is not.
    pub(crate) fn open_replica_dir(&self) -> Result<Arc<D::Dir>> {
        self.open_own_dir(REPLICA_DIR)
    }

    /// Opens the directory of files that are kept aside, making it where it is not.
    pub(crate) fn open_quarantine_dir(&self) -> Result<Arc<D::Dir>> {
        self.open_own_dir(QUARANTINE_DIR)
    }

    fn open_own_dir(&self, name: &str) -> Result<Arc<D::Dir>> {
        let fail = failed("open a directory of the brick's own");
        let disk = &*self.tree.disk;
        let own = disk.open_dir(&self.tree.root, RESERVED).map_err(&fail)?;
        match disk.make_dir(&own, name, REPLICA_DIR_MODE) {
            Ok(()) => disk.sync_dir(&own).map_err(&fail)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(fail(e)),
        }
        disk.open_dir(&own, name).map_err(fail)
    }

    /// A new file without a name.
    pub(crate) fn unnamed(&self) -> Result<D::File> {
        let file = self.tree.disk.create_unnamed(&self.tree.own.staging);
        file.map_err(failed("stage bytes"))
    }

    /// Gives a staged file its time, record and owner. The caller makes it durable.
    pub(crate) fn seal_as(&self, file: &Arc<D::File>, sealing: Sealing<'_>) -> Result<()> {
        let fail = failed("seal a staged file");
        file.set_modified(sealing.modified.0).map_err(&fail)?;
        let facts = file.facts().map_err(&fail)?;
        if facts.len_bytes != sealing.len_bytes {
            return Err(StoreError::Corrupt("staged bytes are missing".to_owned()));
        }
        let record = Record {
            state: Some(DigestState {
                len_bytes: facts.len_bytes,
                mtime_ns: facts.mtime_ns,
                ino: facts.ino,
            }),
            stamp: sealing.stamp,
            ..sealing.record
        };
        self.tree.records.save(file, &facts, &record)?;
        let given = self.tree.give_file(sealing.at, file, sealing.owner);
        given.map_err(failed("give a file to its owner"))
    }

    /// Runs a change in the turn; it is made durable by a later [`checkpoint`](Self::checkpoint).
    pub(crate) fn in_turn<T, F>(
        self: &Arc<Self>,
        key: Option<(BucketName, ObjectKey)>,
        act: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, D>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>, &mut Turn<'_, D>) -> Result<T> + Send + 'static,
    {
        let terms = Terms {
            durable: false,
            file: None,
            keys: key.into_iter().collect(),
            // What is committed is made, whether the index's log can be written or not.
            removes: true,
        };
        let inner = Arc::clone(self);
        self.committer.submit(terms, move |turn| act(&inner, turn))
    }

    /// Makes everything changed in turns so far durable.
    pub(crate) fn checkpoint(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send + use<D> {
        let terms = Terms {
            durable: true,
            ..Terms::to_look()
        };
        self.committer.submit(terms, |_| Ok(()))
    }

    /// In a turn: decides whether what stands may be replaced or removed.
    pub(crate) fn check(&self, at: &Locator, precondition: &Precondition) -> Result<()> {
        self.check_write(at, precondition)
    }

    /// The stamp of what stands; none where nothing does, or nothing that has one.
    pub(crate) fn stamp_at(&self, at: &Locator) -> Result<Option<Stamp>> {
        match self.tree.find_readable(at)? {
            Some(found) => Ok(self.record_of(&found)?.stamp),
            None => Ok(None),
        }
    }

    /// Whether an object stands at a place.
    pub(crate) fn stands(&self, at: &Locator) -> Result<bool> {
        match self.tree.find(at) {
            // What may not be read may be removed.
            Err(StoreError::AccessDenied) => Ok(true),
            found => found.map(|found| found.is_some()),
        }
    }

    /// Whether what stands must not be replaced while someone has it locked.
    pub(crate) fn respects_locks(&self, bucket: &BucketName) -> bool {
        self.options.respect_locks.of(bucket)
    }

    pub(crate) fn enforces(&self, bucket: &BucketName) -> bool {
        self.options.enforce.of(bucket)
    }

    pub(crate) async fn may(
        self: &Arc<Self>,
        who: &Credentials,
        act: Act<'_, BrickObject<D>>,
    ) -> Result<()> {
        self.permit(who, act).await
    }

    pub(crate) async fn stat_object(self: &Arc<Self>, at: &Locator) -> Result<ObjectInfo> {
        Ok(self.look(at).await?.info)
    }

    /// The upload that the object at a place was composed from.
    pub(crate) async fn composed_from(
        self: &Arc<Self>,
        at: &Locator,
    ) -> Result<(Option<UploadId>, ObjectInfo)> {
        let looked = self.look(at).await?;
        Ok((looked.record.upload_id, looked.info))
    }

    pub(crate) fn look_now(&self, at: &Locator) -> Result<Option<Looked<D>>> {
        self.look_blocking(at)
    }

    /// In a turn: notes that a file is as changes of ours left it, once a change of its time that
    /// a crash interrupted is finished.
    pub(crate) fn vouch(&self, at: &Locator) -> Result<()> {
        self.finish_touch(at)?;
        if let Some(found) = self.tree.find_readable(at)?
            && found.file.is_some()
        {
            self.ours(&found.facts);
        }
        self.reconcile(at).map(|_| ())
    }

    /// In a turn: gives a sealed file its key's name and takes its staged name away. An upload
    /// that ends with it goes.
    pub(crate) fn put_sealed(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        file: Arc<D::File>,
        owner: FileOwner,
        staged: (&D::Dir, &str),
        ended: Option<&UploadId>,
    ) -> Result<()> {
        self.ensure_bucket_dir(turn, &at.bucket)?;
        let facts = file.facts().map_err(failed("look at a staged file"))?;
        let record = self.tree.records.load(&file, &facts)?;
        let record = record.ok_or(StoreError::Corrupt("a staged file lost its record".into()))?;
        let whole = Whole {
            len_bytes: facts.len_bytes,
            file,
            record,
            owner,
            synced: true,
        };
        let (dir, name) = staged;
        let unname = || absent_is_none(self.tree.disk.unlink(dir, name));
        let mut is_unnamed = false;
        self.publish(
            turn,
            at,
            whole,
            &Precondition::default(),
            |_| match unname() {
                Ok(_) => is_unnamed = true,
                Err(e) => tracing::warn!("a staged file keeps its name: {e}"),
            },
        )?;
        if !is_unnamed {
            unname().map_err(failed("take a staged name away"))?;
            // That moved the ctime by which its digests are known to hold.
            self.vouch(at)?;
        }
        if let Some(id) = ended {
            self.end_upload_now(&at.bucket, id)?;
        }
        Ok(())
    }

    /// In a turn: removes an object; one that is not there is no error.
    pub(crate) fn remove_now(&self, turn: &mut Turn<'_, D>, at: &Locator) -> Result<()> {
        match self.remove_in_turn(turn, at) {
            Ok(_) | Err(StoreError::NoSuchBucket) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// In a turn: gives an object these attributes and stamp. Nothing happens where there is none.
    pub(crate) fn patch_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        (attrs, stamp): (Attributes, Stamp),
        touched: Option<Timestamp>,
        owner: Option<FileOwner>,
    ) -> Result<()> {
        let Some(mut looked) = self.look_blocking(at)? else {
            return Ok(());
        };
        looked.record.made = looked.record.bytes_stamp();
        looked.record.stamp = Some(stamp);
        let patch = AttrsPatch {
            headers: Some((attrs.system, attrs.user)),
            tags: Some(attrs.tags),
            acl: Some(attrs.acl),
            owner: attrs.owner,
            file_owner: owner,
            touch: touched.is_some(),
            modified: touched,
        };
        self.patch_looked(turn, at, looked, patch).map(|_| ())
    }

    /// In a turn: gives what stands to another owner.
    pub(crate) fn give_to(&self, at: &Locator, owner: FileOwner) -> Result<()> {
        let Some(found) = self.tree.find_readable(at)? else {
            return Ok(());
        };
        match &found.file {
            Some(file) => {
                self.stamps.changing(found.facts.ino);
                let given = give(file, Some(owner));
                let facts = file.facts().map_err(failed("look at an object"))?;
                self.ours(&facts);
                given
            }
            None => Ok(()),
        }
    }

    /// In a turn: makes a bucket's directory where it is not.
    pub(crate) fn ensure_bucket_dir(
        &self,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
    ) -> Result<()> {
        match self.tree.bucket_dir(name) {
            Err(StoreError::NoSuchBucket) => {
                self.buckets
                    .make_dir(&self.tree, turn, name, &FileOwner::default())?;
                self.index_new_bucket(name)
            }
            other => other.map(|_| ()),
        }
    }

    /// Tells the index of a bucket whose directory was just made; what stands elsewhere of it is
    /// read from the tree.
    fn index_new_bucket(&self, name: &BucketName) -> Result<()> {
        let aside = absent_is_none(self.tree.disk.stat(&self.tree.own.keys, name.as_str()));
        let aside = aside.map_err(failed("look for escaped keys"))?;
        self.index.drop_bucket(name);
        self.index.add_bucket(name, aside.is_none());
        Ok(())
    }

    /// In a turn: makes a bucket what this says.
    pub(crate) fn keep_bucket(
        &self,
        turn: &mut Turn<'_, D>,
        info: &BucketInfo,
        owner: &FileOwner,
    ) -> Result<()> {
        // What else is there of a bucket of this name may be of this one: its other groups are
        // made again after a crash in any order.
        let is_new = self.buckets.keep(&self.tree, turn, info, owner)?;
        match is_new {
            true => self.index_new_bucket(&info.name),
            false => Ok(()),
        }
    }

    /// In a turn: removes a bucket, where it is the one created at this time; one that is not
    /// there is no error.
    pub(crate) fn remove_bucket_now(
        &self,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
        created: Option<Timestamp>,
    ) -> Result<()> {
        let standing = match self.buckets.load(&self.tree, name) {
            Err(StoreError::NoSuchBucket) => return self.uploads.remove_all(&self.tree, name),
            other => other?,
        };
        if created.is_some_and(|created| created != standing.created) {
            return Ok(());
        }
        match self.remove_bucket(turn, name) {
            Err(StoreError::NoSuchBucket) => Ok(()),
            other => other,
        }
    }

    /// Whether a bucket's directory holds anything that its removal does not take along.
    pub(crate) fn bucket_holds_anything(&self, name: &BucketName) -> Result<bool> {
        self.buckets.holds_anything(&self.tree, name)
    }

    pub(crate) fn load_bucket(&self, name: &BucketName) -> Result<Arc<BucketInfo>> {
        self.buckets.load(&self.tree, name)
    }

    pub(crate) fn list_buckets_now(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        self.buckets.list(&self.tree, prefix, after, limit)
    }

    pub(crate) async fn list_objects(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> Result<ListPage> {
        match self.list_page(bucket, query).await {
            // The brick has none of its objects.
            Err(StoreError::NoSuchBucket) => Ok(ListPage::default()),
            other => other,
        }
    }

    pub(crate) async fn open_object(self: &Arc<Self>, at: &Locator) -> Result<BrickObject<D>> {
        Ok(BrickObject::new(self.look(at).await?))
    }

    pub(crate) fn begin_upload_as(
        &self,
        at: &Locator,
        id: UploadId,
        new: NewUpload,
        begun: Timestamp,
    ) -> Result<()> {
        let begun = self
            .uploads
            .begin_as(&self.tree, &at.bucket, &at.key, id, new, begun);
        begun.map(|_| ())
    }

    pub(crate) fn upload_now(&self, at: &Locator, id: &UploadId) -> Result<Arc<Upload<D>>> {
        self.uploads.open(&self.tree, &at.bucket, &at.key, id)
    }

    /// Calls `visit` for every key of a bucket that may hold an object, read from the tree.
    pub(crate) fn each_key(
        &self,
        bucket: &BucketName,
        visit: &mut dyn FnMut(ObjectKey),
    ) -> Result<()> {
        let walked = walk(&self.tree, bucket, None, &mut |met| {
            visit(met.key);
            Ok(Step::Next)
        });
        match walked {
            Err(StoreError::NoSuchBucket) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Makes a staged file a part of an upload and takes its staged name away.
    pub(crate) fn record_part(
        &self,
        at: &Locator,
        id: &UploadId,
        part: PartInfo,
        file: &D::File,
        staged: (&D::Dir, &str),
    ) -> Result<()> {
        let upload = self.upload_now(at, id)?;
        let is_known = upload.parts_after(None, usize::MAX).contains(&part);
        if !is_known {
            upload.record(&*self.tree.disk, part, Some(file))?;
        }
        let unnamed = absent_is_none(self.tree.disk.unlink(staged.0, staged.1));
        unnamed
            .map(|_| ())
            .map_err(failed("take a staged name away"))
    }

    pub(crate) fn end_upload_now(&self, bucket: &BucketName, id: &UploadId) -> Result<()> {
        self.uploads.remove(&self.tree, bucket, id)
    }

    pub(crate) fn each_upload(
        &self,
        bucket: &BucketName,
        visit: impl FnMut(UploadInfo),
    ) -> Result<()> {
        self.uploads.each(&self.tree, bucket, visit)
    }

    /// Puts the bytes of an upload's parts together in a staged file, durably.
    pub(crate) fn join_parts(
        &self,
        upload: &Upload<D>,
        parts: &[(crate::name::PartNumber, u64, u64)],
        len_bytes: u64,
    ) -> Result<Arc<D::File>> {
        let fail = failed("copy a part");
        require_room(&*self.tree.disk, len_bytes)?;
        let file = self.unnamed()?;
        for (number, at, len) in parts {
            let (source, from) = upload.open_part(&self.tree.disk, *number)?;
            let copied = file.copy_from(&source, from, *at, *len).map_err(&fail)?;
            if copied != *len {
                return Err(StoreError::InvalidPart {
                    number: number.get(),
                });
            }
        }
        file.sync().map_err(fail)?;
        Ok(Arc::new(file))
    }

    /// Opens a file that was staged before a crash; none where there is none.
    pub(crate) fn open_staged(&self, dir: &D::Dir, name: &str) -> Result<Option<Arc<D::File>>> {
        match self.tree.disk.open_own(dir, name, false) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(StoreError::from_io("open a staged file", e)),
        }
    }
}

//! One brick of a volume: its engine, the files staged on it, and how a logged change becomes
//! files.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use placement::layout::BrickId;
use placement::replica::{OpId, Record};

use super::files::applying::{ApplyingFile, moves_of};
use super::healing::Census;
use super::kinds::{Change, Kept, NewObject, stamp_of};
use crate::brick::attrs::Stamp;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::member::Sealing;
use crate::brick::{Brick, Inner};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, UploadId};
use crate::object::{FileOwner, Locator, PartInfo, Timestamp};
use crate::volume::{BucketInfo, Durability, NewUpload};

/// Read at once when a staged file is fetched from another brick, in bytes.
const FETCH_STEP_LEN_BYTES: usize = 1 << 20;

/// Records that could not be made in a copy's tree.
pub(super) type Spoiled = Arc<Mutex<BTreeSet<u64>>>;

/// Notes that a record could not be made, or a part of the tree not be replaced.
pub(super) fn spoil(spoiled: &Spoiled, seq: u64) {
    let mut spoiled = spoiled.lock().unwrap_or_else(PoisonError::into_inner);
    spoiled.insert(seq);
}

/// See the module.
pub struct Member<D: Disk> {
    /// Its number in the volume.
    pub id: BrickId,
    /// Its engine.
    pub inner: Arc<Inner<D>>,
    brick: Brick<D>,
    dir: Arc<D::Dir>,
    staged: Mutex<HashMap<OpId, Arc<D::File>>>,
    failed: AtomicBool,
    /// Where records that are made again move files to, by the files' numbers.
    moves: Mutex<HashMap<u64, Vec<Locator>>>,
    /// Its names, while others are compared with them.
    pub(super) census: tokio::sync::Mutex<Option<Census>>,
}

/// On which side a file could not be copied from a brick to another.
#[derive(Debug)]
pub(super) enum CopyError {
    /// Where it is read.
    Source(StoreError),
    /// Where it is written.
    Target(StoreError),
}

/// What came of copying.
pub(super) type Copying<T> = std::result::Result<T, CopyError>;

/// The name of a staged file.
fn staged_name(op: OpId) -> String {
    format!("s-{:016x}", op.0)
}

impl<D: Disk> Member<D> {
    /// A brick, opened.
    pub fn new(id: BrickId, brick: Brick<D>) -> Result<Self> {
        let inner = Arc::clone(brick.inner());
        let dir = inner.open_replica_dir()?;
        Ok(Self {
            id,
            inner,
            brick,
            dir,
            staged: Mutex::default(),
            failed: AtomicBool::new(false),
            moves: Mutex::default(),
            census: tokio::sync::Mutex::new(None),
        })
    }

    /// Its engine as a volume.
    pub fn brick(&self) -> &Brick<D> {
        &self.brick
    }

    /// The directory of its log.
    pub fn dir(&self) -> &Arc<D::Dir> {
        &self.dir
    }

    /// Whether it is known to be of no use.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Ordering::Release);
    }

    /// Notes where records that may be made again move files to: a change of a file that is at its
    /// new place already is made there.
    pub(super) fn note_moves<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        for (ident, to) in changes.into_iter().filter_map(moves_of) {
            moves.entry(ident).or_default().push(to);
        }
    }

    /// Where a file of this number may have been moved before a crash, latest first.
    pub(super) fn moved_to(&self, ident: u64) -> Vec<Locator> {
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let found = moves.get(&ident).into_iter().flatten();
        found.rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OpId, Arc<D::File>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a file staged for an operation.
    pub fn stage(&self, op: OpId, file: Arc<D::File>) {
        self.lock().insert(op, file);
    }

    /// Forgets a file staged for an operation that was not logged.
    pub fn unstage(&self, op: OpId) {
        self.lock().remove(&op);
    }

    /// The file staged for an operation, in this run or an earlier one.
    fn staged(&self, op: OpId) -> Result<Option<Arc<D::File>>> {
        if let Some(file) = self.lock().get(&op) {
            return Ok(Some(Arc::clone(file)));
        }
        self.inner.open_staged(&self.dir, &staged_name(op))
    }

    /// Removes staged files of earlier runs that no record names.
    pub fn sweep(&self, is_needed: impl Fn(OpId) -> bool) -> Result<()> {
        let fail = |e| StoreError::from_io("sweep staged files", e);
        let disk = self.inner.disk();
        let mut names = Vec::new();
        let read = disk.read_dir(&self.dir, &mut |entry| {
            if let Some(op) = entry.name.strip_prefix("s-")
                && let Ok(op) = u64::from_str_radix(op, 16)
                && !is_needed(OpId(op))
            {
                names.push(entry.name);
            }
            true
        });
        read.map_err(fail)?;
        for name in names {
            disk.unlink(&self.dir, &name).map_err(fail)?;
        }
        Ok(())
    }

    /// Makes a record's staged file ready to be published, and gives it a name that a crash
    /// leaves. The caller syncs it and the directory. None where the record has none, or where a
    /// later change has replaced it everywhere.
    pub fn prepare(
        &self,
        record: &Record<Kept>,
        peers: &[Arc<Self>],
    ) -> Result<Option<Arc<D::File>>> {
        let Some(Some(change)) = &record.body else {
            return Ok(None);
        };
        if !change.has_staged() {
            return Ok(None);
        }
        let file = match self.staged(record.op)? {
            Some(file) => Some(file),
            None => self.fetch(record, change, peers)?,
        };
        let Some(file) = file else { return Ok(None) };
        if let Change::Put {
            bucket, key, new, ..
        } = &**change
        {
            let sealing = Sealing {
                at: &Locator::new(bucket.clone(), key.clone()),
                record: new.record.clone(),
                len_bytes: new.len_bytes,
                modified: new.modified(),
                owner: &new.owner,
                stamp: Some(stamp_of(record.at)),
            };
            self.inner.seal_as(&file, sealing)?;
            if let Some(posix) = &new.posix {
                self.inner.give(&file, posix)?;
            }
        }
        match self
            .inner
            .disk()
            .link(&file, &self.dir, &staged_name(record.op))
        {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::from_io("name a staged file", e));
            }
            _ => {}
        }
        self.stage(record.op, Arc::clone(&file));
        Ok(Some(file))
    }

    /// Fetches the bytes of a change from another brick that has them: staged, or published.
    fn fetch(
        &self,
        record: &Record<Kept>,
        change: &Change,
        peers: &[Arc<Self>],
    ) -> Result<Option<Arc<D::File>>> {
        let others = peers
            .iter()
            .filter(|peer| peer.id != self.id && !peer.has_failed());
        let mut unread = None;
        for peer in others {
            let source = match peer.staged(record.op) {
                Ok(Some(source)) => Some(source),
                Ok(None) => peer.published(stamp_of(record.at), change).ok().flatten(),
                Err(_) => None,
            };
            match source.map(|source| self.copy_here(&*source)) {
                Some(Ok(file)) => return Ok(Some(file)),
                Some(Err(CopyError::Target(error))) => return Err(error),
                // Another may have it in one piece.
                Some(Err(CopyError::Source(error))) => unread = Some(error),
                None => {}
            }
        }
        unread.map_or(Ok(None), Err)
    }

    fn published(&self, stamp: Stamp, change: &Change) -> Result<Option<Arc<D::File>>> {
        match change {
            Change::Put { bucket, key, .. } => {
                let at = Locator::new(bucket.clone(), key.clone());
                let looked = self.inner.look_now(&at)?;
                let is_it = looked.filter(|looked| looked.record.stamp == Some(stamp));
                Ok(is_it.and_then(|looked| looked.found.file).map(Arc::new))
            }
            Change::Part {
                bucket,
                key,
                id,
                part,
            } => {
                let at = Locator::new(bucket.clone(), key.clone());
                let upload = self.inner.upload_now(&at, id)?;
                let is_it = upload.parts_after(None, usize::MAX).contains(part);
                let opened = is_it.then(|| upload.open_part(self.inner.disk(), part.number));
                Ok(opened.transpose()?.map(|(file, _)| file))
            }
            _ => Ok(None),
        }
    }

    /// A copy of a file's bytes on this brick, without a name.
    pub(super) fn copy_here(&self, source: &D::File) -> Copying<Arc<D::File>> {
        let fail = |e| StoreError::from_io("fetch a file", e);
        let file = self.inner.unnamed().map_err(CopyError::Target)?;
        let mut at = 0;
        loop {
            let bytes = source.read_at(at, FETCH_STEP_LEN_BYTES);
            let bytes = bytes.map_err(|e| CopyError::Source(fail(e)))?;
            if bytes.is_empty() {
                return Ok(Arc::new(file));
            }
            let written = file.write_at(at, &bytes);
            written.map_err(|e| CopyError::Target(fail(e)))?;
            at += bytes.len() as u64;
        }
    }

    /// A copy of a range of a file's bytes on this brick, without a name.
    pub(super) fn copy_range_here(
        &self,
        source: &D::File,
        mut from: u64,
        len_bytes: u64,
    ) -> Copying<Arc<D::File>> {
        let fail = |e| StoreError::from_io("fetch a part", e);
        let file = self.inner.unnamed().map_err(CopyError::Target)?;
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
            let read = bytes.len() as u64;
            (from, at, left) = (from + read, at + read, left - read);
        }
        Ok(Arc::new(file))
    }

    /// In a turn: publishes a sealed file that was fetched.
    pub fn publish_staged(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        op: OpId,
        owner: FileOwner,
    ) -> Result<()> {
        let Some(file) = self.staged(op)? else {
            return Err(StoreError::Corrupt("a fetched file is gone".to_owned()));
        };
        let name = staged_name(op);
        self.inner
            .put_sealed(turn, at, file, owner, (&self.dir, &name), None)?;
        self.unstage(op);
        Ok(())
    }

    /// In a turn: makes a file that was fetched a part.
    pub fn record_staged(
        &self,
        at: &Locator,
        id: &UploadId,
        part: &PartInfo,
        op: OpId,
    ) -> Result<()> {
        if let Some(file) = self.staged(op)? {
            let name = staged_name(op);
            self.inner
                .record_part(at, id, part.clone(), &file, (&self.dir, &name))?;
            self.unstage(op);
        }
        Ok(())
    }

    /// Publishes a committed record, after those before it. `checks` where the tree may have it,
    /// or later changes, already. What fails is noted in the turn, so that a checkpoint after it
    /// knows.
    pub(super) fn apply(
        self: &Arc<Self>,
        record: Arc<Record<Kept>>,
        checks: bool,
        is_partial: bool,
        peers: Vec<Arc<Self>>,
        spoiled: &Spoiled,
    ) -> impl Future<Output = Result<()>> + Send + use<D> {
        let key = match record.body.as_ref().and_then(Option::as_deref) {
            Some(
                Change::Put { bucket, key, .. }
                | Change::Remove { bucket, key }
                | Change::Patch { bucket, key, .. }
                | Change::File { bucket, key, .. },
            ) => Some((bucket.clone(), key.clone())),
            _ => None,
        };
        let (member, spoiled) = (Arc::clone(self), Arc::clone(spoiled));
        self.inner.in_turn(key, move |_, turn| {
            let Some(Some(change)) = &record.body else {
                return Ok(());
            };
            if is_partial && record.effects.iter().any(|effect| effect.is_derived) {
                member.drop_staged(record.op);
                return Ok(());
            }
            let applying = Applying {
                member: &member,
                record: &record,
                op: record.op,
                stamp: stamp_of(record.at),
                checks,
                peers: &peers,
            };
            let made = applying.change(turn, change);
            if made.is_err() {
                spoil(&spoiled, record.at.seq);
            }
            made
        })
    }

    fn drop_staged(&self, op: OpId) {
        self.unstage(op);
        // What stays goes with the next start.
        let _ = self.inner.disk().unlink(&self.dir, &staged_name(op));
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.brick.close().await
    }
}

/// One change on its way into the tree, in the turn.
struct Applying<'a, D: Disk> {
    member: &'a Member<D>,
    record: &'a Record<Kept>,
    op: OpId,
    stamp: Stamp,
    checks: bool,
    peers: &'a [Arc<Member<D>>],
}

impl<D: Disk> Applying<'_, D> {
    fn change(&self, turn: &mut Turn<'_, D>, change: &Change) -> Result<()> {
        let inner = &self.member.inner;
        let at = |bucket: &BucketName, key: &ObjectKey| Locator::new(bucket.clone(), key.clone());
        match change {
            Change::Put {
                bucket,
                key,
                new,
                upload,
            } => self.put(turn, &at(bucket, key), new, upload.as_ref()),
            Change::Remove { bucket, key } => {
                let at = at(bucket, key);
                match self.has_later(&at)? {
                    true => Ok(()),
                    false => inner.remove_now(turn, &at),
                }
            }
            Change::Patch {
                bucket,
                key,
                attrs,
                touched_ns,
                owner,
            } => {
                let at = at(bucket, key);
                if self.has_later(&at)? {
                    return inner.vouch(&at);
                }
                let touched = touched_ns.map(Timestamp);
                inner.patch_now(turn, &at, ((**attrs).clone(), self.stamp), touched, *owner)
            }
            Change::KeepBucket {
                bucket,
                facts,
                owner,
            } => {
                let info = BucketInfo {
                    name: bucket.clone(),
                    created: Timestamp(facts.created_ns),
                    owner: facts.owner.clone(),
                    durability: Durability::Strict,
                    settings: facts.settings.clone(),
                };
                inner.keep_bucket(turn, &info, owner)
            }
            Change::RemoveBucket { bucket, created_ns } => {
                let removed = inner.remove_bucket_now(turn, bucket, Some(Timestamp(*created_ns)));
                match removed {
                    // What is in it came later.
                    Err(StoreError::BucketNotEmpty) if self.checks => Ok(()),
                    other => other,
                }
            }
            Change::Begin {
                bucket,
                key,
                id,
                begun,
            } => {
                let new = NewUpload {
                    attrs: begun.attrs.clone(),
                    checksum: begun.checksum,
                    file_owner: begun.owner,
                };
                let begun = Timestamp(begun.begun_ns);
                inner.begin_upload_as(&at(bucket, key), id.clone(), new, begun)
            }
            Change::Part {
                bucket,
                key,
                id,
                part,
            } => self.part(&at(bucket, key), id, part),
            Change::File {
                bucket,
                key,
                change,
            } => self.of_mount(&at(bucket, key)).file(turn, change),
            Change::Dir {
                bucket,
                path,
                change,
            } => self.of_mount(&at(bucket, path)).dir(turn, change),
            Change::End { bucket, id, .. } => inner.end_upload_now(bucket, id),
        }
    }

    fn of_mount<'b>(&'b self, at: &'b Locator) -> ApplyingFile<'b, D> {
        ApplyingFile {
            member: self.member,
            at,
            stamp: self.stamp,
            checks: self.checks,
        }
    }

    /// The staged file; where a power cut left its record and not it, another brick's, made
    /// durable here.
    fn staged_anywhere(&self) -> Result<Option<Arc<D::File>>> {
        let staged = self.member.staged(self.op)?;
        if staged.is_some() || !self.checks {
            return Ok(staged);
        }
        let fail = |e| StoreError::from_io("make a fetched file durable", e);
        let fetched = self.member.prepare(self.record, self.peers)?;
        if let Some(file) = &fetched {
            file.sync().map_err(fail)?;
        }
        Ok(fetched)
    }

    /// Whether what stands was made by this change or a later one.
    fn has_later(&self, at: &Locator) -> Result<bool> {
        Ok(self.checks && self.member.inner.stamp_at(at)? >= Some(self.stamp))
    }

    fn put(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        new: &NewObject,
        upload: Option<&UploadId>,
    ) -> Result<()> {
        let Member { inner, dir, .. } = self.member;
        let has_later = self.has_later(at)?;
        let file = match has_later {
            true => None,
            false => self.staged_anywhere()?,
        };
        match file {
            Some(file) => {
                let name = staged_name(self.op);
                inner.put_sealed(turn, at, file, new.owner, (dir, &name), upload)?;
                self.member.unstage(self.op);
                Ok(())
            }
            // Here already, or replaced by what is still to come.
            None if self.checks => {
                self.member.drop_staged(self.op);
                if has_later {
                    inner.vouch(at)?;
                }
                match upload {
                    Some(id) => inner.end_upload_now(&at.bucket, id),
                    None => Ok(()),
                }
            }
            None => Err(StoreError::Corrupt(format!(
                "the file staged for {}/{} is gone",
                at.bucket, at.key
            ))),
        }
    }

    fn part(&self, at: &Locator, id: &UploadId, part: &PartInfo) -> Result<()> {
        let Member { inner, dir, .. } = self.member;
        let Some(file) = self.staged_anywhere()? else {
            return match self.checks {
                true => Ok(()),
                false => Err(StoreError::Corrupt("a staged part is gone".to_owned())),
            };
        };
        let name = staged_name(self.op);
        match inner.record_part(at, id, part.clone(), &file, (dir, &name)) {
            // It ended since.
            Err(StoreError::NoSuchUpload) => self.member.drop_staged(self.op),
            other => other?,
        }
        self.member.unstage(self.op);
        Ok(())
    }
}

//! One brick of a volume: its engine, the files staged on it, and how a logged change becomes
//! files.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{OpId, Record};
use tokio::sync::Notify;

use super::files::applying::moves_of;
use super::healing::Census;
use super::kinds::{Change, Kept, stamp_of};
use super::quarantine::Quarantine;
use crate::brick::commit::Turn;
use crate::brick::disk::Disk;
use crate::brick::{Brick, Inner};
use crate::error::{Result, StoreError};
use crate::name::UploadId;
use crate::object::{FileOwner, Locator, PartInfo};

mod applying;
mod patience;
mod staging;
mod syncing;

use applying::Applying;
use syncing::Syncing;

/// Records that could not be made in a copy's tree.
pub(super) type Spoiled = Arc<Mutex<BTreeSet<u64>>>;

/// Notes that a record could not be made, or a part of the tree not be replaced.
pub(super) fn spoil(spoiled: &Spoiled, seq: u64) {
    let mut spoiled = spoiled.lock().unwrap_or_else(PoisonError::into_inner);
    spoiled.insert(seq);
}

fn has_any(spoiled: &Spoiled) -> bool {
    let spoiled = spoiled.lock().unwrap_or_else(PoisonError::into_inner);
    !spoiled.is_empty()
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
    /// Told when that changes.
    failing: Notify,
    /// Where records that are made again move files to, by the files' numbers.
    moves: Mutex<HashMap<u64, Vec<Locator>>>,
    /// Up to where its tree has the records of groups it is in sync in.
    /// None where one could not be made.
    applied: Mutex<HashMap<GroupId, Option<u64>>>,
    /// Its names, while others are compared with them.
    pub(super) census: tokio::sync::Mutex<Option<Census>>,
    /// How many groups' names are in memory at once.
    census_width: AtomicU32,
    syncing: Syncing<D>,
}

/// How a record is made.
pub(super) struct Manner<D: Disk> {
    pub group: GroupId,
    /// The tree may have it, or later changes, already.
    pub checks: bool,
    /// What depends on what is there is left alone: it is fetched.
    pub is_partial: bool,
    /// The tree has all records before.
    pub counts: bool,
    /// It was in the log when this life of the copy began: a staged file that is not there any
    /// more was published.
    pub was_logged: bool,
    /// Who may have what is missing here.
    pub peers: Vec<Arc<Member<D>>>,
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
            failing: Notify::new(),
            moves: Mutex::default(),
            applied: Mutex::default(),
            census: tokio::sync::Mutex::new(None),
            census_width: AtomicU32::new(u32::MAX),
            syncing: Syncing::default(),
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
        self.failing.notify_waiters();
    }

    pub(super) fn hangs_after(&self) -> Duration {
        self.inner.hangs_after()
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

    /// Where its bad files are kept.
    pub(super) fn quarantine(&self) -> Result<Quarantine<D>> {
        Ok(Quarantine {
            disk: Arc::clone(self.inner.disk()),
            dir: self.inner.open_quarantine_dir()?,
        })
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
    pub(super) fn staged(&self, op: OpId) -> Result<Option<Arc<D::File>>> {
        if let Some(file) = self.lock().get(&op) {
            return Ok(Some(Arc::clone(file)));
        }
        self.inner.open_staged(&self.dir, &staged_name(op))
    }

    fn applied(&self) -> MutexGuard<'_, HashMap<GroupId, Option<u64>>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that its tree has a group's records up to here; none where it may lack any.
    pub(super) fn note_applied(&self, group: GroupId, seq: Option<u64>) {
        let mut applied = self.applied();
        match seq {
            Some(seq) => {
                if let Some(known) = applied.entry(group).or_insert(Some(seq)) {
                    *known = seq.max(*known);
                }
            }
            None => drop(applied.remove(&group)),
        }
    }

    fn has_applied(&self, group: GroupId, seq: u64) -> bool {
        matches!(self.applied().get(&group), Some(Some(upto)) if *upto >= seq)
    }

    /// How many files are staged.
    #[cfg(test)]
    pub(super) fn staged_count(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn set_census_width(&self, groups: u32) {
        self.census_width.store(groups, Ordering::Relaxed);
    }

    /// How many groups' names it had in memory at once when they were last counted.
    pub(super) fn census_width(&self) -> u32 {
        self.census_width.load(Ordering::Relaxed)
    }

    /// Whether a file is staged for an operation in this run.
    pub(super) fn has_staged(&self, op: OpId) -> bool {
        self.lock().contains_key(&op)
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

    /// Publishes a committed record, after those before it. What fails is noted in the turn, so
    /// that a checkpoint after it knows.
    pub(super) fn apply(
        self: &Arc<Self>,
        record: Arc<Record<Kept>>,
        how: Manner<D>,
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
                if how.counts {
                    member.note_applied(how.group, Some(record.at.seq));
                }
                return Ok(());
            };
            if how.is_partial && record.effects.iter().any(|effect| effect.is_derived) {
                member.drop_staged(record.op);
                return Ok(());
            }
            let applying = Applying {
                member: &member,
                record: &record,
                op: record.op,
                stamp: stamp_of(record.at),
                checks: how.checks,
                was_logged: how.was_logged,
                peers: &how.peers,
                group: how.group,
            };
            let made = applying.change(turn, change);
            match &made {
                // Not over one that could not be made: whoever asks is told that it may be lacking.
                Ok(()) if how.counts && !has_any(&spoiled) => {
                    member.note_applied(how.group, Some(record.at.seq));
                }
                Ok(()) => {}
                Err(_) => {
                    spoil(&spoiled, record.at.seq);
                    member.note_applied(how.group, None);
                }
            }
            made
        })
    }

    pub(super) fn drop_staged(&self, op: OpId) {
        self.unstage(op);
        // What stays goes with the next start.
        let _ = self.inner.disk().unlink(&self.dir, &staged_name(op));
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.brick.close().await
    }
}

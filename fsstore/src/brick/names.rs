//! What a mount changes of names: on its own thread, in the turn, as POSIX wants it (nothing is
//! durable before fsync).
//!
//! So that the index is true after a crash, the log has the keys, which is enough where only
//! the process ends, and, durably before the first change in it, the directory, whose names are
//! compared with the index after a power cut: see [`super::intents`].

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustix::io::Errno;

use super::Inner;
use super::commit::Turn;
use super::disk::Disk;
use super::notices::Notice;
use super::walk::{Step, walk_below};
use crate::error::StoreError;
use crate::files::{FileResult, FilesWatcher};
use crate::keypath::{self, Place};
use crate::name::{BucketName, MAX_KEY_LEN_BYTES, ObjectKey};
use crate::object::Locator;
use crate::volume::Durability;

/// Most rounds with a log that begins new segments under our hands.
const MAX_ROUNDS: usize = 16;
/// Most keys below a directory that are looked at while everybody waits.
pub(super) const MAX_LOOKED: usize = if cfg!(test) { 32 } else { 1_024 };

/// The directory whose names a key's change may change, below its bucket; that of a marker is
/// itself, since what changes is said there. An escaped key's is none of the tree.
fn dir_of(key: &ObjectKey) -> Option<&str> {
    match keypath::place(key) {
        Place::Plain(path) => Some(path.rsplit_once('/').map_or("", |(dir, _)| dir)),
        Place::Marker { dir } => Some(dir),
        Place::Escaped => None,
    }
}

impl<D: Disk> Inner<D> {
    /// Runs `act` in the turn on this thread; it may change the names and records of `keys`,
    /// and must tell the index of them. Directories in which it makes, moves or removes names
    /// of directories are to be given to [`Turn::built`]. Not durable on return. Errors: those
    /// of `act`, and those of writing the log, before anything was done.
    pub fn change_names<T>(
        &self,
        keys: &[(BucketName, ObjectKey)],
        act: impl FnOnce(&mut Turn<'_, D>) -> FileResult<T>,
    ) -> FileResult<T> {
        self.in_marked_turn(keys, false, act)
    }

    /// As [`Self::change_names`], for what only takes names away: it goes on where the log
    /// cannot be written, since a full disk must not keep anyone from removing. Then listings,
    /// which look at each file they show, are true all the same.
    pub fn remove_names<T>(
        &self,
        keys: &[(BucketName, ObjectKey)],
        act: impl FnOnce(&mut Turn<'_, D>) -> FileResult<T>,
    ) -> FileResult<T> {
        self.in_marked_turn(keys, true, act)
    }

    fn in_marked_turn<T>(
        &self,
        keys: &[(BucketName, ObjectKey)],
        removes: bool,
        act: impl FnOnce(&mut Turn<'_, D>) -> FileResult<T>,
    ) -> FileResult<T> {
        let mut act = Some(act);
        for _ in 0..MAX_ROUNDS {
            let marked = self.mark_dirs(keys);
            let goes_unmarked = match marked {
                Err(e) if !removes => return Err(e.errno()),
                Err(_) => true,
                Ok(()) => false,
            };
            let acted = self.committer.act_here(keys, removes, |turn| {
                // A segment begun meanwhile has no marks yet.
                let ready = goes_unmarked || self.dirs_are_marked(keys);
                let acted = ready.then(|| act.take().map(|act| act(turn))).flatten();
                if acted.as_ref().is_some_and(Result::is_err) {
                    // It may have stopped half-way.
                    self.committer.owe(keys);
                }
                acted
            });
            match acted {
                Ok(Some(result)) => return result,
                Ok(None) => {}
                Err(e) => return Err(e.errno()),
            }
        }
        Err(Errno::AGAIN)
    }

    fn is_strict(&self, bucket: &BucketName) -> bool {
        self.buckets.durability(bucket) == Durability::Strict
    }

    /// Marks the directories of keys: durably, but for relaxed buckets.
    fn mark_dirs(&self, keys: &[(BucketName, ObjectKey)]) -> Result<(), StoreError> {
        let dirs = |strict: bool| {
            keys.iter()
                .filter(move |(bucket, _)| self.is_strict(bucket) == strict)
                .filter_map(|(bucket, key)| Some((bucket, dir_of(key)?)))
        };
        self.log.mark(dirs(false))?;
        match self.log.mark(dirs(true))? {
            Some(point) => self.log.sync_to(point),
            None => Ok(()),
        }
    }

    fn dirs_are_marked(&self, keys: &[(BucketName, ObjectKey)]) -> bool {
        keys.iter().all(|(bucket, key)| {
            let dir = dir_of(key).map(|dir| (bucket, dir));
            self.log.are_marked(dir, self.is_strict(bucket))
        })
    }

    /// Says in the log, durably unless the bucket is relaxed, that rows of a bucket may be wrong
    /// in any depth: before a whole directory is moved, or one comes to light. At hand before
    /// the turn, and needed in it, where a new segment may have been begun meanwhile; nothing is
    /// done twice.
    pub fn rows_may_move(&self, bucket: &BucketName) -> FileResult<()> {
        let said = self
            .log
            .mark_rows(bucket)
            .and_then(|point| match self.is_strict(bucket) {
                true => self.log.sync_to(point),
                false => Ok(()),
            });
        said.map_err(|e| e.errno())
    }

    /// In a turn: moves a directory by `rename`, and the rows below it with it. `from` and `to`
    /// are the keys of its markers before and after; none where its path there is no key's.
    /// Whoever lists sees it whole at one of the two.
    pub fn move_dir<T>(
        &self,
        (from, from_marker): (&BucketName, Option<&ObjectKey>),
        (to, to_marker): (&BucketName, Option<&ObjectKey>),
        rename: impl FnOnce() -> FileResult<T>,
    ) -> FileResult<T> {
        self.rows_may_move(from)?;
        self.rows_may_move(to)?;
        let moving = self.index.moving(from, to);
        let renamed = rename()?;
        match (from_marker, to_marker) {
            (Some(old), Some(new)) => {
                let (old, new) = ((from, old.as_str()), (to, new.as_str()));
                let applied = self.index.move_prefix(old, new);
                self.bring_long_paths(old, new);
                drop(moving);
                self.note_room(applied);
            }
            // What came has no rows yet.
            (None, Some(_)) => self.forget_rows_are_whole(to),
            // Its rows lead to nothing; who lists finds that out.
            (_, None) => {}
        }
        Ok(renamed)
    }

    /// In a turn: a directory has moved with its rows from one prefix to another. What had no key
    /// there, since its path was too long, may have one here.
    pub fn bring_long_paths(&self, from: (&BucketName, &str), to: (&BucketName, &str)) {
        let shorter_by = from.1.len().saturating_sub(to.1.len());
        if !self.index.may_have_long_paths(from.0) {
            return;
        }
        if from.0 != to.0 {
            self.index.note_long_paths(to.0);
        }
        if shorter_by == 0 || !self.index.is_complete(to.0) {
            return;
        }
        match self.long_paths_below(to, MAX_KEY_LEN_BYTES - shorter_by.min(MAX_KEY_LEN_BYTES)) {
            Ok(Some(keys)) => {
                let keys = keys.into_iter().map(|key| Locator::new(to.0.clone(), key));
                for at in keys {
                    if let Err(e) = self.reconcile(&at) {
                        tracing::warn!(bucket = %at.bucket, key = %at.key, "cannot be indexed: {e}");
                        return self.leave_to_scan(to.0);
                    }
                }
            }
            Ok(None) | Err(_) => self.leave_to_scan(to.0),
        }
    }

    fn leave_to_scan(&self, bucket: &BucketName) {
        self.forget_rows_are_whole(bucket);
        self.bell.ring();
    }

    /// The keys below a directory that are longer than so many bytes; none where it has too many of
    /// any length for the turn to wait.
    fn long_paths_below(
        &self,
        (bucket, prefix): (&BucketName, &str),
        longer_than_bytes: usize,
    ) -> Result<Option<Vec<ObjectKey>>, StoreError> {
        let (mut keys, mut met_count) = (Vec::new(), 0);
        let dir = prefix.trim_end_matches('/');
        walk_below(&self.tree, bucket, dir, &mut |met| {
            met_count += 1;
            if met.key.as_str().len() > longer_than_bytes {
                keys.push(met.key);
            }
            Ok(match met_count < MAX_LOOKED {
                true => Step::Next,
                false => Step::Stop,
            })
        })?;
        Ok((met_count < MAX_LOOKED).then_some(keys))
    }

    /// In a turn: rows of a bucket are missing until it has been scanned; until then it is
    /// listed from the tree. What is to be so after a crash as well is to be
    /// [said](Self::rows_may_move) before the change.
    pub fn forget_rows_are_whole(&self, bucket: &BucketName) {
        if let Err(e) = self.rows_may_move(bucket) {
            tracing::warn!(%bucket, "the log does not say that rows are missing: {e}");
        }
        self.index.set_complete(bucket, false);
    }

    /// Tells `watcher` of what other doors change, as long as it lives.
    pub fn watch(&self, watcher: &Arc<dyn FilesWatcher>) {
        self.committer.watch(watcher);
    }

    /// Whether anyone watches.
    pub fn is_watched(&self) -> bool {
        self.committer.is_watched()
    }

    /// Tells those who watch of what was changed behind our back, on this thread, which must
    /// serve no mount and hold no turn.
    pub fn tell(&self, notices: &[Notice]) {
        self.committer.tell(notices);
    }
}

//! How an object loses its name: in the committer's turn only.

use std::io::ErrorKind;
use std::sync::Arc;

use super::commit::Turn;
use super::disk::{Disk, FileKind};
use super::tree::{Moved, Tree, absent_is_none, failed, is_absent, split_parent};
use crate::error::Result;
use crate::keypath::{self, Place};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

impl<D: Disk> Tree<D> {
    /// Takes an object away, and with it the directories that only S3 keys made. What was done
    /// is in `moved` whether it fails or not.
    pub fn remove(&self, turn: &mut Turn<'_, D>, at: &Locator, moved: &mut Moved) -> Result<()> {
        match keypath::place(&at.key) {
            Place::Plain(path) => {
                // Where a crash left both, the plain one counts: it is the last to go.
                self.unlink_escaped(turn, at, moved)?;
                if moved.existed {
                    turn.settle()?;
                }
                self.remove_plain(turn, at, path, moved)?;
                if let (Some(parent), _) = split_parent(path) {
                    self.prune(turn, &at.bucket, parent, moved)?;
                }
            }
            Place::Marker { dir } => {
                let path = format!("{}/{dir}", at.bucket);
                let opened = absent_is_none(self.disk.open_dir(&self.root, &path))
                    .map_err(failed("open a directory"))?;
                // Where a crash left both, the one with a body counts.
                if let Some(opened) = opened
                    && self.clear_marker(turn, &opened)?
                {
                    moved.existed = true;
                    turn.settle()?;
                }
                self.unlink_escaped(turn, at, moved)?;
                self.prune(turn, &at.bucket, dir, moved)?;
            }
            Place::Escaped => self.unlink_escaped(turn, at, moved)?,
        }
        Ok(())
    }

    fn remove_plain(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        path: &str,
        moved: &mut Moved,
    ) -> Result<()> {
        let fail = failed("remove an object");
        let (parent, name) = split_parent(path);
        let parent = match parent {
            Some(parent) => format!("{}/{parent}", at.bucket),
            None => at.bucket.as_str().to_owned(),
        };
        let Some(parent) =
            absent_is_none(self.disk.open_dir(&self.root, &parent)).map_err(&fail)?
        else {
            return Ok(());
        };
        let Some(facts) = absent_is_none(self.disk.stat(&parent, name)).map_err(&fail)? else {
            return Ok(());
        };
        // A FIFO, socket or device does not exist for S3, so it is not S3's to remove.
        if !matches!(facts.kind, FileKind::File | FileKind::Symlink) {
            return Ok(());
        }
        let held = self.hold(&parent, name);
        let other = self.hold_if_linked(&parent, name, &facts);
        if absent_is_none(self.disk.unlink(&parent, name))
            .map_err(&fail)?
            .is_some()
        {
            turn.changed(&parent);
            turn.named_in(&at.bucket, path);
            turn.touched(facts.ino);
            moved.existed = true;
            moved.outlives(&facts, other);
            self.forget_later(turn, facts, held);
        }
        Ok(())
    }

    pub(super) fn unlink_escaped(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        moved: &mut Moved,
    ) -> Result<()> {
        let fail = failed("remove an object with an escaped key");
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        let (Some(parent_path), name) = split_parent(&path) else {
            return Ok(());
        };
        let keys = &self.own.keys;
        let Some(parent) = absent_is_none(self.disk.open_dir(keys, parent_path)).map_err(&fail)?
        else {
            return Ok(());
        };
        let Some(facts) = absent_is_none(self.disk.stat(&parent, name)).map_err(&fail)? else {
            return Ok(());
        };
        let held = self.hold(&parent, name);
        let other = self.hold_if_linked(&parent, name, &facts);
        self.disk.unlink(&parent, name).map_err(&fail)?;
        turn.changed(&parent);
        moved.existed = true;
        moved.outlives(&facts, other);
        self.forget_later(turn, facts, held);
        self.prune_own_dirs(turn, parent_path);
        Ok(())
    }

    /// Removes the now empty directories of a long escaped key; failing leaves empty ones.
    fn prune_own_dirs(&self, turn: &mut Turn<'_, D>, mut path: &str) {
        while let (Some(parent_path), name) = split_parent(path) {
            let Ok(parent) = self.disk.open_dir(&self.own.keys, parent_path) else {
                return;
            };
            if self.disk.remove_dir(&parent, name).is_err() {
                return;
            }
            turn.changed(&parent);
            path = parent_path;
        }
    }

    /// Removes empty directories that S3 made, from `path` upwards, and brings back the object
    /// each of them displaced.
    fn prune(
        &self,
        turn: &mut Turn<'_, D>,
        bucket: &BucketName,
        mut path: &str,
        moved: &mut Moved,
    ) -> Result<()> {
        let fail = failed("remove an empty directory");
        loop {
            let full = format!("{bucket}/{path}");
            let Some(dir) = absent_is_none(self.disk.open_dir(&self.root, &full)).map_err(&fail)?
            else {
                return Ok(());
            };
            let state = self.records.load_dir(&dir)?;
            if !state.made_by_keys || state.marker.is_some() {
                return Ok(());
            }
            let (parent_path, name) = split_parent(path);
            let parent = match parent_path {
                Some(parent) => self
                    .disk
                    .open_dir(&self.root, &format!("{bucket}/{parent}")),
                None => self.disk.open_dir(&self.root, bucket.as_str()),
            };
            let Some(parent) = absent_is_none(parent).map_err(&fail)? else {
                return Ok(());
            };
            match self.disk.remove_dir(&parent, name) {
                Ok(()) => {
                    turn.changed(&parent);
                    turn.named_in(bucket, path);
                }
                Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
                Err(e) if is_absent(&e) => return Ok(()),
                Err(e) => return Err(fail(e)),
            }
            if self.records.in_use() {
                let records = Arc::clone(&self.records);
                turn.later(move || records.forget_dir(&dir));
            }
            if self.leave_shelter(turn, bucket, path, &parent, name, moved)? {
                return Ok(());
            }
            match parent_path {
                Some(parent) => path = parent,
                None => return Ok(()),
            }
        }
    }

    /// Brings the object back that a directory displaced which does not stand any more.
    pub(super) fn leave_shelter(
        &self,
        turn: &mut Turn<'_, D>,
        bucket: &BucketName,
        path: &str,
        parent: &Arc<D::Dir>,
        name: &str,
        moved: &mut Moved,
    ) -> Result<bool> {
        let fail = failed("bring an object back to its path");
        let Ok(key) = ObjectKey::parse(path) else {
            return Ok(false);
        };
        let shelter = format!("{bucket}/{}", keypath::escaped_path(&key));
        let (Some(dir_path), shelter_name) = split_parent(&shelter) else {
            return Ok(false);
        };
        let keys = &self.own.keys;
        let Some(dir) = absent_is_none(self.disk.open_dir(keys, dir_path)).map_err(&fail)? else {
            return Ok(false);
        };
        let Some(facts) = absent_is_none(self.disk.stat(&dir, shelter_name)).map_err(&fail)? else {
            return Ok(false);
        };
        // As on the way there.
        turn.settle()?;
        let renamed = self.moving(|| self.disk.rename(&dir, shelter_name, parent, name));
        if absent_is_none(renamed).map_err(&fail)?.is_none() {
            return Ok(false);
        }
        moved.keys.push((key, facts));
        turn.changed(&dir);
        turn.named_in(bucket, path);
        turn.touched(facts.ino);
        self.prune_own_dirs(turn, dir_path);
        Ok(true)
    }
}

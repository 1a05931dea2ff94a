//! How an object gets its name: in the committer's turn only.
//!
//! Directories are made on the way, each marked as made for keys, so that it vanishes with the
//! last of them. A file that stands where a directory is needed goes to its shelter first.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attrs::Record;
use super::commit::Turn;
use super::disk::{Disk, DiskFile, FileFacts, FileKind};
use super::owner::OWN_DIR_MODE;
use super::records::DirState;
use super::tree::{Moved, Tree, absent_is_none, failed, is_absent, split_parent};
use crate::error::{FailedCondition, FsLimit, Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::{BucketName, ObjectKey};
use crate::object::{FileOwner, Locator};

/// Most rounds with a foreign hand that makes and removes the same names as we do.
const MAX_ROUNDS: usize = 16;

/// A staged file that is to get its key's name.
pub struct NewFile<'a, D: Disk> {
    /// The file.
    pub file: &'a D::File,
    /// To whom the directories made on the way belong.
    pub owner: &'a FileOwner,
    /// Whether nothing may be replaced.
    pub only_new: bool,
}

impl<D: Disk> Tree<D> {
    /// Gives a staged file its key's name, replacing what stood there unless `only_new`. What
    /// was done is in `moved` whether it fails or not.
    /// Errors: NoSuchBucket; Obstructed where something stands there that is no object;
    /// PreconditionFailed where an object does and `only_new` asks for none.
    pub fn publish(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        new: &NewFile<'_, D>,
        moved: &mut Moved,
    ) -> Result<()> {
        let NewFile {
            file,
            owner,
            only_new,
        } = *new;
        let placed = match keypath::place(&at.key) {
            Place::Plain(path) => self.publish_plain(turn, at, path, new, moved)?,
            Place::Marker { dir } => {
                let opened = self.make_dirs(turn, &at.bucket, dir, owner, moved)?;
                self.publish_escaped(turn, at, file, only_new, moved)?;
                if self.records.load_dir(&opened)?.marker.is_some() {
                    turn.settle()?;
                    self.clear_marker(turn, &opened)?;
                }
                true
            }
            Place::Escaped => {
                self.require_bucket(&at.bucket)?;
                self.publish_escaped(turn, at, file, only_new, moved)?;
                true
            }
        };
        if !placed {
            return Err(StoreError::Conflict);
        }
        Ok(())
    }

    fn publish_plain(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        path: &str,
        new: &NewFile<'_, D>,
        moved: &mut Moved,
    ) -> Result<bool> {
        let NewFile {
            file,
            owner,
            only_new,
        } = *new;
        for _ in 0..MAX_ROUNDS {
            let (parent_path, name) = split_parent(path);
            let parent = match parent_path {
                Some(parent) => self.make_dirs(turn, &at.bucket, parent, owner, moved)?,
                None => self.bucket_dir(&at.bucket)?,
            };
            match self.place_file(turn, file, &parent, name, only_new, moved) {
                Ok(true) => {
                    moved.placed = true;
                    turn.changed(&parent);
                    turn.named_in(&at.bucket, path);
                    // A crash between shelter and return can leave an older file there.
                    self.replace_escaped(turn, at, moved)?;
                    return Ok(true);
                }
                Ok(false) => {
                    self.publish_escaped(turn, at, file, only_new, moved)?;
                    return Ok(true);
                }
                // The directory was removed under our hands.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::InvalidInput => {
                    return Err(StoreError::Obstructed);
                }
                Err(e) if only_new && e.kind() == ErrorKind::AlreadyExists => {
                    return Err(StoreError::PreconditionFailed(FailedCondition::IfNoneMatch));
                }
                Err(e) => return Err(StoreError::from_io("publish an object", e)),
            }
        }
        Ok(false)
    }

    fn publish_escaped(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        file: &D::File,
        only_new: bool,
        moved: &mut Moved,
    ) -> Result<()> {
        let fail = failed("publish an object with an escaped key");
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        let parent = self.make_own_dirs(turn, &path)?;
        let (_, name) = split_parent(&path);
        match self.place_file(turn, file, &parent, name, only_new, moved) {
            Err(e) if only_new && e.kind() == ErrorKind::AlreadyExists => {
                return Err(StoreError::PreconditionFailed(FailedCondition::IfNoneMatch));
            }
            other => other.map_err(fail)?,
        };
        (moved.placed, moved.escaped) = (true, true);
        turn.changed(&parent);
        Ok(())
    }

    /// Gives a file a name in a directory, replacing a file there; false where a directory
    /// stands there.
    fn place_file(
        &self,
        turn: &mut Turn<'_, D>,
        file: &D::File,
        parent: &D::Dir,
        name: &str,
        only_new: bool,
        moved: &mut Moved,
    ) -> io::Result<bool> {
        for _ in 0..MAX_ROUNDS {
            match self.disk.link(file, parent, name) {
                Ok(()) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            let Some(old) = absent_is_none(self.disk.stat(parent, name))? else {
                continue;
            };
            match old.kind {
                FileKind::Dir => return Ok(false),
                FileKind::Other => return Err(ErrorKind::InvalidInput.into()),
                FileKind::File | FileKind::Symlink if only_new => {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                FileKind::File | FileKind::Symlink => {}
            }
            let held = self.hold(parent, name);
            let other = self.hold_if_linked(parent, name, &old);
            let staged = self.staging_name();
            self.disk.link(file, &self.own.staging, &staged)?;
            match self.disk.rename(&self.own.staging, &staged, parent, name) {
                Ok(()) => {
                    moved.existed = true;
                    moved.outlives(&old, other);
                    turn.touched(old.ino);
                    self.forget_later(turn, old, held);
                    return Ok(true);
                }
                Err(e) => {
                    let _ = self.disk.unlink(&self.own.staging, &staged);
                    if e.kind() == ErrorKind::IsADirectory {
                        continue;
                    }
                    return Err(e);
                }
            }
        }
        Err(io::Error::other("a foreign hand keeps changing the name"))
    }

    /// Writes a small file of portico's own, replacing one of the same name as one step; its
    /// bytes are durable before it has the name.
    pub fn write_own(
        &self,
        turn: &mut Turn<'_, D>,
        dir: &Arc<D::Dir>,
        name: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let fail = failed("write a record");
        let file = self.disk.create_unnamed(&self.own.staging).map_err(&fail)?;
        file.write_at(0, bytes).map_err(&fail)?;
        file.sync().map_err(&fail)?;
        self.place_file(turn, &file, dir, name, false, &mut Moved::default())
            .map_err(&fail)?;
        turn.changed(dir);
        Ok(())
    }

    /// In a turn: gives a file another name, as a mount moves it.
    pub(super) fn move_file(
        &self,
        (from, from_name): (&D::Dir, &str),
        (to, to_name): (&D::Dir, &str),
    ) -> io::Result<()> {
        self.disk.rename(from, from_name, to, to_name)
    }

    /// Holds a file that is about to lose its name, where its side file must outlast it.
    pub(super) fn hold(&self, dir: &D::Dir, name: &str) -> Option<D::File> {
        self.records
            .in_use()
            .then(|| self.disk.open(dir, name).ok())
            .flatten()
    }

    /// Holds a file that is about to lose its name, where it has others.
    pub(super) fn hold_if_linked(
        &self,
        dir: &D::Dir,
        name: &str,
        facts: &FileFacts,
    ) -> Option<D::File> {
        (facts.kind == FileKind::File && facts.link_count > 1)
            .then(|| self.disk.open(dir, name).ok())
            .flatten()
    }

    /// Removes a file's side file once the loss of its name is durable; until then the file is
    /// held, so that its number is not given to another.
    pub(super) fn forget_later(
        &self,
        turn: &mut Turn<'_, D>,
        facts: FileFacts,
        held: Option<D::File>,
    ) {
        // Another name may still lead to it.
        if facts.kind == FileKind::File && facts.link_count <= 1 && self.records.in_use() {
            let records = Arc::clone(&self.records);
            turn.later(move || {
                records.forget(facts.ino);
                drop(held);
            });
        }
    }

    pub(super) fn staging_name(&self) -> String {
        format!(
            "p{}-{}",
            std::process::id(),
            self.next_name.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Makes a directory an S3 marker with this record. Errors: NoSuchBucket.
    pub fn publish_marker(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        dir: &str,
        record: Record,
        owner: &FileOwner,
    ) -> Result<Moved> {
        let mut moved = Moved::default();
        let opened = self.make_dirs(turn, &at.bucket, dir, owner, &mut moved)?;
        let mut state = self.records.load_dir(&opened)?;
        moved.existed = state.marker.is_some();
        state.marker = Some(record);
        self.records.save_dir(&opened, &state)?;
        turn.changed(&opened);
        turn.touched_dir(&opened);
        self.replace_escaped(turn, at, &mut moved)?;
        Ok(moved)
    }

    /// Takes away the file at a key's escaped path, which what was just published replaces.
    pub(super) fn replace_escaped(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        moved: &mut Moved,
    ) -> Result<()> {
        match self.stands_aside(at)? {
            true => {
                turn.settle()?;
                self.unlink_escaped(turn, at, moved)
            }
            false => Ok(()),
        }
    }

    /// Whether a file is at a key's escaped path.
    pub(crate) fn stands_aside(&self, at: &Locator) -> Result<bool> {
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        let aside = absent_is_none(self.disk.stat(&self.own.keys, &path));
        let aside = aside.map_err(failed("look at an escaped key"))?;
        Ok(aside.is_some())
    }

    pub(super) fn clear_marker(&self, turn: &mut Turn<'_, D>, dir: &Arc<D::Dir>) -> Result<bool> {
        let mut state = self.records.load_dir(dir)?;
        let was = state.marker.take().is_some();
        if was {
            self.records.save_dir(dir, &state)?;
            turn.changed(dir);
            turn.touched_dir(dir);
        }
        Ok(was)
    }

    /// Opens a directory of a bucket, making what is missing and sheltering files that stand
    /// in the way. Errors: NoSuchBucket, Obstructed.
    pub(super) fn make_dirs(
        &self,
        turn: &mut Turn<'_, D>,
        bucket: &BucketName,
        path: &str,
        owner: &FileOwner,
        moved: &mut Moved,
    ) -> Result<Arc<D::Dir>> {
        let fail = failed("make a directory");
        match self.disk.open_dir(&self.root, &format!("{bucket}/{path}")) {
            Ok(dir) => return Ok(dir),
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(fail(e)),
        }
        let mut dir = self.bucket_dir(bucket)?;
        let mut end = 0;
        for name in path.split('/') {
            end += name.len();
            let mut next = self.disk.open_dir(&dir, name);
            for _ in 0..MAX_ROUNDS {
                match &next {
                    Ok(_) => break,
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        self.make_dir_of_ours(turn, bucket, &path[..end], &dir, owner)?;
                    }
                    Err(e) if e.kind() == ErrorKind::NotADirectory => {
                        self.enter_shelter(turn, bucket, &path[..end], &dir, moved)?;
                    }
                    Err(_) => break,
                }
                next = self.disk.open_dir(&dir, name);
            }
            dir = match next {
                // It can neither be opened nor made: a link that leads out, or nowhere.
                Err(e) if is_absent(&e) => return Err(StoreError::Obstructed),
                other => other.map_err(&fail)?,
            };
            end += 1;
        }
        Ok(dir)
    }

    fn make_dir_of_ours(
        &self,
        turn: &mut Turn<'_, D>,
        bucket: &BucketName,
        path: &str,
        parent: &Arc<D::Dir>,
        owner: &FileOwner,
    ) -> Result<()> {
        let fail = failed("make a directory");
        let (_, name) = split_parent(path);
        let dir = match self.make_dir_for(parent, name, owner) {
            Ok(dir) => dir,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        turn.changed(parent);
        turn.named_in(bucket, path);
        self.records.save_dir(
            &dir,
            &DirState {
                made_by_keys: true,
                marker: None,
            },
        )?;
        turn.changed(&dir);
        Ok(())
    }

    fn enter_shelter(
        &self,
        turn: &mut Turn<'_, D>,
        bucket: &BucketName,
        path: &str,
        parent: &Arc<D::Dir>,
        moved: &mut Moved,
    ) -> Result<()> {
        let fail = failed("move an object to its shelter");
        let (_, name) = split_parent(path);
        let Some(facts) = absent_is_none(self.disk.stat(parent, name)).map_err(&fail)? else {
            return Ok(());
        };
        match facts.kind {
            FileKind::File => {}
            FileKind::Dir => return Ok(()),
            FileKind::Symlink | FileKind::Other => return Err(StoreError::Obstructed),
        }
        let key = ObjectKey::parse(path).map_err(|_| StoreError::Limit(FsLimit::NameLen))?;
        let shelter = format!("{bucket}/{}", keypath::escaped_path(&key));
        let dir = self.make_own_dirs(turn, &shelter)?;
        let (_, shelter_name) = split_parent(&shelter);
        // The way there first: what is moved into a directory that a crash takes back is lost.
        turn.settle()?;
        self.moving(|| self.disk.rename(parent, name, &dir, shelter_name))
            .map_err(&fail)?;
        moved.keys.push((key, facts));
        turn.changed(parent);
        turn.changed(&dir);
        turn.named_in(bucket, path);
        turn.touched(facts.ino);
        Ok(())
    }

    /// Makes the directories above an escaped path and opens the last of them.
    fn make_own_dirs(&self, turn: &mut Turn<'_, D>, path: &str) -> Result<Arc<D::Dir>> {
        let fail = failed("make a directory for escaped keys");
        let mut dir = Arc::clone(&self.own.keys);
        let (parent, _) = split_parent(path);
        for name in parent.into_iter().flat_map(|parent| parent.split('/')) {
            let next = match self.disk.open_dir(&dir, name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    match self.disk.make_dir(&dir, name, OWN_DIR_MODE) {
                        Ok(()) => turn.changed(&dir),
                        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                        Err(e) => return Err(fail(e)),
                    }
                    self.disk.open_dir(&dir, name).map_err(&fail)?
                }
                other => other.map_err(&fail)?,
            };
            dir = next;
        }
        Ok(dir)
    }
}

//! How an object gets its name, by whoever has the key's claim.
//!
//! A plain key's file goes to its path. It goes to its shelter, the key's escaped path, where a
//! directory stands at its path, and where it is in the shelter already: an object moves from its
//! path to the shelter and never back while it is there, so that whoever looks at the path first
//! and at the shelter then, as every reader does, cannot miss it. When it was removed the next PUT
//! goes to the path again.

use std::io::{self, ErrorKind};

use super::claim::Claim;
use super::disk::{Dir, kind_at};
use super::{Inner, claim_of, claim_of_bucket};
use crate::brick::disk::{Disk, FileKind};
use crate::brick::owner::OWN_DIR_MODE;
use crate::brick::records::DirState;
use crate::brick::tree::{absent_is_none, failed, is_absent, split_parent};
use crate::error::{FailedCondition, FsLimit, Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::{BucketName, ObjectKey};
use crate::object::{FileOwner, Locator};

/// Most rounds with others that make and remove the same directories.
const MAX_ROUNDS: usize = 100;

/// A staged file that is to get its key's name.
pub(super) struct NewFile<'a> {
    /// The claim that has it.
    pub claim: &'a Claim,
    /// Its name in the claim.
    pub entry: &'a str,
    /// To whom the directories made on the way belong.
    pub owner: &'a FileOwner,
    /// Whether nothing may be replaced.
    pub only_new: bool,
    /// Whether names are synced.
    pub is_durable: bool,
}

impl NewFile<'_> {
    /// Gives the file a name, replacing a file there.
    fn place(&self, dir: &Dir, name: &str) -> io::Result<()> {
        match self.only_new {
            true => self.claim.place_new(self.entry, dir, name),
            false => self.claim.place(self.entry, dir, name),
        }
    }

    fn refused(&self, e: io::Error) -> StoreError {
        match e.kind() {
            ErrorKind::AlreadyExists if self.only_new => {
                StoreError::PreconditionFailed(FailedCondition::IfNoneMatch)
            }
            // It was in the claim when it was last looked at: the claim was broken.
            ErrorKind::NotFound => StoreError::Conflict,
            _ => StoreError::from_io("publish an object", e),
        }
    }
}

impl Inner {
    /// Gives a staged file its key's name. Errors: NoSuchBucket, Obstructed,
    /// PreconditionFailed where `only_new` and something stands there; Conflict where the claim
    /// was lost.
    pub(super) fn publish(&self, at: &Locator, new: &NewFile<'_>) -> Result<()> {
        match keypath::place(&at.key) {
            Place::Plain(path) => self.publish_plain(at, path, new),
            Place::Marker { dir } => {
                let opened = self.make_dirs(&at.bucket, dir, new)?;
                self.publish_escaped(at, new)?;
                self.clear_marker(&opened)
            }
            Place::Escaped => self.publish_escaped(at, new),
        }
    }

    fn publish_plain(&self, at: &Locator, path: &str, new: &NewFile<'_>) -> Result<()> {
        let fail = failed("publish an object");
        for _ in 0..MAX_ROUNDS {
            let (parent_path, name) = split_parent(path);
            let parent = match parent_path {
                Some(parent) => self.make_dirs(&at.bucket, parent, new)?,
                None => self.tree.bucket_dir(&at.bucket)?,
            };
            let standing = kind_at(&self.tree.disk, &parent, name).map_err(&fail)?;
            let is_sheltered = self.tree.stands_aside(at)?;
            match standing {
                Some(FileKind::Other) => return Err(StoreError::Obstructed),
                Some(FileKind::Dir) => return self.publish_escaped(at, new),
                None if is_sheltered => return self.publish_escaped(at, new),
                None | Some(FileKind::File | FileKind::Symlink) => {}
            }
            // What is to be done after it has its name is done under the claim as well.
            let hold = is_sheltered.then(|| new.claim.create()).transpose()?;
            match new.place(&parent, name) {
                Ok(()) => {
                    if hold.is_some() {
                        self.take_escaped(at, new.claim)?;
                    }
                    return self.sync_dir(&parent, new.is_durable);
                }
                // A directory of another key came there, or the one it is in went.
                Err(e) if e.kind() == ErrorKind::IsADirectory => {}
                Err(e) if is_absent(&e) && new.claim.has(new.entry) => {}
                Err(e) if new.only_new && e.kind() == ErrorKind::AlreadyExists => {
                    let now = kind_at(&self.tree.disk, &parent, name).map_err(&fail)?;
                    if now != Some(FileKind::Dir) {
                        return Err(new.refused(e));
                    }
                }
                Err(e) => return Err(new.refused(e)),
            }
        }
        Err(StoreError::Conflict)
    }

    fn publish_escaped(&self, at: &Locator, new: &NewFile<'_>) -> Result<()> {
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        let (_, name) = split_parent(&path);
        for _ in 0..MAX_ROUNDS {
            let parent = self.make_own_dirs(&at.bucket, &path, new.is_durable, new.claim)?;
            match new.place(&parent, name) {
                Ok(()) => {
                    self.sync_dir(&parent, new.is_durable)?;
                    return self.require_in_bucket(at);
                }
                Err(e) if is_absent(&e) && new.claim.has(new.entry) => {}
                Err(e) => return Err(new.refused(e)),
            }
        }
        Err(StoreError::Conflict)
    }

    /// Whether an object that was just published stands in its bucket: a removal of the bucket, or
    /// who makes it anew, may have taken the directory away that it was put into. Errors:
    /// NoSuchBucket, Conflict.
    fn require_in_bucket(&self, at: &Locator) -> Result<()> {
        self.tree.bucket_dir(&at.bucket)?;
        for _ in 0..2 {
            if self.tree.stands_aside(at)? {
                return Ok(());
            }
        }
        Err(StoreError::Conflict)
    }

    /// Takes away the record of a marker that a brick put into a directory.
    pub(super) fn clear_marker(&self, dir: &Dir) -> Result<()> {
        let mut state = self.tree.records.load_dir(dir)?;
        if state.marker.take().is_some() {
            self.tree.records.save_dir(dir, &state)?;
            self.sync_dir(dir, true)?;
        }
        Ok(())
    }

    /// Opens a directory of a bucket, making what is missing and sheltering files that stand in
    /// the way. Errors: NoSuchBucket, Obstructed, Conflict.
    fn make_dirs(&self, bucket: &BucketName, path: &str, new: &NewFile<'_>) -> Result<Dir> {
        let fail = failed("make a directory");
        let disk = &self.tree.disk;
        for _ in 0..MAX_ROUNDS {
            match disk.open_dir(&self.tree.root, &format!("{bucket}/{path}")) {
                Ok(dir) => return Ok(dir),
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(fail(e)),
            }
            let mut dir = self.tree.bucket_dir(bucket)?;
            let mut end = 0;
            for name in path.split('/') {
                end += name.len();
                match disk.open_dir(&dir, name) {
                    Ok(next) => dir = next,
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        match self.make_dir(&dir, name, new.owner, new.is_durable)? {
                            Some(next) => dir = next,
                            None => break,
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::NotADirectory => {
                        self.shelter(bucket, &path[..end], &dir, new.claim)?;
                        break;
                    }
                    Err(e) => return Err(fail(e)),
                }
                end += 1;
            }
        }
        Err(StoreError::Conflict)
    }

    /// Makes a directory for keys; none where another was faster, or took away the one it is in.
    fn make_dir(
        &self,
        parent: &Dir,
        name: &str,
        owner: &FileOwner,
        is_durable: bool,
    ) -> Result<Option<Dir>> {
        let dir = match self.tree.make_dir_for(parent, name, owner) {
            Ok(dir) => dir,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(e) if is_absent(&e) || super::disk::is_gone(&e) => return Ok(None),
            Err(e) => return Err(failed("make a directory")(e)),
        };
        let state = DirState {
            made_by_keys: true,
            marker: None,
        };
        match self.tree.records.save_dir(&dir, &state) {
            Ok(()) => {}
            // Removed again by another; without the record it stays when its keys are gone.
            Err(e) if e.is_of_the_disk() => {}
            Err(e) => return Err(e),
        }
        self.sync_dir(parent, is_durable)?;
        Ok(Some(dir))
    }

    /// Moves the object at a path to its shelter, under that key's claim: it has the name there
    /// before it loses the one at the path.
    /// `held`, the claim of the key that needs a directory there, is kept meanwhile.
    fn shelter(&self, bucket: &BucketName, path: &str, parent: &Dir, held: &Claim) -> Result<()> {
        let fail = failed("move an object to its shelter");
        let key = ObjectKey::parse(path).map_err(|_| StoreError::Limit(FsLimit::NameLen))?;
        let at = Locator::new(bucket.clone(), key);
        let (_, name) = split_parent(path);
        let stage = self.claims.stage_held()?;
        let claim = self
            .claims
            .acquire_beside(stage, &claim_of(&at), Some(held))?;
        match kind_at(&self.tree.disk, parent, name).map_err(&fail)? {
            Some(FileKind::File) => {}
            // Somebody else did it, or it was removed.
            None | Some(FileKind::Dir) => return Ok(()),
            Some(FileKind::Symlink | FileKind::Other) => return Err(StoreError::Obstructed),
        }
        let entry = match claim.link(parent, name) {
            Ok(entry) => entry,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        let shelter = format!("{bucket}/{}", keypath::escaped_path(&at.key));
        let (_, shelter_name) = split_parent(&shelter);
        let mut rounds = 0..MAX_ROUNDS;
        let dir = loop {
            let dir = self.make_own_dirs(bucket, &shelter, true, &claim)?;
            match claim.place(&entry, &dir, shelter_name) {
                Ok(()) => break dir,
                // Removed because it was empty, as we came.
                Err(e) if is_absent(&e) && claim.has(&entry) && rounds.next().is_some() => {}
                Err(e) if is_absent(&e) => return Err(StoreError::Conflict),
                Err(e) => return Err(fail(e)),
            }
        };
        self.sync_dir(&dir, true)?;
        absent_is_none(claim.take(parent, name)).map_err(&fail)?;
        self.sync_dir(parent, true)
    }

    /// Makes the directories above an escaped path and opens the last of them. Errors:
    /// NoSuchBucket.
    fn make_own_dirs(
        &self,
        bucket: &BucketName,
        path: &str,
        is_durable: bool,
        held: &Claim,
    ) -> Result<Dir> {
        let fail = failed("make a directory for escaped keys");
        let disk = &self.tree.disk;
        let (Some(parent), _) = split_parent(path) else {
            return Err(StoreError::NoSuchKey);
        };
        for _ in 0..MAX_ROUNDS {
            self.tree.bucket_dir(bucket)?;
            let mut dir = Dir::clone(&self.tree.own.keys);
            let mut is_whole = true;
            for name in parent.split('/') {
                let next = match disk.open_dir(&dir, name) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        match disk.make_dir(&dir, name, OWN_DIR_MODE) {
                            Ok(()) => self.sync_dir(&dir, is_durable)?,
                            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                            Err(e) if is_absent(&e) || super::disk::is_gone(&e) => {}
                            Err(e) => return Err(fail(e)),
                        }
                        disk.open_dir(&dir, name)
                    }
                    other => other,
                };
                match next {
                    Ok(next) => dir = next,
                    Err(e) if e.kind() == ErrorKind::NotADirectory => {
                        self.end_removal(bucket, held)?;
                        is_whole = false;
                    }
                    Err(e) if is_absent(&e) => is_whole = false,
                    Err(e) => return Err(fail(e)),
                }
                if !is_whole {
                    break;
                }
            }
            if is_whole {
                return Ok(dir);
            }
        }
        Err(StoreError::Conflict)
    }

    /// Waits until a removal of the bucket is over, and takes away what it left to keep keys out
    /// if it died. If it only sleeps it must not find the bucket empty when it wakes: it has looked
    /// for escaped keys already. Errors: NoSuchBucket, Conflict.
    fn end_removal(&self, bucket: &BucketName, held: &Claim) -> Result<()> {
        let fail = failed("let keys in again");
        let stage = self.claims.stage_held()?;
        let claim = self
            .claims
            .acquire_beside(stage, &claim_of_bucket(bucket), Some(held))?;
        let dir = self.tree.bucket_dir(bucket)?;
        let (disk, keys) = (&self.tree.disk, &self.tree.own.keys);
        if kind_at(disk, keys, bucket.as_str()).map_err(&fail)? != Some(FileKind::File) {
            return Ok(());
        }
        let (obstacle, _) = claim.create()?;
        match claim.obstruct(&obstacle, &dir) {
            // It is over after all; or the claim was broken.
            Err(e) if is_absent(&e) || super::disk::is_gone(&e) => {
                return Err(StoreError::Conflict);
            }
            other => other.map_err(&fail)?,
        }
        absent_is_none(claim.take(keys, bucket.as_str())).map_err(fail)?;
        Ok(())
    }
}

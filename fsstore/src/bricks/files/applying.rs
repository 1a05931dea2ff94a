//! A mount's logged change becomes files of one brick: in the turn.

use super::super::kinds::Change;
use super::super::member::Member;
use super::change::{FileChange, stamp_in};
use crate::brick::attrs::Stamp;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, DiskFile, FileKind};
use crate::brick::in_place::{Bytes, Which, put_xattr};
use crate::error::{Result, StoreError};
use crate::object::Locator;

/// One such change on its way into a brick's tree.
pub struct ApplyingFile<'a, D: Disk> {
    /// The brick.
    pub member: &'a Member<D>,
    /// Where it is.
    pub at: &'a Locator,
    /// The change's number.
    pub stamp: Stamp,
    /// Whether the tree may have it, or later changes, already.
    pub checks: bool,
}

impl<D: Disk> ApplyingFile<'_, D> {
    fn which(&self, ident: u64) -> Which {
        Which {
            ident,
            stamp: self.stamp,
        }
    }

    /// Whether a regular file stands at a place that this change or a later one made or changed.
    fn has_later(&self, at: &Locator) -> Result<bool> {
        if !self.checks {
            return Ok(false);
        }
        let standing = self.member.inner.ident_at(at)?;
        Ok(standing.is_some_and(|(_, record, _)| record.stamp > Some(self.stamp)))
    }

    /// What the change does at the path of an object.
    pub fn file(&self, turn: &mut Turn<'_, D>, change: &FileChange) -> Result<()> {
        let (inner, at) = (&self.member.inner, self.at);
        match change {
            FileChange::Make {
                ident,
                posix,
                mtime_ns,
            } => match self.has_later(at)? {
                true => Ok(()),
                false => inner.make_file_now(turn, at, self.which(*ident), posix, *mtime_ns),
            },
            FileChange::Special {
                special,
                posix,
                mtime_ns,
                from,
            } => {
                if !self.has_later(at)? {
                    inner.make_special_now(turn, at, special, posix, *mtime_ns)?;
                }
                match from {
                    Some((bucket, key)) => {
                        let from = Locator::new(bucket.clone(), key.clone());
                        match inner.kind_at(&from)? {
                            // What came there later stays.
                            Some(facts) if facts.kind == FileKind::File => Ok(()),
                            _ => inner.unlink_now(turn, &from),
                        }
                    }
                    None => Ok(()),
                }
            }
            FileChange::Write {
                ident,
                extents,
                mtime_ns,
                bytes,
            } => {
                let what = || Bytes::Written { extents, bytes };
                self.change_bytes(turn, *ident, what, *mtime_ns)
            }
            FileChange::Allocate {
                ident,
                mode,
                range,
                mtime_ns,
            } => {
                let what = || Bytes::Allocated(*mode, range.start, range.end - range.start);
                self.change_bytes(turn, *ident, what, *mtime_ns)
            }
            FileChange::Set { ident, set } => {
                for at in self.places(*ident) {
                    if inner.set_now(turn, &at, self.which(*ident), *set)? {
                        return Ok(());
                    }
                }
                match self.is_special()? && set.len_bytes.is_none() {
                    true => inner.set_node_now(turn, at, *set),
                    false => Ok(()),
                }
            }
            FileChange::Xattr { ident, name, value } => {
                for at in self.places(*ident) {
                    let which = self.which(*ident);
                    let done = inner.change_attrs_now(turn, &at, which, None, |file| {
                        let Some(fd) = file.descriptor() else {
                            return Ok(());
                        };
                        put_xattr(fd, name, value.as_deref()).map_err(|errno| {
                            StoreError::from_io("set an attribute of a file", errno.into())
                        })
                    })?;
                    if done {
                        return Ok(());
                    }
                }
                match self.is_special()? {
                    true => inner.xattr_node_now(turn, at, name, value.as_deref()),
                    false => Ok(()),
                }
            }
            FileChange::Unlink { ident } => {
                let standing = inner.ident_at(at)?;
                let stays = match (&standing, ident) {
                    (Some((found, ..)), Some(ident)) => found != ident,
                    (Some((_, record, _)), None) => self.checks && record.stamp > Some(self.stamp),
                    (None, ident) => ident.is_some(),
                };
                match stays {
                    true => Ok(()),
                    false => inner.unlink_now(turn, at),
                }
            }
            FileChange::Move { ident, to } => {
                let to = Locator::new(to.0.clone(), to.1.clone());
                self.move_file(turn, &to, *ident)
            }
            FileChange::Digests {
                ident,
                of,
                md5,
                crc64nvme,
                shown,
            } => {
                let which = (self.which(*ident), stamp_in(*of));
                inner.digests_now(turn, at, which, (*md5, *crc64nvme, *shown))
            }
            FileChange::MakeDir { .. } | FileChange::RemoveDir => {
                Err(StoreError::Corrupt("a directory's change of a file".into()))
            }
        }
    }

    /// Gives the file its new name. One that was moved before a power cut may lack bytes that only
    /// the log has: so where it was made again at its old name it goes in its place, with all that
    /// it was then, and what came later is made again after it.
    fn move_file(&self, turn: &mut Turn<'_, D>, to: &Locator, ident: u64) -> Result<()> {
        let (inner, at, which) = (&self.member.inner, self.at, self.which(ident));
        let moved = match self.checks {
            true => self.number_at(to, ident)?,
            false => None,
        };
        match (self.number_at(at, ident)?, moved) {
            (Some(_), Some(_)) => inner.move_now(turn, (at, to), which),
            // What was made again of it before this has left an earlier stamp.
            (None, Some(stamp)) if stamp < Some(self.stamp) => {
                let stamped = inner.change_attrs_now(turn, to, which, None, |_| Ok(()));
                stamped.map(|_| ())
            }
            (None, _) => Ok(()),
            // It was there, and was replaced since: the old name goes all the same.
            (Some(stamp), None) if self.has_later(to)? => match stamp <= Some(self.stamp) {
                true => inner.unlink_now(turn, at),
                false => Ok(()),
            },
            (Some(_), None) => inner.move_now(turn, (at, to), which),
        }
    }

    /// The stamp of the file of this number, where it stands at a place.
    fn number_at(&self, at: &Locator, ident: u64) -> Result<Option<Option<Stamp>>> {
        let standing = self.member.inner.ident_at(at)?;
        let it = standing.filter(|(found, ..)| *found == ident);
        Ok(it.map(|(_, record, _)| record.stamp))
    }

    /// What the change does to a directory.
    pub fn dir(&self, turn: &mut Turn<'_, D>, change: &FileChange) -> Result<()> {
        let (inner, at) = (&self.member.inner, self.at);
        match change {
            FileChange::MakeDir { ident, posix } => inner.make_dir_now(turn, at, *ident, posix),
            FileChange::RemoveDir => inner.remove_dir_now(turn, at),
            FileChange::Set { set, .. } => inner.set_node_now(turn, at, *set),
            FileChange::Xattr { name, value, .. } => {
                inner.xattr_node_now(turn, at, name, value.as_deref())
            }
            _ => Err(StoreError::Corrupt("a file's change of a directory".into())),
        }
    }

    fn is_special(&self) -> Result<bool> {
        let standing = self.member.inner.kind_at(self.at)?;
        Ok(standing.is_some_and(|facts| matches!(facts.kind, FileKind::Symlink | FileKind::Other)))
    }

    /// Where a file of this number may stand: after a crash also where a later change moved it.
    fn places(&self, ident: u64) -> Vec<Locator> {
        let mut places = vec![self.at.clone()];
        if self.checks {
            places.extend(self.member.moved_to(ident));
        }
        places
    }

    fn change_bytes<'b>(
        &self,
        turn: &mut Turn<'_, D>,
        ident: u64,
        what: impl Fn() -> Bytes<'b>,
        mtime_ns: i64,
    ) -> Result<()> {
        for at in self.places(ident) {
            let which = self.which(ident);
            if self
                .member
                .inner
                .change_bytes_now(turn, &at, which, what(), mtime_ns)?
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Where a change moves a file, with the file's number.
pub fn moves_of(change: &Change) -> Option<(u64, Locator)> {
    match change {
        Change::File { change, .. } => match &**change {
            FileChange::Move { ident, to } => {
                Some((*ident, Locator::new(to.0.clone(), to.1.clone())))
            }
            _ => None,
        },
        _ => None,
    }
}

//! Names that a mount moves. Within a group that is one change. Between groups a file is put at
//! its new place with all it has, its number included, and then taken from the old one: between
//! the two both are seen. What was put says where it came from, so that a start after a crash
//! finishes what was begun.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::Bricks;
use super::super::fan::Fan;
use super::super::kinds::{Change, Kept, Name, NewObject};
use super::super::volume::Put;
use super::change::{FileChange, Posix, Special};
use super::look::{Node, below};
use super::nodes::{posix_of, special_of};
use super::open::{BricksFile, of_file};
use super::writing::Inode;
use crate::brick::attrs::Record;
use crate::brick::disk::{Disk, FileKind};
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{is_dir, is_regular};
use crate::error::StoreError;
use crate::files::{Errno, FilePath, FileResult, OpenFlags, RenameMode};
use crate::name::{BucketName, ObjectKey};
use crate::object::{FileOwner, Locator, Timestamp};
use crate::volume::{Object, StageOptions, Volume};

/// One end of a rename.
struct End<'p> {
    path: &'p FilePath,
    at: Locator,
}

impl Bricks<OsDisk> {
    pub(super) fn move_path(
        &self,
        from: &FilePath,
        to: &FilePath,
        mode: RenameMode,
    ) -> FileResult<()> {
        if mode == RenameMode::Exchange {
            return Err(Errno::INVAL);
        }
        let (from, to) = (
            End {
                path: from,
                at: below(from)?,
            },
            End {
                path: to,
                at: below(to)?,
            },
        );
        let moving = self.node(from.path)?;
        self.parent_of(to.path)?;
        let target = match self.node(to.path) {
            Ok(node) => Some(node),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        if target.is_some() && mode == RenameMode::NoReplace {
            return Err(Errno::EXIST);
        }
        if from.at == to.at {
            return Ok(());
        }
        let target_is_dir = target.as_ref().map(|node| is_dir(node.met.attr.mode));
        if is_dir(moving.met.attr.mode) {
            return self.move_dir(&moving, &from, &to, target_is_dir);
        }
        if target_is_dir == Some(true) {
            return Err(Errno::ISDIR);
        }
        self.keep_parent(&from.at)?;
        if let Some(target) = &target {
            self.keep_copy(target.ident)?;
        }
        if is_regular(moving.met.attr.mode) {
            self.move_regular(&moving, &from, &to, mode)
        } else {
            self.move_special(&moving, &from, &to)
        }
    }

    /// A directory is moved where it is empty. Else whoever asks copies it, as from one file system
    /// to another: its names would belong to other groups.
    fn move_dir(
        &self,
        moving: &Node,
        from: &End<'_>,
        to: &End<'_>,
        target_is_dir: Option<bool>,
    ) -> FileResult<()> {
        match target_is_dir {
            Some(false) => return Err(Errno::NOTDIR),
            Some(true) if !self.names_in(to.path)?.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        let below_itself = to.at.bucket == from.at.bucket
            && to
                .at
                .key
                .as_str()
                .strip_prefix(from.at.key.as_str())
                .is_some_and(|rest| rest.starts_with('/'));
        if below_itself {
            return Err(Errno::INVAL);
        }
        if !self.names_in(from.path)?.is_empty() {
            return Err(Errno::XDEV);
        }
        if target_is_dir == Some(true) {
            self.remove_dir_at(&to.at)?;
        }
        let posix = posix_of(moving.fd.as_fd(), &moving.met)?;
        self.make_dir_as(&to.at, posix, moving.ident)?;
        self.remove_dir_at(&from.at)
    }

    fn move_special(&self, moving: &Node, from: &End<'_>, to: &End<'_>) -> FileResult<()> {
        let Some((special, posix)) = special_of(moving.fd.as_fd(), &moving.met)? else {
            return Err(Errno::STALE);
        };
        let is_one_group = self.shared.group_of(&from.at) == self.shared.group_of(&to.at);
        let mtime_ns = moving.met.attr.mtime_ns;
        let came = is_one_group.then(|| (from.at.bucket.clone(), from.at.key.clone()));
        let place = |at: &Locator| (special.clone(), posix.clone(), at.clone());
        self.passing(
            &to.at.bucket,
            self.put_special(place(&to.at), mtime_ns, came),
        )?;
        match is_one_group {
            true => Ok(()),
            false => self.unlink_at(&from.at, None),
        }
    }

    async fn put_special(
        &self,
        (special, posix, at): (Special, Posix, Locator),
        mtime_ns: i64,
        from: Option<(BucketName, ObjectKey)>,
    ) -> FileResult<()> {
        let mut names = vec![Name::object(&at)];
        names.extend(from.clone().map(|(bucket, key)| Name::Object(bucket, key)));
        let group = self.shared.group_of(&at);
        let put = self.shared.change_file(group, names, move |inner| {
            if let Some(facts) = inner.kind_at(&at)?
                && facts.kind == FileKind::Dir
            {
                return Ok(Err(Errno::ISDIR));
            }
            let change = FileChange::Special {
                special: special.clone(),
                posix: posix.clone(),
                mtime_ns,
                from: from.clone(),
            };
            Ok(Ok((Some(of_file(&at, change)), ())))
        });
        put.await
    }

    fn move_regular(
        &self,
        moving: &Node,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        // Whoever writes to it waits, and goes on at its new place.
        let (_, held) = self.open_node(
            from.path,
            moving,
            OpenFlags {
                read: true,
                ..OpenFlags::default()
            },
        )?;
        let inode = Arc::clone(&held.inode);
        self.wait(inode.settle());
        self.wait(inode.freeze());
        let moved = match self.shared.group_of(&from.at) == self.shared.group_of(&to.at) {
            true => self.passing(&to.at.bucket, self.move_within(&inode, from, to, mode)),
            false => self.wait(self.move_between(&inode, moving, from, to, mode)),
        };
        let new_place = moved.and_then(|()| {
            let copy = self.open_copy(to.path, &to.at, inode.ident);
            Ok((to.at.clone(), copy?))
        });
        let outcome = new_place.as_ref().map(|_| ()).map_err(|e| *e);
        BricksFile::thaw(self, &inode, new_place.ok());
        outcome
    }

    async fn move_within(
        &self,
        inode: &Inode,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        let group = self.shared.group_of(&from.at);
        let names = vec![Name::object(&from.at), Name::object(&to.at)];
        let (from, to, ident) = (from.at.clone(), to.at.clone(), inode.ident);
        let moved = self.shared.change_file(group, names, move |inner| {
            let standing = inner.ident_at(&from)?;
            if standing.is_none_or(|(found, ..)| found != ident) {
                return Ok(Err(Errno::STALE));
            }
            match inner.kind_at(&to)?.map(|facts| facts.kind) {
                Some(FileKind::Dir) => return Ok(Err(Errno::ISDIR)),
                Some(_) if mode == RenameMode::NoReplace => return Ok(Err(Errno::EXIST)),
                _ => {}
            }
            let to = (to.bucket.clone(), to.key.clone());
            let change = FileChange::Move { ident, to };
            Ok(Ok((Some(of_file(&from, change)), ())))
        });
        moved.await
    }

    async fn move_between(
        &self,
        inode: &Inode,
        moving: &Node,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        let errno = |e: StoreError| e.errno();
        let ident = inode.ident;
        let posix = posix_of(moving.fd.as_fd(), &moving.met)?;
        let group = self.shared.group_of(&to.at);
        self.shared.reader(group).await.map_err(errno)?;
        let object = Volume::open(self, &from.at).await.map_err(errno)?;
        let (len_bytes, modified) = (object.info().len_bytes, object.info().modified);
        let options = StageOptions {
            len_bytes: Some(len_bytes),
            ..StageOptions::default()
        };
        let fan = Fan::new(
            self.shared.in_sync(group),
            self.shared.input.clone(),
            options,
        )
        .await;
        let mut fan = fan.map_err(errno)?;
        fan.copy(&object, 0..len_bytes).await.map_err(errno)?;
        let taken = fan.finish().await.map_err(errno)?;
        for (member, error) in taken.lost {
            self.shared.report(member.id, error);
        }
        let known = taken.digests.known();
        let record = moving.record.clone().unwrap_or_default();
        let new = NewObject {
            len_bytes,
            modified_ns: 0,
            record: Record {
                md5: known.md5,
                crc64nvme: known.crc64nvme,
                attrs: record.attrs,
                ident: Some(ident),
                ..Record::default()
            },
            owner: FileOwner::default(),
            posix: Some(Box::new(posix)),
            moved_from: Some((from.at.bucket.clone(), from.at.key.clone())),
        };
        let op = self.shared.new_op();
        for (member, file) in taken.files {
            member.stage(op, file);
        }
        let put = Put {
            op,
            new,
            modified: Some(Timestamp(modified.0)),
            upload: None,
        };
        let precondition = match mode {
            RenameMode::NoReplace => crate::object::Precondition {
                if_none_match: Some(crate::object::ETagMatch::Any),
                ..Default::default()
            },
            _ => Default::default(),
        };
        self.shared
            .put(&to.at, put, precondition)
            .await
            .map_err(errno)?;
        match self.leave_place(&from.at, ident).await {
            // Somebody replaced or removed it meanwhile: it is not there any more.
            Err(Errno::STALE | Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

impl<D: Disk> Bricks<D> {
    async fn leave_place(&self, from: &Locator, ident: u64) -> FileResult<()> {
        let gate = self.shared.gate(&from.bucket);
        let _passing = gate.read().await;
        self.unlinking(from, Some(ident)).await
    }

    /// Takes files from where they were moved from, whose moves a crash interrupted.
    pub(in super::super) async fn finish_moves(&self, moves: BTreeSet<Interrupted>) {
        for (ident, bucket, key) in moves {
            let from = Locator::new(bucket, key);
            match self.leave_place(&from, ident).await {
                Ok(()) => {
                    tracing::info!(bucket = %from.bucket, key = %from.key, "a move was finished");
                }
                Err(Errno::STALE | Errno::NOENT | Errno::ISDIR) => {}
                Err(error) => {
                    tracing::warn!(bucket = %from.bucket, key = %from.key, %error, "a file that was moved keeps its old name too");
                }
            }
        }
    }
}

/// A move of which the log has the first half: the file's number and its old place.
pub type Interrupted = (u64, BucketName, ObjectKey);

/// The move that a record began; whether it was ended too is for the old place to say.
pub fn move_of(record: &placement::replica::Record<Kept>) -> Option<Interrupted> {
    match record.body.as_ref()?.as_deref()? {
        Change::Put { new, .. } => {
            let (bucket, key) = new.moved_from.clone()?;
            Some((new.record.ident?, bucket, key))
        }
        _ => None,
    }
}

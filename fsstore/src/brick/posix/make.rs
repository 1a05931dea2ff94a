//! What a mount makes: files, directories, nodes and links.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::Inner;
use super::super::attrs::Record;
use super::super::disk::{Disk, FileFacts};
use super::super::index::Change;
use super::super::osdisk::posix::{
    Met, add_directory, add_name, add_node, add_symlink, is_dir, is_regular, meet, meet_at,
    set_mode,
};
use super::super::osdisk::{OsDisk, OsFile};
use super::caller::on_behalf;
use super::open::PosixFile;
use super::place::{Below, Place, below, keys, place_of};
use crate::files::{Caller, Errno, FileAttr, FilePath, FileResult, NewNode, OpenFlags, Target};
use crate::name::{BucketName, MAX_KEY_LEN_BYTES};
use crate::object::{FileOwner, Locator};
use crate::volume::NewBucket;

/// Permissions of a directory that a door makes, before the umask.
const ALL_MAY: u32 = 0o777;
/// The sticky bit, and those that set ids. Source: inode(7).
const BEYOND_PERMISSIONS: u32 = 0o7000;

/// Most rounds with others who make and remove a file.
const MAX_ROUNDS: usize = 64;

impl Inner<OsDisk> {
    pub(super) fn create_file(
        self: &Arc<Self>,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, PosixFile)> {
        for _ in 0..MAX_ROUNDS {
            match self.create_new(path, mode, flags, caller) {
                Err(Errno::EXIST) if !flags.exclusive => {}
                outcome => return outcome,
            }
            match self.open_met(path, flags, None) {
                // Gone since.
                Err(Errno::NOENT) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::AGAIN)
    }

    fn create_new(
        self: &Arc<Self>,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, PosixFile)> {
        let place = below(path)?;
        let object = place.object();
        self.change_names(&keys([&object]), |turn| {
            let disk = &self.tree.disk;
            if flags.exclusive {
                self.refuse_to_replace(&place)?;
            }
            let fd = on_behalf(caller, || disk.create_regular(path, mode, flags))?;
            self.note_path(&place);
            let met = meet(fd.as_fd())?;
            let file = Arc::new(OsFile::from(fd));
            let edit = flags
                .write
                .then(|| self.begin_first_edit(object.as_ref(), &file, &met.facts));
            if let (false, Some(at)) = (flags.exclusive, &object) {
                self.displace_escaped(turn, at);
            }
            self.made_file(object.as_ref(), &met.facts);
            let file = PosixFile::new(self, file, met.attr.ino, flags, edit);
            Ok((met.attr, file))
        })
    }

    /// A regular file has been made where none was.
    fn made_file(&self, at: Option<&Locator>, facts: &FileFacts) {
        let Some(at) = at else { return };
        let row = self.plain_row(at, facts, &Record::default());
        self.tell_index(at, Change::Put(row));
    }

    pub(super) fn make_directory(
        &self,
        path: &FilePath,
        mode: u32,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let place = match place_of(path) {
            Ok(Place::Below(place)) => place,
            Ok(Place::Bucket(bucket)) => return self.make_bucket_dir(path, bucket, mode, caller),
            Ok(Place::Root) => return Err(Errno::EXIST),
            Err(_) if path.components().count() == 1 => return Err(Errno::INVAL),
            Err(e) => return Err(e),
        };
        self.change_names(&[], |turn| {
            let parent = self.tree.disk.open_directory(&place.parent)?;
            on_behalf(caller, || add_directory(&parent, place.name, mode))?;
            self.note_path(&place);
            turn.built(&parent);
            Ok(meet_at(&parent, place.name)?.attr)
        })
    }

    /// A bucket is made as any door makes it, then given to the caller.
    fn make_bucket_dir(
        &self,
        path: &FilePath,
        bucket: BucketName,
        mode: u32,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let is_root = rustix::process::geteuid().is_root();
        let new = NewBucket {
            file_owner: FileOwner {
                uid: is_root.then_some(caller.uid),
                gid: is_root.then_some(caller.gid),
                umask: Some(caller.umask),
            },
            ..NewBucket::default()
        };
        self.change_names(&[], |turn| {
            self.make_bucket(turn, &bucket, new)
                .map_err(|e| e.errno())?;
            let dir = self.tree.disk.open_node(path)?;
            let made = meet(dir.as_fd())?.attr;
            let wanted = made.mode & !(ALL_MAY & !mode) | mode & BEYOND_PERMISSIONS;
            if wanted != made.mode {
                set_mode(dir.as_fd(), wanted)?;
            }
            Ok(meet(dir.as_fd())?.attr)
        })
    }

    pub(super) fn make_node(
        &self,
        path: &FilePath,
        node: NewNode,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let place = below(path)?;
        // What is no regular file has no row.
        let object = is_regular(node.mode).then(|| place.object()).flatten();
        self.change_names(&keys([&object]), |turn| {
            let (parent, met) =
                self.make_in(&place, caller, |dir, name| add_node(dir, name, node))?;
            turn.changed(&parent);
            self.made_file(object.as_ref(), &met.facts);
            Ok(met.attr)
        })
    }

    pub(super) fn make_symlink(
        &self,
        path: &FilePath,
        target: &OsStr,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let place = below(path)?;
        let object = place.object();
        self.change_names(&keys([&object]), |turn| {
            self.link_may_show(&place, target)?;
            let (parent, met) =
                self.make_in(&place, caller, |dir, name| add_symlink(dir, name, target))?;
            turn.changed(&parent);
            self.made_symlink(&place);
            Ok(met.attr)
        })
    }

    /// A symbolic link stands at a path that it did not stand at: where it leads to a file
    /// inside the volume it is that object, where to a directory its keys are reached by it.
    fn made_symlink(&self, place: &Below<'_>) {
        let Some(at) = place.object() else { return };
        self.reconcile_or_warn(&at);
        if self.leads_to_directory(&at) {
            self.forget_rows_are_whole(&at.bucket);
        }
    }

    /// Before a symbolic link comes to stand at a path: where it will lead to a directory of the
    /// volume, says that rows are missing, for a crash may come between.
    pub(super) fn link_may_show(&self, place: &Below<'_>, target: &OsStr) -> FileResult<()> {
        let parent = place.parent.as_os_str().as_bytes();
        if target.as_bytes().starts_with(b"/") {
            // It leads out of the volume, by its text at least: it is not followed.
            return Ok(());
        }
        let path = [parent, b"/", target.as_bytes()].concat();
        match std::str::from_utf8(&path) {
            Ok(path) if self.tree.disk.open_dir(&self.tree.root, path).is_ok() => {
                self.rows_may_move(&place.bucket)
            }
            _ => Ok(()),
        }
    }

    /// Whether a symbolic link at a key leads to a directory of the volume.
    pub(super) fn leads_to_directory(&self, at: &Locator) -> bool {
        let path = format!("{}/{}", at.bucket, at.key);
        self.tree.disk.open_dir(&self.tree.root, &path).is_ok()
    }

    /// Something stands at a path since this turn: it may have no key for its length alone.
    pub(super) fn note_path(&self, place: &Below<'_>) {
        // A directory's key has a slash besides.
        if place.rest.len() >= MAX_KEY_LEN_BYTES {
            self.index.note_long_paths(&place.bucket);
        }
    }

    /// Makes what replaces nothing. Errors: EEXIST, also where S3 shows an object that stands
    /// aside.
    fn make_in(
        &self,
        place: &Below<'_>,
        caller: Caller,
        make: impl FnOnce(&OwnedFd, &OsStr) -> FileResult<()>,
    ) -> FileResult<(Arc<OwnedFd>, Met)> {
        let parent = self.tree.disk.open_directory(&place.parent)?;
        self.refuse_to_replace(place)?;
        on_behalf(caller, || make(&parent, place.name))?;
        self.note_path(place);
        let met = meet_at(&parent, place.name)?;
        Ok((parent, met))
    }

    fn refuse_to_replace(&self, place: &Below<'_>) -> FileResult<()> {
        let Some(at) = place.object() else {
            return Ok(());
        };
        self.refuse_where_aside(&at, Errno::EXIST)
            .or_else(|refused| {
                // Where no directory is, that is what is wrong.
                self.tree.disk.open_directory(&place.parent)?;
                Err(refused)
            })
    }

    pub(super) fn make_link(
        &self,
        target: Target<'_, PosixFile>,
        to: &FilePath,
    ) -> FileResult<FileAttr> {
        let place = below(to)?;
        let object = place.object();
        let held = self.hold_target(target)?;
        if is_dir(held.met.attr.mode) {
            return Err(Errno::PERM);
        }
        let source = self.object_held(&held);
        self.change_names(&keys([&source, &object]), |turn| {
            let parent = self.tree.disk.open_directory(&place.parent)?;
            self.refuse_to_replace(&place)?;
            let kept = self.keep(source.as_ref(), &held.met.facts);
            let linked = add_name(held.fd(), &parent, place.name);
            let now = kept.and_then(|kept| self.kept(kept, linked.is_ok()));
            linked?;
            self.note_path(&place);
            turn.changed(&parent);
            let met = held.meet_again()?;
            if is_regular(met.attr.mode) {
                // Both names have one record and one time of change.
                match &now {
                    Some((facts, record)) => {
                        for at in [&source, &object].into_iter().flatten() {
                            let row = self.plain_row(at, facts, record);
                            self.tell_index(at, Change::Put(row));
                        }
                    }
                    None => object.iter().for_each(|at| self.reconcile_or_warn(at)),
                }
            } else {
                self.made_symlink(&place);
            }
            Ok(met.attr)
        })
    }
}

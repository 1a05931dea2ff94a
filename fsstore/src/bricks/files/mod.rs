//! A volume on several bricks as a tree of files: what a mount changes is a record of the
//! replicated log like any other change, so that copies stay equal, in order, whatever fails.
//!
//! - where a path stands and what is there: [`look`]; directories: [`dirs`]
//! - files held open, and what is on its way to them: [`open`], [`writing`]
//! - names: [`names`], [`moving`]; attributes: [`attributes`]
//! - what is logged: [`change`]; how it becomes files: `applying`, and for a brick that comes into
//!   sync `nodes`; digests of what was written: [`digests`]
//!
//! **Numbers.** A file has the number that its first change gave it, wherever it is moved: it is in
//! its record, on every brick. A directory has the one that it was made with; one that keys made,
//! one of its path.
//!
//! **What is durable.** Names, attributes and lengths are in the log of every brick in sync before
//! the call returns. Bytes are once a write's change is logged, which `fsync` and `close` wait for.

pub(super) mod applying;
mod attributes;
pub mod change;
mod digests;
mod dirs;
mod look;
pub(super) mod moving;
mod names;
pub(super) mod nodes;
mod open;
mod room;
pub(super) mod writing;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub use self::dirs::BricksDir;
pub use self::open::BricksFile;
use super::Bricks;
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{is_symlink, link_text};
use crate::files::{
    Caller, Errno, FileAttr, FileId, FilePath, FileResult, FileSystemFacts, Files, FilesWatcher,
    NewNode, OpenFlags, RenameMode, SetAttr, Target, XattrMode,
};
use crate::locks::{Device, LockPlace};

impl Files for Bricks<OsDisk> {
    type OpenFile = BricksFile;
    type OpenDir = BricksDir;

    fn lookup(&self, path: &FilePath) -> FileResult<FileAttr> {
        Ok(self.node(path)?.attr)
    }

    fn find(&self, _ino: u64) -> FileResult<FilePath> {
        // A number leads to no path: whoever has nothing else looks it up again.
        Err(Errno::STALE)
    }

    fn attr(&self, target: Target<'_, BricksFile>) -> FileResult<FileAttr> {
        self.attr_of(target)
    }

    fn set_attr(&self, target: Target<'_, BricksFile>, set: SetAttr) -> FileResult<FileAttr> {
        self.set_attributes(target, set)
    }

    fn create(
        &self,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, BricksFile)> {
        self.create_file(path, mode, flags, caller)
    }

    fn open_file(
        &self,
        target: Target<'_, BricksFile>,
        flags: OpenFlags,
    ) -> FileResult<BricksFile> {
        match target {
            Target::Named { path, id } => {
                let node = self.node_as(path, id)?;
                Ok(self.open_node(path, &node, flags)?.1)
            }
            Target::Open(file) => file.again(flags),
        }
    }

    fn open_dir(&self, path: &FilePath, id: FileId) -> FileResult<BricksDir> {
        self.open_directory(path, id)
    }

    fn make_dir(&self, path: &FilePath, mode: u32, caller: Caller) -> FileResult<FileAttr> {
        self.make_directory(path, mode, caller)
    }

    fn make_node(&self, path: &FilePath, node: NewNode, caller: Caller) -> FileResult<FileAttr> {
        self.make_special(path, node, caller)
    }

    fn make_symlink(
        &self,
        path: &FilePath,
        target: &OsStr,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        self.make_link_to(path, target, caller)
    }

    fn make_link(&self, _: Target<'_, BricksFile>, _: &FilePath) -> FileResult<FileAttr> {
        // Two names may belong to two groups, on other bricks.
        Err(Errno::PERM)
    }

    fn unlink(&self, path: &FilePath) -> FileResult<()> {
        self.unlink_path(path)
    }

    fn remove_dir(&self, path: &FilePath) -> FileResult<()> {
        self.remove_directory(path)
    }

    fn rename(&self, from: &FilePath, to: &FilePath, mode: RenameMode) -> FileResult<()> {
        self.move_path(from, to, mode)
    }

    fn read_link(&self, path: &FilePath, id: FileId) -> FileResult<OsString> {
        let node = self.node_as(path, id)?;
        match is_symlink(node.met.attr.mode) {
            true => link_text(node.fd.as_fd()),
            false => Err(Errno::INVAL),
        }
    }

    fn xattr(&self, target: Target<'_, BricksFile>, name: &OsStr) -> FileResult<Vec<u8>> {
        self.get_xattr(target, name)
    }

    fn set_xattr(
        &self,
        target: Target<'_, BricksFile>,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FileResult<()> {
        self.put_xattr(target, name, Some((value, mode)))
    }

    fn xattr_names(&self, target: Target<'_, BricksFile>) -> FileResult<Vec<OsString>> {
        self.list_xattrs(target)
    }

    fn remove_xattr(&self, target: Target<'_, BricksFile>, name: &OsStr) -> FileResult<()> {
        self.put_xattr(target, name, None)
    }

    fn dates_every_change(&self) -> bool {
        false
    }

    fn facts(&self) -> FileResult<FileSystemFacts> {
        self.room_facts()
    }

    fn trial_file(&self) -> FileResult<OwnedFd> {
        // The kernel's own writes would reach one copy: see [`BricksFile`].
        Err(Errno::OPNOTSUPP)
    }

    fn watch(&self, _watcher: &Arc<dyn FilesWatcher>) {
        // Nobody remembers anything: see [`Files::tells_all`].
    }

    fn keeps_locks_on(&self, device: Device) -> LockPlace {
        self.shared.locks.add(device)
    }

    fn tells_all(&self) -> bool {
        // A mount asks each time, so that what any door changed is seen by the next call.
        false
    }
}

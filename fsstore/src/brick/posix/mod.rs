//! A brick as a tree of files: what a mount does, on its own thread and in the same turn as
//! every other door's changes.
//!
//! - where a path stands: [`place`]; where a number does: [`numbers`]; on whose behalf: [`caller`]
//! - names: [`make`], [`remove`], [`rename`]; what stands aside for them: [`shelters`]
//! - files and directories held open: [`open`], [`dirs`]
//! - attributes: [`attrs`], [`xattrs`]; what they leave of digests: [`keep`]
//!
//! System calls stand in [`super::osdisk::posix`].

mod attrs;
mod caller;
mod dirs;
mod keep;
mod make;
mod numbers;
mod open;
mod place;
mod remove;
mod rename;
mod shelters;

#[cfg(test)]
mod tests;
mod xattrs;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub use self::dirs::PosixDir;
pub use self::open::PosixFile;
pub(crate) use self::xattrs::{
    Named, meaning as xattr_meaning, named_in_record, set_entry, take_entry,
};
use super::Brick;
use super::disk::Disk;
use super::osdisk::OsDisk;
use super::osdisk::posix::{is_symlink, link_text};
use crate::files::{
    Caller, Errno, FileAttr, FileId, FilePath, FileResult, FileSystemFacts, Files, FilesWatcher,
    NewNode, OpenFlags, RenameMode, SetAttr, Target, XattrMode,
};
use crate::locks::{Device, LockPlace};

impl Files for Brick<OsDisk> {
    type OpenFile = PosixFile;
    type OpenDir = PosixDir;

    fn lookup(&self, path: &FilePath) -> FileResult<FileAttr> {
        self.inner.look_up(path)
    }

    fn find(&self, ino: u64) -> FileResult<FilePath> {
        self.inner.find_number(ino)
    }

    fn attr(&self, target: Target<'_, PosixFile>) -> FileResult<FileAttr> {
        Ok(self.inner.hold_target(target)?.met.attr)
    }

    fn set_attr(&self, target: Target<'_, PosixFile>, set: SetAttr) -> FileResult<FileAttr> {
        self.inner.set_attributes(target, set)
    }

    fn create(
        &self,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, PosixFile)> {
        self.inner.create_file(path, mode, flags, caller)
    }

    fn open_file(&self, target: Target<'_, PosixFile>, flags: OpenFlags) -> FileResult<PosixFile> {
        self.inner.open_target(target, flags)
    }

    fn open_dir(&self, path: &FilePath, id: FileId) -> FileResult<PosixDir> {
        PosixDir::open(&self.inner.tree.disk, path, Some(id))
    }

    fn make_dir(&self, path: &FilePath, mode: u32, caller: Caller) -> FileResult<FileAttr> {
        self.inner.make_directory(path, mode, caller)
    }

    fn make_node(&self, path: &FilePath, node: NewNode, caller: Caller) -> FileResult<FileAttr> {
        self.inner.make_node(path, node, caller)
    }

    fn make_symlink(
        &self,
        path: &FilePath,
        target: &OsStr,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        self.inner.make_symlink(path, target, caller)
    }

    fn make_link(&self, target: Target<'_, PosixFile>, to: &FilePath) -> FileResult<FileAttr> {
        self.inner.make_link(target, to)
    }

    fn unlink(&self, path: &FilePath) -> FileResult<()> {
        self.inner.unlink(path)
    }

    fn remove_dir(&self, path: &FilePath) -> FileResult<()> {
        self.inner.remove_directory(path)
    }

    fn rename(&self, from: &FilePath, to: &FilePath, mode: RenameMode) -> FileResult<()> {
        self.inner.move_path(from, to, mode)
    }

    fn read_link(&self, path: &FilePath, id: FileId) -> FileResult<OsString> {
        let held = self.inner.hold_target(Target::Named { path, id })?;
        match is_symlink(held.met.attr.mode) {
            true => link_text(held.fd()),
            false => Err(Errno::INVAL),
        }
    }

    fn xattr(&self, target: Target<'_, PosixFile>, name: &OsStr) -> FileResult<Vec<u8>> {
        self.inner.get_xattr(target, name)
    }

    fn set_xattr(
        &self,
        target: Target<'_, PosixFile>,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FileResult<()> {
        self.inner.put_xattr(target, name, value, mode)
    }

    fn xattr_names(&self, target: Target<'_, PosixFile>) -> FileResult<Vec<OsString>> {
        self.inner.list_xattrs(target)
    }

    fn remove_xattr(&self, target: Target<'_, PosixFile>, name: &OsStr) -> FileResult<()> {
        self.inner.remove_xattr(target, name)
    }

    fn dates_every_change(&self) -> bool {
        self.inner.tree.disk.tick_ns() == 0
    }

    fn facts(&self) -> FileResult<FileSystemFacts> {
        self.inner.tree.disk.file_system_facts()
    }

    fn trial_file(&self) -> FileResult<OwnedFd> {
        let tree = &self.inner.tree;
        let file = tree.disk.create_unnamed(&tree.own.staging);
        let file = file.and_then(|file| file.as_fd().try_clone_to_owned());
        file.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn watch(&self, watcher: &Arc<dyn FilesWatcher>) {
        self.inner.watch(watcher);
    }

    fn keeps_locks_on(&self, device: Device) -> LockPlace {
        self.inner.locks.add(device)
    }

    fn tells_all(&self) -> bool {
        self.inner.watching.is_on()
    }
}

//! Files held open: made, opened, read, written, given back.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use fsstore::files::{
    Caller, Errno, FileAttr, FileResult, Files, OpenFile, OpenFlags, SetAttr, Target,
};

use super::{Entry, FileSystem, Handle};

/// The set-user-id and set-group-id bits. Source: inode(7).
const SET_ID: u32 = 0o6_000;
/// The set-user-id bit.
const SET_USER_ID: u32 = 0o4_000;
/// The set-group-id bit with the group's right to execute: else it means mandatory locking.
const SET_GROUP_ID: u32 = 0o2_010;

/// A file held open. `B` is what the kernel reads and writes it by, where it does so itself.
#[derive(Debug)]
pub struct OpenHandle<F, B> {
    ino: u64,
    pub(super) file: F,
    backing: OnceLock<Arc<B>>,
}

/// A file opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle's number.
    pub number: u64,
    /// Whether attributes that the kernel remembers must be forgotten before it hears of this.
    pub must_forget_attr: bool,
    /// Whether every write must come here: the first one takes set-id bits away, which the
    /// kernel does not do for writes that it makes itself.
    pub must_see_writes: bool,
    /// Whether the bytes are as they were when it was last opened, so that pages may be kept.
    pub is_as_before: bool,
    /// Whether its closes are to be told here.
    pub must_flush: bool,
}

impl<V: Files, B> FileSystem<V, B> {
    fn file(&self, number: u64) -> FileResult<Arc<Handle<V, B>>> {
        self.files.get(number).ok_or(Errno::BADF)
    }

    /// Puts an open file among the handles.
    fn hold(&self, ino: u64, file: V::OpenFile, must_see_writes: bool) -> Opened {
        let number = self.files.number();
        let (is_writable, must_flush) = (file.is_writable(), file.must_flush());
        let open = Arc::new(OpenHandle {
            ino,
            file,
            backing: OnceLock::new(),
        });
        self.files.put(number, Arc::clone(&open));
        let must_forget_attr = self.nodes.opened(ino, number, open, is_writable);
        Opened {
            number,
            must_forget_attr,
            must_see_writes,
            is_as_before: false,
            must_flush,
        }
    }

    /// Makes a regular file and opens it, or opens the one that is there.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(Entry, Opened)> {
        let _still = self.still();
        let path = self.place(parent, name)?;
        let since = self.changes();
        let (attr, file) = self.volume.create(&path, mode, flags, caller)?;
        let entry = self.entry(parent, name, attr, since);
        let must_see_writes = flags.write && caller.uid != 0 && has_set_id(attr.mode);
        let mut opened = self.hold(entry.attr.ino, file, must_see_writes);
        // An empty file cannot be changed by stores to mapped memory alone: it must grow first,
        // by a call after which the kernel asks again. So what is said of it may be remembered.
        let is_empty = attr.len_bytes == 0;
        opened.must_forget_attr &= !is_empty;
        let entry = Entry {
            may_remember: is_empty || entry.may_remember && !flags.write,
            ..entry
        };
        Ok((entry, opened))
    }

    /// Opens a regular file. With `keeps_pages` it is looked at, for whether the bytes that the
    /// kernel keeps are still its own.
    pub fn open(
        &self,
        ino: u64,
        flags: OpenFlags,
        caller: Caller,
        keeps_pages: bool,
    ) -> FileResult<Opened> {
        let file = self.change(ino, |target| self.volume.open_file(target, flags))?;
        let drops = flags.write && caller.uid != 0;
        if !drops && !keeps_pages {
            return Ok(self.hold(ino, file, false));
        }
        let mut attr = self.volume.attr(Target::Open(&file))?;
        let must_see_writes = drops && has_set_id(attr.mode);
        if must_see_writes && flags.truncate {
            attr = self.drop_set_id(Target::Open(&file), attr)?;
        }
        let is_as_before = keeps_pages && self.nodes.is_as_before(ino, &attr);
        Ok(Opened {
            is_as_before,
            ..self.hold(ino, file, must_see_writes)
        })
    }

    /// Takes the set-id bits from a file whose bytes were changed by a user: on a local file
    /// system the kernel does it by the user's rights, but here the change is made with ours.
    pub(super) fn drop_set_id(
        &self,
        target: Target<'_, V::OpenFile>,
        attr: FileAttr,
    ) -> FileResult<FileAttr> {
        if !has_set_id(attr.mode) {
            return Ok(attr);
        }
        let runs_as_group = attr.mode & SET_GROUP_ID == SET_GROUP_ID;
        let dropped = if runs_as_group { SET_ID } else { SET_USER_ID };
        let set = SetAttr {
            mode: Some(attr.mode & 0o7_777 & !dropped),
            ..SetAttr::default()
        };
        self.volume.set_attr(target, set)
    }

    /// As [`FileSystem::drop_set_id`], for what is open and was written by `uid`.
    fn written_by(&self, uid: u32, file: &V::OpenFile) -> FileResult<()> {
        if uid != 0 {
            let attr = self.volume.attr(Target::Open(file))?;
            self.drop_set_id(Target::Open(file), attr)?;
        }
        Ok(())
    }

    /// What lets the kernel read and write an open file itself: one for all handles of an inode,
    /// made by `make` where there is none. None where bytes must pass through here, or `make`
    /// fails.
    pub fn back<E>(
        &self,
        number: u64,
        make: impl FnOnce(BorrowedFd<'_>) -> Result<B, E>,
    ) -> Option<Result<Arc<B>, E>> {
        let open = self.files.get(number)?;
        let descriptor = open.file.descriptor()?;
        let backing = self.backings.share(open.ino, || make(descriptor));
        if let Ok(backing) = &backing {
            let _ = open.backing.set(Arc::clone(backing));
        }
        Some(backing)
    }

    /// Reads into `buffer`, which is emptied first; shorter only at the end.
    pub fn read(
        &self,
        number: u64,
        offset: u64,
        buffer: &mut Vec<u8>,
        len: usize,
    ) -> FileResult<()> {
        buffer.clear();
        self.file(number)?.file.read(offset, buffer, len)
    }

    /// Writes; gives the number of bytes written. `by` is the user where writing takes set-id bits
    /// away.
    pub fn write(
        &self,
        number: u64,
        offset: u64,
        bytes: &[u8],
        by: Option<u32>,
    ) -> FileResult<usize> {
        let open = self.file(number)?;
        let len_bytes = open.file.write(offset, bytes)?;
        if let Some(uid) = by {
            self.written_by(uid, &open.file)?;
        }
        Ok(len_bytes)
    }

    /// A close: tells what became of writes that were answered early.
    pub fn flush(&self, number: u64) -> FileResult<()> {
        self.file(number)?.file.flush()
    }

    /// Gives a handle back.
    pub fn release(&self, number: u64) {
        let Some(open) = self.files.take(number) else {
            return;
        };
        let (ino, is_writable) = (open.ino, open.file.is_writable());
        if open.backing.get().is_some() {
            self.backings.dropped(ino);
        }
        // The file is closed before attributes are remembered again: closing settles the edit.
        // The table's own hold on it goes first, so that this one is the last.
        self.nodes.unheld(ino, number);
        drop(open);
        self.nodes.closed(ino, is_writable);
    }

    /// Makes a file durable.
    pub fn sync(&self, number: u64, data_only: bool) -> FileResult<()> {
        self.file(number)?.file.sync(data_only)
    }

    /// fallocate(2), by this user.
    pub fn allocate(
        &self,
        number: u64,
        mode: u32,
        offset: u64,
        len_bytes: u64,
        uid: u32,
    ) -> FileResult<()> {
        let open = self.file(number)?;
        open.file.allocate(mode, offset, len_bytes)?;
        self.written_by(uid, &open.file)
    }

    /// lseek(2) with SEEK_DATA (`data`) or SEEK_HOLE.
    pub fn seek(&self, number: u64, offset: u64, data: bool) -> FileResult<u64> {
        self.file(number)?.file.seek(offset, data)
    }

    /// copy_file_range(2) by this user; gives the number of bytes copied.
    pub fn copy(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        len_bytes: u64,
        uid: u32,
    ) -> FileResult<u64> {
        let (source, target) = (self.file(from.0)?, self.file(to.0)?);
        let copied = source.file.copy_to(from.1, &target.file, to.1, len_bytes)?;
        self.written_by(uid, &target.file)?;
        Ok(copied)
    }
}

/// Whether writing to a file of this mode takes bits of it away.
pub(super) fn has_set_id(mode: u32) -> bool {
    mode & SET_USER_ID != 0 || mode & SET_GROUP_ID == SET_GROUP_ID
}

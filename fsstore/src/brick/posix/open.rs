//! Files held open, and targets of calls.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::Inner;
use super::super::edits::Edit;
use super::super::osdisk::posix::{
    self, Met, allocate, copy, is_dir, is_regular, meet, read_at, seek, set_len, write_at,
};
use super::super::osdisk::{OsDisk, OsFile};
use super::place::{Place, object_at, place_of};
use crate::files::{Errno, FileId, FilePath, FileResult, OpenFile, OpenFlags, Target};
use crate::object::Locator;

/// A file of a brick, held open through a mount.
pub struct PosixFile {
    inner: Arc<Inner<OsDisk>>,
    file: Arc<OsFile>,
    ino: u64,
    flags: OpenFlags,
    /// Bytes that could not be made durable may be gone: nobody is told later that they are.
    sync_failed: AtomicBool,
    /// None where it is open for reading only.
    edit: Option<Edit<OsDisk>>,
}

impl PosixFile {
    pub(super) fn new(
        inner: &Arc<Inner<OsDisk>>,
        file: Arc<OsFile>,
        ino: u64,
        flags: OpenFlags,
        edit: Option<Edit<OsDisk>>,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            file,
            ino,
            flags,
            sync_failed: AtomicBool::new(false),
            edit,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn sync_all(&self, data_only: bool) -> FileResult<()> {
        posix::sync(self.fd(), data_only)?;
        let disk = &self.inner.tree.disk;
        if disk.syncs_names_with_files() {
            return Ok(());
        }
        // Its name, and those of the directories above it.
        let mut path = disk.path_of(self.fd()).unwrap_or_default();
        while let Some((above, _)) = path.split() {
            match disk.open_directory(&above) {
                Ok(dir) => posix::sync_dir(dir.as_fd())?,
                // It has lost that name by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => {}
                Err(e) => return Err(e),
            }
            path = above;
        }
        Ok(())
    }
}

impl Drop for PosixFile {
    fn drop(&mut self) {
        if let Some(edit) = self.edit.take() {
            edit.end(|| self.inner.object_of(self.file.as_fd()));
        }
    }
}

impl OpenFile for PosixFile {
    fn ino(&self) -> u64 {
        self.ino
    }

    fn is_writable(&self) -> bool {
        self.flags.write
    }

    fn read(&self, offset: u64, buffer: &mut Vec<u8>, len: usize) -> FileResult<()> {
        read_at(self.fd(), offset, buffer, len)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> FileResult<usize> {
        write_at(self.fd(), offset, bytes)
    }

    fn sync(&self, data_only: bool) -> FileResult<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(Errno::IO);
        }
        self.sync_all(data_only)
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn allocate(&self, mode: u32, offset: u64, len_bytes: u64) -> FileResult<()> {
        allocate(self.fd(), mode, offset, len_bytes)
    }

    fn seek(&self, offset: u64, data: bool) -> FileResult<u64> {
        seek(self.fd(), offset, data)
    }

    fn copy_to(&self, from: u64, other: &Self, to: u64, len_bytes: u64) -> FileResult<u64> {
        copy((self.fd(), from), (other.fd(), to), len_bytes)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd())
    }
}

/// A target held for the length of a call, and what it was found to be.
pub(super) struct Held<'a> {
    node: Node<'a>,
    /// What it is.
    pub met: Met,
}

enum Node<'a> {
    Named(&'a FilePath, OwnedFd),
    Open(&'a PosixFile),
}

impl Held<'_> {
    /// A descriptor, maybe one that leads to the inode only.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.node {
            Node::Named(_, fd) => fd.as_fd(),
            Node::Open(file) => file.fd(),
        }
    }

    /// The file, where it is held open for writing.
    pub fn writable(&self) -> Option<&PosixFile> {
        match &self.node {
            Node::Open(file) if file.flags.write => Some(file),
            _ => None,
        }
    }

    /// Looks again.
    pub fn meet_again(&self) -> FileResult<Met> {
        meet(self.fd())
    }
}

impl Inner<OsDisk> {
    /// The object that a descriptor leads to by the name it has now, where it has one.
    pub(super) fn object_of(&self, fd: BorrowedFd<'_>) -> Option<Locator> {
        object_at(&self.tree.disk.path_of(fd)?)
    }

    /// The object that a target is, where it can be one.
    pub(super) fn object_held(&self, held: &Held<'_>) -> Option<Locator> {
        if !is_regular(held.met.attr.mode) {
            return None;
        }
        match &held.node {
            Node::Named(path, _) => object_at(path),
            Node::Open(file) => self.object_of(file.fd()),
        }
    }

    /// Holds a target. Errors: ENOENT, ENOTDIR; ESTALE where its name leads to another inode.
    pub(super) fn hold_target<'a>(&self, target: Target<'a, PosixFile>) -> FileResult<Held<'a>> {
        match target {
            Target::Named { path, id } => {
                if let Place::Root | Place::Bucket(_) = place_of(path)? {
                    return self.hold_directory(path, id);
                }
                let fd = self.tree.disk.open_node(path)?;
                let met = meet(fd.as_fd())?;
                if !id.is_of(&met.attr) {
                    return Err(Errno::STALE);
                }
                let node = Node::Named(path, fd);
                Ok(Held { node, met })
            }
            Target::Open(file) => Ok(Held {
                met: meet(file.fd())?,
                node: Node::Open(file),
            }),
        }
    }

    /// In the root there are directories only.
    fn hold_directory<'a>(&self, path: &'a FilePath, id: FileId) -> FileResult<Held<'a>> {
        let fd = self.tree.disk.open_node(path)?;
        let met = meet(fd.as_fd())?;
        match is_dir(met.attr.mode) && id.is_of(&met.attr) {
            true => Ok(Held {
                node: Node::Named(path, fd),
                met,
            }),
            false => Err(Errno::STALE),
        }
    }

    /// Opens a target again, or a name.
    pub(super) fn open_target(
        self: &Arc<Self>,
        target: Target<'_, PosixFile>,
        flags: OpenFlags,
    ) -> FileResult<PosixFile> {
        match target {
            Target::Named { path, id } => Ok(self.open_met(path, flags, Some(id))?.1),
            Target::Open(file) => {
                let fd = self.tree.disk.reopen(file.fd(), flags)?;
                let met = meet(fd.as_fd())?;
                self.opened(fd, &met, flags, || self.object_of(file.fd()))
            }
        }
    }

    /// Opens a regular file by name. Errors: EISDIR; ESTALE where it is another than
    /// `id`.
    pub(super) fn open_met(
        self: &Arc<Self>,
        path: &FilePath,
        flags: OpenFlags,
        id: Option<FileId>,
    ) -> FileResult<(crate::files::FileAttr, PosixFile)> {
        let Place::Below(place) = place_of(path)? else {
            return Err(Errno::ISDIR);
        };
        let fd = self.tree.disk.open_regular(path, flags)?;
        let met = meet(fd.as_fd())?;
        if is_dir(met.attr.mode) {
            return Err(Errno::ISDIR);
        }
        if !is_regular(met.attr.mode) || id.is_some_and(|id| !id.is_of(&met.attr)) {
            return Err(Errno::STALE);
        }
        let file = self.opened(fd, &met, flags, || place.object())?;
        let attr = match flags.truncate {
            true => meet(file.fd())?.attr,
            false => met.attr,
        };
        Ok((attr, file))
    }

    pub(super) fn opened(
        self: &Arc<Self>,
        fd: OwnedFd,
        met: &Met,
        flags: OpenFlags,
        object: impl FnOnce() -> Option<Locator>,
    ) -> FileResult<PosixFile> {
        let file = Arc::new(OsFile::from(fd));
        let edit = match flags.write {
            true => Some(self.begin_edit(object().as_ref(), Arc::clone(&file))?),
            false => None,
        };
        let file = PosixFile::new(self, file, met.attr.ino, flags, edit);
        if flags.write && flags.truncate {
            set_len(file.fd(), 0)?;
        }
        Ok(file)
    }
}

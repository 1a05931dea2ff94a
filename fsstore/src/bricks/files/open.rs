//! Files held open. They are read from one copy; what is written goes through the log to all.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use placement::group::GroupId;

use super::super::Bricks;
use super::super::kinds::{Change, Name};
use super::super::shared::Shared;
use super::change::{FileChange, MAX_WRITE_LEN_BYTES};
use super::look::{Node, node_on, place_of};
use super::writing::{Gather, Gathered, HeldCopy, Inode};
use crate::brick::Inner;
use crate::brick::disk::Disk;
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{self, is_dir, is_regular, meet, read_at, seek, write_at};
use crate::brick::sink::require_room;
use crate::error::{Result, StoreError};
use crate::files::{Errno, FileAttr, FilePath, FileResult, OpenFile, OpenFlags};
use crate::object::Locator;

/// FALLOC_FL_KEEP_SIZE. Source: fallocate(2).
const KEEP_SIZE: u32 = 1;
/// How often a copy is opened again while bricks come and go.
const MAX_ROUNDS: usize = 8;

/// What is decided of a mount's change: the change, or an error that says how things stand.
pub type FileDecision<T> = Result<FileResult<(Option<Change>, T)>>;

impl<D: Disk> Shared<D> {
    /// Has a mount's change made.
    pub(super) async fn change_file<T: Clone + Send + 'static>(
        &self,
        group: GroupId,
        names: Vec<Name>,
        decide: impl Fn(&Arc<Inner<D>>) -> FileDecision<T> + Send + Sync + 'static,
    ) -> FileResult<T> {
        let op = self.new_op();
        let decided = self.decided(op, group, names, true, move |inner| {
            Ok(match decide(inner)? {
                Ok((change, answer)) => (change, Ok(answer)),
                Err(errno) => (None, Err(errno)),
            })
        });
        decided.await.map_err(|e| match e {
            // Of a file EAGAIN says something else.
            StoreError::Busy(_) => Errno::IO,
            other => other.errno(),
        })?
    }

    /// Has a regular file changed where it stands as the file of this number. Errors: ESTALE where
    /// it does not.
    pub(super) async fn change_standing(
        &self,
        at: &Locator,
        ident: u64,
        change: impl Fn(i64) -> FileChange + Send + Sync + 'static,
    ) -> FileResult<()> {
        let (group, names) = (self.group_of(at), vec![Name::object(at)]);
        let at = at.clone();
        self.change_file(group, names, move |inner| {
            let standing = inner.ident_at(&at)?;
            if standing.is_none_or(|(found, ..)| found != ident) {
                return Ok(Err(Errno::STALE));
            }
            Ok(Ok((Some(of_file(&at, change(inner.now().0))), ())))
        })
        .await
    }

    /// Whether every brick that counts for a place has room for as much. Errors: ENOSPC.
    pub(super) fn require_room(&self, at: &Locator, len_bytes: u64) -> FileResult<()> {
        for member in self.in_sync(self.group_of(at)) {
            // Of what else is wrong whoever writes there finds out.
            if let Err(StoreError::NoSpace) = require_room(&**member.inner.disk(), len_bytes) {
                return Err(Errno::NOSPC);
            }
        }
        Ok(())
    }

    /// Sets what has gathered of a file on its way, one change after the other, until nothing is
    /// left.
    async fn carry(self: Arc<Self>, inode: Arc<Inode>, begun_at: Locator) {
        while let Some((at, next)) = inode.next() {
            match self.carry_one(&inode, &at, next).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(bucket = %at.bucket, key = %at.key, %error, "what was written is lost");
                    inode.failed(error, error == Errno::IO);
                }
            }
        }
        self.writing.ends(&begun_at, &inode);
    }

    async fn carry_one(&self, inode: &Inode, at: &Locator, next: Gathered) -> FileResult<()> {
        let Gathered { extents, bytes } = next;
        self.require_room(at, bytes.len() as u64)?;
        let bytes = Bytes::from(bytes);
        let (ident, logged, places) = (inode.ident, bytes.clone(), extents.clone());
        let written = self.change_standing(at, ident, move |mtime_ns| FileChange::Write {
            ident,
            extents: places.clone(),
            mtime_ns,
            bytes: logged.clone(),
        });
        match written.await {
            // The name is gone, or another's: only those who have it open see it any more.
            Err(Errno::STALE) => {
                let copy = {
                    let mut state = inode.lock();
                    state.is_orphan = true;
                    state.copy.clone()
                };
                let mut rest = &bytes[..];
                for (offset, len) in extents {
                    let (now, later) = rest.split_at(rest.len().min(len as usize));
                    write_all(&copy, offset, now)?;
                    rest = later;
                }
                Ok(())
            }
            other => other,
        }
    }
}

fn write_all(copy: &HeldCopy, offset: u64, bytes: &[u8]) -> FileResult<()> {
    match write_at(copy.fd.as_fd(), offset, bytes)? == bytes.len() {
        true => Ok(()),
        false => Err(Errno::NOSPC),
    }
}

/// A change at the path of an object.
pub fn of_file(at: &Locator, change: FileChange) -> Change {
    Change::File {
        bucket: at.bucket.clone(),
        key: at.key.clone(),
        change: Box::new(change),
    }
}

/// A file of several bricks, held open through a mount.
pub struct BricksFile {
    bricks: Bricks<OsDisk>,
    pub(super) inode: Arc<Inode>,
    flags: OpenFlags,
}

impl Bricks<OsDisk> {
    /// Opens what was found at a path. Errors: EISDIR; ESTALE where it is no regular file, or
    /// another by now.
    pub(super) fn open_node(
        &self,
        path: &FilePath,
        node: &Node,
        flags: OpenFlags,
    ) -> FileResult<(FileAttr, BricksFile)> {
        if is_dir(node.met.attr.mode) {
            return Err(Errno::ISDIR);
        }
        let super::look::Place::Below(at) = place_of(path)? else {
            return Err(Errno::ISDIR);
        };
        if !is_regular(node.met.attr.mode) {
            return Err(Errno::STALE);
        }
        let inode = self.shared.writing.get_or_open(node.ident, || {
            let copy = self.open_copy(path, &at, node.ident)?;
            let len_bytes = meet(copy.fd.as_fd())?.attr.len_bytes;
            Ok((at.clone(), copy, len_bytes))
        })?;
        let file = BricksFile {
            bricks: self.clone(),
            inode,
            flags,
        };
        if flags.write {
            file.inode.lock().writers += 1;
        }
        // It may have been moved between the look and now: whoever moved it knew of no open file.
        let again = self.node(path)?;
        if again.ident != node.ident {
            return Err(Errno::STALE);
        }
        let is_empty = again.attr.len_bytes == 0 && file.inode.lock().end == 0;
        if !(flags.write && flags.truncate) || is_empty {
            return Ok((again.attr, file));
        }
        file.cut(0)?;
        Ok((file.attr()?, file))
    }

    /// Opens a copy of the file of this number, to read and, where that may be, to write.
    pub(super) fn open_copy(
        &self,
        path: &FilePath,
        at: &Locator,
        ident: u64,
    ) -> FileResult<HeldCopy> {
        let group = self.shared.group_of(at);
        let epoch = self.shared.epoch(group);
        self.reading(group, |member| {
            let disk = member.inner.disk();
            let flags = OpenFlags {
                read: true,
                write: true,
                ..OpenFlags::default()
            };
            let fd = match disk.open_regular(path, flags) {
                // It is read only, or run.
                Err(Errno::ACCESS | Errno::TXTBSY | Errno::PERM) => {
                    let read = OpenFlags {
                        write: false,
                        ..flags
                    };
                    disk.open_regular(path, read)?
                }
                other => other?,
            };
            if node_on(member, path, at)?.ident != ident {
                return Err(Errno::STALE);
            }
            Ok(HeldCopy {
                brick: member.id,
                epoch,
                fd: Arc::new(fd),
            })
        })
    }

    pub(super) fn path_of(&self, at: &Locator) -> FileResult<FilePath> {
        crate::brick::in_place::path_of(at).map_err(|e| e.errno())
    }

    /// What is opened leads to the copy that counts: where bricks came or went since it was
    /// opened, another is.
    pub(super) fn copy_of(&self, inode: &Inode) -> FileResult<HeldCopy> {
        for _ in 0..MAX_ROUNDS {
            let (at, copy, is_orphan) = {
                let state = inode.lock();
                (state.at.clone(), state.copy.clone(), state.is_orphan)
            };
            let epoch = self.shared.epoch(self.shared.group_of(&at));
            if is_orphan || copy.epoch == epoch {
                return Ok(copy);
            }
            let opened = self.open_copy(&self.path_of(&at)?, &at, inode.ident);
            let mut state = inode.lock();
            match opened {
                Ok(opened) if state.at == at => state.copy = opened,
                // It has no name any more.
                Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) if state.at == at => {
                    state.copy.epoch = epoch;
                }
                Ok(_) | Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(inode.lock().copy.clone())
    }
}

impl BricksFile {
    /// Its attributes, under whatever name it has now.
    pub(super) fn attr(&self) -> FileResult<FileAttr> {
        let bricks = &self.bricks;
        bricks.wait(self.inode.settle());
        let copy = bricks.copy_of(&self.inode)?;
        let met = meet(copy.fd.as_fd())?;
        Ok(FileAttr {
            ino: self.inode.ident,
            generation: 1,
            link_count: met.attr.link_count.min(1),
            ..met.attr
        })
    }

    /// Opens it once more.
    pub(super) fn again(&self, flags: OpenFlags) -> FileResult<Self> {
        let file = Self {
            bricks: self.bricks.clone(),
            inode: Arc::clone(&self.inode),
            flags,
        };
        if flags.write {
            file.inode.lock().writers += 1;
            if flags.truncate {
                file.cut(0)?;
            }
        }
        Ok(file)
    }

    /// Where it stands; none where it has lost its name.
    pub(super) fn place(&self) -> Option<Locator> {
        let state = self.inode.lock();
        (!state.is_orphan).then(|| state.at.clone())
    }

    /// The copy that is read, once nothing is on its way to it.
    pub(super) fn settled_copy(&self) -> FileResult<HeldCopy> {
        self.bricks.wait(self.inode.settle());
        self.bricks.copy_of(&self.inode)
    }

    /// Cuts it, or extends it by a hole.
    pub(super) fn cut(&self, len_bytes: u64) -> FileResult<()> {
        self.alter(
            move |ident, mtime_ns| FileChange::Set {
                ident,
                set: super::change::SetFacts {
                    len_bytes: Some(len_bytes),
                    mtime_ns: Some(mtime_ns),
                    ..Default::default()
                },
            },
            |copy| posix::set_len(copy.fd.as_fd(), len_bytes),
        )?;
        let mut state = self.inode.lock();
        (state.end, state.is_edited) = (len_bytes, true);
        Ok(())
    }

    /// Has it changed after all that was written: by the log, and where it has no name, in its
    /// copy.
    pub(super) fn alter(
        &self,
        change: impl Fn(u64, i64) -> FileChange + Send + Sync + 'static,
        orphan: impl FnOnce(&HeldCopy) -> FileResult<()>,
    ) -> FileResult<()> {
        let (shared, ident) = (&self.bricks.shared, self.inode.ident);
        self.bricks.wait(self.inode.settle());
        if let Some(at) = self.place() {
            let changed =
                shared.change_standing(&at, ident, move |mtime_ns| change(ident, mtime_ns));
            match self.bricks.wait(changed) {
                Err(Errno::STALE) => self.inode.lock().is_orphan = true,
                other => return other,
            }
        }
        let copy = self.inode.lock().copy.clone();
        orphan(&copy)
    }

    fn begin(&self) {
        let at = self.inode.lock().at.clone();
        let shared = &self.bricks.shared;
        shared.writing.begins(&at, &self.inode);
        let carrying = Arc::clone(shared).carry(Arc::clone(&self.inode), at);
        shared.runtime.spawn(carrying);
    }

    /// Lets an inode go on that was frozen.
    pub(super) fn thaw(
        bricks: &Bricks<OsDisk>,
        inode: &Arc<Inode>,
        moved_to: Option<(Locator, HeldCopy)>,
    ) {
        if inode.thaw(moved_to) {
            let at = inode.lock().at.clone();
            bricks.shared.writing.begins(&at, inode);
            let carrying = Arc::clone(&bricks.shared).carry(Arc::clone(inode), at);
            bricks.shared.runtime.spawn(carrying);
        }
    }

    fn write_some(&self, offset: u64, bytes: &[u8]) -> FileResult<()> {
        loop {
            self.bricks.wait(self.inode.room_for(bytes.len()));
            match self.inode.gather(offset, bytes) {
                Gather::Done { begins } => {
                    if begins {
                        self.begin();
                    }
                    return Ok(());
                }
                Gather::Full => {}
                Gather::Broken => return Err(Errno::IO),
                Gather::Orphan(copy) => {
                    write_all(&copy, offset, bytes)?;
                    let mut state = self.inode.lock();
                    state.end = state.end.max(offset + bytes.len() as u64);
                    return Ok(());
                }
            }
        }
    }
}

impl Drop for BricksFile {
    fn drop(&mut self) {
        let ended = {
            let mut state = self.inode.lock();
            state.writers -= usize::from(self.flags.write);
            let is_over = self.flags.write && state.writers == 0 && state.is_edited;
            state.is_edited &= !is_over;
            is_over && !state.is_orphan
        };
        if ended {
            self.bricks.digest_after_edit(Arc::clone(&self.inode));
        }
        self.bricks.shared.writing.closed(&self.inode);
    }
}

impl OpenFile for BricksFile {
    fn ino(&self) -> u64 {
        self.inode.ident
    }

    fn is_writable(&self) -> bool {
        self.flags.write
    }

    fn read(&self, offset: u64, buffer: &mut Vec<u8>, len: usize) -> FileResult<()> {
        let copy = self.settled_copy()?;
        match read_at(copy.fd.as_fd(), offset, buffer, len) {
            Err(Errno::IO) => {
                let told = StoreError::from_io("read a file", Errno::IO.into());
                self.bricks.shared.report(copy.brick, told);
                let at = self.place().ok_or(Errno::IO)?;
                // The brick is on its way out; another has the same bytes.
                let (shared, ident) = (&self.bricks.shared, self.inode.ident);
                let path = self.bricks.path_of(&at)?;
                for member in shared.in_sync(shared.group_of(&at)) {
                    if member.id != copy.brick
                        && let Ok(node) = node_on(&member, &path, &at)
                        && node.ident == ident
                    {
                        let read = OpenFlags {
                            read: true,
                            ..OpenFlags::default()
                        };
                        let fd = member.inner.disk().reopen(node.fd.as_fd(), read)?;
                        return read_at(fd.as_fd(), offset, buffer, len);
                    }
                }
                Err(Errno::IO)
            }
            other => other,
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> FileResult<usize> {
        self.inode.take_error()?;
        // Should it lose its name, that copy is all there is of it.
        self.bricks.copy_of(&self.inode)?;
        for (index, part) in bytes.chunks(MAX_WRITE_LEN_BYTES).enumerate() {
            let at = offset + (index * MAX_WRITE_LEN_BYTES) as u64;
            // An append comes with the place where the kernel, which knows the length, puts it.
            self.write_some(at, part)?;
        }
        if self.flags.sync {
            self.sync(true)?;
        }
        Ok(bytes.len())
    }

    fn flush(&self) -> FileResult<()> {
        if self.flags.write {
            self.bricks.wait(self.inode.settle());
            self.inode.take_error()?;
        }
        Ok(())
    }

    fn must_flush(&self) -> bool {
        self.flags.write
    }

    fn sync(&self, data_only: bool) -> FileResult<()> {
        // What is on its way is in every brick's log, durably, once it has arrived.
        self.bricks.wait(self.inode.settle());
        self.inode.take_error()?;
        let copy = {
            let state = self.inode.lock();
            state.is_orphan.then(|| state.copy.clone())
        };
        copy.map_or(Ok(()), |copy| posix::sync(copy.fd.as_fd(), data_only))
    }

    fn allocate(&self, mode: u32, offset: u64, len_bytes: u64) -> FileResult<()> {
        let end = offset.checked_add(len_bytes).ok_or(Errno::FBIG)?;
        if let Some(at) = self.place() {
            self.bricks.shared.require_room(&at, len_bytes)?;
        }
        self.alter(
            move |ident, mtime_ns| FileChange::Allocate {
                ident,
                mode,
                range: offset..end,
                mtime_ns,
            },
            |copy| posix::allocate(copy.fd.as_fd(), mode, offset, len_bytes),
        )?;
        let mut state = self.inode.lock();
        if mode & KEEP_SIZE == 0 {
            state.end = state.end.max(end);
        }
        state.is_edited = true;
        Ok(())
    }

    fn seek(&self, offset: u64, data: bool) -> FileResult<u64> {
        seek(self.settled_copy()?.fd.as_fd(), offset, data)
    }

    fn copy_to(&self, from: u64, other: &Self, to: u64, len_bytes: u64) -> FileResult<u64> {
        let (mut done, mut buffer) = (0, Vec::new());
        while done < len_bytes {
            let step = (len_bytes - done).min(MAX_WRITE_LEN_BYTES as u64) as usize;
            self.read(from + done, &mut buffer, step)?;
            if buffer.is_empty() {
                break;
            }
            other.write(to + done, &buffer)?;
            done += buffer.len() as u64;
        }
        Ok(done)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // The kernel's own writes would reach one copy.
        None
    }
}

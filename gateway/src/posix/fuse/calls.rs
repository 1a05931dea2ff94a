//! Each request of the kernel as one call of [`FileSystem`](crate::posix::fs::FileSystem).

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::SystemTime;

use fsstore::files::{Errno, FileResult, Files, NewNode, RenameMode, SetAttr, XattrMode};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::Adapter;
use super::answers::{Answer, reply_empty, reply_xattr};
use super::convert::{attributes, caller, code, file_type, nothing, open_flags, set_time};
use crate::posix::fs::Opened;

/// A handle by which the kernel reads and writes itself. Closing waits for nothing.
fn passing(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::FOPEN_NOFLUSH;
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.must_see_writes);
    flags
}

/// A handle by which the kernel asks, and keeps pages of what nobody else has changed.
fn ordinary(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.must_flush);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.is_as_before);
    flags
}

/// Longest copy in one request, in bytes: the answer has 32 bits for it, and a thread does it.
const MAX_COPY_LEN_BYTES: u64 = 64 << 20;

thread_local! {
    /// What is read on its way to the kernel: one buffer for each of the session's threads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<V: Files> Adapter<V> {
    /// Runs a call; a panic in it is EIO. Once the volume is closed there are no calls.
    fn guarded<T>(&self, call: &'static str, act: impl FnOnce() -> FileResult<T>) -> FileResult<T> {
        self.facts.note_request();
        if self.company.is_closed() {
            return Err(Errno::NOTCONN);
        }
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
            tracing::error!(call, "a call of the mount panicked; it is answered EIO");
            Err(Errno::IO)
        })
    }
}

impl<V: Files> Filesystem for Adapter<V> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.facts.agree(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let entry = self.guarded("lookup", || self.fs.lookup(parent.0, name));
        self.reply_entry(entry, reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        let _ = self.guarded("forget", || {
            self.fs.forget(ino.0, count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.guarded("getattr", || self.fs.attr(ino.0, handle.map(|h| h.0)));
        self.reply_attr(attr, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7_777),
            uid,
            gid,
            len_bytes: size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let attr = self.guarded("setattr", || {
            let handle = handle.map(|h| h.0);
            self.fs.set_attr(ino.0, handle, set, request.uid())
        });
        self.reply_attr(attr, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.guarded("readlink", || self.fs.read_link(ino.0)) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let node = NewNode {
            mode,
            rdev: u64::from(rdev),
        };
        let caller = caller(request, umask);
        let made = self.guarded("mknod", || self.fs.make_node(parent.0, name, node, caller));
        self.reply_made(made, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = caller(request, umask);
        let made = self.guarded("mkdir", || self.fs.make_dir(parent.0, name, mode, caller));
        self.reply_made(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            self.guarded("unlink", || self.fs.unlink(parent.0, name)),
            reply,
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            self.guarded("rmdir", || self.fs.remove_dir(parent.0, name)),
            reply,
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, target) = (caller(request, 0), target.as_os_str());
        let made = self.guarded("symlink", || {
            self.fs.make_symlink(parent.0, name, target, caller)
        });
        self.reply_made(made, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            flags if flags.is_empty() => RenameMode::Replace,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        reply_empty(
            self.guarded("rename", || self.fs.move_name(from, to, mode)),
            reply,
        );
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.guarded("link", || self.fs.make_link(ino.0, parent.0, name));
        self.reply_made(made, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (flags, caller) = (open_flags(flags.0), caller(request, 0));
        let keeps_pages = !self.facts.passing.is_on();
        let opened = self.guarded("open", || {
            let opened = self.fs.open(ino.0, flags, caller, keeps_pages)?;
            self.forget_attr(ino.0, opened);
            let answer = self.path_of_data(opened, |fd| reply.open_backing(fd))?;
            Ok((opened, answer))
        });
        match opened {
            Ok((opened, Answer::Passing(backing))) => {
                let handle = FileHandle(opened.number);
                reply.opened_passthrough(handle, passing(opened), &backing);
            }
            Ok((opened, Answer::Ordinary)) => {
                reply.opened(FileHandle(opened.number), ordinary(opened));
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (flags, caller) = (open_flags(flags), caller(request, umask));
        let created = self.guarded("create", || {
            let (entry, opened) = self.fs.create(parent.0, name, mode, flags, caller)?;
            self.forget_attr(entry.attr.ino, opened);
            let answer = self.path_of_data(opened, |fd| reply.open_backing(fd));
            // The kernel will not hear of the entry.
            let answer = answer.inspect_err(|_| self.fs.forget(entry.attr.ino, 1))?;
            Ok((entry, opened, answer))
        });
        let is_alone = self.company.alone();
        match created {
            Ok((entry, opened, answer)) => {
                let handle = FileHandle(opened.number);
                let lasts = self.lasts(entry.may_remember, *is_alone);
                let attr = attributes(&entry.attr);
                let generation = Generation(entry.attr.generation);
                match answer {
                    Answer::Passing(backing) => {
                        let flags = passing(opened);
                        reply.created_passthrough(
                            &lasts, &attr, generation, handle, flags, &backing,
                        );
                    }
                    Answer::Ordinary => {
                        reply.created(&lasts, &attr, generation, handle, ordinary(opened));
                    }
                }
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let len = size as usize;
            match self.guarded("read", || self.fs.read(handle.0, offset, buffer, len)) {
                Ok(()) => reply.data(buffer),
                Err(error) => reply.error(code(error)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drops = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let by = drops.then_some(request.uid());
        match self.guarded("write", || self.fs.write(handle.0, offset, data, by)) {
            Ok(len_bytes) => reply.written(len_bytes as u32),
            Err(error) => reply.error(code(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Asked only of handles that were opened so.
        reply_empty(self.guarded("flush", || self.fs.flush(handle.0)), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let released = self.guarded("release", || {
            self.fs.release(handle.0);
            Ok(())
        });
        reply_empty(released, reply);
    }

    fn fsync(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(
            self.guarded("fsync", || self.fs.sync(handle.0, data_only)),
            reply,
        );
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.guarded("opendir", || self.fs.open_dir(ino.0));
        match opened {
            Ok(number) => self.reply_opened_dir(ino.0, number, reply),
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        let read = self.guarded("readdir", || {
            self.fs.read_dir(handle.0, from, |listed| {
                let kind = file_type(listed.kind);
                !reply.add(INodeNo(listed.ino), listed.next, kind, listed.name)
            })
        });
        match read {
            Ok(()) => {
                reply.ok();
                self.fs.read_ahead(handle.0);
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let is_alone = self.company.alone();
        let read = self.guarded("readdirplus", || {
            self.fs.read_dir_plus(handle.0, from, |listed, entry| {
                let (attr, generation, may_remember) = match entry {
                    Some(entry) => (
                        attributes(&entry.attr),
                        entry.attr.generation,
                        entry.may_remember,
                    ),
                    None => (
                        fuser::FileAttr {
                            ino: INodeNo(listed.ino),
                            kind: FileType::Directory,
                            ..nothing()
                        },
                        0,
                        false,
                    ),
                };
                let lasts = self.lasts(may_remember, *is_alone);
                let ino = INodeNo(listed.ino);
                !reply.add(
                    ino,
                    listed.next,
                    listed.name,
                    &lasts,
                    &attr,
                    Generation(generation),
                )
            })
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_dir(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(
            self.guarded("fsyncdir", || self.fs.sync_dir(handle.0)),
            reply,
        );
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.guarded("statfs", || self.fs.facts()) {
            Ok(facts) => reply.statfs(
                facts.blocks,
                facts.blocks_free,
                facts.blocks_available,
                facts.files,
                facts.files_free,
                facts.block_len_bytes as u32,
                facts.name_len_bytes,
                facts.block_len_bytes as u32,
            ),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        // Source: setxattr(2), XATTR_CREATE and XATTR_REPLACE.
        let mode = match flags {
            0 => XattrMode::Set,
            1 => XattrMode::Create,
            2 => XattrMode::Replace,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let set = self.guarded("setxattr", || self.fs.set_xattr(ino.0, name, value, mode));
        reply_empty(set, reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.guarded("getxattr", || self.fs.xattr(ino.0, name));
        reply_xattr(value, size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.guarded("listxattr", || self.fs.xattr_names(ino.0));
        let joined = names.map(|names| {
            let with_end = |name: &OsString| [name.as_encoded_bytes(), b"\0"].concat();
            names.iter().flat_map(with_end).collect()
        });
        reply_xattr(joined, size, reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.guarded("removexattr", || self.fs.remove_xattr(ino.0, name));
        reply_empty(removed, reply);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then takes files to be always ready, as poll(2) says of regular ones.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.guarded("fallocate", || {
            let uid = request.uid();
            self.fs.allocate(handle.0, mode as u32, offset, length, uid)
        });
        reply_empty(allocated, reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // Source: lseek(2), SEEK_DATA and SEEK_HOLE.
        let is_data = match whence {
            3 => true,
            4 => false,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let sought = self.guarded("lseek", || {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            self.fs.seek(handle.0, offset, is_data)
        });
        match sought {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(code(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copied = self.guarded("copy_file_range", || {
            let (from, to) = ((from.0, from_offset), (to.0, to_offset));
            let len = len.min(MAX_COPY_LEN_BYTES);
            self.fs.copy(from, to, len, request.uid())
        });
        match copied {
            Ok(len_bytes) => reply.written(len_bytes as u32),
            Err(error) => reply.error(code(error)),
        }
    }
}

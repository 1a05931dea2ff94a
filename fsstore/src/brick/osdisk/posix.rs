//! What a mount asks of the disk, by system calls: paths are bytes, errors are theirs.
//!
//! A path is looked up beneath the volume's root, without following links and without leaving
//! the file system. Source: openat2(2).

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags,
    SeekFrom, Statx, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::super::disk::FileFacts;
use super::{NO_LINKS, OsDisk, STAT_MASK, facts_of};
use crate::durable;
use crate::files::{
    FileAttr, FilePath, FileResult, FileSystemFacts, NewNode, OpenFlags, RenameMode, SetTime,
    XattrMode,
};

/// Longest path that is given to a system call at once, in bytes. Source: PATH_MAX, limits.h(0p).
const MAX_PATH_LEN_BYTES: usize = 4_095;
/// Most bytes of an xattr's value or of all names. Source: xattr(7).
const MAX_XATTR_LEN_BYTES: usize = 64 << 10;
/// Read first; what is longer is read again.
const USUAL_XATTR_LEN_BYTES: usize = 512;

const BENEATH: ResolveFlags = NO_LINKS.union(ResolveFlags::NO_XDEV);
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// What stands there may be no file by now: then nothing is waited for.
const REGULAR: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

/// A file met: what a mount shows of it, and what records and rows compare.
#[derive(Debug, Clone, Copy)]
pub struct Met {
    /// For the mount.
    pub attr: FileAttr,
    /// For the store.
    pub facts: FileFacts,
}

fn met(stat: &Statx) -> Met {
    let facts = facts_of(stat);
    let atime = stat.stx_atime;
    let attr = FileAttr {
        ino: facts.ino,
        // Never 0, also where the file system keeps no time of creation.
        generation: (facts.btime_ns as u64).max(1),
        len_bytes: facts.len_bytes,
        block_count: stat.stx_blocks,
        block_len_bytes: stat.stx_blksize,
        atime_ns: super::nanos(atime),
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
        mode: stat.stx_mode.into(),
        link_count: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
    };
    Met { attr, facts }
}

/// The type bits of a directory.
pub const DIRECTORY_BITS: u32 = FileType::Directory.as_raw_mode();

/// Whether it is a directory.
pub fn is_dir(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Directory
}

/// Whether it is a regular file.
pub fn is_regular(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::RegularFile
}

/// Whether it is a symbolic link.
pub fn is_symlink(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Symlink
}

fn access(flags: OpenFlags) -> OFlags {
    let mut how = match (flags.read, flags.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    how.set(OFlags::APPEND, flags.append);
    how.set(OFlags::SYNC, flags.sync);
    how | REGULAR
}

/// The path by which a descriptor is reached whatever it was opened for. Source:
/// proc_pid_fd(5).
fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl OsDisk {
    /// Opens beneath the root. A link where a directory or file was is ESTALE: whoever knew the
    /// path knew of another.
    fn beneath(&self, path: &FilePath, flags: OFlags, mode: Mode) -> FileResult<OwnedFd> {
        let mut rest = path.as_os_str().as_bytes();
        if rest.is_empty() {
            rest = b".";
        }
        let mut base: Option<OwnedFd> = None;
        let open = |base: &Option<OwnedFd>, path: &[u8], flags, mode| {
            let base = base.as_ref().unwrap_or(&self.root);
            fs::openat2(base, path, flags, mode, BENEATH).map_err(|e| match e {
                Errno::LOOP => Errno::STALE,
                other => other,
            })
        };
        while rest.len() > MAX_PATH_LEN_BYTES {
            let head = &rest[..MAX_PATH_LEN_BYTES];
            let end = head.iter().rposition(|b| *b == b'/');
            let end = end.ok_or(Errno::NAMETOOLONG)?;
            let how = NODE | OFlags::DIRECTORY;
            base = Some(open(&base, &rest[..end], how, Mode::empty())?);
            rest = &rest[end + 1..];
        }
        open(&base, rest, flags, mode)
    }

    /// Opens what stands at a path, whatever it is, to look at it and to change its attributes.
    pub fn open_node(&self, path: &FilePath) -> FileResult<OwnedFd> {
        self.beneath(path, NODE, Mode::empty())
    }

    /// Opens a regular file; `truncate` and `exclusive` are the caller's. What else stands
    /// there may be opened as well.
    pub fn open_regular(&self, path: &FilePath, flags: OpenFlags) -> FileResult<OwnedFd> {
        self.beneath(path, access(flags), Mode::empty())
            .map_err(|e| match e {
                // A socket, a device without a driver, a FIFO without a reader.
                Errno::NXIO | Errno::NODEV => Errno::STALE,
                other => other,
            })
    }

    /// Makes a regular file and opens it. Errors: EEXIST.
    pub fn create_regular(
        &self,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
    ) -> FileResult<OwnedFd> {
        let how = access(flags) | OFlags::CREATE | OFlags::EXCL;
        self.beneath(path, how, permissions(mode))
    }

    /// Opens a directory for reading, syncing and changing its names.
    pub fn open_directory(&self, path: &FilePath) -> FileResult<Arc<OwnedFd>> {
        self.beneath(path, DIRECTORY, Mode::empty()).map(Arc::new)
    }

    /// Where a descriptor leads now, below the root; none where it has no name there. A file
    /// without a name may seem to have one: its inode is to be looked at.
    pub fn path_of(&self, fd: BorrowedFd<'_>) -> Option<FilePath> {
        // That of an unlinked file is its last one, marked in a way that a name may have.
        if fs::fstat(fd).ok()?.st_nlink == 0 {
            return None;
        }
        let target = fs::readlink(by_descriptor(fd), Vec::new()).ok()?;
        let root = self.root_path.as_bytes();
        let below = target.to_bytes().strip_prefix(root)?;
        if !(below.is_empty() || below.starts_with(b"/") || root.ends_with(b"/")) {
            return None;
        }
        let names = below.split(|b| *b == b'/').filter(|name| !name.is_empty());
        names
            .map(OsStr::from_bytes)
            .try_fold(FilePath::root(), |path, name| path.join(name).ok())
    }

    /// Opens anew what a descriptor leads to.
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OpenFlags) -> FileResult<OwnedFd> {
        fs::open(by_descriptor(fd), access(flags), Mode::empty())
    }

    /// Whether syncing a file makes its name durable as well.
    pub fn syncs_names_with_files(&self) -> bool {
        self.syncs_everything
    }

    /// Room, in blocks and inodes.
    pub fn file_system_facts(&self) -> FileResult<FileSystemFacts> {
        let facts = fs::fstatvfs(&*self.root)?;
        Ok(FileSystemFacts {
            block_len_bytes: facts.f_frsize,
            blocks: facts.f_blocks,
            blocks_free: facts.f_bfree,
            blocks_available: facts.f_bavail,
            files: facts.f_files,
            files_free: facts.f_ffree,
            name_len_bytes: u32::try_from(facts.f_namemax).unwrap_or(u32::MAX),
        })
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Looks at what a descriptor leads to.
pub fn meet(fd: BorrowedFd<'_>) -> FileResult<Met> {
    Ok(met(&fs::statx(fd, "", AtFlags::EMPTY_PATH, STAT_MASK)?))
}

/// Looks at a name in a directory.
pub fn meet_at(dir: &OwnedFd, name: &OsStr) -> FileResult<Met> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(met(&fs::statx(dir, name, flags, STAT_MASK)?))
}

/// Makes a directory.
pub fn add_directory(dir: &OwnedFd, name: &OsStr, mode: u32) -> FileResult<()> {
    fs::mkdirat(dir, name, permissions(mode))
}

/// Makes a regular file, a FIFO, a socket or a device.
pub fn add_node(dir: &OwnedFd, name: &OsStr, node: NewNode) -> FileResult<()> {
    let kind = FileType::from_raw_mode(node.mode);
    fs::mknodat(dir, name, kind, permissions(node.mode), node.rdev)
}

/// Makes a symbolic link.
pub fn add_symlink(dir: &OwnedFd, name: &OsStr, target: &OsStr) -> FileResult<()> {
    fs::symlinkat(target, dir, name)
}

/// Gives what a descriptor leads to one more name.
pub fn add_name(fd: BorrowedFd<'_>, dir: &OwnedFd, name: &OsStr) -> FileResult<()> {
    match fs::linkat(fd, "", dir, name, AtFlags::EMPTY_PATH) {
        // As it is said to who may not link by descriptor.
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let path = by_descriptor(fd);
    fs::linkat(fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// Takes a name away from what is no directory.
pub fn take_name(dir: &OwnedFd, name: &OsStr) -> FileResult<()> {
    fs::unlinkat(dir, name, AtFlags::empty())
}

/// Removes an empty directory.
pub fn take_directory(dir: &OwnedFd, name: &OsStr) -> FileResult<()> {
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Moves a name.
pub fn move_name(
    (from_dir, from): (&OwnedFd, &OsStr),
    (to_dir, to): (&OwnedFd, &OsStr),
    mode: RenameMode,
) -> FileResult<()> {
    let flags = match mode {
        RenameMode::Replace => RenameFlags::empty(),
        RenameMode::NoReplace => RenameFlags::NOREPLACE,
        RenameMode::Exchange => RenameFlags::EXCHANGE,
    };
    fs::renameat_with(from_dir, from, to_dir, to, flags)
}

/// Where a symbolic link leads.
pub fn link_text(fd: BorrowedFd<'_>) -> FileResult<OsString> {
    let text = fs::readlinkat(fd, "", Vec::new())?;
    Ok(OsString::from_vec(text.into_bytes()))
}

/// Sets permissions. Errors: EOPNOTSUPP for a symbolic link.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> FileResult<()> {
    fs::chmodat(
        fs::CWD,
        by_descriptor(fd),
        permissions(mode),
        AtFlags::empty(),
    )
}

/// Sets owner and group.
pub fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> FileResult<()> {
    let uid = uid.map(Uid::from_raw_unchecked);
    let gid = gid.map(Gid::from_raw_unchecked);
    fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        },
        Some(SetTime::At(ns)) => Timespec {
            tv_sec: ns.div_euclid(1_000_000_000),
            tv_nsec: ns.rem_euclid(1_000_000_000),
        },
    }
}

/// Sets times.
pub fn set_times(
    fd: BorrowedFd<'_>,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> FileResult<()> {
    let times = Timestamps {
        last_access: timespec(atime),
        last_modification: timespec(mtime),
    };
    fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
}

/// Cuts or extends a file that is open for writing.
pub fn set_len(fd: BorrowedFd<'_>, len_bytes: u64) -> FileResult<()> {
    fs::ftruncate(fd, len_bytes)
}

/// An extended attribute. Errors: ENODATA.
pub fn xattr(fd: BorrowedFd<'_>, name: &OsStr) -> FileResult<Vec<u8>> {
    whole(|buffer| fs::getxattr(by_descriptor(fd), name, buffer))
}

/// As [`xattr`], of a file that is open for reading or writing.
pub fn xattr_of_open(fd: BorrowedFd<'_>, name: &OsStr) -> FileResult<Vec<u8>> {
    whole(|buffer| fs::fgetxattr(fd, name, buffer))
}

/// The names of the extended attributes.
pub fn xattr_names(fd: BorrowedFd<'_>) -> FileResult<Vec<OsString>> {
    let all = whole(|buffer| fs::listxattr(by_descriptor(fd), buffer))?;
    let names = all.split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(names
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}

fn whole(read: impl Fn(&mut [u8]) -> FileResult<usize>) -> FileResult<Vec<u8>> {
    let mut value = vec![0; USUAL_XATTR_LEN_BYTES];
    loop {
        match read(&mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(value);
            }
            Err(Errno::RANGE) if value.len() < MAX_XATTR_LEN_BYTES => {
                value.resize(MAX_XATTR_LEN_BYTES, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Sets an extended attribute.
pub fn set_xattr(
    fd: BorrowedFd<'_>,
    name: &OsStr,
    value: &[u8],
    mode: XattrMode,
) -> FileResult<()> {
    let flags = match mode {
        XattrMode::Set => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    fs::setxattr(by_descriptor(fd), name, value, flags)
}

/// Takes an extended attribute away.
pub fn take_xattr(fd: BorrowedFd<'_>, name: &OsStr) -> FileResult<()> {
    fs::removexattr(by_descriptor(fd), name)
}

/// Reads at an offset, in place of what the buffer held; shorter only at the end.
pub fn read_at(
    fd: BorrowedFd<'_>,
    offset: u64,
    buffer: &mut Vec<u8>,
    len: usize,
) -> FileResult<()> {
    // What an earlier read filled is not filled with zeros again.
    buffer.resize(len, 0);
    let mut done = 0;
    while done < len {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) => {
                buffer.clear();
                return Err(e);
            }
        }
    }
    buffer.truncate(done);
    Ok(())
}

/// Writes at an offset, or at the end where the descriptor was opened so; gives how much was
/// written: less than all only where the disk had room for no more.
pub fn write_at(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> FileResult<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Makes bytes durable, and attributes unless `data_only`.
pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> FileResult<()> {
    durable::sync_file(fd, data_only)
}

/// Makes a directory's names durable.
pub fn sync_dir(fd: BorrowedFd<'_>) -> FileResult<()> {
    durable::sync_dir(fd)
}

/// fallocate(2).
pub fn allocate(fd: BorrowedFd<'_>, mode: u32, offset: u64, len_bytes: u64) -> FileResult<()> {
    fs::fallocate(
        fd,
        FallocateFlags::from_bits_retain(mode),
        offset,
        len_bytes,
    )
}

/// Where the next bytes, or the next hole, are.
pub fn seek(fd: BorrowedFd<'_>, offset: u64, data: bool) -> FileResult<u64> {
    fs::seek(
        fd,
        match data {
            true => SeekFrom::Data(offset),
            false => SeekFrom::Hole(offset),
        },
    )
}

/// copy_file_range(2).
pub fn copy(
    (from, from_offset): (BorrowedFd<'_>, u64),
    (to, to_offset): (BorrowedFd<'_>, u64),
    len_bytes: u64,
) -> FileResult<u64> {
    let (mut read_at, mut write_at) = (from_offset, to_offset);
    let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
    let copied = fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len)?;
    Ok(copied as u64)
}

/// An entry of a directory: its name, inode number, type bits of its mode (0 where not known)
/// and where to go on after it.
pub type Listed<'a> = (&'a OsStr, u64, u32, u64);

/// Goes to a place in a directory: 0, or one that an entry named.
pub fn seek_directory(dir: &OwnedFd, to: u64) -> FileResult<()> {
    fs::seek(dir, SeekFrom::Start(to)).map(drop)
}

/// Reads the next entries of a directory, `.` and `..` among them, as many as the buffer has
/// room for. Gives whether there were any.
pub fn list_next(
    dir: &OwnedFd,
    buffer: &mut [MaybeUninit<u8>],
    visit: &mut dyn FnMut(Listed<'_>),
) -> FileResult<bool> {
    let mut entries = RawDir::new(dir, buffer);
    let mut any = false;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        any = true;
        let kind = match entry.file_type() {
            FileType::Unknown => 0,
            kind => kind.as_raw_mode(),
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        visit((name, entry.ino(), kind, entry.next_entry_cookie()));
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(any)
}

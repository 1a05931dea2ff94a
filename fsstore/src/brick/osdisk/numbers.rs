//! Files by their inode numbers, where the file system opens them by handles that need no more.
//!
//! A handle names an inode by its number and a generation. For any generation 0 stands on ext4 and
//! F2FS; XFS tells which it is. Source: open_by_handle_at(2); `ext4_nfs_get_inode` in
//! fs/ext4/super.c, `f2fs_nfs_get_inode` in fs/f2fs/super.c; fs/xfs/libxfs/xfs_fs.h.

#![allow(unsafe_code, reason = "file handles by libc")]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstatfs, openat};

use super::OsDisk;
use super::posix::meet;
use crate::files::{Errno, FileAttr, FileResult};

/// What statfs(2) calls the file systems (ext2 and ext3 are EXT4, too), as its manual page lists
/// them.
const EXT4: u64 = 0xef53;
const F2FS: u64 = 0xf2f5_2010;
const XFS: u64 = 0x5846_5342;
/// A handle of 32 bits of number and 32 of generation. Source: linux/exportfs.h,
/// FILEID_INO32_GEN.
const NUMBER_AND_GENERATION: c_int = 1;
/// XFS's own, of 64 bits of number and 32 of generation. Source: fs/xfs/xfs_export.h,
/// XFS_FILEID_TYPE_64FLAG.
const LONG_NUMBER_AND_GENERATION: c_int = 0x81;
/// Source: xfs_fs.h, XFS_IOC_BULKSTAT, `_IOR('X', 127, 64 bytes)`. Linux 5.3.
const BULKSTAT: libc::Ioctl = 0x8040_587f_u32 as libc::Ioctl;

/// Most times that a handle is tried.
const MAX_OPENS: usize = 20;
/// Pause between two of them.
const OPEN_PAUSE: Duration = Duration::from_micros(200);

/// As the kernel takes it. Source: open_by_handle_at(2), `struct file_handle`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle {
    len_bytes: c_uint,
    kind: c_int,
    parts: [u32; 3],
}

/// What is asked of XFS, and room for one answer. Source: xfs_fs.h, `struct xfs_bulk_ireq`,
/// `struct xfs_bulkstat`.
#[repr(C)]
#[derive(Default)]
struct Bulkstat {
    first: u64,
    flags: u32,
    wanted: u32,
    found: u32,
    group: u32,
    reserved: [u64; 5],
    ino: u64,
    /// Length, blocks, flags and four times.
    passed_over: [u64; 7],
    generation: u32,
    rest: [u32; 31],
}

impl OsDisk {
    /// Opens the inode of this number, to ask about it, not to read it. Errors: ESTALE where there
    /// is none; EOPNOTSUPP where it cannot be found by its number; EPERM.
    pub fn open_number(&self, ino: u64) -> FileResult<(OwnedFd, FileAttr)> {
        let kind = fstatfs(&*self.root)?.f_type;
        let handle = match u64::try_from(kind) {
            Ok(EXT4 | F2FS) => Handle {
                len_bytes: 8,
                kind: NUMBER_AND_GENERATION,
                parts: [u32::try_from(ino).map_err(|_| Errno::STALE)?, 0, 0],
            },
            Ok(XFS) => {
                let generation = self.generation_on_xfs(ino)?;
                let bytes = ino.to_ne_bytes();
                let [a, b, c, d, e, f, g, h] = bytes;
                let halves = [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes);
                Handle {
                    len_bytes: 12,
                    kind: LONG_NUMBER_AND_GENERATION,
                    parts: [halves[0], halves[1], generation],
                }
            }
            _ => return Err(Errno::OPNOTSUPP),
        };
        let fd = past_creation(|| open(self.root.as_fd(), handle)).map_err(|e| errno_of(&e))?;
        let attr = meet(fd.as_fd())?.attr;
        if attr.ino != ino || attr.link_count == 0 {
            return Err(Errno::STALE);
        }
        Ok((fd, attr))
    }

    fn generation_on_xfs(&self, ino: u64) -> FileResult<u32> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&*self.root, ".", flags, Mode::empty())?;
        let mut asked = Bulkstat {
            first: ino,
            wanted: 1,
            ..Bulkstat::default()
        };
        // SAFETY: the descriptor is open; the kernel reads the first 64 bytes, and writes these
        // and one answer of 192 bytes, which is what the structure has room for.
        let outcome = unsafe { libc::ioctl(dir.as_raw_fd(), BULKSTAT, &raw mut asked) };
        if outcome != 0 {
            return Err(errno_of(&io::Error::last_os_error()));
        }
        // Without an inode of this number, the next one is told of.
        if asked.found != 1 || asked.ino != ino {
            return Err(Errno::STALE);
        }
        Ok(asked.generation)
    }
}

const _: () = assert!(size_of::<Bulkstat>() == 64 + 192);

/// Opens by a handle, again and again while the inode's number is being given to another file.
/// ENOMEM is said then as well: that file is there in a moment, and the handle stale. Source:
/// iget_locked in Linux's fs/inode.c gives nothing for an inode that is being created, for which
/// file systems say so.
pub(in super::super) fn past_creation(
    open: impl Fn() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    for _ in 1..MAX_OPENS {
        match open() {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => std::thread::sleep(OPEN_PAUSE),
            other => return other,
        }
    }
    open()
}

fn open(on: BorrowedFd<'_>, mut handle: Handle) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let pointer = ptr::from_mut(&mut handle).cast();
    // SAFETY: `handle` is a file_handle with as many bytes behind its two fields as it says, which
    // the call only reads; the descriptor is open.
    let fd = unsafe { libc::open_by_handle_at(on.as_raw_fd(), pointer, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno_of(e: &io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

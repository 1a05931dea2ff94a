//! Files by their inode numbers, where the file system opens them by handles that need no more.
//!
//! A handle names an inode by its number and a generation, of which 0 stands for any on the file
//! systems named here (on XFS it does not). Source: open_by_handle_at(2); `ext4_nfs_get_inode` in
//! fs/ext4/super.c, `f2fs_nfs_get_inode` in fs/f2fs/super.c.

#![allow(unsafe_code, reason = "file handles by libc")]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::fstatfs;

use super::OsDisk;
use super::posix::meet;
use crate::files::{Errno, FileAttr, FileResult};

/// What statfs(2) calls the file systems (ext2 and ext3 are EXT4, too), as its manual page lists
/// them.
const EXT4: u64 = 0xef53;
const F2FS: u64 = 0xf2f5_2010;
/// A handle of 32 bits of number and 32 of generation. Source: linux/exportfs.h,
/// FILEID_INO32_GEN.
const NUMBER_AND_GENERATION: c_int = 1;

/// As the kernel takes it. Source: open_by_handle_at(2), `struct file_handle`.
#[repr(C)]
struct Handle {
    len_bytes: c_uint,
    kind: c_int,
    number: u32,
    generation: u32,
}

impl OsDisk {
    /// Opens the inode of this number, to ask about it, not to read it. Errors: ESTALE where there
    /// is none; EOPNOTSUPP where it cannot be found by its number; EPERM.
    pub fn open_number(&self, ino: u64) -> FileResult<(OwnedFd, FileAttr)> {
        let kind = fstatfs(&*self.root)?.f_type;
        if !matches!(u64::try_from(kind), Ok(EXT4 | F2FS)) {
            return Err(Errno::OPNOTSUPP);
        }
        let handle = Handle {
            len_bytes: 8,
            kind: NUMBER_AND_GENERATION,
            number: u32::try_from(ino).map_err(|_| Errno::STALE)?,
            generation: 0,
        };
        let fd = open(self.root.as_fd(), handle)?;
        let attr = meet(fd.as_fd())?.attr;
        if attr.ino != ino || attr.link_count == 0 {
            return Err(Errno::STALE);
        }
        Ok((fd, attr))
    }
}

fn open(on: BorrowedFd<'_>, mut handle: Handle) -> FileResult<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let pointer = ptr::from_mut(&mut handle).cast();
    // SAFETY: `handle` is a file_handle with as many bytes behind its two fields as it says, which
    // the call only reads; the descriptor is open.
    let fd = unsafe { libc::open_by_handle_at(on.as_raw_fd(), pointer, flags) };
    if fd < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    // SAFETY: the kernel just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

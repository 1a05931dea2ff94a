//! The system calls of fanotify(7), and nothing more: neither the standard library nor rustix has
//! them.
#![allow(unsafe_code, reason = "fanotify(7) and open_by_handle_at(2) by libc")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::super::osdisk::past_creation;
use super::event::Handle;

/// What is told of: names, bytes and attributes. Names by FAN_CREATE and its like; what a mapping
/// stored is told by FAN_CLOSE_WRITE alone.
const EVENTS: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;
/// Largest file handle. Source: linux/exportfs.h, MAX_HANDLE_SZ.
const MAX_HANDLE_LEN_BYTES: usize = 128;

/// A group that is told of every change on one file system.
pub struct Fanotify {
    fd: OwnedFd,
}

impl Fanotify {
    /// Watches the file system that a directory is on. Errors: PermissionDenied without
    /// CAP_SYS_ADMIN; others where kernel or file system cannot do it.
    pub fn open(root: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_REPORT_DFID_NAME
            | libc::FAN_REPORT_FID;
        let event_flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as libc::c_uint;
        // SAFETY: it takes no pointers.
        let fd = owned(unsafe { libc::fanotify_init(flags, event_flags) })?;
        let watching = Self { fd };
        let add = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        watching.mark(add, EVENTS, root)?;
        Ok(watching)
    }

    /// Leaves out what happens to names in a directory and to the files in it. Since Linux 6.0;
    /// before, such events come and are to be passed over. Errors: InvalidInput.
    pub fn ignore(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let ignore = libc::FAN_MARK_ADD
            | libc::FAN_MARK_ONLYDIR
            | libc::FAN_MARK_IGNORE
            | libc::FAN_MARK_IGNORED_SURV_MODIFY;
        self.mark(ignore, EVENTS | libc::FAN_EVENT_ON_CHILD, dir)
    }

    fn mark(&self, flags: libc::c_uint, mask: u64, at: BorrowedFd<'_>) -> io::Result<()> {
        let (fd, at) = (self.fd.as_raw_fd(), at.as_raw_fd());
        // SAFETY: both descriptors are open; without a path the second one is what is marked.
        let marked = unsafe { libc::fanotify_mark(fd, flags, mask, at, ptr::null()) };
        match marked {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads events that wait. Errors: WouldBlock where none does.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buffer)?)
    }
}

impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens what a handle names, to ask where it is, not to read it. `on` is any file on its file
/// system. Errors: ESTALE where it is gone.
pub fn open_handle(on: BorrowedFd<'_>, handle: &Handle) -> io::Result<OwnedFd> {
    past_creation(|| try_open_handle(on, handle))
}

fn try_open_handle(on: BorrowedFd<'_>, handle: &Handle) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct FileHandle {
        len_bytes: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; MAX_HANDLE_LEN_BYTES],
    }
    let bytes = handle.bytes();
    let mut wanted = FileHandle {
        len_bytes: bytes.len() as libc::c_uint,
        kind: handle.kind(),
        bytes: [0; MAX_HANDLE_LEN_BYTES],
    };
    let Some(room) = wanted.bytes.get_mut(..bytes.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let handle = ptr::from_mut(&mut wanted).cast::<libc::file_handle>();
    // SAFETY: `handle` points to a file_handle with `len_bytes` bytes behind its two fields, which
    // the call only reads; the descriptor is open.
    owned(unsafe { libc::open_by_handle_at(on.as_raw_fd(), handle, flags) })
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

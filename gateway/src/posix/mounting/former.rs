//! A mount that another is to take the place of. It is held by a descriptor, so that nothing but it
//! is taken away, wherever the path to it leads by then.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::table::Watched;
use super::{HELPER_DETACHES, by_helper, ours};

/// The uppermost mount at a place, which is one of portico. Held, it is busy.
#[derive(Debug)]
pub struct Former {
    mount: OwnedFd,
    at: PathBuf,
    watched: Watched,
}

impl Former {
    /// The one at a place, dead or alive; none where no mount of portico stands there.
    pub fn at(at: &Path) -> Result<Option<Self>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Asks no mount: it may be dead.
        let mount = openat(CWD, at, flags, Mode::empty())?;
        let watched = Watched::new(mount.as_fd(), at)?;
        let is_it = ours(at)? == Some(watched.id());
        Ok(is_it.then(|| Self {
            mount,
            at: at.to_owned(),
            watched,
        }))
    }

    /// Whether its server is gone.
    pub fn is_dead(&self) -> bool {
        matches!(
            fstatfs(&self.mount),
            Err(Errno::NOTCONN | Errno::CONNABORTED)
        )
    }

    /// Whether it is the one that is watched.
    pub fn is(&self, watched: &Watched) -> bool {
        self.watched.is_same(watched)
    }

    /// Puts a mount beneath it: who comes in by the path meets this one until it is detached, and
    /// then the other. Errors: EINVAL before Linux 6.5, and where the mounts' propagation forbids
    /// it.
    pub(super) fn put_beneath(&self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = MoveMountFlags::MOVE_MOUNT_BENEATH
            | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mount, "", &self.mount, "", flags)
    }

    /// Takes it out of the tree; those who use it go on, or learn that it is dead. Errors:
    /// NotFound where someone else has taken it away.
    pub(super) fn detach(&self) -> Result<(), Error> {
        match detach_held(self.mount.as_fd()) {
            Err(Errno::PERM | Errno::ACCESS) => by_helper(&self.at, &HELPER_DETACHES),
            Err(Errno::INVAL) => Err(ErrorKind::NotFound.into()),
            outcome => Ok(outcome?),
        }
    }
}

/// Takes a mount out of the tree, whatever stands in its place. Errors: EINVAL where it is in none.
pub(super) fn detach_held(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    unmount(path, UnmountFlags::DETACH)
}

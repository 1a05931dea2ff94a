//! One file system, mounted any number of times: so its mounts share locks, mapped memory and
//! all that the kernel remembers, which it keeps for each file system alone.
//!
//! Each mount is a clone of the [anchor](super::anchor). It stands nowhere at first; whoever wants
//! it, perhaps another process in another mount namespace, sets its flags and moves it to its place.
//! Source: move_mount(2).

use std::io::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::table::Watched;
use super::{MountOptions, attr, detach};

/// A mount that stands nowhere yet. Dropped, it is gone.
#[derive(Debug)]
pub struct LooseMount(OwnedFd);

impl LooseMount {
    /// One that another thread or process made.
    pub fn received(mount: OwnedFd) -> Self {
        Self(mount)
    }

    /// Watches it: it is about to be put in its place.
    pub fn watch(&self, at: &Path) -> Result<Watched, Error> {
        Watched::new(self.0.as_fd(), at)
    }

    /// The inode number of what it shows.
    pub fn number(&self) -> Result<u64, Error> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(statx(&self.0, "", flags, StatxFlags::INO)?.stx_ino)
    }

    /// Puts it in its place. Errors: EPERM where this process may not; ENOTDIR.
    pub fn attach(self, at: &Path, options: &MountOptions) -> Result<Watched, Error> {
        attr::set(self.0.as_fd(), options)?;
        let watched = self.watch(at)?;
        self.move_to(at, MoveMountFlags::empty())?;
        Ok(watched)
    }

    /// Puts it in the place of another, which those who use that one may go on using. Before
    /// Linux 6.5 the bare directory is seen for a moment. Errors: EBUSY where the other is not
    /// uppermost there.
    pub fn replace(
        self,
        at: &Path,
        options: &MountOptions,
        other: &Watched,
    ) -> Result<Watched, Error> {
        if !other.is_uppermost()? {
            return Err(Errno::BUSY.into());
        }
        attr::set(self.0.as_fd(), options)?;
        let watched = self.watch(at)?;
        match self.move_to(at, MoveMountFlags::MOVE_MOUNT_BENEATH) {
            Ok(()) => detach(at)?,
            Err(Errno::INVAL) => {
                detach(at)?;
                self.move_to(at, MoveMountFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(watched)
    }

    fn move_to(&self, at: &Path, flags: MoveMountFlags) -> Result<(), Errno> {
        let flags = flags | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.0, "", CWD, at, flags)
    }
}

impl AsFd for LooseMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
